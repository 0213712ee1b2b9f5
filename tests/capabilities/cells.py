"""What a method can do on one encoder in one precision, found by running it; each answer is one cell of the matrix."""

from __future__ import annotations

import json
import os
import re
import signal
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from lora2_bench.config.compose import CONF, plan_of
from lora2_bench.methods.base import Method
from lora2_bench.records.store import Store
from tests.capabilities.entry import bench, replaced, two_processes
from tests.conftest import Told, make_tiny
from tests.methods.helpers import fits_tiny, method_class

CAPABILITIES = ("export", "merge", "init_from", "resume", "two processes")
PRECISIONS = ("fp32", "bf16")
ROWS, STEPS, TOKENS = 12, 12, 32
SETTINGS = (
    "task=rte",
    "data.max_train=46",  # the last batch of an epoch is short
    f"data.max_eval={ROWS}",
    "train.epochs=2",
    "train.batch_size=8",
    "train.eval_steps=4",
    f"train.max_length={TOKENS}",
    "device=cpu",
    "threads=1",
)
TOLERANCE = {"export": 1e-5, "merge": 5e-5, "init_from": 1e-6, "resume": 0.0, "two processes": 1e-4}
"""Largest difference of a logit at which two models are the same."""


@dataclass(frozen=True)
class Answer:
    """One cell: a word, the package's line where it refused, and the largest difference of a logit that was found."""

    word: str
    line: str = ""
    difference: float | None = None


def command_of(name: str, folder: Path, precision: str) -> tuple[str, ...]:
    """The command of a method's cell on a tiny backbone, without dropout: several processes draw their own."""
    values = OmegaConf.load(CONF / "method" / f"{name}.yaml")
    rate = "1e-3" if name == "full" else "2e-2"
    return (
        "model=local",
        f"model.path={folder}",
        f"method={name}",
        *SETTINGS,
        *fits_tiny(name),
        *(("method.dropout=0",) if "dropout" in values else ()),
        *(("method.init_std=0.3",) if name == "lora2" else ()),  # its product of five factors is slow to grow
        f"train.lr={rate}",
        f"train.precision={precision}",
    )


