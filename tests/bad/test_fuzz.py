"""Whatever stands in a file's place: it is read as it was written, or told in one line; nothing waits, nothing runs."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import AutoTokenizer

from lora2_bench.errors import UserError
from lora2_bench.experiment.plan import CheckpointSchedule
from lora2_bench.methods.base import Method
from lora2_bench.runner.setup import load_adapter
from lora2_bench.runner.weights import load_weights, save_weights
from lora2_bench.tasks import token_cache
from lora2_bench.tasks.data import Split, TaskData
from lora2_bench.tasks.local import load_local
from lora2_bench.tasks.spec import TASKS
from lora2_bench.training.checkpoints import Checkpoints, content_digest
from lora2_bench.training.ranks import SINGLE_PROCESS
from lora2_bench.training.state import resume
from lora2_bench.training.step import TrainingStep
from tests.bad.test_data import ONE, ROWS, table, tsv

DERANDOMIZED = settings(
    max_examples=300, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
Damage = Callable[[Path], object]
FLAG = "executed"


class Evil:
    """What unpickling runs: it leaves a file named FLAG in the folder at hand."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (FLAG,)


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails a test in which something waits, or is executed."""

    def waits(*_: object) -> None:
        raise AssertionError("it waits")

    monkeypatch.chdir(tmp_path)
    before = signal.signal(signal.SIGALRM, waits)
    signal.alarm(100)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    assert not (tmp_path / FLAG).exists()


def instead(make: Damage) -> Damage:
    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


PLACES: dict[str, Damage] = {
    "a folder": instead(Path.mkdir),
    "a loop": instead(lambda path: path.symlink_to(path)),
    "a link to nowhere": instead(lambda path: path.symlink_to("/nowhere/at/all")),
    "a pipe": instead(os.mkfifo),
    "a device": instead(lambda path: path.symlink_to("/dev/zero")),
    "nothing": Path.unlink,
}
CONTENTS = {
    "no bytes": b"",
    "nested": b"[" * 10**5,
    "an object": b'{"sha256": {"a": []}, "step": "x"}',
    "a pickle": pickle.dumps(Evil()),
    "a header": (80).to_bytes(8, "little") + json.dumps({"w": {"dtype": "F32", "shape": [-1], "x": 1}}).encode(),
    "a header of others": (10**15).to_bytes(8, "little") + b"{" * 100,
}


@st.composite
def damages(draw: st.DrawFn) -> Damage:
    """A function that damages the file at a path: bits, bytes, its length, its whole content, or its kind."""
    way = draw(st.sampled_from(["bit", "bit", "bit", "byte", "cut", "junk", "nul", "twice", "whole", "place"]))
    if way == "place":
        return PLACES[draw(st.sampled_from(sorted(PLACES)))]
    if way == "whole":
        content = CONTENTS[draw(st.sampled_from(sorted(CONTENTS)))]
        return lambda path: path.write_bytes(content)
    place, value = draw(st.integers(0, 2**32)), draw(st.integers(0, 255))
    junk = draw(st.binary(min_size=1, max_size=12))

    def damage(path: Path) -> None:
        data = path.read_bytes()
        at = place % len(data)
        changed = {
            "bit": data[:at] + bytes([data[at] ^ 1 << value % 8]) + data[at + 1 :],
            "byte": data[:at] + bytes([value]) + data[at + 1 :],
            "cut": data[:at],
            "junk": data[:at] + junk + data[at + value % 5 :],
            "nul": data[:at] + bytes(1 + value) + data[at:],
            "twice": data + data[at:],
        }
        path.write_bytes(changed[way])

    return damage


def cleared(path: Path) -> None:
    """Take away what a damage has left at a path."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def loaded(task: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> TaskData | None:
    """A task's rows; None where they are refused in one line."""
    capsys.readouterr()
    try:
        data = load_local(TASKS[task], folder)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 600
        assert capsys.readouterr().err == ""
        return None
    told = capsys.readouterr().err.splitlines()
    assert len(told) == (not data.is_official) and all(line.startswith("warning: ") for line in told)
    assert all(len(column) == len(split) for split in data.splits.values() for column in split.texts.values())
    assert all(0 <= label <= (5 if task == "stsb" else 1) for split in data.splits.values() for label in split.labels)
    assert "\0" not in "".join(text for split in data.splits.values() for one in split.texts.values() for text in one)
    return data


TSV = {
    "rte": tsv(*ROWS * 3),
    "cola": b"gj04\t1\t\tA cat sat.\ngj04\t0\t*\tSat cat a.\n",
    "stsb": tsv(
        *(f"{n}\tg\tf\ty\to\ts\ts\tA cat sat.\tA cat.\t{n}.25" for n in range(4)),
        header="index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
    ),
}


