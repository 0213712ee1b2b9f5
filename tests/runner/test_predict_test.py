"""`predict_test=true`: what a cell predicts of the test rows, when it is trained and from its kept weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lora2_bench.records.store import TEST_PREDICTIONS
from lora2_bench.records.test_predictions import Predicted, read_predicted
from lora2_bench.tasks.sources import load_task
from lora2_bench.tasks.spec import AX, TASKS
from tests import forked
from tests.conftest import Told
from tests.methods.helpers import fits_tiny
from tests.runner.test_run import records_of, tiny

Bench = Callable[..., Told]
Folders = Callable[[str], Path]

QUICK = ("data=local", "train.max_steps=4", "train.batch_size=8", "train.max_length=48", "device=cpu", "threads=1")
MNLI_COLUMNS = "index\tsentence1\tsentence2"


@pytest.fixture(scope="module")
def glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GLUE's layout with a few generated rows of RTE and MNLI; test rows differ much in length."""
    folder = tmp_path_factory.mktemp("glue")
    for task, files in {
        "rte": {"train": ("train", 0, 24), "dev": ("dev", 0, 12), "test": ("dev", 20, 33)},
        "mnli": {
            "train": ("train", 0, 24),
            "dev_matched": ("dev_matched", 0, 8),
            "dev_mismatched": ("dev_mismatched", 0, 8),
            "test_matched": ("dev_matched", 20, 29),
            "test_mismatched": ("dev_mismatched", 20, 27),
            "ax": ("dev_matched", 40, 45),
        },
    }.items():
        spec, data = TASKS[task], load_task(task, "mini")
        for name, (split, first, end) in files.items():
            rows = data.splits[split].take(list(range(first, end)))
            labelled = not name.startswith(("test", "ax"))
            label = {"rte": "label", "mnli": "gold_label"}[task]
            lines = ["\t".join(["index", "sentence1", "sentence2", *([label] if labelled else [])])]
            for index, (one, two) in enumerate(zip(*rows.texts.values(), strict=True)):
                longer = f"{one} {two} " * (index % 3) + one
                answer = [spec.labels[int(rows.labels[index])]] if labelled else []
                lines.append("\t".join([str(index), longer, two, *answer]))
            path = folder / ((AX.folder + "/diagnostic") if name == "ax" else f"{spec.folder}/{name}")
            path.parent.mkdir(exist_ok=True)
            path.with_suffix(".tsv").write_text("\n".join([*lines, ""]))
    return folder


def predicted_of(results: Path) -> Predicted:
    """The stored test predictions of the one cell."""
    (record,) = records_of(results)
    found = read_predicted(results / "cells" / record["id"] / TEST_PREDICTIONS, record["id"])
    assert found is not None
    return found


def file_of(results: Path) -> Path:
    (path,) = results.glob(f"cells/*/{TEST_PREDICTIONS}")
    return path


