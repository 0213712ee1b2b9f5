"""summary.md: a study in one table and one sentence, as the front page shows it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lora2_bench.files.writing import write_text
from lora2_bench.records.record import Record
from lora2_bench.tune.answer import chosen_at_edges, primary_answer, progress, told_by_holm, unlike
from lora2_bench.tune.compared import scores_of
from lora2_bench.tune.ledger import Begun, Folder
from lora2_bench.tune.score_table import floors, parameters, score_table
from lora2_bench.tune.study import Study


def write_summary(folder: Folder, study: Study, begun: Begun, records: Mapping[str, Record]) -> Path:
    """Write summary.md; the same records give the same bytes. Returns its path."""
    path = folder.path / "summary.md"
    write_text(path, "\n".join(summary(study, begun, records)) + "\n")
    return path


def summary(study: Study, begun: Begun, records: Mapping[str, Record]) -> list[str]:
    """The lines of summary.md; before the first run it says how far the study is, and no more."""
    scores = scores_of(begun, records)
    lines = progress(study, begun, records)
    if not scores:
        return lines[:1]
    answer = [*primary_answer(study, scores, unlike(begun, records)), *chosen_at_edges(study, begun, records)]
    told = [line for line in [*answer, *told_by_holm(study, scores)] if line]
    return [*lines, *told, "", *score_table(study, scores, floors(begun, records), parameters(begun, records))[:-1]]