class Trial:
    """One method on one encoder in one precision, trained once; the properties need that cell, which `first` makes."""

    def __init__(self, name: str, architecture: str, precision: str, backbone: Path, place: Path) -> None:
        self.name, self.precision = name, precision
        self.backbone, self.place = backbone, place
        self.command = command_of(name, backbone, precision)
        self.whole = (*self.command, "train.accumulate=2", f"results={place / 'whole'}")
        self.first: Told = bench(*self.whole)

    def answers(self, *asked: str) -> dict[str, Answer]:
        """Capability -> answer, for those `asked`, or for all."""
        if self.first.code != 0:  # of any capability: the cell cannot be
            return {capability: refused(self.first) for capability in asked or CAPABILITIES}
        ways: dict[str, Callable[[], Answer]] = {
            "export": self.export,
            "merge": self.merge,
            "init_from": self.init_from,
            "resume": self.resume,
            "two processes": self.two_processes,
        }
        return {capability: ways[capability]() for capability in asked or CAPABILITIES}

    @cached_property
    def cell(self) -> Path:
        """The folder of the first cell."""
        (record,) = self.place.glob("whole/cells/*/record.json")
        return record.parent

    @cached_property
    def stored(self) -> torch.Tensor:
        """The first cell's own dev logits at its best step (rows×2)."""
        return stored_logits(self.cell)["best"]

    @cached_property
    def method(self) -> Method:
        """The first cell's method, put together again from what it kept."""
        from lora2_bench.runner.stored import stored_method

        plan, store = plan_of(list(self.whole)), Store(self.place / "whole")
        record = store.read(plan.cell.id)
        assert record is not None
        return stored_method(plan, store, record, "capabilities")

    def logits(self, model: torch.nn.Module) -> torch.Tensor:
        """A model's dev logits in float32, row by row, with transformers' own tokenizer (rows×2)."""
        from transformers import AutoTokenizer

        from lora2_bench.runner.rows import sample
        from lora2_bench.tasks.sources import load_task

        dev, tokenizer = (
            sample(load_task("rte", "mini").splits["dev"], ROWS),
            AutoTokenizer.from_pretrained(self.backbone),
        )
        rows = []
        with torch.no_grad():
            for pair in zip(*dev.texts.values(), strict=True):
                row = tokenizer(*pair, truncation=True, max_length=TOKENS, return_tensors="pt")
                rows.append(model.eval()(**row).logits[0])
        return torch.stack(rows)

    @cached_property
    def kept(self) -> torch.Tensor:
        """The logits of what the cell kept. In float32 they are the cell's own, and more than the head is in them."""
        kept, effect = self.logits(self.method.backbone.model), self.logits(self._base(head_alone=True))
        if self.precision == "fp32":
            assert (kept - self.stored).abs().max() <= TOLERANCE["export"]
        if self.name != "head":  # which is all that it trains
            assert (kept - effect).abs().max() > 100 * TOLERANCE["export"]
        return kept

    def _base(self, *, head_alone: bool = False) -> Any:
        """The backbone by transformers, with another head than the cell's, or with that head and nothing else."""
        from transformers import AutoModelForSequenceClassification

        torch.manual_seed(9)
        base = AutoModelForSequenceClassification.from_pretrained(self.backbone, num_labels=2)
        base.load_state_dict(self.method.replaced_weights(), strict=False)
        if head_alone:
            heads = self.method.backbone.head_parameters()
            base.load_state_dict({name: parameter.detach() for name, parameter in heads.items()}, strict=False)
        return base

    def export(self) -> Answer:
        """PEFT reads the cell's folder and gives its logits; or the weights alone are kept, and read back; or none."""
        from peft import PeftModel

        left = {path.name for path in self.cell.iterdir()}
        if not left & {"adapter", "trained.safetensors"}:
            return Answer("nothing")
        if "adapter" not in left:
            self.kept.shape  # noqa: B018 - read back, and compared with the record's predictions
            return Answer("weights", difference=worst(self.kept, self.stored) if self.precision == "fp32" else None)
        loaded = PeftModel.from_pretrained(self._base(), str(self.cell / "adapter"))
        kind = json.loads((self.cell / "adapter" / "adapter_config.json").read_text())["peft_type"]
        word = "LoRA" if kind == "LORA" else f"PEFT {kind}"
        return compared("export", self.logits(loaded), self.kept, word)

    def merge(self) -> Answer:
        """`export.merged=true` of the finished cell, read by transformers alone."""
        told = bench(*self.whole, "export.merged=true")
        if told.code != 0:
            return refused(told)
        from transformers import AutoModelForSequenceClassification

        folder = self.cell / "merged"
        if (folder / "quantised.safetensors").exists():
            from tests.runner.test_export_merged import loader

            return compared("merge", self.logits(loader()(str(folder))), self.kept, "integers")
        return compared("merge", self.logits(AutoModelForSequenceClassification.from_pretrained(folder)), self.kept)

    def init_from(self) -> Answer:
        """Another seed's cell starts from the first one: with its head too, the logits before step 1 are its own."""
        from lora2_bench.training.evaluation import logits_of

        seen: list[torch.Tensor] = []

        def watched(
            train: Any, cell: Any, method: Any, rows: Any, selection: Any, accelerator: Any, **named: Any
        ) -> Any:
            heads, model = method.backbone.head_parameters(), method.backbone.model
            own = {name: parameter.detach().clone() for name, parameter in heads.items()}
            origin = load_file(self.cell / "trained.safetensors")
            with torch.no_grad():
                for name, parameter in heads.items():
                    parameter.copy_(origin[name])
                seen.append(logits_of(model, selection["dev"], 2, accelerator, 64, 0, "looking"))
                for name, parameter in heads.items():
                    parameter.copy_(own[name])
            return train(cell, method, rows, selection, accelerator, **named)

        with replaced("lora2_bench.runner.train_cell.train", watched):
            told = bench(*self.whole, f"init_from='{self.cell.name}'", "seed=1")
        return refused(told) if told.code != 0 else compared("init_from", seen[0], self.stored)

    def resume(self) -> Answer:
        """SIGTERM in step 6; the same command goes on, and the record is that of a run that was left alone."""
        steps = 0

        def stopping(backward: Any, *arguments: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == STEPS // 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return backward(*arguments)

        again = (*self.whole[:-1], f"results={self.place / 'stopped'}")
        with replaced("lora2_bench.training.step.backward", stopping):
            stopped = bench(*again)
        assert stopped.code == 3 and f"stopped after step {STEPS // 2}, which is kept" in stopped.err, stopped.err
        told = bench(*again)
        if told.code != 0:
            return refused(told)
        other = self.place / "stopped" / "cells" / self.cell.name
        assert json.loads((other / "record.json").read_text())["run"]["continued_from"] == STEPS // 2
        found = worst(stored_logits(other)["last"], stored_logits(self.cell)["last"])
        return Answer("yes" if science(other) == science(self.cell) else "differs", difference=found)

    def two_processes(self) -> Answer:
        """Two processes give what one gives with twice the parts of a batch."""
        told = two_processes(self.place / "told", *self.command, "train.accumulate=1", f"results={self.place / 'two'}")
        if told.code != 0:
            return refused(told)
        (record,) = self.place.glob("two/cells/*/record.json")
        assert json.loads(record.read_text())["run"]["processes"] == 2
        one, two = stored_logits(self.cell), stored_logits(record.parent)
        return compared("two processes", torch.cat([two["best"], two["last"]]), torch.cat([one["best"], one["last"]]))


def refused(told: Told) -> Answer:
    """The answer of a command that ended: refused with exit code 2, failed with any other."""
    line = re.sub(r"\b[0-9a-f]{16}\b", "ID", told.err.strip().splitlines()[-1].removeprefix("error: "))
    return Answer("refused" if told.code == 2 else "failed", line)


def compared(capability: str, found: torch.Tensor, wanted: torch.Tensor, word: str = "yes") -> Answer:
    """`word` where the logits are the same, else `differs`."""
    difference = worst(found, wanted)
    return Answer(word if difference <= TOLERANCE[capability] else "differs", difference=difference)


def worst(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference, at two digits."""
    return float(f"{(one - other).abs().max().item():.1e}")


def stored_logits(cell: Path) -> dict[str, torch.Tensor]:
    """The dev logits of a cell at its best and last step."""
    dev = json.loads((cell / "predictions.json").read_text())["dev"]
    return {name: torch.tensor(dev[name]) for name in ("best", "last")}


def science(cell: Path) -> dict[str, Any]:
    """A record without times and places, with its predictions."""
    record = json.loads((cell / "record.json").read_text())
    del record["run"], record["sha256"]  # the digest is of the whole record
    return {**record, "predictions": (cell / "predictions.json").read_text()}


def try_out(name: str, architecture: str, precision: str, backbone: Path, *asked: str) -> dict[str, dict[str, Any]]:
    """Capability -> answer as plain data, in a folder of its own that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="capabilities-") as place:
        answers = Trial(name, architecture, precision, backbone, Path(place)).answers(*asked)
    for answer in answers.values():  # a refusal names the folders of this run
        assert place not in answer.line
    return {
        capability: {key: value for key, value in asdict(answer).items() if value not in ("", None)}
        for capability, answer in answers.items()
    }


def quiet_backbone(architecture: str, folder: Path) -> Path:
    """A tiny random backbone without dropout, whose outputs differ from row to row."""
    folder.mkdir(parents=True)
    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return make_tiny(architecture, folder, **none, initializer_range=0.2)


def starts(name: str) -> bool:
    """Whether the method promises to start as the backbone."""
    return method_class(name).starts_as_backbone
