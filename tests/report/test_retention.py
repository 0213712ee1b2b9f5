"""What was forgotten, from made records: settings, the claim's verdicts, tables, figures and the page."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import Any

import pytest
from scipy import stats

from lora2_bench.records.record import Record
from lora2_bench.records.retention import SCHEMA, write_retention
from lora2_bench.records.store import Store, read_record, record_paths
from lora2_bench.report.figures.files import write_figures
from lora2_bench.report.page.page import write_report
from lora2_bench.report.records import load_records
from lora2_bench.report.retention.claim import judge
from lora2_bench.report.retention.plots import retention_plots
from lora2_bench.report.retention.settings import Setting, by_place, settings
from lora2_bench.report.retention.sheet import sheet
from lora2_bench.report.selection import select
from lora2_bench.report.tables.write import write_tables
from scripts.keep_exhibit import keep
from tests.made_records import make_cell, make_failed, make_record

SEEDS = (0, 1, 2, 3, 4)
WIGGLE = (0.0, 0.01, -0.01, 0.005, -0.005)


def retention_of(record: Record, sts: float, probe: float) -> dict[str, Any]:
    """What a run leaves beside its record: STS-B and one probe fall by these shares, and one map has an intruder."""
    digest = hashlib.sha256(b"rows").hexdigest()
    facts = {"update": 0.1, "effective_rank": 2.5, "intruders": 1, "cosines": [0.2, 0.9]}
    return {
        "schema": SCHEMA,
        "cell": record.id,
        "step": record.result["best"]["step"],
        "asked": ["sts", "probe", "weights"],
        "sts": {"before": 0.86, "after": 0.86 - sts, "rows": 1500, "sha256": digest},
        "probe": {
            "rte": {
                "metric": "accuracy",
                "before": 0.6,
                "after": 0.6 - probe,
                "train_rows": 1000,
                "dev_rows": 277,
                "sha256": digest,
            }
        },
        "weights": {"top": 10, "threshold": 0.5, "maps": {"0": {"q": facts}}},
        "missing": {"mlm": "no head"},
        "run": {"finished": "2025-01-01", "seconds": 1.0, "cpu_seconds": 1.0, "versions": {}},
    }


def kept(
    results: Path,
    method: str,
    lr: float,
    seed: int,
    *,
    held_out: float,
    dev: float,
    sts: float,
    probe: float,
    train: Mapping[str, float] = MappingProxyType({}),
) -> Record:
    """A finished cell of protocol clean, chosen at `held_out`, with its retention beside it."""
    cell = make_cell("cola", method, seed=seed, lr=lr, protocol="clean")
    cell = dataclasses.replace(cell, train=dataclasses.replace(cell.train, **train))
    record = make_record(cell, dev, cut=(f"train.lr={lr}", "train.epochs=1 (recipe: 5)"))
    chosen: Any = {"step": 63, "epoch": 1.0, "score": held_out, "train_loss": 0.5}
    chosen["metrics"] = {"held_out": {"matthews_correlation": held_out}}
    record = dataclasses.replace(record, result={**record.result, "evaluations": [chosen]})
    Store(results).write(record)
    write_retention(Store(results).retention(record.id), retention_of(record, sts, probe))
    return record


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Full and LoRA at two rates, five seeds: held-out rows choose a rate that dev would not, for both."""
    folder = tmp_path_factory.mktemp("results")
    for seed, wiggle in zip(SEEDS, WIGGLE, strict=True):
        kept(folder, "full", 1e-5, seed, held_out=0.50, dev=0.70 + wiggle, sts=0.01, probe=0.0)
        kept(folder, "full", 1e-4, seed, held_out=0.55, dev=0.60 + wiggle, sts=0.20 + 3 * wiggle, probe=0.02 - wiggle)
        kept(folder, "lora", 1e-4, seed, held_out=0.45, dev=0.58, sts=0.30, probe=0.3)
        kept(folder, "lora", 1e-3, seed, held_out=0.52, dev=0.55 - wiggle, sts=0.10 + wiggle, probe=0.02 + wiggle)
    unmeasured = make_record(make_cell("cola", "lora2", protocol="clean"), 0.9)
    Store(folder).write(unmeasured)
    return folder


def found_in(results: Path) -> Sequence[Setting]:
    places = by_place(settings(select(load_records(results), whole=False), Store(results)))
    return places["minilm-mini"]["cola", "clean"]


