"""Target score against what was forgotten, as plots: one a measure, a panel a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lora2_bench.report.figures.chart import Mean, Panel, Plot
from lora2_bench.report.figures.data import PROTOCOL_NAMES, SCORE, means_panel, panel_title
from lora2_bench.report.retention.settings import MEASURES, Setting

_NOTE = (
    "Means over n seeds with 95 % intervals, cut at the frame. A method's points are joined in the order of their "
    "learning rates, which stand beside them where there is room. Dotted line: Pareto front of the means, nothing to "
    "its left scores as high. Runs off the recipe are in it; a run that was not measured is not."
)


def retention_plots(places: Mapping[str, Mapping[tuple[str, str], Sequence[Setting]]]) -> list[Plot]:
    """Every figure of retention; `places` is folder -> (task, protocol) -> settings."""
    made = []
    for folder, of_folder in places.items():
        for protocol in dict.fromkeys(protocol for _, protocol in of_folder):
            for measure, about in MEASURES.items():
                of_task = {task: found for (task, own), found in of_folder.items() if own == protocol}
                panels = [panel for found in of_task.values() if (panel := _panel(measure, found))]
                if panels:
                    title = f"Score against what was forgotten, {about.name}: {folder}, {PROTOCOL_NAMES[protocol]}"
                    x_label = f"forgotten: {about.name}, {about.unit} lost"
                    name = f"forgotten-{measure}-{protocol}"
                    made.append(Plot(folder, name, title, _NOTE, protocol, tuple(panels), x_label, SCORE, cut=True))
    return made


def _panel(measure: str, found: Sequence[Setting]) -> Panel | None:
    means = [one for setting in found if (one := _point(setting, measure))]
    return means_panel(panel_title([found[0].run]), means) if means else None


def _point(setting: Setting, measure: str) -> Mean | None:
    kept, target = setting.kept(measure), setting.target
    if kept is None:
        return None
    halves = [None if one.low is None else one.half_width for one in (target, kept)]
    lost = 0.0 - kept.estimate  # no minus before a zero
    return Mean(setting.run.label, lost, target.estimate, halves[0], target.n, halves[1], f"{setting.run.lr:g}")
