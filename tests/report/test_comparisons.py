"""Paired comparisons from made records and predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lora2_bench.records.record import Record
from lora2_bench.report.comparisons import AVERAGE, COLUMNS, compare
from lora2_bench.report.predictions import Correctness, read_correctness, stored_correctness
from lora2_bench.report.scores import scores
from lora2_bench.report.selection import select
from lora2_bench.report.statistics.intervals import mean_interval
from lora2_bench.report.statistics.power import detectable_difference, seeds_needed
from lora2_bench.report.statistics.significance import mcnemar, non_inferiority_test, sign_flip_test, t_test
from lora2_bench.report.statistics.verdict import MEANINGFUL
from lora2_bench.report.tables.slots import obstacles
from tests.made_records import make_cell, make_record

OURS = "lora2 k=1"
LORA = {"cola": (0.60, 0.62, 0.64), "rte": (0.80, 0.81, 0.85)}
LORA2 = {"cola": (0.61, 0.64, 0.63), "rte": (0.82, 0.82, 0.90)}


def made(method: str, table: dict[str, tuple[float, ...]], **cell: Any) -> list[Record]:
    return [
        make_record(make_cell(task, method, seed=seed, **cell), best, best - 0.01)
        for task, values in table.items()
        for seed, best in enumerate(values)
    ]


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    extra = [make_record(make_cell("rte", "lora", seed=8), 0.1), make_record(make_cell("cola", "full", seed=5), 0.7)]
    return scores(select([*made("lora2", LORA2), *made("lora", LORA), *extra]))


def row(table: pd.DataFrame, **wanted: str) -> pd.Series:
    for name, value in wanted.items():
        table = table[table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


def test_a_row_holds_what_the_statistics_give(frame: pd.DataFrame) -> None:
    found = row(
        compare(frame, OURS, claims={("lora r=8", "rte"): 2.17}, margin=0.5),
        protocol="paper",
        other="lora r=8",
        task="rte",
    )
    differences = np.array([2.0, 1.0, 5.0])
    interval = mean_interval(differences)
    assert (found["n"], found["unpaired"], found["tasks"]) == (3, 1, "rte")
    assert found["difference"] == pytest.approx(differences.mean())
    assert (found["low"], found["high"]) == pytest.approx((interval.low, interval.high))
    assert found["t_p"] == pytest.approx(t_test(differences))
    assert found["sign_flip_p"] == sign_flip_test(differences) == 0.25
    assert (found["margin"], found["no_worse_p"]) == (0.5, pytest.approx(non_inferiority_test(differences, 0.5)))
    assert (found["looks"], found["other_looks"]) == ("2", "2")
    assert found["sd"] == pytest.approx(differences.std(ddof=1))
    assert found["detectable"] == pytest.approx(detectable_difference(differences.std(ddof=1), 3))
    assert found["claimed"] == 2.17
    assert found["seeds_needed"] == seeds_needed(2.17, differences.std(ddof=1))
    assert np.isnan(found["mcnemar_p"])


def test_the_average_weighs_tasks_alike(frame: pd.DataFrame) -> None:
    found = row(compare(frame, OURS), protocol="paper", other="lora r=8", task=AVERAGE)
    cola, rte = np.array([1.0, 2.0, -1.0]), np.array([2.0, 1.0, 5.0])
    assert (found["tasks"], found["n"], found["unpaired"]) == ("cola rte", 3, 1)
    assert found["difference"] == pytest.approx((cola.mean() + rte.mean()) / 2)
    assert found["sd"] == pytest.approx(((cola + rte) / 2).std(ddof=1))
    assert found["t_p"] == pytest.approx(t_test((cola + rte) / 2))
    assert found["claimed"] == MEANINGFUL
    assert np.isnan(found["no_worse_p"])


def test_the_average_takes_the_seeds_that_every_task_has() -> None:
    ours, theirs = {"rte": (0.82, 0.83, 0.9), "cola": (0.6, 0.7)}, {"rte": (0.8, 0.8, 0.8), "cola": (0.5, 0.5)}
    table = compare(scores(select([*made("lora2", ours), *made("lora", theirs)])), OURS)
    found = row(table, protocol="last", task=AVERAGE)
    assert (found["n"], found["difference"]) == (2, pytest.approx((2 + 10 + 3 + 20) / 4))
    assert found["unpaired"] == 2, "both runs on RTE of the seed that CoLA lacks"
    assert found["looks"] == "", "the last score is no choice among several"


def test_methods_without_a_common_seed_have_a_row_without_numbers(frame: pd.DataFrame) -> None:
    found = row(compare(frame, OURS), protocol="last", other="full", task="cola")
    assert (found["n"], found["unpaired"]) == (0, 4)
    assert found[["difference", "sd", "low", "t_p", "sign_flip_p", "detectable", "seeds_needed"]].isna().all()


def test_one_pair_gives_a_difference_and_nothing_more() -> None:
    one = {"rte": (0.8,)}
    found = row(compare(scores(select([*made("lora2", one), *made("lora", one)])), OURS), protocol="paper")
    assert (found["n"], found["difference"], found["sign_flip_p"]) == (1, 0.0, 1.0)
    assert found[["sd", "low", "high", "t_p", "detectable", "seeds_needed"]].isna().all()


def test_the_order_of_the_records_changes_nothing(frame: pd.DataFrame) -> None:
    shuffled = frame.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(compare(frame, OURS), compare(shuffled, OURS))


def test_wnli_is_compared_and_in_no_average() -> None:
    table = {"wnli": (0.5, 0.6), "rte": (0.8, 0.9), "qnli": (0.7, 0.8)}
    found = compare(scores(select([*made("lora2", table), *made("lora", table)])), OURS)
    assert found[found.protocol == "paper"]["task"].tolist() == ["qnli", "rte", "wnli", AVERAGE]
    assert row(found, protocol="paper", task=AVERAGE)["tasks"] == "qnli rte"


@pytest.mark.parametrize(
    "other",
    [
        {"model": "roberta_base"},
        {"source": "local"},
        {"protocol": "clean"},
        {"max_train": 64},
    ],
)
def test_runs_of_another_backbone_data_or_protocol_never_meet(other: dict[str, Any]) -> None:
    table = {"rte": (0.8, 0.9)}
    assert compare(scores(select([*made("lora2", table), *made("lora", table, **other)])), OURS).empty


def test_variants_are_compared_one_by_one() -> None:
    table = {"rte": (0.8, 0.9)}
    records = [*made("lora2", table), *made("lora", table), *made("lora", table, weight_decay=0.1)]
    found = compare(scores(select(records)), OURS)
    assert sorted(found[found.protocol == "paper"]["other_variant"]) == [
        "train.weight_decay=0",
        "train.weight_decay=0.1",
    ]


def test_nothing_to_compare_gives_an_empty_table_with_columns(frame: pd.DataFrame) -> None:
    for table in (compare(scores(select([])), OURS), compare(frame, "vera r=8")):
        assert table.empty
        assert list(table.columns) == list(COLUMNS)


def test_mcnemar_reads_the_checkpoint_of_the_protocol_once_and_only_what_is_compared(frame: pd.DataFrame) -> None:
    rng = np.random.default_rng(0)
    asked: list[str] = []
    stored: dict[str, Correctness] = {}
    for _, cell in frame[(frame.protocol == "paper") & (frame.task == "rte")].iterrows():
        stored[cell["id"]] = Correctness(np.ones(50), {when: rng.random(50) < 0.7 for when in ("best", "last")})

    def reader(cell_id: str) -> Correctness | None:
        asked.append(cell_id)
        return stored.get(cell_id)

    found = compare(frame, OURS, correctness=reader)
    for protocol, when in (("paper", "best"), ("last", "last")):
        cells = frame[(frame.protocol == protocol) & (frame.task == "rte") & (frame.seed < 3)].sort_values("seed")
        sides = [
            np.stack([stored[cell_id].right[when] for cell_id in cells[cells.method == method]["id"]])
            for method in (OURS, "lora r=8")
        ]
        one = row(found, protocol=protocol, other="lora r=8", task="rte")
        assert (one["mcnemar_p"], one["mcnemar_seeds"]) == (mcnemar(*sides).p, 3)
    assert row(found, protocol="paper", other="lora r=8", task="cola")["mcnemar_seeds"] == 0
    assert not set(asked) & set(frame[frame.seed > 3]["id"])


def test_predictions_on_other_labels_are_not_paired(frame: pd.DataFrame) -> None:
    right = {"best": np.ones(4, dtype=bool)}
    mine = set(frame[frame.method == OURS]["id"])

    def reader(cell_id: str) -> Correctness:
        return Correctness(np.full(4, cell_id in mine), right)

    assert (compare(frame, OURS, correctness=reader)["mcnemar_seeds"] == 0).all()


def stored(results: Path, cell_id: str, text: str) -> Path:
    path = results / "cells" / cell_id / "predictions.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def test_stored_predictions_are_read_over_all_splits(tmp_path: Path) -> None:
    splits = {
        "dev_mismatched": {"labels": [2], "best": [[0.0, 1.0, 2.0]], "last": [[3.0, 1.0, 2.0]]},
        "dev_matched": {"labels": [0, 1], "best": [[1.0, 0, 0], [1.0, 0, 0]], "last": [[0, 1.0, 0], [0, 1.0, 0]]},
    }
    path = stored(tmp_path, "a", json.dumps(splits))
    read = stored_correctness(tmp_path, {})
    found = read("a")
    assert found is not None
    assert found.labels.tolist() == [0, 1, 2]
    assert {when: right.tolist() for when, right in found.right.items()} == {
        "best": [True, False, True],
        "last": [False, True, False],
    }
    path.unlink()
    assert read("a") is found
    assert read("b") is None


def test_a_regression_has_no_right_and_wrong(tmp_path: Path) -> None:
    path = stored(tmp_path, "a", json.dumps({"dev": {"labels": [2.5, 1.0], "best": [[2.0], [1.0]]}}))
    assert read_correctness(path) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "{}",
        "[]",
        '{"dev": 3}',
        '{"dev": {"best": [[1, 2]]}}',
        '{"dev": {"labels": [1], "best": [[1], [1, 2]]}}',
    ],
)
def test_unreadable_predictions_are_named_and_skipped(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = stored(tmp_path, "a", text)
    assert read_correctness(path) is None
    error = capsys.readouterr().err
    assert str(path) in error
    assert error.count("\n") == 1


def test_obstacles_name_every_difference_to_the_papers_runs() -> None:
    assert obstacles("deberta_v3_base", "hub", "", "paper", backbone="deberta_v3_base") == []
    assert obstacles("deberta_v3_base", "local", "", "paper", backbone="deberta_v3_base") == []
    found = obstacles("minilm", "mini", "train.lr=0.1", "last", backbone="deberta_v3_base")
    assert len(found) == 4
    assert obstacles("minilm", "local-sample", "", "paper", backbone="minilm") == ["not GLUE's own rows"]
