"""Figures: what they show, and that the same records give the same files."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import pytest

from lora2_bench.records.record import Record
from lora2_bench.records.store import Store
from lora2_bench.report.figures.chart import COLOURS, Curve, Mean, Panel, Plot, digest, styles
from lora2_bench.report.figures.data import pareto_front, slug
from lora2_bench.report.figures.data import plots as plots_of
from lora2_bench.report.figures.drawing import draw, short
from lora2_bench.report.figures.files import write_figures
from lora2_bench.report.page.markup import inline
from lora2_bench.report.selection import select
from tests.made_records import make_cell, make_record
from tests.report.made_results import made_results, measured

ROOT = Path(__file__).resolve().parent.parent.parent


def plots(records: Sequence[Record]) -> list[Plot]:
    return plots_of(select(records))


@pytest.fixture(scope="module")
def made() -> dict[str, Plot]:
    return {plot.name: plot for plot in plots(made_results())}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    for record in made_results()[:8]:
        Store(folder).write(record)
    write_figures(folder)
    return folder


def below(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.*"))
    }


def panel(plot: Plot, start: str) -> Panel:
    (found,) = (one for one in plot.panels if one.title.startswith(start))
    return found


def test_which_figures_there_are(made: dict[str, Plot]) -> None:
    assert sorted(made) == sorted(
        [
            *(f"{kind}-{protocol}" for kind in ("parameters", "seconds") for protocol in ("paper", "last", "clean")),
            "learning-paper",
            "learning-clean",
            "lr-paper",
            "lr-last",
            "ranks-paper-lora2-k1",
            "ranks-clean-lora2-k1",
        ]
    )
    assert {plot.folder for plot in made.values()} == {"minilm-mini"}
    for plot in made.values():
        assert "minilm-mini" in plot.title
        assert f"protocol {plot.protocol}" in plot.title


def test_points_are_means_over_seeds_of_the_setting_on_its_recipe(made: dict[str, Plot]) -> None:
    rte = panel(made["parameters-last"], "RTE")
    assert rte.title == "RTE, accuracy (n = 2)"
    by_label = {one.label: one for one in rte.means}
    # lora was run on more seeds as a quick look, which does not count.
    assert {name: (round(one.y, 6), one.n, one.x) for name, one in by_label.items()} == {
        "full": (81.0, 2, 1000.0),
        "lora r=8": (71.0, 2, 1920.0),
        "lora2 k=1": (76.0, 2, 120.0),
    }
    assert by_label["full"].sd == pytest.approx(2**0.5)
    average = panel(made["parameters-last"], "mean of 2 tasks")
    assert {one.label: round(one.y, 6) for one in average.means}["full"] == 66.0
    assert rte.front == ((120.0, pytest.approx(76.0)), (1000.0, pytest.approx(81.0)))


def test_a_method_without_one_of_the_tasks_is_in_no_mean_over_tasks() -> None:
    records = [measured(task, "lora", 0, 0.7) for task in ("rte", "cola")]
    records += [measured(task, "full", 0, 0.7) for task in ("rte", "cola")] + [measured("rte", "lora2", 0, 0.9)]
    (plot,) = (plot for plot in plots(records) if plot.name == "parameters-paper")
    assert [one.label for one in panel(plot, "mean of").means] == ["full", "lora r=8"]


def test_a_method_without_adapter_parameters_has_no_place_on_their_axis() -> None:
    head, lora = measured("rte", "full", 0, 0.9), measured("rte", "lora", 0, 0.7)
    head.result["parameters"]["adapter"] = 0
    (plot,) = (plot for plot in plots([head, lora]) if plot.name == "parameters-paper")
    assert plot.labels() == ["lora r=8"] and plot.note.endswith("Not in it: methods that train the head alone.")
    assert not [plot for plot in plots([head]) if plot.name.startswith("parameters")]


def test_points_beside_a_line_stay_on_it_and_those_of_a_measured_x_stay_at_it() -> None:
    """Two methods at the same x: side by side with their lines, unless x is what was measured."""
    from lora2_bench.report.figures.drawing import _shifts

    means = tuple(Mean(label, x, 1.0, None, 1) for label in ("lora r=8", "full") for x in (1.0, 2.0))
    curves = tuple(Curve(label, (), ((1.0, 1.0), (2.0, 1.0))) for label in ("lora r=8", "full"))
    shifts = _shifts(Panel("rte", means=means, curves=curves), is_log=False)
    assert shifts[0] == shifts[1] == -shifts[2] == -shifts[3] < 0
    assert _shifts(Panel("rte", means=means[:2], curves=curves[:1]), is_log=False) == [0.0, 0.0]
    near = (Mean("a", 1.0, 1.0, None, 1), Mean("b", 1.05, 1.0, None, 1), Mean("c", 2.0, 1.0, None, 1))
    first, second, third = _shifts(Panel("rte", means=near), is_log=True)
    assert first == -second < 0 and third == 0
    assert _shifts(Panel("rte", means=near), is_log=False) == [0.0, 0.0, 0.0]


def test_seconds_of_two_machines_are_two_figures() -> None:
    one = measured("rte", "lora", 0, 0.7)
    other = measured("rte", "lora2", 0, 0.7)
    other.run["hardware"] = {"gpu": "Made GPU"}
    found = {plot.name: plot for plot in plots([one, other]) if plot.name.startswith("seconds-paper")}
    assert sorted(found) == ["seconds-paper-1", "seconds-paper-2"]
    assert found["seconds-paper-1"].note.startswith("Machine: Made CPU, 1 thread.")
    assert found["seconds-paper-2"].note.startswith("Machine: Made GPU.")


def test_learning_curves_have_a_line_per_seed_and_their_mean(made: dict[str, Plot]) -> None:
    (curve,) = (one for one in panel(made["learning-paper"], "RTE").curves if one.label == "lora2 k=1")
    assert [x for x, _ in curve.mean] == [1.0, 2.0, 3.0]
    assert [round(y, 6) for _, y in curve.mean] == [56.0, 77.5, 76.0]
    assert len(curve.seeds) == 2
    assert "held-out" in made["learning-clean"].title


def test_a_mean_curve_stands_where_all_seeds_have_an_evaluation() -> None:
    long, short_one = measured("rte", "lora", 0, 0.7), measured("rte", "lora", 1, 0.7)
    del short_one.result["evaluations"][1]
    (plot,) = (plot for plot in plots([long, short_one]) if plot.name == "learning-paper")
    (curve,) = plot.panels[0].curves
    assert [len(line) for line in curve.seeds] == [3, 2]
    assert [x for x, _ in curve.mean] == [1.0, 3.0]


def test_learning_rates_are_compared_on_the_same_seeds(made: dict[str, Plot]) -> None:
    plot = made["lr-last"]
    (curve,) = plot.panels[0].curves
    assert curve.label == "lora2 k=1"
    # Seed 2 was run at the last lr only, where it would lift the mean.
    assert [(lr, round(y, 6)) for lr, y in curve.mean] == [(1e-4, 60.5), (1e-3, 76.0), (1e-2, 60.5)]
    assert plot.log_x


def test_heat_maps_are_means_over_seeds_by_layer_and_map(made: dict[str, Plot]) -> None:
    plot = made["ranks-paper-lora2-k1"]
    rte = panel(plot, "RTE")
    assert (rte.title, rte.rows, rte.columns) == ("RTE (2 seeds)", ("q", "k", "v", "o", "f1", "f2"), ("1", "2"))
    assert rte.values[0] == (1.5, 2.5)
    assert plot.top == 8


def test_a_method_that_kept_every_rank_has_no_heat_map() -> None:
    record = measured("rte", "lora2", 0, 0.7)
    for ranks in record.result["ranks"].values():
        ranks.update(dict.fromkeys(ranks, 8))
    assert not [plot for plot in plots([record]) if plot.top]


def test_a_record_without_times_ranks_and_evaluations_has_a_figure_of_its_parameters() -> None:
    record = make_record(make_cell("rte", "lora"))
    record.result["evaluations"].clear()
    assert {plot.name for plot in plots([record])} == {"parameters-paper", "parameters-last"}


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([], ()),
        ([(1, 5), (2, 4), (3, 6)], ((1, 5), (3, 6))),
        ([(1, 5), (1, 7), (2, 7)], ((1, 7),)),
        ([(2, 1), (1, 1)], ((1, 1),)),
    ],
)
def test_the_pareto_front(points: list[tuple[float, float]], front: tuple[tuple[float, float], ...]) -> None:
    assert pareto_front(points) == front


def test_file_names_hold_no_path() -> None:
    assert slug("lora2 k=1") == "lora2-k1"
    assert slug("../../x <script>") == "x-script"
    assert slug("²") == "unnamed"


def test_one_colour_per_method_and_one_look_per_size() -> None:
    labels = ["lora2 k=8", "lora r=1", "mine", "lora2 k=1", "full"]
    style = styles(labels)
    assert style == styles(reversed(labels))
    assert {style[name].colour for name in ("lora2 k=1", "lora2 k=8")} == {COLOURS["lora2"]}
    assert style["lora2 k=1"].marker != style["lora2 k=8"].marker
    assert style["mine"].colour not in COLOURS.values()


@pytest.mark.parametrize(
    ("value", "text"),
    [(2e6, "2M"), (50_000, "50k"), (20, "20"), (0.005, "0.005"), (1e-4, "1e-4"), (2.5e-4, "2.5e-4")],
)
def test_ticks_are_short(value: float, text: str) -> None:
    assert short(value) == text


@pytest.mark.slow
def test_the_files_are_the_same_for_the_same_records(results: Path, tmp_path: Path) -> None:
    for record in reversed(made_results()[:8]):
        Store(tmp_path).write(record)
    paths = write_figures(tmp_path)
    assert below(tmp_path / "figures") == below(results / "figures")
    assert sorted(path.relative_to(tmp_path / "figures").as_posix() for path in paths) == sorted(
        below(tmp_path / "figures")
    )


def test_a_users_own_matplotlib_settings_change_nothing(results: Path) -> None:
    import matplotlib as mpl

    records = made_results()[:8]
    plot = plots(records)[0]
    style = styles(record.label for record in records)
    with mpl.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.facecolor": "red"}):
        svg, _ = draw(plot, style)
        assert mpl.rcParams["font.size"] == 30
    assert (results / "figures" / plot.folder / f"{plot.name}.svg").read_bytes() == svg


def test_svg_is_xml_with_its_title_and_stamp_and_no_date(results: Path) -> None:
    for path in (results / "figures").rglob("*.svg"):
        text = path.read_text()
        title = ET.fromstring(text).findtext("{http://www.w3.org/2000/svg}title")
        assert title and "minilm-mini" in title
        assert re.search(r"<dc:identifier>[0-9a-f]{64}</dc:identifier>", text)
        assert "dc:date" not in text
        assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_labels_are_text_and_not_formulas_or_markup() -> None:
    label = "mine <script>$x^2$ & co"
    plot = Plot(
        "a-b", "x", f"Title {label}", "note", "paper", (Panel(label, (Mean(label, 1.0, 2.0, None, 1),)),), "x", "y"
    )
    svg, _ = draw(plot, styles([label]))
    assert "<script" not in svg.decode()
    texts = ["".join(text.itertext()) for text in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert label in texts


def test_without_a_finished_cell_a_file_says_what_to_run(tmp_path: Path) -> None:
    (path,) = write_figures(tmp_path)
    assert "python -m lora2_bench method=lora2 task=rte" in path.read_text()
    Store(tmp_path).write(make_record(make_cell()))
    assert path not in write_figures(tmp_path)
    assert not path.exists()


def test_the_stamp_covers_numbers_and_looks() -> None:
    (plot, *_) = plots(made_results()[:8])
    style = styles(plot.labels())
    other = styles([*plot.labels(), "lora r=1"])
    assert len({digest(plot, style), digest(plot, other), digest(dataclasses.replace(plot, note=""), style)}) == 3


def test_inline_figures_share_no_id_and_load_nothing(results: Path) -> None:
    path = next((results / "figures").rglob("ranks-*.svg"))
    one, other = (inline(path.read_text(), prefix, 'a "label"') for prefix in ("f1-", "f2-"))
    ids = re.findall(r' id="([^"]*)"', one)
    assert ids and not set(ids) & set(re.findall(r' id="([^"]*)"', other))
    for target in re.findall(r'(?:href="|url\()#([^")]*)', one):
        assert target in ids
    assert 'aria-label="a &quot;label&quot;"' in one
    assert not re.search(r"<(?:style|metadata|title|!DOCTYPE|\?xml)", one)
    assert set(re.findall(r'href="([^"#]{5})', one)) <= {"data:"}
    assert " style=" not in one and ' fill="none"' in one, "the page's policy forbids style attributes"
    ET.fromstring(one)
    assert len(one) < len(path.read_text())


def test_tables_do_not_load_matplotlib(tmp_path: Path) -> None:
    Store(tmp_path).write(make_record(make_cell()))
    code = "import sys; from pathlib import Path; from lora2_bench.report.tables.write import write_tables\n"
    code += "write_tables(Path(sys.argv[1])); print('matplotlib' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, check=True, timeout=120
    )
    assert done.stdout == "False\n"
