"""Jobs sent to Slurm through submitit."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Protocol

from lora2_bench.errors import UserError
from lora2_bench.sweep.batches import SLURM, Batch
from lora2_bench.sweep.job import SlurmJobs
from lora2_bench.sweep.launchers import JobCells
from lora2_bench.sweep.options import Options

DEFAULT_ARRAY_MAX = 1000
"""Jobs per array where Slurm does not report MaxArraySize."""
DEFAULT_MINUTES = 60
"""Time limit of one job unless the user sets one; submitit's own 5 minutes are too short for a cell."""
SIGNAL_SECONDS = 90
"""Seconds before its time limit at which a job gets SIGUSR2; up to a minute more, as Slurm checks twice a minute."""
NO_THROTTLE = 10**6
"""More jobs at once than any array has, which submitit cuts to the array's size."""


class Executor(Protocol):
    """The part of submitit's executors that is used here."""

    def map_array(self, fn: Callable[..., Any], *iterables: Sequence[Any]) -> Sequence[Any]:
        """Send `fn(item)` for all items as one array."""

    def update_parameters(self, **parameters: Any) -> None:
        """Set the options of sbatch."""


@dataclass(frozen=True)
class Slurm:
    """Arrays of Slurm jobs.

    Attributes:
        executor: makes the executor for a batch's name and the number of its jobs that may run at once.
        array_max: the cluster's limit of jobs per array.
    """

    options: Options
    executor: Callable[[str, int | None], Executor]
    array_max: int = DEFAULT_ARRAY_MAX

    def split(self, cells: JobCells) -> list[list[JobCells]]:
        """Cells in their order, `cells_per_job` to a job, at most `array_max` jobs to an array."""
        at_once = (self.options.parallel or 1) * (self.options.pack or 1)
        ids, per_job = list(cells), self.options.cells_per_job or at_once
        jobs = [{id_: cells[id_] for id_ in ids[start : start + per_job]} for start in range(0, len(ids), per_job)]
        array_max = min(self.options.array_max or self.array_max, self.array_max)
        return [jobs[start : start + array_max] for start in range(0, len(jobs), array_max)]

    def make_batch(self, name: str, results: Path, jobs: list[JobCells]) -> Batch:
        """A batch whose cells share the job's CPUs."""
        parallel, cpus = self.options.parallel or 1, self.options.cpus
        threads = max(1, cpus // parallel) if cpus else None
        pack = self.options.pack or 1
        return Batch(name, SLURM, time.time(), str(Path.cwd()), str(results), parallel, threads, jobs, pack)

    def send(self, batch: Batch, path: Path) -> str:
        """Submit one array."""
        throttle = self.options.throttle
        if throttle is not None:  # Slurm throttles each array: those of one call share the user's limit
            arrays = int(batch.name.rpartition("of")[2])
            throttle = max(1, throttle // arrays)
        try:
            executor = self.executor(batch.name, throttle)
            with redirect_stderr(StringIO()):  # submitit prints sbatch's words there, and raises them too
                sent = executor.map_array(SlurmJobs(path), range(len(batch.jobs)))
        except Exception as error:  # submitit has its own classes, with sbatch's message
            reason = " ".join(str(error).split())
            raise UserError(f"Slurm did not take the jobs ({reason[:300]})") from None
        return f"{len(batch.jobs)} jobs, {getattr(sent[0], 'job_id', '?')} to {getattr(sent[-1], 'job_id', '?')}"


def submitit_executor(options: Options, folder: Path) -> Callable[[str, int | None], Executor]:
    """A function that makes submitit executors, which write their scripts and logs to `folder`.

    Raises UserError without submitit, and for a time limit that the signal would use up.
    """
    time = options.time or DEFAULT_MINUTES
    if "signal" not in options.sbatch and 60 * time < 2 * SIGNAL_SECONDS:
        raise UserError(
            f"time={time} is not possible: a job gets SIGUSR2 {SIGNAL_SECONDS} s before its end, so give at least "
            f"time={2 * SIGNAL_SECONDS // 60}, or slurm.signal=USR2@SECONDS with fewer"
        )
    try:
        import submitit
    except ImportError:
        raise UserError("cluster=slurm needs submitit: pip install 'lora2-bench[slurm]'") from None

    def executor(name: str, throttle: int | None) -> Executor:
        made: Executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=10_000)
        parameters = {
            "name": name,
            "nodes": 1,
            "tasks_per_node": 1,
            "timeout_min": time,
            "cpus_per_task": options.cpus,
            "gpus_per_node": options.gpus,
            "slurm_partition": options.partition,
            "slurm_account": options.account,
            "slurm_mem": options.memory,
            "slurm_array_parallelism": throttle or NO_THROTTLE,
            "slurm_signal_delay_s": SIGNAL_SECONDS,
            # since Slurm 22.05 srun does not inherit --cpus-per-task, and would bind the job to one core
            "slurm_srun_args": [f"--cpus-per-task={options.cpus}"] if options.cpus else None,
            "slurm_additional_parameters": {"requeue": True, **options.sbatch},
        }
        made.update_parameters(**{key: value for key, value in parameters.items() if value is not None})
        return made

    return executor


def array_limit() -> int:
    """Jobs per array at most, by Slurm's own configuration; DEFAULT_ARRAY_MAX where it does not say."""
    try:
        done = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return DEFAULT_ARRAY_MAX
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", done.stdout, re.MULTILINE)
    return max(1, int(found[1])) if found else DEFAULT_ARRAY_MAX  # 0 means no arrays


def squeue() -> dict[tuple[str, int], str]:
    """(name, array index) of the user's queued and running jobs -> as in `RUNNING` or `PENDING (Priority)`.

    Raises UserError where Slurm does not say.
    """
    command = ["squeue", "--noheader", "--array", f"--user={os.getuid()}", "--format=%i|%T|%r|%j"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        reason = str(getattr(error, "stderr", None) or error).strip().splitlines()[-1]
        raise UserError(
            f"squeue does not answer ({reason}): what Slurm has queued is not known, so nothing can be sent or shown"
        ) from None
    found = {}
    for line in done.stdout.splitlines():
        number, state, reason, name = line.strip().split("|", 3)
        index = number.partition("_")[2]
        found[name, int(index) if index.isdecimal() else 0] = state if reason == "None" else f"{state} ({reason})"
    return found
