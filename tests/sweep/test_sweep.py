"""What is sent: the cells that are neither done nor queued nor running, as many to a job and to an array as allowed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from lora2_bench.config.compose import plan_of as made_plan
from lora2_bench.errors import UserError
from lora2_bench.files.paths import CONF
from lora2_bench.records.lock import locked
from lora2_bench.records.retention import SCHEMA, write_retention
from lora2_bench.records.store import Store
from lora2_bench.sweep.batches import read_batch, write_failure
from lora2_bench.sweep.cells import SweepCell, plan_cells, sweep_dir_of
from lora2_bench.sweep.command import main
from lora2_bench.sweep.follow import wait
from lora2_bench.sweep.options import Options, parse
from lora2_bench.sweep.send import sweep
from lora2_bench.sweep.slurm import DEFAULT_ARRAY_MAX, Slurm, array_limit, squeue, submitit_executor
from tests.composed import plan_of, weights_folder
from tests.conftest import Told
from tests.made_records import make_cell, make_record

WORDS = ("suite=smoke", "seed=0,1,2")  # 2 rows × 2 tasks × 3 seeds


class FakeSlurm:
    """Takes arrays, and says what it has queued until it is told that jobs ended."""

    def __init__(self) -> None:
        self.arrays: dict[str, int] = {}
        self.cells: dict[str, list[list[str]]] = {}
        self.throttles: list[int | None] = []
        self.queued: set[tuple[str, int]] = set()
        self.breaks = ""

    def executor(self, name: str, throttle: int | None) -> Any:
        slurm = self

        class Executor:
            def map_array(self, fn: Any, indices: Sequence[int]) -> list[int]:
                jobs = read_batch(fn.batch_file).jobs  # it is on disk before anything is sent
                if slurm.breaks == "refused":
                    raise RuntimeError("sbatch: error: Invalid partition\nname specified")
                slurm.arrays[name] = len(indices)
                slurm.cells[name] = [list(jobs[index]) for index in indices]
                slurm.throttles.append(throttle)
                slurm.queued |= {(name, index) for index in indices}
                if slurm.breaks == "killed":
                    raise KeyboardInterrupt
                return list(indices)

        return Executor()

    def squeue(self) -> dict[tuple[str, int], str]:
        return dict.fromkeys(self.queued, "PENDING (Priority)")


def send(slurm: FakeSlurm, results: Path, *words: str, **options: Any) -> tuple[list[SweepCell], list[str]]:
    told: list[str] = []
    chosen = Options(cluster="slurm", **options)
    overrides = (*WORDS, f"results={results}", *words)
    return sweep(chosen, overrides, Slurm(chosen, slurm.executor), slurm.squeue, told.append), told


def finish(results: Path, cell: SweepCell) -> None:
    """Leave a finished record; only its head is looked at."""
    record = make_record(make_cell()).to_dict() | {"id": cell.id}
    path = Store(results).path(cell.id)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(record))


def test_finished_queued_and_running_cells_are_never_sent(tmp_path: Path) -> None:
    slurm = FakeSlurm()
    cells, _ = send(slurm, tmp_path, dry_run=True)
    assert len(cells) == 12 and slurm.arrays == {}
    finish(tmp_path, cells[0])
    with locked(tmp_path / "running" / cells[1].id, "x"):
        _, told = send(slurm, tmp_path, cells_per_job=3, array_max=3, throttle=7)
    assert told[0] == "smoke: 12 cells: 1 done, 1 running, 10 missing"
    assert list(slurm.arrays.values()) == [3, 1] and slurm.throttles == [3, 3]
    sent = [cell for jobs in slurm.cells.values() for job in jobs for cell in job]
    assert sent == [cell.id for cell in cells[2:]]
    assert [len(job) for jobs in slurm.cells.values() for job in jobs] == [3, 3, 3, 1]

    first = dict(slurm.arrays)
    _, told = send(slurm, tmp_path)  # cell 1 was let go of meanwhile: it alone is sent
    assert told[0] == "smoke: 12 cells: 1 done, 10 queued, 1 missing"
    assert [jobs for name, jobs in slurm.cells.items() if name not in first] == [[[cells[1].id]]]
    assert send(slurm, tmp_path)[1][1] == "0 to send"

    slurm.queued -= {(name, 0) for name in slurm.arrays if name in first}  # two jobs vanish: cancelled, or a dead node
    before = set(slurm.arrays)
    send(slurm, tmp_path, cells_per_job=100)
    again = [jobs for name, jobs in slurm.cells.items() if name not in before]
    assert again == [[[cell.id for cell in (*cells[2:5], cells[11])]]]


@pytest.mark.parametrize(
    ("words", "lacking"), [(("retention=all",), 3), (("retention=[sts]",), 2), (("retention=sts",), 2), ((), 0)]
)
def test_finished_cells_that_were_not_measured_as_asked_are_told(
    words: tuple[str, ...], lacking: int, tmp_path: Path
) -> None:
    slurm, store = FakeSlurm(), Store(tmp_path)
    cells, told = send(slurm, tmp_path, *words, dry_run=True)
    assert len(told) == 2
    for cell in cells[:3]:
        finish(tmp_path, cell)
    store.retention(cells[1].id).write_text("{}")
    run = {"finished": "2026-11-29", "seconds": 1.0, "cpu_seconds": 1.0, "versions": {}}
    found = {"schema": SCHEMA, "cell": cells[2].id, "step": 1, "asked": ["sts"], "missing": {"sts": "no rows"}}
    write_retention(store.retention(cells[2].id), {**found, "run": run})
    _, told = send(slurm, tmp_path, *words, dry_run=True)
    lines = [line for line in told if "not measured as asked, and are not sent for it" in line]
    assert [line.split(" were")[0] for line in lines] == ([f"{lacking} of the 3 done"] if lacking else [])


def test_another_sweeps_cells_are_queued_too(tmp_path: Path) -> None:
    slurm = FakeSlurm()
    send(slurm, tmp_path, "task=rte", name="one")
    _, told = send(slurm, tmp_path, name="two")
    assert told[0] == "two: 12 cells: 6 queued, 6 missing"


def test_a_sender_that_dies_or_is_refused_leaves_nothing_to_send_twice(tmp_path: Path) -> None:
    slurm = FakeSlurm()
    slurm.breaks = "killed"
    with pytest.raises(KeyboardInterrupt):
        send(slurm, tmp_path)
    slurm.breaks = ""
    assert send(slurm, tmp_path)[1][1] == "0 to send"
    slurm.queued.clear()
    slurm.breaks = "refused"
    with pytest.raises(
        UserError, match=r"Slurm did not take the jobs .sbatch: error: Invalid partition name specified"
    ):
        send(slurm, tmp_path)
    slurm.breaks = ""
    before = set(slurm.cells)
    send(slurm, tmp_path)
    assert sum(len(job) for name, jobs in slurm.cells.items() if name not in before for job in jobs) == 12


def test_two_senders_take_turns(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "sweeps" / ".sending", "x"),
        pytest.raises(UserError, match=r"cells are being sent to .* by process"),
    ):
        send(FakeSlurm(), tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        ("suite=smoke", "seed=1,5"),
        ("suite=table1", "model=minilm", "data=mini", "row=lora2_k1,sora_r8,full", "task=rte,mnli", "seed=range(0,2)"),
        ("method=lora,lora2", "task=cola,qnli", "kr=2", "train.lr=1e-3,5e-4", "data.seed=${seed}", "seed=3,4"),
        ("method=bitfit", "task=wnli"),
    ],
)
def test_the_planned_ids_are_those_of_single_runs(words: tuple[str, ...], tmp_path: Path) -> None:
    overrides = (*words, f"results={tmp_path}")
    cells = plan_cells(overrides, sweep_dir_of(overrides, "x"))
    assert len({cell.id for cell in cells}) == len(cells) > 0
    for cell in cells[:: max(1, len(cells) // 5)]:
        assert plan_of(*cell.overrides).cell.id == cell.id
    assert plan_cells(overrides, sweep_dir_of(overrides, "x")) == cells  # from disk


def test_a_changed_backbone_is_planned_anew(tmp_path: Path) -> None:
    folder = weights_folder(tmp_path / "backbone")
    overrides = ("model=local", f"model.path={folder}", f"results={tmp_path}")
    before = plan_cells(overrides, sweep_dir_of(overrides, None))
    (folder / "model.safetensors").write_bytes(b"other weights")
    assert plan_cells(overrides, sweep_dir_of(overrides, None)) != before


@pytest.mark.parametrize("form", ["--config-dir=DIR", "--config-dir DIR", "config_dir=DIR"])
def test_configs_of_ones_own_are_planned_as_single_runs_are_and_anew_when_they_change(
    form: str, tmp_path: Path, bench: Callable[..., Told]
) -> None:
    (tmp_path / "own" / "method").mkdir(parents=True)
    lora = (CONF / "method" / "lora.yaml").read_text(encoding="utf-8").replace("name: lora", "name: mine\nrecipe: lora")
    mine = tmp_path / "own" / "method" / "mine.yaml"
    mine.write_text(lora, encoding="utf-8")
    words = ("method=mine", "kr=2", "task=rte,mrpc", f"results={tmp_path}")
    options, overrides = parse([*form.replace("DIR", str(tmp_path / "own")).split(), *words])
    assert options == Options()
    cells = plan_cells(overrides, sweep_dir_of(overrides, None))
    assert len(cells) == 2 and all(made_plan(cell.overrides).cell.id == cell.id for cell in cells)
    told = bench(f"--config-dir={tmp_path / 'own'}", "method=mine", "kr=2", "task=rte", "--cfg", "job", "--resolve")
    assert told.code == 0 and "name: mine" in told.out
    assert plan_cells(overrides, sweep_dir_of(overrides, None)) == cells
    mine.write_text(lora.replace("alpha: ${recipe.alpha}", "alpha: 3"), encoding="utf-8")
    assert {cell.id for cell in plan_cells(overrides, sweep_dir_of(overrides, None))}.isdisjoint(c.id for c in cells)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("suite=tabel1",),
            "suite=tabel1 is not known: choose one of figure3, forgetting, lora_table2, methods",
        ),
        (("suite=smoke,table1",), "suite=smoke,table1 is not known"),
        (("suite=smoke", "rerun=true"), "rerun=true is not for a sweep"),
        (("hydra/launcher=joblib",), "hydra/launcher=joblib is Hydra's own: a sweep has cluster=local"),
        (("method=lora", "seed=-1"), "seed=-1 is not possible"),
        (("method=full", "kr=2"), "kr=2 does not fit method=full"),
        (("method=nope",), "method=nope is not known: choose one of adalora"),
        (("task=interval(0,1)",), "has no list of values: give task=A,B"),
    ],
)
def test_what_cannot_be_planned_is_told_in_one_line(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        plan_cells(words, tmp_path)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("cluster=cloud", "cluster=cloud is not possible: cluster must be one of local, slurm"),
        ("parallel=0", "parallel=0 is not possible: parallel must be an integer of at least 1"),
        ("partition=gpu", "partition=gpu is for Slurm: leave it out, or give cluster=slurm"),
        ("slurm.qos=high", "slurm.qos is for Slurm"),
        ("time=soon", "time must be minutes (90), hours (12:00:00)"),
        ("memory=lots", "memory must be as in 16G"),
        ("name=a/b", "name must be letters"),
        ("--fast", "--fast is not an option: choose one of --wait, --dry-run"),
        ("table1", "table1 cannot be read: give NAME=VALUE"),
    ],
)
def test_wrong_options(word: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        parse(["suite=smoke", word])
    assert message in str(error.value)


def test_options_and_overrides_are_told_apart() -> None:
    words = "cluster=slurm suite=smoke time=1-02:30:10 gpus=1 slurm.mail-type=END slurm.exclusive= --wait task=rte ~kr"
    options, overrides = parse(words.split())
    assert overrides == ("suite=smoke", "task=rte", "~kr")
    assert options.time == 26 * 60 + 31 and options.wait and options.gpus == 1
    assert options.sbatch == {"mail_type": "END", "exclusive": True}
    assert [parse(["cluster=slurm", f"time={text}"])[0].time for text in ("90", "12:00:00", "2-06")] == [90, 720, 3240]


def test_what_sbatch_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    from submitit.slurm import slurm

    monkeypatch.setattr(slurm.SlurmExecutor, "affinity", classmethod(lambda cls: 2))
    words = "cluster=slurm partition=gpu account=me time=90 memory=16G gpus=1 cpus=4 slurm.mail-type=END slurm.qos=low"
    options, _ = parse(words.split())
    executor: Any = submitit_executor(options, tmp_path)("x-1of1", 5)
    assert executor._executor.max_num_timeout >= 1000  # of submitit's own three, a long sweep soon ends
    script = executor._executor._make_submission_file_text("run", "0")
    for line in (
        "partition=gpu", "account=me", "time=90", "mem=16G", "gpus-per-node=1", "cpus-per-task=4", "mail-type=END",
        "qos=low", "requeue", "job-name=x-1of1", "signal=USR2@90",
    ):  # fmt: skip
        assert f"#SBATCH --{line}\n" in script
    assert " --cpus-per-task=4 " in script.splitlines()[-1]  # srun's own, which it does not take over from sbatch's
    silent: Any = submitit_executor(parse(["cluster=slurm"])[0], tmp_path)("x-1of1", None)
    assert "#SBATCH --time=60\n" in silent._executor._make_submission_file_text("run", "0")


def test_squeue_is_read_and_its_silence_stops_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "squeue"
    program.write_text(
        "#!/bin/sh\nprintf '12_0|RUNNING|None|x-1of2\\n12_11|PENDING|Priority|x-1of2\\n13|RUNNING|None|y|z\\n'\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert squeue() == {
        ("x-1of2", 0): "RUNNING",
        ("x-1of2", 11): "PENDING (Priority)",
        ("y|z", 0): "RUNNING",
    }
    program.write_text("#!/bin/sh\necho 'slurm_load_jobs error: Unable to contact slurm controller' >&2\nexit 1\n")
    with pytest.raises(UserError, match=r"squeue does not answer .*Unable to contact.*nothing can be sent"):
        squeue()


def test_slurms_own_limit_of_an_array_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "scontrol"
    program.write_text("#!/bin/sh\necho 'MaxArraySize            = 3'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert array_limit() == 3
    cells = {str(number): [""] for number in range(8)}
    for asked, sizes in ((None, [3, 3, 2]), (2, [2, 2, 2, 2]), (100, [3, 3, 2])):
        slurm = Slurm(Options(cluster="slurm", array_max=asked), FakeSlurm().executor, 3)
        assert [len(jobs) for jobs in slurm.split(cells)] == sizes
    program.write_text("#!/bin/sh\nexit 1\n")
    assert array_limit() == DEFAULT_ARRAY_MAX


def test_a_time_limit_of_which_nothing_would_be_left_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    with pytest.raises(UserError, match=r"time=2 is not possible: .* give at least time=3, or slurm.signal=USR2@SEC"):
        submitit_executor(parse(["cluster=slurm", "time=2"])[0], tmp_path)
    for words in (["time=3"], ["time=2", "slurm.signal=USR2@30"]):
        assert submitit_executor(parse(["cluster=slurm", *words])[0], tmp_path)


def test_waiting_ends_with_the_last_cell_and_tells_what_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = (*WORDS, "task=rte", "row=lora_r1", f"results={tmp_path}")
    cells = plan_cells(overrides, sweep_dir_of(overrides, None))
    for cell in cells[1:]:
        finish(tmp_path, cell)
    write_failure(sweep_dir_of(overrides, None), cells[0].id, "step 3: no luck", killed=False)
    assert wait(cells, tmp_path, dict, 0.0) == 1
    err = capsys.readouterr().err
    assert "failed: row=lora_r1 task=rte seed=0: step 3: no luck | " in err
    assert "error: 1 of 3 cells are not done: run the same command to go on" in err
    assert wait(cells[1:], tmp_path, dict, 0.0) == 0


def test_cells_whose_rows_are_not_on_this_machine_are_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("GLUE_DIR", raising=False)
    words = ["sweep", *WORDS, "data=local", f"results={tmp_path / 'r'}"]
    (tmp_path / "glue").mkdir()
    for more, line in (
        ((), "error: data=local without a folder: set GLUE_DIR or data.dir=... to the GLUE files, or use data=mini\n"),
        ((f"data.dir={tmp_path / 'glue'}",), f"error: {tmp_path / 'glue'} holds neither "),
    ):
        monkeypatch.setattr(sys, "argv", [*words, *more])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2 and capsys.readouterr().err.startswith(line)
        assert not list((tmp_path / "r").glob("sweeps/*/batches/*.json"))
    slurm = FakeSlurm()  # whose nodes may have what this machine has not
    send(slurm, tmp_path, "data=local")
    assert sum(slurm.arrays.values()) > 0


def test_the_command_tells_an_error_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["sweep", "suite=nope", f"results={tmp_path}"])
    with pytest.raises(SystemExit) as stop:
        main()
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.startswith("error: suite=nope is not known") and err.count("\n") == 1
    monkeypatch.setattr(sys, "argv", ["sweep", "--help"])
    main()
    assert "cells_per_job=N" in capsys.readouterr().out
