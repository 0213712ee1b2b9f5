"""The cache of tokenised splits: the same numbers with and without it, and never another's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
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


def test_a_broken_file_is_told_and_made_anew(
    tiny_folders: Folders, own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encode = encoder(tiny_folders("bert"))
    made = encode(SPLIT)
    (path,) = own_cache.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:50])
    assert same(encode(SPLIT), made)
    assert "in the cache cannot be read" in capsys.readouterr().err
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