def test_rates_are_chosen_on_held_out_rows_and_differences_are_paired_by_seed(results: Path) -> None:
    (one,) = judge(found_in(results))
    assert (one.full.run.lr, one.ours.run.lr, one.rates) == (1e-4, 1e-3, ("highest of 2", "highest of 2"))
    lost = [(0.20 + 3 * wiggle) - (0.10 + wiggle) for wiggle in WIGGLE]
    interval, p = one.forgets["sts"].interval, stats.ttest_1samp(lost, 0).pvalue
    assert interval.estimate == pytest.approx(100 * fmean(lost))
    ends = stats.t.interval(0.95, 4, loc=100 * fmean(lost), scale=100 * stats.sem(lost))
    assert (interval.low, interval.high) == pytest.approx(ends)
    assert one.forgets["sts"].p == one.forgets["sts"].adjusted == pytest.approx(p)
    assert one.forgets["sts"].flips == pytest.approx(0.0625)
    words = (one.learns.word, one.forgets["sts"].word, one.forgets["probe"].word)
    assert words == ("supported", "supported", "undecided")
    assert "mlm" not in one.forgets
    assert one.learns.interval.estimate == pytest.approx(-5)


def test_verdicts_turn_with_the_numbers_and_need_one_protocol_and_equal_rows(results: Path, tmp_path: Path) -> None:
    for seed, wiggle in zip(SEEDS, WIGGLE, strict=True):
        kept(tmp_path, "full", 1e-4, seed, held_out=0.5, dev=0.5 + wiggle, sts=0.1, probe=0.1)
        other = kept(tmp_path, "lora", 1e-3, seed, held_out=0.5, dev=0.6 - wiggle, sts=0.2 + wiggle, probe=0.1)
        values = retention_of(other, 0.2 + wiggle, 0.1)
        values["probe"]["rte"]["sha256"] = "ab" * 32
        write_retention(Store(tmp_path).retention(other.id), values)
    (one,) = judge(found_in(tmp_path))
    assert (one.learns.word, one.forgets["sts"].word) == ("contradicted", "contradicted")
    assert set(one.forgets) == {"sts"}  # probes on other rows are not set against each other
    assert judge([setting for setting in found_in(results) if setting.run.label != "full"]) == []


def test_two_pairs_that_happen_to_agree_give_no_word_and_an_early_checkpoint_is_told(tmp_path: Path) -> None:
    for seed in SEEDS[:3]:
        kept(tmp_path, "full", 1e-4, seed, held_out=0.5, dev=0.5 + seed / 1000, sts=0.1, probe=0.1)
        record = kept(tmp_path, "lora2", 1e-3, seed, held_out=0.5, dev=0.6, sts=0.2 + seed / 1000, probe=0.1)
        if seed == 1:
            record.result["best"] |= {"active": 955, "budget_met": False}
            Store(tmp_path).write(record, over_finished=True)
            write_retention(Store(tmp_path).retention(record.id), retention_of(record, 0.2, 0.1))
        (one,) = judge(found_in(tmp_path))
        word = "undecided" if seed < 2 else "contradicted"
        assert (one.learns.interval.n, one.learns.word, one.forgets["sts"].word) == (seed + 1, word, word)
    (note,) = one.notes
    assert note.startswith("1 of 3 runs of lora2 ") and note.endswith("measured before the rank budget was met")


def test_only_equal_training_is_judged_and_a_poor_choice_of_rates_is_told(tmp_path: Path) -> None:
    for seed, wiggle in zip(SEEDS, WIGGLE, strict=True):
        for rate, held_out in ((1e-5, 0.1), (1e-4, 0.3), (1e-3, 0.2)):
            kept(tmp_path, "full", rate, seed, held_out=held_out, dev=0.5 + wiggle, sts=0.1, probe=0.1)
        for rate, held_out in ((1e-4, 0.3), (1e-3, 0.4)):
            if (rate, seed) != (1e-4, 4):
                kept(tmp_path, "lora", rate, seed, held_out=held_out, dev=0.0, sts=0.1, probe=0.1)
        for rate in (1e-3, 2e-3):  # more runs, of longer training
            long = {"epochs": 10.0}
            kept(tmp_path, "lora", rate, seed, held_out=0.9, dev=0.9 - wiggle, sts=0.5, probe=0.5, train=long)
    (one,) = judge(found_in(tmp_path))
    assert (one.ours.run.lr, one.rates, one.ours.run.record.cell["train"]["epochs"]) == (
        1e-3,
        ("highest of 2", "of 3"),
        5.0,
    )
    assert one.notes == (
        "lora r=8 at 0.0001 has fewer seeds: left out",
        "lora r=8's rate 0.001 is the highest given",
        "5 of 5 runs of lora r=8 at 0.001 end no better than one answer for every row",
    )
    text = sheet("minilm-mini", {("cola", "clean"): found_in(tmp_path)})
    assert f"Of what was chosen: {'; '.join(one.notes)}" in text
    assert "| full | 0.0001 | 60.0 → 50.0 |" in text  # its probe alone
    for seed in SEEDS:
        kept(tmp_path, "full", 1e-2, seed, held_out=0.35, dev=0.5, sts=0.1, probe=0.1)
    (one,) = judge(found_in(tmp_path))
    assert one.notes[-1] == "full's rate 0.01 is the highest given"
    for seed in SEEDS[:2]:
        cell = make_cell("cola", "full", seed=seed, lr=0.1, protocol="clean")
        record = make_failed(cell)
        Store(tmp_path).write(dataclasses.replace(record, cut=("train.lr=0.1", "train.epochs=1 (recipe: 5)")))
    (one,) = judge(found_in(tmp_path))
    assert one.rates[1] == "of 5"  # a higher rate was given
    assert one.notes[-1] == "full at 0.1 has failed runs alone, 2 of them"


