"""One job: crashes, failures, signals and other lock holders end no cell but their own."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lora2_bench.records.lock import locked, process_start
from lora2_bench.sweep import job as sweep_job
from lora2_bench.sweep.batches import SLURM
from lora2_bench.sweep.job import SlurmJobs, run_job
from lora2_bench.sweep.states import states
from lora2_bench.sweep.workers import Worker
from tests.sweep.conftest import note, planned, runs, write_stub

MakeBatch = Callable[..., Path]


def nothing() -> dict[tuple[str, int], str]:
    return {}


def test_a_crash_and_a_failure_end_their_own_cell_only(stub: Path, batch: MakeBatch, tmp_path: Path) -> None:
    cells: dict[str, list[str]] = {f"c{number}": [] for number in range(8)} | {"dies": ["die"], "fails": ["fail"]}
    path = batch(tmp_path, dict(sorted(cells.items(), reverse=True)))
    assert run_job(path, 0) == {"done": 8, "failed": 1, "interrupted": 1}
    assert set(runs(tmp_path).values()) == {1}
    workers = {line for ran in (tmp_path / "ran").iterdir() for line in ran.read_text().split()}
    assert len(workers) <= 3  # two at once, and one in place of the dead: cells share workers
    assert note(tmp_path, "dies")["cause"] == "its process ended by signal 9 (killed, or out of memory)"
    found = {state.id: state for state in states(planned(*cells, "never"), tmp_path, nothing)}
    assert (found["dies"].state, found["fails"].state, found["never"].state) == ("interrupted", "failed", "missing")
    assert found["fails"].reason == "step 3: no luck" and str(found["fails"].log).endswith("logs/fails.log")
    assert {found[f"c{number}"].state for number in range(8)} == {"done"}

    again = run_job(batch(tmp_path, cells), 0)  # the finished ones are passed over; what died goes on
    assert again == {"done": 9, "failed": 1}
    assert runs(tmp_path) == {**dict.fromkeys(cells, 1), "dies": 2, "fails": 2}
    assert not (tmp_path / "sweeps" / "x" / "failed" / "dies.json").exists()


def test_a_job_that_is_queued_again_passes_over_what_failed_in_it(stub: Path, batch: MakeBatch, tmp_path: Path) -> None:
    path = batch(tmp_path, {"fails": ["fail"], "dies": ["die"], "a": []})
    run_job(path, 0)
    assert run_job(path, 0) == {"failed": 1, "done": 2}
    assert runs(tmp_path) == {"a": 1, "dies": 2, "fails": 1}


def test_a_signal_to_a_worker_that_is_loading_waits_until_it_listens(tmp_path: Path) -> None:
    worker = Worker(str(tmp_path), None)
    worker.process.send_signal(signal.SIGUSR2)  # as Slurm does with every process of a job
    worker.run_cells({"a": ["method=nope"]}, [tmp_path / "log"])
    assert worker.read_answers() == [{"id": "a", "state": "interrupted", "cause": None}]
    worker.close()
    worker.stdout.close()
    assert worker.process.wait() == 0


def test_a_cell_in_other_hands_is_left_there_or_taken_over(
    stub: Path, batch: MakeBatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_job, "STALE_AFTER", 0.5)
    monkeypatch.setattr(sweep_job, "HEARTBEAT_SECONDS", 0.0)
    with locked(tmp_path / "running" / "here", "x"):  # a live process of this machine
        elsewhere = tmp_path / "running" / "elsewhere"  # one of another machine, whose heart beats
        elsewhere.mkdir()
        (elsewhere / "owner.json").write_text(json.dumps({"host": "far", "pid": 1, "born": "1"}))
        dead = tmp_path / "running" / "dead"
        dead.mkdir()
        gone = {"host": socket.gethostname(), "pid": os.getpid(), "born": f"{process_start(os.getpid())}0"}
        (dead / "owner.json").write_text(json.dumps(gone))
        assert run_job(batch(tmp_path, {"here": [], "elsewhere": [], "dead": []}), 0) == {"elsewhere": 2, "done": 1}
    assert runs(tmp_path) == {"dead": 1}


def test_a_signal_keeps_the_cells_and_the_job_begins_no_other(stub: Path, batch: MakeBatch, tmp_path: Path) -> None:
    path = batch(tmp_path, {"a": ["wait"], "b": ["wait"], "c": []})

    def tell() -> None:
        while len(list(tmp_path.glob("ran/*"))) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=tell)
    thread.start()
    with pytest.raises(SystemExit) as stopped:
        run_job(path, 0)
    thread.join()
    assert stopped.value.code == 3 and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert runs(tmp_path) == {"a": 1, "b": 1}
    assert not list(tmp_path.glob("sweeps/x/failed/*"))  # a signal is no failure
    assert run_job(path, 0) == {"done": 3}


@pytest.mark.slow
def test_submitit_puts_a_signalled_job_back_and_it_continues(batch: MakeBatch, tmp_path: Path) -> None:
    submitit = pytest.importorskip("submitit")
    results = tmp_path / "results"
    path = batch(results, {"a": ["wait"], "b": []}, parallel=1, cluster=SLURM)
    write_stub(tmp_path / "stub.py")
    # The job's own process must take the small script for its worker too.
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'SUBMITIT_EXECUTOR' in os.environ and 'stub.py' not in ' '.join(sys.orig_argv):\n"
        "    from lora2_bench.sweep import workers\n"
        f"    workers.WORKER_ARGUMENTS = ({str(tmp_path / 'stub.py')!r},)\n"
    )
    executor = submitit.LocalExecutor(tmp_path / "submitit")
    executor.update_parameters(timeout_min=2)
    root = str(Path(__file__).resolve().parents[2])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{root}"
    try:
        (job,) = executor.map_array(SlurmJobs(path), range(1))
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)
    for _ in range(600):
        if (results / "ran" / "a").exists():
            break
        time.sleep(0.1)
    time.sleep(0.5)
    children = Path(f"/proc/{job.job_id}/task/{job.job_id}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGUSR2)  # as Slurm does, shortly before the time limit
    assert job.result() == {"done": 2}
    assert runs(results) == {"a": 2, "b": 1}
    assert "Requeued job" in job.stdout() + job.stderr(), sys.path


def test_cells_of_one_task_and_model_go_to_a_worker_together(stub: Path, batch: MakeBatch, tmp_path: Path) -> None:
    rte, cola = ["task=rte", "model=minilm"], ["task=cola", "model=minilm"]
    cells = {"a": rte, "b": [*rte, "seed=1"], "c": cola, "d": [*rte, "fail"], "e": rte, "f": [*cola, "die"]}
    assert run_job(batch(tmp_path, cells, parallel=1, pack=3), 0) == {"done": 4, "failed": 1, "interrupted": 1}
    assert (tmp_path / "packs").read_text().splitlines() == ["a b d", "c f", "e"]
    assert note(tmp_path, "d")["cause"] == "step 3: no luck"
    assert note(tmp_path, "f")["cause"] == "its process ended by signal 9 (killed, or out of memory)"
    assert run_job(batch(tmp_path, {name: cells[name] for name in "af"}, parallel=1, pack=3), 0) == {"done": 2}
    assert (tmp_path / "packs").read_text().splitlines()[3:] == ["f"]