def test_predictions_are_the_models_own_in_the_files_order(
    bench: Bench, lively_bert: Path, glue: Path, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    command = (*tiny(lively_bert), *QUICK, "task=mnli", "method=lora", "train.lr=1e-2", f"data.dir={glue}")
    told = bench(*command, f"results={tmp_path}", "eval_batch_size=4", "predict_test=true")
    assert told.code == 0, told.err
    assert f"test predictions: {file_of(tmp_path)}" in told.out
    for name, rows, official in (("test_matched", 9, 9796), ("test_mismatched", 7, 9847), ("ax", 5, 1104)):
        assert told.err.count(f"mnli's {name} rows are {rows} instead of GLUE's {official}") == 1
    found = predicted_of(tmp_path)
    assert {name: logits.shape for name, logits in found.logits.items()} == {
        "test_matched": (9, 3),
        "test_mismatched": (7, 3),
        "ax": (5, 3),
    }
    tokenizer = AutoTokenizer.from_pretrained(lively_bert)
    model = AutoModelForSequenceClassification.from_pretrained(lively_bert, num_labels=3)
    model = PeftModel.from_pretrained(model, str(file_of(tmp_path).parent / "adapter")).eval()
    paths = {"test_matched": "MNLI/test_matched.tsv", "test_mismatched": "MNLI/test_mismatched.tsv"}
    for name, logits in found.logits.items():
        lines = (glue / paths.get(name, "diagnostic/diagnostic.tsv")).read_text().splitlines()[1:]
        assert np.ptp(logits, axis=0).min() > 0.01
        for line, stored in zip(lines, logits, strict=True):
            row = tokenizer(*line.split("\t")[1:], truncation=True, max_length=48, return_tensors="pt")
            with torch.no_grad():
                np.testing.assert_allclose(model(**row).logits[0].numpy(), stored, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", ["adalora", "sora", "vera", "prefix", "pissa"])
def test_kept_weights_give_the_same_predictions(
    method: str, bench: Bench, lively_bert: Path, glue: Path, tmp_path: Path
) -> None:
    command = (
        *tiny(lively_bert),
        *QUICK,
        *fits_tiny(method),
        f"method={method}",
        f"data.dir={glue}",
        "predict_test=true",
    )
    command = (*command, "task=rte", "train.lr=1e-2", f"results={tmp_path}")
    assert bench(*command).code == 0
    trained, path = predicted_of(tmp_path), file_of(tmp_path)
    record = (path.parent / "record.json").read_bytes()
    path.unlink()
    told = bench(*command)
    assert told.code == 0, told.err
    assert (path.parent / "record.json").read_bytes() == record
    kept = predicted_of(tmp_path)
    assert list(kept.logits) == ["test"] and kept.logits["test"].shape == (13, 2)
    assert trained.rows == kept.rows
    np.testing.assert_allclose(trained.logits["test"], kept.logits["test"], rtol=0, atol=1e-6)
    assert np.ptp(trained.logits["test"], axis=0).min() > 0.01


@pytest.mark.slow
def test_two_processes_predict_from_kept_weights_too(
    bench: Bench, lively_bert: Path, glue: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    command = (*tiny(lively_bert), *QUICK, "method=lora", "task=rte", f"data.dir={glue}", "predict_test=true")
    assert bench(*command, f"results={results}").code == 0
    alone = predicted_of(results).logits["test"]
    file_of(results).unlink()
    codes, out, err = forked.run_ranks(tmp_path, *command, f"results={results}")
    assert codes == [0, 0], err
    assert out.count("test predictions: ") == 1
    np.testing.assert_allclose(predicted_of(results).logits["test"], alone, rtol=0, atol=1e-6)


def test_full_fine_tuning_predicts_when_it_trains_and_says_so_afterwards(
    bench: Bench, lively_bert: Path, glue: Path, tmp_path: Path
) -> None:
    command = (*tiny(lively_bert), *QUICK, "method=full", "task=rte", f"data.dir={glue}", f"results={tmp_path}")
    assert bench(*command).code == 0
    (record,) = records_of(tmp_path)
    told = bench(*command, "predict_test=true")
    assert told.code == 2
    assert told.err.splitlines()[1:] == [  # the first tells of the few rows
        f"error: predict_test=true: cell {record['id']} (full on rte) is finished, it has no test predictions, and it "
        "kept no weights: train it anew with rerun=true predict_test=true"
    ]
    assert bench(*command, "predict_test=true", "rerun=true").code == 0
    assert predicted_of(tmp_path).logits["test"].shape == (13, 2)
    told = bench(*command, "predict_test=true")  # stored ones are enough
    assert told.code == 0 and "made anew" not in told.err
    damage(file_of(tmp_path))
    told = bench(*command, "predict_test=true")
    assert told.code == 2 and "cannot be used (its content is not what was written for this cell), and it" in told.err


def damage(path: Path) -> None:
    """Flip one bit of a file's last number."""
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


def test_what_is_damaged_or_of_other_rows_is_made_anew(
    bench: Bench, lively_bert: Path, glue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, other = tmp_path / "results", tmp_path / "glue"
    command = (*tiny(lively_bert), *QUICK, "method=lora", "task=rte", "predict_test=true")
    assert bench(*command, f"data.dir={glue}", f"results={results}").code == 0
    whole = file_of(results).read_bytes()
    monkeypatch.setattr("lora2_bench.runner.train_cell.run_cell", lambda *_: pytest.fail("it was trained again"))

    damage(file_of(results))
    told = bench(*command, f"data.dir={glue}", f"results={results}")
    assert told.code == 0 and file_of(results).read_bytes() == whole
    assert "cannot be used (its content is not what was written for this cell): made anew" in told.err

    (other / "RTE").mkdir(parents=True)
    for path in (glue / "RTE").glob("*.tsv"):
        (other / "RTE" / path.name).write_bytes(path.read_bytes())
    lines = (other / "RTE" / "test.tsv").read_text().splitlines()
    (other / "RTE" / "test.tsv").write_text("\n".join(lines[:-1]) + "\n")
    told = bench(*command, f"data.dir={other}", f"results={results}")
    assert told.code == 0 and "is of other rows than those that are here: made anew" in told.err
    assert predicted_of(results).logits["test"].shape == (12, 2)

    file_of(results).unlink()
    (weights,) = results.glob("cells/*/trained.safetensors")
    damage(weights)
    told = bench(*command, f"data.dir={other}", f"results={results}")
    assert told.code == 2
    last = told.err.strip().splitlines()[-1]
    assert last.startswith(f"error: predict_test=true: {weights} cannot be read (its content is not what was written)")
    assert not list(results.glob(f"cells/*/{TEST_PREDICTIONS}"))


def test_what_cannot_be_predicted_ends_before_training(
    bench: Bench, lively_bert: Path, glue: Path, tmp_path: Path
) -> None:
    command = (*tiny(lively_bert), "task=rte", "device=cpu", f"results={tmp_path / 'results'}")
    told = bench(*command, "predict_test=true")
    assert told.code == 2 and told.err.startswith("error: predict_test=true does not fit data=mini, whose generated")
    (tmp_path / "RTE").mkdir()
    for name in ("train", "dev"):
        (tmp_path / "RTE" / f"{name}.tsv").write_bytes((glue / "RTE" / f"{name}.tsv").read_bytes())
    told = bench(*command, "data=local", f"data.dir={tmp_path}", "predict_test=true")
    assert told.code == 2 and told.err.strip().count("\n") == 0
    assert told.err.startswith(f"error: {tmp_path} lacks RTE/test.tsv or rte/test-*.parquet: add GLUE's own file")
    told = bench(*command, "data=local", f"data.dir={tmp_path}", "predict_test=1")
    assert told.code == 2 and "predict_test=1 is not possible: predict_test must be true or false" in told.err
    assert not records_of(tmp_path / "results")
