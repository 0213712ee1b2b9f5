"""Tie groups, the leaderboard and the answer's sentences, from made records."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from lora2_bench.records.record import Record
from lora2_bench.report.answer import NO_RUN, Judged, answer, judge
from lora2_bench.report.selection import select
from lora2_bench.report.standing import Board, board_of, boards
from lora2_bench.report.statistics.intervals import mean_interval
from lora2_bench.report.statistics.significance import holm, t_test
from lora2_bench.report.statistics.ties import letters, paired_p, tie_groups
from lora2_bench.report.tables.exhibits import fill_exhibits
from tests.made_records import make_row_record
from tests.report.exhibit_records import exhibit_records

NOISE = (0.0, 0.4, -0.4, 0.2, -0.2, 0.1)
NOTHING = Judged(Counter(), (), 0, ())


def made(points: dict[str, float], seeds: int = 6, tasks: tuple[str, ...] = ("cola", "rte")) -> list[Record]:
    """Rows at these points; each goes up and down on other seeds than the others."""
    return [
        make_row_record(row, task, seed, best + 0.5, best + NOISE[(seed + 2 * shift) % 6])
        for shift, (row, best) in enumerate(points.items())
        for task in tasks
        for seed in range(seeds)
    ]


def board(records: list[Record], protocol: str = "last") -> Board:
    return next(one for one in boards(select(records)) if one.protocol == protocol)


def test_p_values_of_all_pairs_are_those_of_the_t_test_of_each() -> None:
    scores = np.random.default_rng(0).normal(80, 1, (4, 6))
    scores[1, 2] = np.nan
    scores[3] = scores[2] + 1.0  # no spread
    found = paired_p(scores)
    for one, other in ((0, 1), (0, 2), (1, 3)):
        differences = scores[one] - scores[other]
        assert found[one, other] == pytest.approx(t_test(differences[np.isfinite(differences)]), rel=1e-9)
    assert np.isnan(found[2, 3]) and np.isnan(np.diag(found)).all()
    assert np.isnan(paired_p(scores[:, :1])).all(), "one seed has no spread"


def test_two_methods_share_a_group_exactly_where_they_are_not_separated() -> None:
    assert tie_groups(3, [(0, 2)]) == [(0, 1), (1, 2)]
    assert tie_groups(3, []) == [(0, 1, 2)]
    assert tie_groups(2, [(0, 1)]) == [(0,), (1,)]
    assert tie_groups(0, []) == []
    draw = np.random.default_rng(1)
    separated = {(i, j) for i in range(9) for j in range(i + 1, 9) if draw.random() < 0.5}
    groups = tie_groups(9, separated)
    for i in range(9):
        for j in range(i + 1, 9):
            assert any({i, j} <= set(group) for group in groups) == ((i, j) not in separated)
    assert [letters(n) for n in (0, 25, 26, 27, 52)] == ["a", "z", "aa", "ab", "ba"]


def test_the_board_has_means_intervals_and_tie_groups() -> None:
    found = board(made({"lora_r1": 80.0, "lora2_k1": 80.1, "full": 90.0}))
    assert [(one.label, one.groups) for one in found.entrants] == [("full", "a"), ("lora2 k=1", "b"), ("lora r=1", "b")]
    assert found.averaged == ("cola", "rte")
    expected = mean_interval([90.0 + NOISE[(seed + 4) % 6] for seed in range(6)])
    mean = found.entrants[0].mean
    assert mean is not None and (mean.estimate, mean.n) == (pytest.approx(expected.estimate), 6)
    assert (mean.low, mean.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    rows = {one.label: [one.scores["cola"][seed] for seed in range(6)] for one in found.entrants}
    names = list(rows)
    raw = [t_test(np.subtract(rows[names[i]], rows[names[j]])) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert [found.p[pair] for pair in ((0, 1), (0, 2), (1, 2))] == pytest.approx(holm([p or 0.0 for p in raw]))


def test_a_method_without_all_tasks_has_no_average_and_no_group() -> None:
    records = made({"lora_r1": 80.0, "lora2_k1": 80.1}) + made({"full": 99.0}, tasks=("rte",))
    found = board(records)
    assert [one.label for one in found.ranked] == ["lora2 k=1", "lora r=1"]
    assert (found.entrants[-1].label, found.entrants[-1].mean, found.entrants[-1].groups) == ("full", None, "")
    assert found.tasks == ("cola", "rte")


def test_averages_are_over_the_tasks_that_most_methods_have() -> None:
    every = ("cola", "sst2", "rte")
    records = made({"lora_r1": 80.0}, tasks=every) + made({"full": 99.0, "lora2_k1": 80.0}, tasks=("cola", "rte"))
    assert board(records).averaged == ("cola", "rte")
    assert board(made({"full": 80.0}, tasks=("rte", "wnli"))).averaged == ("rte",)
    assert board(made({"full": 80.0}, tasks=("wnli",))).averaged == ("wnli",)


def test_the_board_that_answers_comes_first() -> None:
    records = made({"full": 90.0}, seeds=1) + [
        make_row_record("lora_r1", "rte", seed, model="minilm", source="mini") for seed in range(6)
    ]
    found = [(one.folder, one.protocol) for one in boards(select(records))]
    assert found == [(f, p) for f in ("deberta_v3_base-hub", "minilm-mini") for p in ("last", "paper")]


def test_no_run_is_no_answer() -> None:
    assert boards(select([])) == []
    assert answer(None, NOTHING) == [NO_RUN]
    assert answer(board_of("minilm", "mini", "last", []), NOTHING) == [NO_RUN]


def test_a_leader_is_named_with_its_interval_and_what_is_below_it() -> None:
    found = board(made({"lora_r1": 80.0, "lora2_k1": 80.1, "full": 90.0}))
    assert answer(found, NOTHING) == [
        "Full fine-tuning leads with 90.02 [89.72, 90.32] points on average (deberta_v3_base on hub data, 2 tasks, "
        "6 seeds, scored at the end of training).",
        "All 2 others are below it, by paired t tests over seeds, Holm over 3 comparisons.",
        "None of the paper's printed figures can be judged: no run is of its backbone on GLUE's rows.",
    ]


def test_a_shared_lead_names_who_is_tied_and_who_is_below() -> None:
    found = board(made({"lora_r1": 70.0, "lora2_k1": 90.1, "full": 90.0}))
    leads, tied, _ = answer(found, NOTHING)
    assert leads.startswith("LoRA² k=1 has the highest average, 90.12 [89.82, 90.42] points, and shares the lead (")
    assert tied == (
        "Tied with LoRA² k=1, by paired t tests over seeds, Holm over 3 comparisons: full fine-tuning; "
        "below it: LoRA r=1."
    )


def test_where_all_are_tied_none_leads() -> None:
    leads, tied, _ = answer(board(made({"lora_r1": 80.0, "lora2_k1": 80.1, "full": 80.05})), NOTHING)
    assert leads.startswith("No method leads: all 3 are tied, LoRA² k=1 highest with 80.12 [")
    assert (
        tied == "None of the other 2 is separated from LoRA² k=1 by paired t tests over seeds, Holm over 3 comparisons."
    )


def test_one_seed_leads_nothing() -> None:
    leads, tied, _ = answer(board(made({"lora_r1": 80.0, "full": 90.0}, seeds=1)), NOTHING)
    assert leads == (
        "Full fine-tuning has the highest average, 89.60 points, but with no spread over seeds to test nothing is "
        "said to lead (deberta_v3_base on hub data, 2 tasks, 1 seed, scored at the end of training)."
    )
    assert tied == "No two methods could be tested against each other: run more seeds."


def test_one_method_has_nothing_to_be_compared_with() -> None:
    leads, tied, _ = answer(board(made({"full": 90.0}, tasks=("rte",))), NOTHING)
    assert leads.startswith("Only full fine-tuning has been run on deberta_v3_base on hub data, 1 task, 6 seeds, ")
    assert tied == "There is nothing to compare it with."


def test_the_papers_figures_are_counted_by_verdict_and_by_runs() -> None:
    selection = select(exhibit_records())
    place = [run for run in selection.runs if run.folder == "deberta_v3_base-hub"]
    grids = fill_exhibits("deberta_v3_base", "hub", place, selection.stale).grids["table1"]
    found = judge(grids, {"cola": "CoLA"})
    words = Counter(
        entry.verdict.word
        for row in next(grid for grid in grids if grid.protocol == "paper").rows
        for entry in row.entries.values()
        if entry.verdict
    )
    assert found.words == words and words["not reproduced"] == len(found.claims) > 1
    assert "full fine-tuning on CoLA" in found.claims
    assert found.runs == 215
    sentence = answer(board(made({"full": 90.0})), found)[-1]
    able = sum(words.values()) - words["not comparable"]
    assert sentence.startswith(
        f"Of the paper's printed figures {able} could be judged, by 215 runs: {words['not reproduced']} were not "
        f"reproduced (full fine-tuning on CoLA, "
    )


def test_what_cannot_be_judged_says_why() -> None:
    words = Counter({"not comparable": 7})
    sentence = answer(board(made({"full": 90.0})), Judged(words, (), 0, ("one seed only: the spread is unknown",)))[-1]
    assert sentence == (
        "None of the paper's 7 printed figures can be judged by these runs: one seed only: the spread is unknown."
    )