def test_words_that_turn_with_a_rate_that_lost_by_chance_are_told(tmp_path: Path) -> None:
    for seed, wiggle in zip(SEEDS, WIGGLE, strict=True):
        kept(tmp_path, "full", 1e-5, seed, held_out=0.2 + wiggle, dev=0.1, sts=0.0, probe=0.1)
        kept(tmp_path, "full", 1e-4, seed, held_out=0.5 - 2 * wiggle, dev=0.8 + wiggle, sts=0.2 + wiggle, probe=0.1)
        kept(tmp_path, "full", 1e-3, seed, held_out=0.501, dev=0.6 - 9 * wiggle, sts=0.2 - wiggle, probe=0.1)
        kept(tmp_path, "lora", 1e-3, seed, held_out=0.4, dev=0.6, sts=0.1, probe=0.1)
        kept(tmp_path, "lora", 1e-2, seed, held_out=0.399 + wiggle, dev=0.6, sts=0.3 + wiggle, probe=0.1)
    (one,) = judge(found_in(tmp_path))
    assert (one.full.run.lr, one.ours.run.lr, one.learns.word) == (1e-3, 1e-3, "undecided")
    own, against = one.turning
    lost = stats.t.interval(0.95, 4, loc=-10, scale=stats.sem([200 * wiggle for wiggle in WIGGLE]))
    assert own == (
        f"lora r=8 at 0.01 forgets less by zero-shot STS-B: contradicted, -10.00 ({lost[0]:+.2f} to {lost[1]:+.2f})"
    )
    assert against.startswith("lora r=8 against full at 0.0001 learns less: supported, -20.00 (")
    text = sheet("minilm-mini", {("cola", "clean"): found_in(tmp_path)})
    assert f"do not tell apart from the chosen one: {own}; {against}.\n" in text
    write_tables(tmp_path)
    with (tmp_path / "tables" / "minilm-mini" / "retention_claim.csv").open() as stream:
        assert {row["turning"] for row in csv.DictReader(stream)} == {f"{own}; {against}"}
    for seed in SEEDS[2:]:
        for path in record_paths(tmp_path):
            if path.exists() and read_record(path).cell["seed"] == seed:
                shutil.rmtree(path.parent)
    assert judge(found_in(tmp_path))[0].turning == ()  # two pairs tell nothing apart


def test_tables_that_are_no_more_made_are_removed(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results / "cells", tmp_path / "cells")
    write_tables(tmp_path)
    folder = tmp_path / "tables" / "minilm-mini"
    assert (folder / "retention_claim.csv").is_file()
    for path in tmp_path.glob("cells/*/retention.json"):
        if read_record(path.with_name("record.json")).cell["method"]["name"] == "full":
            path.unlink()
    write_tables(tmp_path)
    assert (folder / "retention.md").is_file() and not (folder / "retention_claim.csv").exists()


