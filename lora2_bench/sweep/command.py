"""`python -m lora2_bench.sweep suite=NAME cluster=local|slurm [OPTIONS] [OVERRIDES]`: see docs/SWEEPS.md."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from lora2_bench.errors import INTERRUPTED, UserError
from lora2_bench.files.arguments import program
from lora2_bench.records.scrub import hide_secrets
from lora2_bench.sweep.calls import send_and_follow
from lora2_bench.sweep.options import parse

HELP = """{program} suite=NAME cluster=local|slurm [NAME=VALUE ...] [--wait] [--dry-run]

Sends the cells of a suite that are neither done nor queued nor running. Run it again to send what is missing, failed or
interrupted. Hydra's overrides narrow or change the cells (task=rte seed=0,1 model=minilm data=mini).

  name=NAME            folder below results/sweeps (the suite's name)
  parallel=N           processes at once: on this machine (as many as cores), or in one job of Slurm's (1)
  pack=N               cells of one task and model that train side by side in a process (1)
  cells_per_job=N      cells of one job (parallel x pack) array_max=N       jobs per array at most (Slurm's own limit)
  throttle=N           jobs that run at once              time=12:00:00     of one job (60; minutes, H:MM:SS or D-HH)
  partition= account=  as sbatch has them                 memory=16G gpus=N cpus=N   of one job
  slurm.KEY=VALUE      any other sbatch option
  --wait               follow with a progress bar; exit code 1 unless all cells are done
  --dry-run            print what would be sent
  --config-dir=DIR     a folder of configs of your own
"""


def main() -> None:
    """The command-line entry point. Exit codes: 0, 1 where --wait ends without all cells done, 2 for bad input."""
    answer(HELP, "lora2_bench.sweep", lambda arguments: send_and_follow(*parse(arguments))[1])


def answer(help_text: str, module: str, act: Callable[[Sequence[str]], int]) -> None:
    """Print the help where it is asked for, else end with what `act` returns for the arguments, or an error's line.

    `help_text` names the command {program}; `module` is what `python -m` takes.
    """
    arguments = sys.argv[1:]
    if not arguments or "--help" in arguments or "-h" in arguments:
        print(help_text.format(program=program(module)), end="")
        return
    try:
        code = act(arguments)
    except UserError as error:
        print(f"error: {hide_secrets(str(error))}", file=sys.stderr)
        code = 2
    except OSError as error:
        told = f"{error.filename} cannot be read or written ({error.strerror}): give another results=DIR"
        print(f"error: {hide_secrets(told)}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("no longer following: cells that were sent go on", file=sys.stderr)
        code = INTERRUPTED
    sys.exit(code)
