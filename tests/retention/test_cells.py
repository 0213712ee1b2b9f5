"""`retention=` through the user's own entry: at a cell's end and from kept weights, and that no record changes."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lora2_bench.errors import OutOfMemory
from lora2_bench.records.retention import Retention, read_retention
from lora2_bench.records.store import RETENTION, Store
from lora2_bench.retention.mlm import EVERY, text, text_sha256
from tests.composed import plan_of
from tests.conftest import Told
from tests.methods.helpers import fits_tiny
from tests.runner.test_run import records_of, science_of, tiny

pytestmark = pytest.mark.slow  # trains or simulates much

Bench = Callable[..., Told]
Folders = Callable[[str], Path]

QUICK = (
    "data.max_train=24",
    "data.max_eval=40",
    "train.max_steps=3",
    "train.batch_size=8",
    "train.max_length=48",
    "device=cpu",
    "threads=1",
)


def retained(results: Path) -> Retention:
    """The retention of the one cell."""
    (record,) = records_of(results)
    found = read_retention(Store(results).retention(record["id"]), record["id"])
    assert found is not None
    return found


@pytest.mark.parametrize("method", ["full", "lora2", "prefix", "pissa", "qlora"])
def test_a_cell_of_every_kind_is_measured_and_its_record_stays_as_it_was(
    method: str, bench: Bench, lively_bert: Path, tmp_path: Path
) -> None:
    command = (*tiny(lively_bert), *QUICK, "task=rte", *fits_tiny(method), f"method={method}", "train.lr=5e-2")
    asked = ["sts", "probe", "mlm", "weights"] if method in ("full", "lora2") else ["sts", "weights"]
    results, plain = tmp_path / "measured", tmp_path / "plain"
    assert bench(*command, f"results={plain}").code == 0
    told = bench(*command, f"results={results}", f"retention=[{','.join(asked)}]")
    assert told.code == 0, told.err
    path = next(results.glob(f"cells/*/{RETENTION}"))
    assert f"retention: {path}\n" in told.out
    line = "warning: retention: mlm is not measured: the files of model=local hold no head of masked LM"
    assert told.err.count(line) == ("mlm" in asked)
    (with_it,), (without,) = records_of(results), records_of(plain)
    assert science_of(with_it) == science_of(without) and RETENTION not in with_it["files"]
    assert "/" not in json.dumps(json.loads(path.read_text())["missing"])

    found = retained(results)
    assert found["asked"] == asked and set(found["missing"]) == {"mlm"} & {*asked}
    assert found["step"] == with_it["result"]["best"]["step"]
    assert found["sts"]["rows"] == 40
    if "probe" in asked:
        assert set(found["probe"]) == {"cola", "sst2", "mrpc", "stsb", "qnli"}
        assert {(one["train_rows"], one["dev_rows"]) for one in found["probe"].values()} == {(24, 40)}
    assert found["sts"]["before"] != found["sts"]["after"]
    updates = [one["update"] for layer in found["weights"]["maps"].values() for one in layer.values()]
    assert len(updates) == 12 and (max(updates) > 0) == (method != "prefix")

    if method == "full":
        told = bench(*command, f"results={plain}", "retention=[sts]")
        assert told.code == 2 and told.err == (
            f"error: retention=[sts]: cell {without['id']} (full on rte) is finished, its retention was not measured, "
            "and it kept no weights: train it anew with rerun=true retention=[sts]\n"
        )
        return
    record = (path.parent / "record.json").read_bytes()
    path.unlink()
    told = bench(*command, f"results={results}", "retention=[sts]")
    assert told.code == 0, told.err
    assert (path.parent / "record.json").read_bytes() == record
    again = retained(results)
    assert again["asked"] == ["sts"] and "weights" not in again
    assert again["sts"]["after"] == pytest.approx(found["sts"]["after"], abs=1e-6)
    assert again["sts"]["before"] == found["sts"]["before"]


def test_what_is_damaged_is_measured_anew_and_what_was_asked_before_stays(
    bench: Bench, tiny_folders: Folders, tmp_path: Path
) -> None:
    command = (*tiny(tiny_folders("bert")), *QUICK, "task=rte", "method=lora", f"results={tmp_path}")
    assert bench(*command, "retention=[weights]").code == 0
    path = next(tmp_path.glob(f"cells/*/{RETENTION}"))
    told = bench(*command, "retention=[sts]")
    assert told.code == 0 and "has no sts: made anew" in told.err
    found = retained(tmp_path)
    assert found["asked"] == ["sts", "weights"]
    whole = path.read_text()
    path.write_text(whole.replace('"before": 0.', '"before": 0.1', 1))
    told = bench(*command, "retention=[sts]")
    assert told.code == 0 and "cannot be used (its content is not what was written" in told.err
    again = retained(tmp_path)
    assert again["asked"] == ["sts"] and again["sts"] == found["sts"]
    assert bench(*command, "retention=[sts]").err == ""  # stored ones are enough


def test_a_cell_is_not_done_before_it_is_measured_and_an_error_there_loses_no_training(
    bench: Bench, tiny_folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = (*tiny(tiny_folders("bert")), *QUICK, "task=rte", "method=full", f"results={tmp_path}")

    def ends(error: BaseException) -> None:
        def measure(*_: object) -> None:
            raise error

        monkeypatch.setattr("lora2_bench.runner.retain.measure", measure)

    ends(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        bench(*command, "retention=[sts]")
    assert records_of(tmp_path) == []
    ends(OutOfMemory(3, "a batch does not fit"))
    assert bench(*command, "retention=[sts]").code == 1
    (record,) = records_of(tmp_path)
    assert record["status"] == "done" and not Store(tmp_path).retention(record["id"]).exists()
    monkeypatch.undo()  # the weights were kept, though full fine-tuning leaves none: they are measured now
    told = bench(*command, "retention=[sts]")
    assert told.code == 0 and "step/s" not in told.err and Store(tmp_path).retention(record["id"]).exists()
    assert records_of(tmp_path) == [record]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("retention=[foo]",), "error: retention=['foo'] is not possible: retention must be null, all, or a list of"),
        (("task=stsb", "retention=[sts]"), "error: retention=[sts] has nothing to measure here (sts: task=stsb trains"),
        (("lr_factor=3", "train.lr=1e-3"), "error: lr_factor=3 and train.lr=0.001: give one of the two"),
        (("lr_factor=-1",), "error: lr_factor=-1 is not possible: lr_factor must be a number above 0"),
    ],
)
def test_bad_input_ends_before_training_in_one_line(
    words: tuple[str, ...], line: str, bench: Bench, tiny_folders: Folders, tmp_path: Path
) -> None:
    told = bench(*tiny(tiny_folders("bert")), *QUICK, f"results={tmp_path / 'results'}", *words)
    assert told.code == 2 and told.err.startswith(line) and told.err.count("\n") == 1, told.err
    assert not (tmp_path / "results" / "cells").exists()


def test_a_source_without_other_tasks_says_so_before_training(
    bench: Bench, tiny_folders: Folders, tmp_path: Path
) -> None:
    glue = tmp_path / "glue"
    (glue / "RTE").mkdir(parents=True)
    row = "{}\tthe river is long\tit is long\tentailment"
    for name in ("train", "dev"):
        lines = ["index\tsentence1\tsentence2\tlabel", *(row.format(number) for number in range(30))]
        (glue / "RTE" / f"{name}.tsv").write_text("\n".join([*lines, ""]))
    command = (
        *tiny(tiny_folders("bert")),
        *QUICK,
        "task=rte",
        "data=local",
        f"data.dir={glue}",
        f"results={tmp_path / 'out'}",
    )
    told = bench(*command, "retention=[sts,probe]")
    assert told.code == 2 and told.err.count("\n") == 1 and "holds neither STS-B/train.tsv nor" in told.err
    assert not (tmp_path / "out" / "cells").exists()
    told = bench(*command, "retention=[probe,weights]", "method=lora")
    assert told.code == 0, told.err
    found = retained(tmp_path / "out")
    assert set(found["missing"]) == {"probe.cola", "probe.sst2", "probe.mrpc", "probe.stsb", "probe.qnli"}
    assert "probe" not in found and found["weights"]["maps"]
    assert str(tmp_path) not in json.dumps(found)


def test_masked_lm_is_the_published_models_own_loss(bench: Bench, tiny_folders: Folders, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, RobertaForMaskedLM

    folder = tmp_path / "roberta"
    shutil.copytree(tiny_folders("roberta"), folder)
    torch.manual_seed(3)
    model = RobertaForMaskedLM(RobertaForMaskedLM.from_pretrained(folder).config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8 if parameter.ndim == 2 else 1)  # losses then differ from row to row
    model.save_pretrained(folder)
    command = (
        *tiny(folder),
        *QUICK,
        "task=rte",
        "method=full",
        "train.lr=1e-2",
        f"results={tmp_path / 'out'}",
        "retention=[mlm]",
    )
    told = bench(*command)
    assert told.code == 0, told.err
    found = retained(tmp_path / "out")
    assert not found["missing"] and found["mlm"]["sha256"] == text_sha256()

    tokenizer = AutoTokenizer.from_pretrained(folder)
    total, count = 0.0, 0
    for sentence in text():
        ids = tokenizer(sentence, truncation=True, max_length=48)["input_ids"]
        words = range(1, len(ids) - 1)
        for first in range(EVERY):
            hidden = words[first::EVERY]
            masked = torch.tensor([[tokenizer.mask_token_id if at in hidden else one for at, one in enumerate(ids)]])
            with torch.no_grad():
                shares = model(masked).logits[0].double().log_softmax(-1)
            total -= sum(float(shares[at, ids[at]]) for at in hidden)
            count += len(hidden)
    assert found["mlm"]["tokens"] == count
    assert found["mlm"]["before"] == pytest.approx(total / count, rel=1e-5)
    assert math.isfinite(found["mlm"]["after"]) and found["mlm"]["after"] != found["mlm"]["before"]


def test_a_factor_is_the_recipes_rate_times_it_to_two_digits() -> None:
    for factor, rate in (("0.333", 3.3e-4), ("1", 1e-3), ("3", 3e-3)):
        plan = plan_of("suite=forgetting", "row=lora_r8", "task=cola", changes={"lr_factor": float(factor)})
        assert plan.cell.train.lr == rate
        assert plan.run_options.retention == ("sts", "probe", "mlm", "weights")
        train = ("train.epochs=2", "train.max_length=96")
        plain = plan_of("row=lora_r8", "task=cola", "data=local", "protocol=clean")
        same = plan_of("row=lora_r8", "task=cola", "data=local", "protocol=clean", f"train.lr={rate}", *train)
        assert plan.cell.id == same.cell.id != plain.cell.id
