"""The matrix of docs/CAPABILITIES.md: the page follows the data, and the data what the package does today."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests.capabilities.cells import CAPABILITIES, PRECISIONS, Trial, compared, quiet_backbone, try_out
from tests.capabilities.command import PAGE, read
from tests.capabilities.page import page
from tests.conftest import ARCHITECTURES
from tests.methods.helpers import METHODS, method_class

DATA = read()["methods"]
LIVE = [
    ("lora2", "bert fp32", ("export", "merge", "init_from", "resume")),
    ("qalora", "bert fp32", ("merge", "resume")),
    ("dora", "deberta-v2 bf16", ("export", "init_from")),
    ("prefix", "bert fp32", ("export", "merge")),
    ("longlora", "deberta-v2 bf16", ("export", "merge")),
    ("full", "bert fp32", ("export", "merge", "init_from")),
]


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder_of(architecture: str) -> Path:
        if architecture not in made:
            made[architecture] = quiet_backbone(architecture, tmp_path_factory.mktemp("quiet") / architecture)
        return made[architecture]

    return folder_of


def test_the_page_is_that_of_the_data() -> None:
    assert page(read()) == PAGE.read_text(encoding="utf-8")


def test_the_data_are_of_methods_that_are_there_and_nothing_failed_or_differed() -> None:
    runs = {f"{architecture} {precision}" for architecture in ARCHITECTURES for precision in PRECISIONS}
    assert len(DATA) >= 31 and set(DATA) <= set(METHODS)
    for name, found in DATA.items():
        assert set(found) <= runs and "bert fp32" in found, name
        for answers in found.values():
            assert set(answers) <= set(CAPABILITIES)
            assert not {"failed", "differs"} & {answer["word"] for answer in answers.values()}, (name, answers)


@pytest.mark.parametrize("name", DATA)
def test_what_ran_is_what_the_method_promises(name: str) -> None:
    kind = method_class(name)
    kept = {"lora": ("LoRA",), "weights": ("weights",), "none": ("nothing",)}
    for run, answers in DATA[name].items():
        if run.split()[0] not in kind.encoders:
            assert {answer["word"] for answer in answers.values()} == {"refused"}
            continue
        word = answers["export"]["word"]
        assert word in kept[kind.exports] if kind.exports in kept else word == "LoRA" or word.startswith("PEFT ")
        assert (answers["merge"]["word"] in ("yes", "integers")) == (kind.merges and kind.exports != "none")
        starts = kind.exports != "none" and name != "head"  # whose cells trained nothing that another task's takes
        assert (answers["init_from"]["word"] == "yes") == starts
        assert answers["resume"]["word"] == "yes"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "run", "asked"), LIVE)
def test_a_run_gives_what_the_matrix_says(
    name: str, run: str, asked: tuple[str, ...], backbones: Callable[[str], Path]
) -> None:
    architecture, precision = run.split()
    found: dict[str, Any] = try_out(name, architecture, precision, backbones(architecture), *asked)
    assert set(found) == set(asked)
    for capability, answer in found.items():
        known = DATA[name][run][capability]
        assert (answer["word"], answer.get("line")) == (known["word"], known.get("line"))


def test_another_adapter_differs(backbones: Callable[[str], Path], tmp_path: Path) -> None:
    """What the matrix compares can be told apart."""
    trial = Trial("lora", "bert", "fp32", backbones("bert"), tmp_path)
    assert trial.export().word == "LoRA"
    adapter = trial.cell / "adapter" / "adapter_model.safetensors"
    save_file({name: tensor * 1.01 for name, tensor in load_file(adapter).items()}, adapter)
    assert trial.export().word == "differs"
    assert compared("export", trial.kept + 1e-4, trial.kept, "LoRA").word == "differs"
