"""`python -m lora2_bench.bench.peer_trainer SETTINGS`: one cell with Hugging Face's Trainer and PEFT.

Written from their documentation: transformers' guide to fine-tuning with Trainer, whose example run_glue.py pads every
row to the maximum, and PEFT's guides to LoRA and AdaLoRA, whose ranks are allocated after each optimiser step. The last
line of its output is JSON: steps, metrics and the deciding score.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from peft import AdaLoraConfig, LoraConfig, TaskType, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

from lora2_bench.backbones.backbone import is_head
from lora2_bench.tasks.data import Split
from lora2_bench.tasks.metrics import main_score, metrics_of
from lora2_bench.tasks.sources import load_task
from lora2_bench.tasks.spec import TaskSpec, task_spec


class Allocation(TrainerCallback):  # type: ignore[misc]
    """AdaLoRA's ranks, allocated when the optimiser has stepped and its gradients are still there."""

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Allocate; the trainer counts its step a moment later."""
        more["model"].base_model.update_and_allocate(state.global_step + 1)


def train(settings: dict[str, Any]) -> dict[str, Any]:
    """Train and score the cell of `peer.peer_settings`; returns `steps`, `metrics` by split and `score`."""
    spec = task_spec(settings["task"])
    set_seed(settings["seed"])
    tokenizer = AutoTokenizer.from_pretrained(settings["model"])
    model = AutoModelForSequenceClassification.from_pretrained(settings["model"], num_labels=spec.num_labels)
    model = get_peft_model(model, _adapter(settings, model))
    data = load_task(spec.name, settings["source"], glue_dir=settings["data_dir"])

    def encoded(split: Split, most: int | None) -> Dataset:
        rows = min(len(split), most or len(split))
        made = Dataset.from_dict(
            {**{name: split.texts[name][:rows] for name in spec.columns}, "label": split.labels[:rows]}
        )
        padding = "max_length" if settings["padded"] else False

        def encode(batch: dict[str, list[Any]]) -> Any:
            texts = [batch[name] for name in spec.columns]
            return tokenizer(*texts, padding=padding, max_length=settings["max_length"], truncation=True)

        return made.map(encode, batched=True)

    trainer = Trainer(
        model=model,
        args=_arguments(settings),
        train_dataset=encoded(data.splits["train"], settings["max_train"]),
        data_collator=default_data_collator if settings["padded"] else DataCollatorWithPadding(tokenizer),
        compute_metrics=lambda given: _metrics(spec, given),
        processing_class=tokenizer,
        callbacks=[Allocation()] if "budget" in settings else [],
    )
    trainer.train()
    found = {}
    for name in spec.dev_splits:
        told = trainer.evaluate(encoded(data.splits[name], settings["max_eval"]), metric_key_prefix=name)
        found[name] = {metric: told[f"{name}_{metric}"] for metric in spec.metrics}
    trainer.save_model(str(Path(settings["output"], "adapter")))
    return {"steps": trainer.state.global_step, "metrics": found, "score": main_score(spec, found)}


def _adapter(settings: dict[str, Any], model: Any) -> LoraConfig:
    head = {name.split(".")[-3 if ".dense." in name else -2] for name, _ in model.named_parameters() if is_head(name)}
    common = {
        "task_type": TaskType.SEQ_CLS,
        "lora_alpha": settings["alpha"],
        "lora_dropout": settings["dropout"],
        "target_modules": settings["targets"],
        "modules_to_save": sorted(head),
    }
    if (budget := settings.get("budget")) is None:
        return LoraConfig(r=settings["r"], **common)
    return AdaLoraConfig(
        init_r=settings["r"],
        target_r=math.ceil(budget["target_r"] or settings["r"]),
        tinit=budget["t_init"],
        tfinal=budget["t_final"],
        deltaT=max(1, budget["delta_t"]),
        beta1=budget["beta1"],
        beta2=budget["beta2"],
        orth_reg_weight=budget["gamma"],
        total_step=settings["steps"],
        **common,
    )


def _arguments(settings: dict[str, Any]) -> TrainingArguments:
    schedule = {"constant": "constant_with_warmup"}.get(settings["schedule"], settings["schedule"])
    return TrainingArguments(
        output_dir=settings["output"],
        max_steps=settings["steps"],
        per_device_train_batch_size=settings["batch_size"],
        per_device_eval_batch_size=settings["eval_batch_size"],
        learning_rate=settings["lr"],
        weight_decay=settings["weight_decay"],
        lr_scheduler_type=schedule,
        warmup_steps=settings["warmup"],
        max_grad_norm=settings["max_grad_norm"],
        adam_beta1=settings["adam_beta1"],
        adam_beta2=settings["adam_beta2"],
        adam_epsilon=settings["adam_eps"],
        seed=settings["seed"],
        save_strategy="no",
        report_to=[],
    )


def _metrics(spec: TaskSpec, given: Any) -> dict[str, float]:
    logits, labels = given
    return metrics_of(spec, logits[:, 0] if spec.is_regression else np.argmax(logits, axis=1), labels)


if __name__ == "__main__":
    print(json.dumps(train(json.loads(sys.argv[1]))))
