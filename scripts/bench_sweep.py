"""What a sweep of 2,000 cells costs: planning, submitting to an sbatch that takes everything, and its status.

Run: python scripts/bench_sweep.py. Nothing is trained, and no Slurm is needed: submitit writes its real files.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from lora2_bench.records.lock import process_start
from lora2_bench.sweep.options import Options
from lora2_bench.sweep.send import sweep
from lora2_bench.sweep.slurm import Slurm, submitit_executor

WORDS = ("suite=table1", "seed=range(0,25)")
SENT = Options(cluster="slurm", cells_per_job=4)


def files(folder: Path) -> str:
    """Number and size of the files below a folder."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return f"{len(sizes)} files, {sum(sizes) / 1e6:.2f} MB"


def populate(results: Path, ids: Sequence[str]) -> None:
    """Records of 40 kB for half of the cells, four that run here, and forty that a sweep noted as failed."""
    head = {"schema": 1, "id": "", "status": "done"}
    for cell in ids[:1000]:
        (results / "cells" / cell).mkdir(parents=True)
        text = json.dumps({**head, "id": cell, "result": "x" * 40_000}, indent=1)
        (results / "cells" / cell / "record.json").write_text(text)
    for cell in ids[1000:1004]:
        folder = results / "running" / cell
        folder.mkdir(parents=True)
        owner = {"host": os.uname().nodename, "pid": os.getpid(), "born": process_start(os.getpid())}
        (folder / "owner.json").write_text(json.dumps(owner))
        told = {"step": 7, "total": 99, "score": 0.5, "best": 0.6, "seconds_per_step": 1.5}
        (folder / "progress.json").write_text(json.dumps(told))
    failed = results / "sweeps" / "table1" / "failed"
    failed.mkdir()
    for cell in ids[1004:1044]:
        note = {"cause": "step 3: no luck", "killed": False, "log": "x.log", "host": "here", "time": time.time()}
        (failed / f"{cell}.json").write_text(json.dumps(note))


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as place:
        results = Path(place)
        overrides = (*WORDS, f"results={results}")
        programs = results / "bin"
        programs.mkdir()
        for name, text in (("sbatch", "echo Submitted batch job 12"), ("srun", "true")):
            (programs / name).write_text(f"#!/bin/sh\n{text}\n")
            (programs / name).chmod(0o755)
        os.environ["PATH"] = f"{programs}:{os.environ['PATH']}"
        launcher = Slurm(SENT, submitit_executor(SENT, results / "sweeps" / "table1" / "slurm"))

        def queue() -> dict[tuple[str, int], str]:
            names = [path.stem for path in results.glob("sweeps/*/batches/*.json")]
            return {(name, job): "PENDING (Priority)" for name in names for job in range(1000)}

        for title in ("planning and sending", "the same again: all queued"):
            began, busy = time.perf_counter(), time.process_time()
            cells = sweep(SENT, overrides, launcher, queue)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(
                f"{title}: {len(cells)} cells, {time.perf_counter() - began:.2f} s "
                f"({time.process_time() - busy:.2f} s of CPU), peak memory {peak:.0f} MB, {files(results)}"
            )
        populate(results, [cell.id for cell in cells])
        program = programs / "squeue"
        lines = "".join(f"1_{job}|PENDING|Priority|{name}\\n" for name, job in sorted(queue()) if job < 500)
        program.write_text(f"#!/bin/sh\nprintf '{lines}'\n")
        program.chmod(0o755)
        command = [sys.executable, "-m", "lora2_bench.status", "suite=table1", f"results={results}"]
        for flags in ([], ["--json"]):
            began = time.perf_counter()
            done = subprocess.run([*command, *flags], capture_output=True, text=True, check=True)
            print(f"status {' '.join(flags)}: {time.perf_counter() - began:.2f} s, {done.stdout.splitlines()[0][:120]}")


if __name__ == "__main__":
    main()
