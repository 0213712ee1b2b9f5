"""The cache of tokenised splits: the same numbers with and without it, and never another's."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save
from transformers import AutoTokenizer

from lora2_bench.errors import UserError
from lora2_bench.tasks import token_cache as tokens
from lora2_bench.tasks.data import Split
from lora2_bench.tasks.encoding import EncodedSplit
from lora2_bench.tasks.spec import task_spec
from tests.conftest import ARCHITECTURES, Told

Folders = Callable[[str], Path]
SPEC = task_spec("rte")
SPLIT = Split({"sentence1": ["a cat sat", "dogs run far"], "sentence2": ["a cat", "no"]}, [0, 1])


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LORA2_BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


def encoder(folder: Path, max_length: int = 20, sha256: str | None = "ab") -> Callable[[Split], EncodedSplit]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = 64
    return tokens.encoder(tokenizer, sha256, SPEC, max_length)


def same(one: EncodedSplit, other: EncodedSplit) -> bool:
    def plain(rows: EncodedSplit) -> list[Any]:
        return [
            [part.tolist() if part is not None and not isinstance(part, int) else part for part in rows[i]]
            for i in range(len(rows))
        ]

    return plain(one) == plain(other) and one.pad == other.pad


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_read_back_is_what_was_made(
    architecture: str, tiny_folders: Folders, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_folders(architecture)
    plain = encoder(folder, sha256=None)(SPLIT)
    assert not own_cache.exists()
    made = encoder(folder)(SPLIT)
    assert len(list(own_cache.glob("*.safetensors"))) == 1
    monkeypatch.setattr(tokens, "encode", lambda *_: pytest.fail("tokenised again"))
    read = encoder(folder)(SPLIT)
    assert same(made, plain) and same(read, plain)
    assert read.lengths() == plain.lengths()


def test_other_texts_lengths_tokenizers_and_splits_of_the_same_letters_are_others(
    tiny_folders: Folders, own_cache: Path
) -> None:
    folder = tiny_folders("bert")
    moved = Split({"sentence1": ["a cat sa", "tdogs run far"], "sentence2": ["a cat", "no"]}, [0, 1])
    encoder(folder)(SPLIT)
    encoder(folder, 19)(SPLIT)
    encoder(folder, sha256="cd")(SPLIT)
    encoder(folder)(moved)
    assert len(list(own_cache.glob("*.safetensors"))) == 4
    relabelled = Split(SPLIT.texts, [1, 1])
    assert encoder(folder)(relabelled).labels == [1, 1]  # labels are not the cache's
    assert len(list(own_cache.glob("*.safetensors"))) == 4


def flipped(at: float) -> Callable[[Path], object]:
    """One bit changed, `at` this share of the file."""

    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[min(int(at * len(content)), len(content) - 1)] ^= 1
        path.write_bytes(bytes(content))

    return damage


def without(*names: str) -> Callable[[Path], object]:
    def damage(path: Path) -> None:
        with safe_open(path, "np") as file:
            values = {name: file.get_tensor(name) for name in ("ids", "types", "ends") if name not in names}
            path.write_bytes(save(values, file.metadata()))

    return damage


def unsigned(path: Path) -> None:
    path.write_bytes(save(load_file(path)))


def of_another_split(path: Path) -> None:
    (other,) = (file for file in path.parent.glob("*.safetensors") if file != path)
    path.write_bytes(other.read_bytes())


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:50]), "cannot be read"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: path.write_bytes(pickle.dumps({"ids": [1]})), "cannot be read"),
        (lambda path: (path.unlink(), path.mkdir()), "cannot be read"),
        *((flipped(at / 20), "") for at in range(21)),
        (without("types"), "is not what was written there"),
        (without("ends"), "is not what was written there"),
        (without("ids", "types", "ends"), "is not what was written there"),
        (unsigned, "is not what was written there"),
        (of_another_split, "is not what was written there"),
    ],
)
def test_a_bad_entry_is_told_and_made_anew(
    damage: Callable[[Path], object],
    why: str,
    tiny_folders: Folders,
    own_cache: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    encode = encoder(tiny_folders("bert"))
    made = encode(SPLIT)
    (path,) = own_cache.glob("*.safetensors")
    encode(Split({"sentence1": ["dogs run far", "a cat sat"], "sentence2": ["a cat", "no"]}, [0, 1]))
    damage(path)
    assert same(encode(SPLIT), made)
    told = capsys.readouterr().err
    assert told.count("\n") >= 1 and f"{path.name} in the cache {why}" in told and ": tokenised anew" in told
    if path.is_file():
        assert same(encode(SPLIT), made) and capsys.readouterr().err == ""


def test_a_cache_that_cannot_be_written_is_told_and_costs_nothing_else(
    tiny_folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LORA2_BENCH_CACHE", str(tmp_path / "file"))
    assert len(encoder(tiny_folders("bert"))(SPLIT)) == 2
    assert "cannot be written (Not a directory): the next cell tokenises again" in capsys.readouterr().err


def test_a_length_above_the_backbones_is_refused(tiny_folders: Folders) -> None:
    with pytest.raises(UserError, match=r"train\.max_length=65 is above the backbone's 64 tokens"):
        encoder(tiny_folders("bert"), 65)


def test_a_second_cell_tokenises_nothing_and_ends_with_the_same_numbers(
    bench: Callable[..., Told], tiny_folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("model=local", f"model.path={tiny_folders('bert')}", "task=rte", "data.max_train=40", "data.max_eval=20")
    quick = (*command, "train.epochs=1", "train.max_length=48", "method=lora", "device=cpu")
    assert bench(*quick, f"results={tmp_path / 'one'}").code == 0
    monkeypatch.setattr(tokens, "encode", lambda *_: pytest.fail("tokenised again"))
    assert bench(*quick, f"results={tmp_path / 'two'}").code == 0
    (one,), (two,) = (tmp_path.glob(f"{name}/cells/*/predictions.json") for name in ("one", "two"))
    assert one.read_text() == two.read_text()
