"""`python -m lora2_bench.tune study=NAME [stage=STAGE] [OPTIONS] [OVERRIDES]`: see docs/TUNING.md."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from lora2_bench.experiment.checks import require, require_choice
from lora2_bench.sweep.calls import launcher_of
from lora2_bench.sweep.cells import results_dir_of, value_of
from lora2_bench.sweep.command import answer
from lora2_bench.sweep.options import parse
from lora2_bench.sweep.slurm import squeue
from lora2_bench.tune.cost import cost_lines
from lora2_bench.tune.ledger import Folder
from lora2_bench.tune.stages import PLAN, RUNS, STAGES, TABLES, TRIALS, WINNERS, Stages
from lora2_bench.tune.study import read_study, split_places

HELP = """{program} study=NAME [stage=STAGE] [name=NAME] [--wait] [--dry-run] [NAME=VALUE ...]

A study: equal numbers of trials of every method and task, scored on rows held out of train; each winner becomes a
recipe and is run on new seeds. Without a stage it goes on with whatever is next; with --wait, to the end.

  stage=plan           print cells, steps and hours, and write nothing
  stage=trials         send the trials that have not ended      stage=winners   write the winners' recipes
  stage=runs           send the winners' runs                   stage=tables    ledger, curves and FINDINGS.md
  study.KEY=VALUE      change the study's own settings, as in study.trials=8 study.seconds_per_step=0.1
  name=NAME            folder below results/studies (the study's name)

Everything else is as for python -m lora2_bench.sweep: cluster=local|slurm parallel=N partition=..., and overrides
(results=DIR data.dir=DIR model=local model.path=DIR). Follow it with python -m lora2_bench.status name=NAME.
"""


def main() -> None:
    """The command-line entry point. Exit codes: 0; 1 where --wait ends and cells have not ended; 2 for bad input."""
    answer(HELP, "lora2_bench.tune", tune)


def tune(arguments: Sequence[str]) -> int:
    """Run one stage of a study, or whatever is next; returns the exit code. Raises UserError."""
    options, overrides = parse(arguments)
    name, stage = value_of(overrides, "study"), value_of(overrides, "stage")
    require(name is not None, "study", name, "a study, as in study=smoke")
    if stage is not None:
        require_choice("stage", stage, STAGES)
    changes = [override for override in overrides if override.startswith("study.")]
    places, extra = split_places([one for one in overrides if not one.startswith(("study", "stage="))])
    results = results_dir_of(overrides)
    folder = Folder(results, options.name or str(name))
    study = read_study(str(name), changes, extra, folder.path.name)
    options = replace(options, dry_run=options.dry_run or stage == PLAN, name=folder.path.name)
    sends = stage in (None, TRIALS, RUNS)
    launcher = launcher_of(options, results / "sweeps" / folder.path.name) if sends else None
    stages = Stages(study, folder, options, places, launcher, squeue)
    if stage == PLAN:
        stages.plan_trials()
        print("\n".join(cost_lines(study, stages.begun, folder.records(stages.begun.cells))))
        return 0
    if stage == TABLES:
        for path in stages.tell():
            print(f"written: {path}")
        return 0
    if stage == WINNERS:
        stages.plan_trials()
        stages.write_winners()
        return 0
    return _send(stages, stage)


def _send(stages: Stages, stage: str | None) -> int:
    """Send what is next, or one stage's cells; with --wait go on until all has ended. Returns the exit code."""
    done = False
    if stage in (None, TRIALS):
        stages.plan_trials()
        done = stages.send_trials()
        stages.plan_trials()  # the extra ones, where they have become due
        done = done and stages.send_trials()
    if stage == RUNS:
        stages.plan_trials()  # the extra ones come before any run
    if stage in (None, RUNS) and (done or stage == RUNS):
        if stages.options.dry_run and not stages.begun.runs:
            print("the winners' recipes come first: stage=winners")
            return 0
        if not stages.options.dry_run:
            stages.write_winners()
        done = stages.send_runs()
    if not stages.options.dry_run:
        findings = stages.tell()[-1]
        print(f"written: {findings}")
    if stages.options.wait and not done:
        print("error: not all cells have ended: run the same command to go on", file=sys.stderr)
        return 1
    return 0
