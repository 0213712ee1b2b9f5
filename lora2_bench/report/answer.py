"""The report's answer in three sentences, made from the records: who leads, who is tied, what was not reproduced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lora2_bench.report.scores import counted
from lora2_bench.report.standing import Board, Entrant
from lora2_bench.report.statistics.verdict import NOT_COMPARABLE, NOT_REPRODUCED, REPRODUCED, WITHIN_NOISE
from lora2_bench.report.tables.grid import Grid

QUESTION = "Does LoRA² score as its paper says, with as few trainable parameters?"
NO_RUN = "No run counts yet, so there is no answer."
BY = {
    "last": "scored at the end of training",
    "paper": "by each run's best dev score",
    "clean": "with checkpoints chosen on held-out rows",
}
NAMED = 4  # methods that a sentence names; of more it says how many


@dataclass(frozen=True)
class Judged:
    """The verdicts on the paper's printed figures, those of averages included.

    Attributes:
        words: verdict -> how many figures have it.
        claims: printed figures that were not reproduced, as `LoRA² k=1 on RTE`.
        runs: how many runs stand behind the figures that could be judged.
        reasons: why others could not, the most frequent first.
    """

    words: Counter[str]
    claims: tuple[str, ...]
    runs: int
    reasons: tuple[str, ...]


def judge(grids: Iterable[Grid], label_of: dict[str, str]) -> Judged:
    """What the grids of protocol `paper` say of the printed figures.

    Args:
        grids: of any exhibits; other protocols are passed over.
        label_of: column -> its name for readers.
    """
    words: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    claims: list[str] = []
    ids: set[str] = set()
    for grid in grids:
        for row in grid.rows if grid.protocol == "paper" else ():
            for column, entry in row.entries.items():
                if entry.verdict is None:
                    continue
                words[entry.verdict.word] += 1
                if entry.verdict.word == NOT_COMPARABLE:
                    reasons[entry.verdict.reason] += 1
                    continue
                ids |= {row.slots[task].runs[seed].id for task, of in entry.scores.items() for seed in of}
                if entry.verdict.word == NOT_REPRODUCED:
                    claims.append(f"{row.line.label} on {label_of.get(column, column)}")
    return Judged(words, tuple(claims), len(ids), tuple(reason for reason, _ in reasons.most_common()))


def answer(board: Board | None, judged: Judged) -> list[str]:
    """Three sentences on one board and the paper's figures; one sentence where no run counts."""
    if board is None or not board.ranked:
        return [NO_RUN]
    return [_who_leads(board), _who_is_tied(board), _what_was_reproduced(judged)]


def _who_leads(board: Board) -> str:
    first, where = board.ranked[0], f"{board.model} on {board.data} data"
    assert first.mean is not None, "ranked methods have a mean"
    tasks = f"{len(board.averaged)} task{'s' if len(board.averaged) > 1 else ''}"
    seeds = counted(one.mean.n for one in board.ranked if one.mean)
    behind = f"{where}, {tasks}, {seeds} seed{'' if seeds == '1' else 's'}, {BY[board.protocol]}"
    if len(board.ranked) == 1:
        return f"Only {first.name} has been run on {behind}: {_points(first)} points."
    if board.tied[0] == (0,) and len(board.tied) > 1:
        return f"{_begins(first)} leads with {_points(first)} points on average ({behind})."
    if not board.p:
        return (
            f"{_begins(first)} has the highest average, {_points(first)} points, but with no spread over seeds to test "
            f"nothing is said to lead ({behind})."
        )
    if len(board.tied) == 1:
        return (
            f"No method leads: all {len(board.ranked)} are tied, {first.name} highest with {_points(first)} points "
            f"on average ({behind})."
        )
    return f"{_begins(first)} has the highest average, {_points(first)} points, and shares the lead ({behind})."


def _who_is_tied(board: Board) -> str:
    if len(board.ranked) == 1:
        return "There is nothing to compare it with."
    if not board.p:
        return "No two methods could be tested against each other: run more seeds."
    apart = sum(board.ranked[at] not in _tied_with_first(board) for at in range(1, len(board.ranked)))
    tests = f"paired t tests over seeds, Holm over {len(board.p)} comparison{'s' if len(board.p) > 1 else ''}"
    first = board.ranked[0].name
    others = len(board.ranked) - 1
    if not apart:
        return f"None of the other {others} is separated from {first} by {tests}."
    tied = _tied_with_first(board)
    if not tied:
        return f"All {others} others are below it, by {tests}."
    below = [one for one in board.ranked[1:] if one not in tied]
    return f"Tied with {first}, by {tests}: {_names(tied)}; below it: {_names(below)}."


def _what_was_reproduced(judged: Judged) -> str:
    able = sum(count for word, count in judged.words.items() if word != NOT_COMPARABLE)
    if not able:
        total = judged.words[NOT_COMPARABLE]
        why = f": {judged.reasons[0]}" if judged.reasons else ""
        return f"None of the paper's {total} printed figures can be judged by these runs{why}." if total else (
            "None of the paper's printed figures can be judged: no run is of its backbone on GLUE's rows."
        )  # fmt: skip
    missed = judged.words[NOT_REPRODUCED]
    which = f" ({_listed(judged.claims)})" if missed else ""
    return (
        f"Of the paper's printed figures {able} could be judged, by {judged.runs} runs: {missed} "
        f"{'was' if missed == 1 else 'were'} not reproduced{which}, {judged.words[REPRODUCED]} reproduced, "
        f"{judged.words[WITHIN_NOISE]} within noise."
    )


def _tied_with_first(board: Board) -> list[Entrant]:
    tied = {at for group in board.tied if 0 in group for at in group} - {0}
    return [board.ranked[at] for at in sorted(tied)]


def _begins(one: Entrant) -> str:
    """Its name at the head of a sentence; names that are settings, as `dora r=8`, stay as they are."""
    return one.name[0].upper() + one.name[1:] if one.name != one.label else one.name


def _points(one: Entrant) -> str:
    assert one.mean is not None, "ranked methods have a mean"
    if one.mean.low is None or one.mean.high is None:
        return f"{one.mean.estimate:.2f}"
    return f"{one.mean.estimate:.2f} [{one.mean.low:.2f}, {one.mean.high:.2f}]"


def _names(some: Sequence[Entrant]) -> str:
    return _listed([one.name for one in some])


def _listed(names: Sequence[str]) -> str:
    if len(names) > NAMED:
        return ", ".join(names[: NAMED - 1]) + f" and {len(names) - NAMED + 1} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