def test_tables_hold_what_was_measured_and_nothing_else(results: Path) -> None:
    write_tables(results)
    folder = results / "tables" / "minilm-mini"
    text = (folder / "retention.md").read_text()
    assert "LoRA learns less and forgets less" in text and "lora2" not in text and "masked LM" not in text
    assert "All: train.epochs=1 (recipe: 5)." in text
    (full,) = (line for line in text.splitlines() if line.startswith("| full | 0.0001 | 5 |"))
    assert (
        "| 1.0 | 60.00 ± 0.98 | 86.00 → 66.00, -20.00 ± 2.94 | 60.00 → 58.00, -2.00 ± 0.98 | 0.1000 | 2.5 | 1.00 |"
        in full
    )
    with (folder / "retention.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 4 and {(row["epoch"], row["mlm_change"]) for row in rows} == {("1", "")}
    assert "| 0.001 (highest of 2) | 0.0001 (highest of 2) | 5 |" in text
    with (folder / "retention_claim.csv").open() as stream:
        claims = {row["question"]: row for row in csv.DictReader(stream)}
    assert claims["learns less"]["verdict"] == "supported"
    assert float(claims["forgets less: sts"]["difference"]) == pytest.approx(10)


def test_figures_set_the_score_against_what_was_lost(results: Path) -> None:
    places = {"minilm-mini": {("cola", "clean"): found_in(results)}}
    plots = {plot.name: plot for plot in retention_plots(places)}
    assert set(plots) == {"forgotten-sts-clean", "forgotten-probe-clean"}
    (panel,) = plots["forgotten-sts-clean"].panels
    assert plots["forgotten-sts-clean"].cut  # two seeds can have an interval of hundreds of points
    points = {(one.label, one.mark): one for one in panel.means}
    assert len(points) == 4
    point = points["full", "0.0001"]
    assert (point.x, point.y, point.n) == (pytest.approx(20), pytest.approx(60), 5)
    assert point.x_sd == pytest.approx(2.94, abs=0.01) and point.sd == pytest.approx(0.98, abs=0.01)
    assert panel.front == ((pytest.approx(1), pytest.approx(70)),)
    names = {path.name for path in write_figures(results)}
    assert {"forgotten-sts-clean.svg", "forgotten-sts-clean.png", "forgotten-probe-clean.svg"} <= names


def test_the_page_has_its_section_where_something_was_measured(results: Path, tmp_path: Path) -> None:
    text = write_report(results)[0].read_text()
    start = text.index('<section id="forgotten"')
    section = text[start : text.index("</section>", start)]
    assert "LoRA learns less and forgets less" in section and section.count("<svg") == 2
    plain = tmp_path / "plain"
    shutil.copytree(results / "cells", plain / "cells")
    for path in plain.glob("cells/*/retention.json"):
        path.unlink()
    assert 'id="forgotten"' not in write_report(plain)[0].read_text()
    assert not any("retention" in path.name for path in write_tables(plain))


def test_an_exhibit_kept_in_two_small_files_gives_the_same_sheet(results: Path, tmp_path: Path) -> None:
    ids = {path.parent.name for path in record_paths(results)}
    half = set(sorted(ids)[::2])
    keep("forgetting", results, tmp_path, half)
    kept_paths = keep("forgetting", results, tmp_path, ids - half)  # beside what was kept before
    figures = [f"minilm-mini-forgotten-{measure}-clean.svg" for measure in ("sts", "probe")]
    assert [path.name for path in kept_paths] == ["records.jsonl", "retention.jsonl", "minilm-mini.md", *figures]
    both = [by_place(settings(select(load_records(one)), Store(one))) for one in (results, tmp_path)]
    texts = [sheet("minilm-mini", places["minilm-mini"]) for places in both]
    assert texts[0] == texts[1] == kept_paths[2].read_text() and not (tmp_path / "cells").exists()
    assert kept_paths[3].read_text().startswith("<?xml")
    other = tmp_path / "other"
    with pytest.raises(ValueError, match="has no measured cell"):
        keep("forgetting", results, other, {"0" * 16})
    (other / "studies" / "mine").mkdir(parents=True)
    (other / "studies" / "mine" / "plan.json").write_text("{}")
    with pytest.raises(ValueError, match="is a study's"):
        keep("mine", results, other, ids)
    shutil.copytree(results / "cells", tmp_path / "changed" / "cells")
    changed = read_record(record_paths(tmp_path / "changed")[0])
    changed.run["sources"] = "f" * 16
    measured = Store(tmp_path / "changed").retention(changed.id)
    text = measured.read_bytes()
    Store(tmp_path / "changed").write(
        changed, lambda folder: (folder / measured.name).write_bytes(text), over_finished=True
    )
    with pytest.raises(
        ValueError, match=r"^the code of method=\w+ changed between the cells \(.+\): train the older ones"
    ):
        keep("forgetting", tmp_path / "changed", other, ids)


def test_a_file_that_is_not_as_written_is_named_and_left_out(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(results / "cells", tmp_path / "cells")
    paths = sorted(tmp_path.glob("cells/*/retention.json"))
    paths[0].write_text(paths[0].read_text().replace('"rows": 1500', '"rows": 15'))
    paths[1].write_text(paths[2].read_text())
    paths[3].write_text('{"schema": 2}')
    found = found_in(tmp_path)
    assert sum(len(setting.runs) for setting in found) == 20 - 3
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 3 and all(line.startswith("warning: ") and "is skipped" in line for line in told)
    assert sum("its content is not what was written" in line for line in told) == 1
    assert sum("it is of cell" in line for line in told) == sum("is missing" in line for line in told) == 1
