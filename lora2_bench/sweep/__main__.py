"""`python -m lora2_bench.sweep suite=NAME cluster=local|slurm [OPTIONS] [OVERRIDES]`: see docs/SWEEPS.md."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from lora2_bench.errors import UserError
from lora2_bench.records.lock import owned
from lora2_bench.records.record import DONE, FAILED
from lora2_bench.records.store import Store
from lora2_bench.sweep import launchers
from lora2_bench.sweep.options import Options, parse
from lora2_bench.sweep.plans import Planned, home_of, mark_sent, plan, results_of
from lora2_bench.sweep.queue import LOCAL, SLURM, Squeue, batches, live, prune
from lora2_bench.sweep.state import QUEUED, RUNNING, count, states, states_of

HELP = """python -m lora2_bench.sweep suite=NAME cluster=local|slurm [NAME=VALUE ...] [--wait] [--dry-run]

Sends the cells of a suite that are neither done nor queued nor running. Run it again to send what is missing, failed or
interrupted. Hydra's overrides narrow or change the cells (task=rte seed=0,1 model=minilm data=mini).

  name=NAME            folder below results/sweeps (the suite's name)
  parallel=N           cells at once: on this machine (as many as cores), or in one job of Slurm's (1)
  cells_per_job=N      cells of one job (parallel)        array_max=N       jobs per array at most (Slurm's own limit)
  throttle=N           jobs that run at once              time=12:00:00     of one job (60; minutes, H:MM:SS or D-HH)
  partition= account=  as sbatch has them                 memory=16G gpus=N cpus=N   of one job
  slurm.KEY=VALUE      any other sbatch option
  --wait               follow with a progress bar; exit code 1 unless all cells are done
  --dry-run            tell what would be sent
"""

_PAUSE = {LOCAL: 1.0, SLURM: 15.0}  # Slurm's controller is everybody's


def main() -> None:
    """The command-line entry point. Exit codes: 0, 1 where --wait ends without all cells done, 2 for bad input."""
    words = sys.argv[1:]
    if not words or "--help" in words or "-h" in words:
        print(HELP, end="")
        return
    try:
        options, overrides = parse(words)
        home = home_of(overrides, options.name)
        make = launchers.submitit_executor(options, home / "slurm") if options.cluster == SLURM else None
        slurm = launchers.Slurm(options, make, launchers.array_limit()) if make else None
        cells = sweep(options, overrides, slurm or launchers.Local(options), launchers.squeue)
        code = wait(cells, results_of(overrides), launchers.squeue, _PAUSE[options.cluster]) if options.wait else 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("\nno longer following: the cells go on", file=sys.stderr)
        code = 130
    sys.exit(code)


def sweep(
    options: Options,
    overrides: Sequence[str],
    launcher: launchers.Launcher,
    squeue: Squeue,
    tell: Callable[[str], None] = print,
) -> list[Planned]:
    """Plan the cells and send those that are neither done nor queued nor running; returns all of them.

    Two calls for one results folder take turns, so that nothing is sent twice. Raises UserError.
    """
    home, results = home_of(overrides, options.name), results_of(overrides)
    Store(results).check_writable()
    with owned(results / "sweeps" / ".sending", f"the sending of cells to {results}"):
        cells = plan(overrides, home)
        known = batches(results)
        alive = live(known, squeue)
        found = states_of(cells, results, known, alive)
        to_send = {
            cell.id: [*cell.overrides, *_threads(options, overrides)]
            for cell, state in zip(cells, found, strict=True)
            if state.state not in (DONE, RUNNING, QUEUED)
        }
        counts = ", ".join(f"{number} {name}" for name, number in count(found).items() if number)
        tell(f"{home.name}: {len(cells)} cells: {counts}")
        if not to_send or options.dry_run:
            tell(f"{len(to_send)} to send")
            return cells
        mark_sent(overrides, home)
        prune(known, list(alive))
        split = launcher.split(to_send)
        stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        for number, jobs in enumerate(split, 1):
            batch = launcher.batch(f"{home.name}-{stamp}-{number}of{len(split)}", results, jobs)
            path = batch.write(home)
            try:
                where = launcher.send(batch, path)
            except UserError:
                path.unlink(missing_ok=True)
                raise
            tell(f"sent {sum(map(len, jobs))} cells: {where}")
    tell(f"follow: python -m lora2_bench.status {' '.join(_named(options, overrides))}   logs: {home / 'logs'}")
    return cells


def wait(cells: Sequence[Planned], results: Path, squeue: Squeue, pause: float) -> int:
    """Follow with a progress bar until no cell is queued or running; 0 if all are done, else 1.

    `pause` is the time between two looks, in seconds.
    """
    with tqdm(total=len(cells), desc="cells", unit="cell") as bar:
        while True:
            began = time.monotonic()
            found = states(cells, results, squeue)
            counts = count(found)
            bar.n = counts[DONE]
            others = [f"{number} {name}" for name, number in counts.items() if number and name != DONE]
            bar.set_postfix_str(", ".join(others), refresh=False)
            bar.refresh()
            if not counts[RUNNING] + counts[QUEUED]:
                break
            time.sleep(max(pause, 10 * (time.monotonic() - began)))
    for state in found:
        if state.state == FAILED:
            print(f"failed: {state.label}: {state.reason}" + (f" | {state.log}" if state.log else ""), file=sys.stderr)
    missing = len(cells) - counts[DONE]
    if missing:
        print(f"error: {missing} of {len(cells)} cells are not done: run the same command to go on", file=sys.stderr)
    return 1 if missing else 0


def _threads(options: Options, overrides: Sequence[str]) -> list[str]:
    """On one machine, one-thread cells side by side do more than one cell with all cores."""
    if any(word.startswith("threads=") for word in overrides):
        return []
    if options.cluster == LOCAL:
        return ["threads=1"]
    return [f"threads={max(1, options.cpus // (options.parallel or 1))}"] if options.cpus else []


def _named(options: Options, overrides: Sequence[str]) -> list[str]:
    """The words by which the status of this sweep is asked for."""
    wanted = [word for word in overrides if word.startswith(("suite=", "results="))]
    return [*wanted, *([f"name={options.name}"] if options.name else [])]


if __name__ == "__main__":
    main()
