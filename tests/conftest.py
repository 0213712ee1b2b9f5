"""What tests share: tiny backbones on disk, and the user's own entry called in this process."""

from __future__ import annotations

import functools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

_CACHE = tempfile.TemporaryDirectory(prefix="lora2-bench-cache-")  # gone with the process
os.environ["LORA2_BENCH_CACHE"] = _CACHE.name
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach for a network
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the suite runs in as many processes as there are cores

settings.register_profile("untimed", deadline=None)  # no test measures time: the machine may be busy
settings.load_profile("untimed")

ARCHITECTURES = ("bert", "roberta", "deberta-v2")
"""Those that every method is tested on; ModernBERT has tests of its own (tests/backbones/test_modernbert.py)."""


def tiny_config(architecture: str, vocab_size: int = 400) -> Any:
    """A two-layer configuration whose widths all differ, so that a mixed-up dimension fails."""
    from lora2_bench.contract import subject

    return subject.tiny_config(architecture, vocab_size)


def _tokenizer(architecture: str, folder: Path) -> Any:
    """A tokenizer of the architecture's own kind, trained on a few sentences of the package's generated data."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import BertTokenizer, DebertaV2Tokenizer, PreTrainedTokenizerFast, RobertaTokenizer

    from lora2_bench.tasks.sources import load_task

    train = load_task("rte", "mini").splits["train"]
    texts = [text for column in train.texts.values() for text in column[:300]]
    if architecture == "bert":
        words = sorted({word for text in texts for word in text.lower().replace(".", " .").split()})
        vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words][:400]
        (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
        return BertTokenizer.from_pretrained(str(folder))
    if architecture in ("roberta", "modernbert"):
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(texts, trainer)
        if architecture == "modernbert":
            tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
            names = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
            inputs = ["input_ids", "attention_mask"]
            return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=inputs, **names)
        tokenizer.model.save(str(folder))
        return RobertaTokenizer.from_pretrained(str(folder))
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    trainer = trainers.UnigramTrainer(vocab_size=400, special_tokens=special, unk_token="[UNK]", show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    vocab = [(piece, score) for piece, score in json.loads(tokenizer.to_str())["model"]["vocab"]]
    return DebertaV2Tokenizer(vocab=vocab)


@pytest.fixture(scope="session", autouse=True)
def yaml_read_quickly() -> Iterator[None]:
    """YAML is read with libyaml's parser by all that reads it: it gives the same in a tenth of the time."""
    import yaml

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yaml, "SafeLoader", yaml.CSafeLoader)
        yield


def make_tiny(architecture: str, folder: Path, **changes: float) -> Path:
    """Fill a folder with a random tiny backbone and its own tokenizer; `changes` are made in its configuration."""
    import torch
    from transformers import AutoModel

    tokenizer = _tokenizer(architecture, folder)
    config = tiny_config(architecture, vocab_size=max(len(tokenizer), 400))
    config.update(changes)
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.model_max_length = 64
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Architecture -> folder of a random tiny backbone with its own tokenizer, as save_pretrained leaves it."""
    made: dict[str, Path] = {}

    def folder_of(architecture: str) -> Path:
        if architecture not in made:
            made[architecture] = make_tiny(architecture, tmp_path_factory.mktemp(f"tiny_{architecture}"))
        return made[architecture]

    return folder_of


@pytest.fixture(scope="session")
def lively_bert(tiny_folders: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny BERT with ten times its first weights: outputs and features differ from row to row."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("lively") / "bert"
    shutil.copytree(tiny_folders("bert"), folder)
    weights = load_file(folder / "model.safetensors")
    larger = {name: tensor * 10 if tensor.ndim == 2 else tensor for name, tensor in weights.items()}
    save_file(larger, folder / "model.safetensors", {"format": "pt"})
    return folder


@dataclass
class Told:
    """What a command left: its exit code, what it printed, and its last line."""

    code: int
    out: str
    err: str

    @property
    def last(self) -> str:
        """The last line on standard output."""
        return self.out.strip().splitlines()[-1]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Told]:
    """Call a command's entry with its arguments as a user would, in this process."""

    def run(main: Callable[[], None], *arguments: str) -> Told:
        monkeypatch.setattr(sys, "argv", ["lora2_bench", *arguments])
        capfd.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Told(code, *capfd.readouterr())

    return run


@pytest.fixture
def bench(call: Callable[..., Told]) -> Callable[..., Told]:
    """Call `python -m lora2_bench ARGUMENTS` as a user would, in this process."""
    from lora2_bench.__main__ import main

    return functools.partial(call, main)
