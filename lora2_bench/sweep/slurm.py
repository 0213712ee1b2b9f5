"""Jobs sent to Slurm through submitit."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lora2_bench.errors import UserError
from lora2_bench.sweep.batches import SLURM, Batch
from lora2_bench.sweep.job import SlurmJobs
from lora2_bench.sweep.launchers import JobCells
from lora2_bench.sweep.options import Options

ARRAY_MAX = 1000
"""Jobs per array where Slurm does not tell its own limit, MaxArraySize."""


TIME = 60
"""Minutes of one job unless the user says otherwise: submitit's own 5 would leave little but beginnings."""


SIGNAL = 90
"""Seconds before its time limit at which a job is told, and up to a minute earlier: Slurm looks twice a minute."""


NO_THROTTLE = 10**6
"""Jobs of an array at once: as many as it has, which is what submitit makes of it."""


class Executor(Protocol):
    """What is used of submitit's executors."""

    def map_array(self, fn: Callable[..., Any], *iterables: Sequence[Any]) -> Sequence[Any]:
        """Send `fn(item)` for all items as one array."""

    def update_parameters(self, **parameters: Any) -> None:
        """Set what sbatch is told."""


@dataclass(frozen=True)
class Slurm:
    """Arrays of Slurm jobs.

    Attributes:
        executor: gives the executor for a batch's name and the number of its jobs that may run at once.
        array_max: the cluster's own limit of jobs per array.
    """

    options: Options
    executor: Callable[[str, int | None], Executor]
    array_max: int = ARRAY_MAX

    def split(self, cells: JobCells) -> list[list[JobCells]]:
        """Cells in their order, `cells_per_job` to a job, at most `array_max` jobs to an array."""
        ids, per_job = list(cells), self.options.cells_per_job or self.options.parallel or 1
        jobs = [{id_: cells[id_] for id_ in ids[at : at + per_job]} for at in range(0, len(ids), per_job)]
        most = min(self.options.array_max or self.array_max, self.array_max)
        return [jobs[at : at + most] for at in range(0, len(jobs), most)]

    def batch(self, name: str, results: Path, jobs: list[JobCells]) -> Batch:
        """A batch whose cells share the job's CPUs."""
        parallel, cpus = self.options.parallel or 1, self.options.cpus
        threads = max(1, cpus // parallel) if cpus else None
        return Batch(name, SLURM, time.time(), str(Path.cwd()), str(results), parallel, threads, jobs)

    def send(self, batch: Batch, path: Path) -> str:
        """Submit one array."""
        throttle = self.options.throttle
        if throttle is not None:  # a throttle is an array's own to Slurm: the arrays of one call share the user's
            arrays = int(batch.name.rpartition("of")[2])
            throttle = max(1, throttle // arrays)
        try:
            executor = self.executor(batch.name, throttle)
            sent = executor.map_array(SlurmJobs(path), range(len(batch.jobs)))
        except Exception as error:  # submitit's own kinds, and sbatch's words in them
            words = " ".join(str(error).split())
            raise UserError(f"Slurm did not take the jobs ({words[:300]})") from None
        return f"{len(batch.jobs)} jobs, {getattr(sent[0], 'job_id', '?')} to {getattr(sent[-1], 'job_id', '?')}"


def submitit_executor(options: Options, folder: Path) -> Callable[[str, int | None], Executor]:
    """Gives submitit executors that write their scripts and logs to `folder`.

    Raises UserError without submitit, and for a time limit of which nothing would be left.
    """
    time = options.time or TIME
    if "signal" not in options.sbatch and 60 * time < 2 * SIGNAL:
        raise UserError(
            f"time={time} is not possible: a job is told to keep its cells {SIGNAL} s before its end, so give at least "
            f"time={2 * SIGNAL // 60}, or slurm.signal=USR2@SECONDS with fewer"
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
            "slurm_signal_delay_s": SIGNAL,
            # since Slurm 22.05 srun does not take them over, and would bind the job to one core
            "slurm_srun_args": [f"--cpus-per-task={options.cpus}"] if options.cpus else None,
            "slurm_additional_parameters": {"requeue": True, **options.sbatch},
        }
        made.update_parameters(**{key: value for key, value in parameters.items() if value is not None})
        return made

    return executor


def array_limit() -> int:
    """Jobs per array at most, by Slurm's own configuration; ARRAY_MAX where it does not tell."""
    try:
        done = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return ARRAY_MAX
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", done.stdout, re.MULTILINE)
    return max(1, int(found[1])) if found else ARRAY_MAX  # 0 is for no arrays: a single job is none


def squeue() -> dict[tuple[str, int], str]:
    """(name, array index) of the user's queued and running jobs -> as in `RUNNING` or `PENDING (Priority)`.

    Raises UserError where Slurm does not say.
    """
    command = ["squeue", "--noheader", "--array", f"--user={os.getuid()}", "--format=%i|%T|%r|%j"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        words = str(getattr(error, "stderr", None) or error).strip().splitlines()[-1]
        raise UserError(
            f"squeue does not answer ({words}): what Slurm has queued is not known, so nothing can be sent or told"
        ) from None
    found = {}
    for line in done.stdout.splitlines():
        number, state, reason, name = line.strip().split("|", 3)
        index = number.partition("_")[2]
        found[name, int(index) if index.isdecimal() else 0] = state if reason == "None" else f"{state} ({reason})"
    return found