@DERANDOMIZED
@given(damage=damages(), task=st.sampled_from(sorted(TSV)), split=st.sampled_from(["train.tsv", "dev.tsv"]))
def test_a_damaged_tsv_file_is_read_or_told(
    damage: Damage, task: str, split: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "glue" / TASKS[task].folder
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train.tsv", "dev.tsv"):
        cleared(folder / name)
        (folder / name).write_bytes(TSV[task])
    damage(folder / split)
    loaded(task, folder.parent, capsys)


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("parquet") / ONE
    pq.write_table(table(), path)
    return path.read_bytes()


@settings(DERANDOMIZED, max_examples=400)
@given(damage=damages(), split=st.sampled_from(["train", "validation"]))
def test_a_damaged_parquet_file_is_read_or_told(
    damage: Damage, split: str, parquet: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "glue" / "rte"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train", "validation"):
        path = folder / f"{name}-00000-of-00001.parquet"
        cleared(path)
        path.write_bytes(parquet)
    damage(folder / f"{split}-00000-of-00001.parquet")
    loaded("rte", folder.parent, capsys)


@pytest.mark.parametrize("place", [*PLACES, "another task's"])
def test_a_folder_that_is_none_is_told(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    glue = tmp_path / "glue"
    for folder in (glue / "RTE", glue / "rte", glue):
        shutil.rmtree(glue, ignore_errors=True)
        folder.parent.mkdir(exist_ok=True)
        if place == "another task's":
            folder.mkdir()
            (folder / "train.tsv").write_bytes(TSV["stsb"])
        else:
            folder.write_bytes(b"")
            PLACES[place](folder)
        assert loaded("rte", glue, capsys) is None


# --- checkpoints ---

ORIGIN = {"cell": "ab" * 8, "steps": 4, "data": "d", "backbone": "b", "package": "1"}
CODE = {"sha": None, "dirty": None}
OLDER, NEWER = "step-000000001.pt", "step-000000002.pt"
WRITTEN = {"trained": {"w": torch.arange(8.0)}, "optimizer": {"state": {0: {"step": torch.ones(())}}}, "x": [1, None]}
ODD = st.sampled_from([None, 0, -1, 2.5, "x", [], {}, [1], ["x"], {"sha": 1}, [{}], [{"sha": 1, "dirty": 1}], 10**30])


def checkpoints(folder: Path) -> Checkpoints:
    return Checkpoints(folder, CheckpointSchedule(minutes=None, steps=1), ORIGIN, CODE)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Name -> content of the two checkpoints that a cell keeps; the older one's weights are other."""
    folder = tmp_path_factory.mktemp("kept")
    for step in (1, 2):
        checkpoints(folder).save(step, {**WRITTEN, "trained": {"w": torch.arange(8.0) * step}})
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def continued(folder: Path, capsys: pytest.CaptureFixture[str]) -> int:
    """The step that a damaged folder goes on with, with the weights of then; 0 for none. Each loss is told."""
    capsys.readouterr()
    store = checkpoints(folder)
    state = store.load()
    told = capsys.readouterr().err.splitlines()
    assert all(line.startswith("warning: ") and len(line) < 600 for line in told)
    if state is None:
        assert told
        return 0
    assert torch.equal(state["trained"]["w"], torch.arange(8.0) * store.newest_step)
    assert content_digest({**state, "trained": 0}) == content_digest({**WRITTEN, "trained": 0})
    return store.newest_step


@settings(DERANDOMIZED, max_examples=200)
@given(damage=damages(), name=st.sampled_from([OLDER, NEWER]), alone=st.booleans())
def test_a_damaged_checkpoint_is_never_gone_on_with(
    damage: Damage, name: str, alone: bool, kept: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir(exist_ok=True)
    for one, content in kept.items():
        cleared(folder / one)
        if one == name or not alone:
            (folder / one).write_bytes(content)
    damage(folder / name)
    assert continued(folder, capsys) in ((0, 1, 2) if alone else (2,) if name == OLDER else (1, 2))
    checkpoints(folder).save(3, WRITTEN)  # whatever stands there
    assert capsys.readouterr().err == ""
    (folder / "step-000000003.pt").unlink()


def test_a_checkpoint_under_another_name_is_told(
    kept: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / NEWER).write_bytes(kept[OLDER])
    (tmp_path / OLDER).write_bytes(kept[NEWER])
    (tmp_path / ".step-000000003.pt.9.ab").mkdir()
    assert continued(tmp_path, capsys) == 0


@DERANDOMIZED
@given(part=st.sampled_from(["origin", "code", "step", "state"]), value=ODD)
def test_a_checkpoint_of_other_types_is_told(
    part: str, value: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir(exist_ok=True)
    values = {"origin": ORIGIN, "code": [CODE], "step": 1, "state": WRITTEN, part: value}
    torch.save({"sha256": content_digest(values), **values}, folder / OLDER)
    if part != "state" or type(value) is not dict:
        assert continued(folder, capsys) == (part == "code" and not value and value in ([], {}))
        return
    step = SimpleNamespace(ranks=SINGLE_PROCESS, method=SimpleNamespace(engine="fast"))
    with pytest.raises(UserError, match=r"holds a state of other code .+: remove that folder to start anew") as told:
        resume(checkpoints(folder), cast(TrainingStep, step))
    assert "\n" not in str(told.value)


# --- trained weights, which init_from and the export of other ranks read; adapters are written and never read ---

CELL = "ab" * 8
WEIGHTS = {
    "a.lora_A": torch.arange(12.0).reshape(3, 4),
    "a.lora_B": torch.ones(2, dtype=torch.bfloat16),
    "a.mask": torch.tensor([True, False]),
    "head": torch.ones(2),
}


class Injected:
    """What `load_adapter` asks of a method."""

    def __init__(self) -> None:
        self.parts = {name: torch.zeros_like(tensor) for name, tensor in WEIGHTS.items()}
        self.backbone = SimpleNamespace(head_parameters=lambda: {"head": self.parts["head"]})

    def saved(self) -> dict[str, torch.Tensor]:
        return self.parts


def started(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Start from a file's weights: all of them as they were written, or none, and one line."""
    method = Injected()
    try:
        load_adapter(cast(Method, method), path, CELL)
    except UserError as error:
        assert str(error).startswith(f"init_from={CELL}") and "\n" not in str(error) and len(str(error)) < 600
        assert not any(tensor.any() for tensor in method.parts.values())
        return
    assert capsys.readouterr().err == ""
    assert all(torch.equal(method.parts[name], WEIGHTS[name]) for name in WEIGHTS if name != "head")


@pytest.mark.slow
@settings(DERANDOMIZED, max_examples=400)
@given(damage=damages())
def test_damaged_weights_are_never_started_from(
    damage: Damage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "trained.safetensors"
    cleared(path)
    save_weights(WEIGHTS, path, CELL)
    damage(path)
    started(path, capsys)


@pytest.mark.parametrize(
    "other",
    [
        {"a.lora_A": torch.full((3, 4), float("nan"))},
        {"a.lora_A": torch.full((3, 4), float("inf"))},
        {"a.lora_A": torch.ones(4, 3)},
        {"a.lora_A": None},
        {"a.mask": None},
    ],
)
def test_weights_without_a_digest_have_to_fit(
    other: dict[str, torch.Tensor | None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "trained.safetensors"
    save_file({name: tensor for name, tensor in {**WEIGHTS, **other}.items() if tensor is not None}, path)
    with pytest.raises(UserError, match=f"init_from={CELL}"):
        load_adapter(cast(Method, Injected()), path, CELL)


def test_another_cells_weights_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "trained.safetensors"
    save_weights(WEIGHTS, path, "cd" * 8)
    with pytest.raises(UserError, match="its content is not what was written"):
        load_weights(path, CELL, "export.rank=2")


# --- the token cache ---


@pytest.mark.slow
@settings(DERANDOMIZED, max_examples=200)
@given(damage=damages())
def test_a_damaged_cache_entry_is_made_anew(
    damage: Damage, tiny_tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = Split({"sentence1": ["a cat sat", "dogs run far"], "sentence2": ["a cat", "no"]}, [0, 1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORA2_BENCH_CACHE", str(tmp_path / "cache"))
        encode = token_cache.encoder(tiny_tokenizer, "ab", TASKS["rte"], 20)
        made = encode(split)
        (path,) = (tmp_path / "cache").rglob("*.safetensors")
        damage(path)
        capsys.readouterr()
        again = encode(split)
        told = capsys.readouterr().err.splitlines()
        cleared(path)
    assert len(told) <= 2 and all(line.startswith("warning: ") for line in told)
    assert again.input_ids.values.tolist() == made.input_ids.values.tolist()
    assert again.input_ids.ends.tolist() == made.input_ids.ends.tolist()


@pytest.fixture(scope="module")
def tiny_tokenizer(tiny_folders: Callable[[str], Path]) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folders("bert"))
    tokenizer.model_max_length = 64
    return tokenizer
