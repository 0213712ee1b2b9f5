"""The command line: one cell, or a multirun, with its exit code."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import hydra
import psutil
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError

from lora2_bench.config.arguments import (
    CONFIG_DIR,
    check_arguments,
    check_processes,
    config_folder,
    options_first,
)
from lora2_bench.config.compose import plan_from
from lora2_bench.config.contradictions import check_experiment, quoted_ids, typed_names
from lora2_bench.config.messages import one_line
from lora2_bench.config.outcomes import Outcomes
from lora2_bench.config.quicker import no_look_for_mode
from lora2_bench.config.resolvers import share_own, share_tuned
from lora2_bench.errors import CellFailed, Interrupted, NotJoined, UserError, first_line
from lora2_bench.experiment.plan import Plan
from lora2_bench.experiment.words import quoted
from lora2_bench.files.paths import CONF, shortened
from lora2_bench.records.scrub import hide_secrets

MAIN_PROCESS_SECONDS = 30.0
"""Seconds that the other processes of a cell give the main one to end after an error that should end them all."""


class _MultirunStopped(BaseException):
    """Ends a multirun from inside one of its jobs: Hydra continues after any Exception."""


class _NothingKept(BaseException):
    """Ends a multirun from inside a job whose outcome cannot be written: those after it would be lost alike."""


class MultirunStart(Callback):
    """The Hydra callback at the start of a multirun (conf/config.yaml), when the multirun's folder is first known."""

    outcomes = Outcomes()

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Set the folder of the jobs' outcomes; what is typed takes the place of an experiment's own values."""
        self.outcomes.begin(config.hydra.sweep.dir)
        params = config.hydra.sweeper.params
        if config.hydra.runtime.choices.get("experiment") and params:
            with open_dict(params):
                for name in typed_names(config.hydra.overrides.task):  # else each cell would run once a value
                    params.pop(name, None)


def launch(run: Callable[[Plan], object]) -> None:
    """Compose the command line's config and call `run` with its plan, for one cell or for every job of a multirun.

    Exit codes: 2 for bad input, 1 for a failed cell, 3 for one that was interrupted and can continue. A failing job
    does not end a multirun, with any launcher: all failures are listed at its end, with exit code 1.
    """
    outcomes = MultirunStart.outcomes = Outcomes()
    composed = False
    launcher_error = ""

    def job(config: DictConfig) -> None:
        nonlocal composed
        composed = True
        if HydraConfig.get().mode is RunMode.RUN:
            _run_alone(config, run, traceback_wanted=traceback_wanted)
        else:
            _run_in_multirun(config, run, outcomes)

    try:
        check_processes(os.environ)
    except UserError as error:  # told by every process: these are no launcher's
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    traceback_wanted = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors, which are printed here as one line
    try:
        check_arguments(sys.argv[1:])
        if own := config_folder(sys.argv[1:]):
            share_own(own)
            if any(argument.startswith(f"{CONFIG_DIR}=") for argument in sys.argv[1:]):
                sys.argv.append(f"--config-dir={own}")  # of two, Hydra takes the last
        share_tuned(sys.argv[1:])
        sys.argv[1:] = options_first(quoted_ids(sys.argv[1:]))
        with no_look_for_mode(sys.argv[1:]):
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()
    except (HydraException, OmegaConfBaseException, MarkedYAMLError, UserError) as error:
        if traceback_wanted:
            raise
        _stop(one_line(error), 2)
    except _NothingKept as error:  # which tells each failure as it comes
        _stop(str(error), 1 if outcomes.failures() else 2)
    except (Interrupted, _MultirunStopped) as error:
        _stop("\n  ".join([str(error), *outcomes.failures()[:-1]]), 3)  # the last is the interrupted job
    except Exception as error:
        launcher_error = _launcher_error(error, outcomes, composed=composed, raised=traceback_wanted)
    finally:
        if not traceback_wanted:
            del os.environ["HYDRA_FULL_ERROR"]
    if outcomes.folder is not None and not composed and not outcomes.folder.exists():
        _stop(f"{_command()} means no cell at all: give at least one value for each setting", 2)
    failures = outcomes.failures()
    if failures or launcher_error:
        listing = "\n  ".join(failures)
        _stop(f"{len(failures)} of this sweep's cells failed:\n  {listing}{launcher_error}", 1)


def _launcher_error(error: Exception, outcomes: Outcomes, *, composed: bool, raised: bool) -> str:
    """The last line of a multirun whose launcher ended early; ends with its line where no job has started."""
    own_files = isinstance(error, OSError) and outcomes.folder is not None  # a job's own errors stay within it
    if raised or (composed and not own_files):
        raise error
    if outcomes.folder is None or not outcomes.folder.exists():
        _stop_before_jobs(error, outcomes)
    return f"\n  the launcher ended early, and other jobs may still run ({first_line(error)}): run the same again"


def _command() -> str:
    return shortened(" ".join(sys.argv[1:]), 200)


def _stop_before_jobs(error: Exception, outcomes: Outcomes) -> None:
    """End with the line of an error before the first job: Hydra's, the disk's, or a launcher's without a cluster."""
    if isinstance(error, OSError) and outcomes.folder is not None:
        _stop(f"{outcomes.folder.parent} cannot be written ({error.strerror}): give another results=DIR", 2)
    # one of Hydra's names no override, as for task=null
    reason = one_line(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {first_line(error)}"
    _stop(f"{_command()} is not possible: {reason}", 2)


def _run_alone(config: DictConfig, run: Callable[[Plan], object], *, traceback_wanted: bool) -> None:
    try:
        _run(config, run)
    except (UserError, CellFailed) as error:
        if traceback_wanted:
            raise
        _stop(str(error), 2 if isinstance(error, UserError) else 1, by_all=isinstance(error, NotJoined))


def _run_in_multirun(config: DictConfig, run: Callable[[Plan], object], outcomes: Outcomes) -> None:
    settings = HydraConfig.get()
    name = " ".join(_overrides())
    causes: list[str] = []
    try:
        with outcomes.job(settings.job.num, name, causes):
            _collect(config, run, causes)
    except UserError as error:  # its outcome cannot be written
        _tell_failure(name, causes)
        if _in_this_process():
            left = ", or free some space: the same command goes on with the cells that are left"
            raise _NothingKept(f"{error}{left if outcomes.failures() else ''}") from None
        raise
    _tell_failure(name, causes)


def _collect(config: DictConfig, run: Callable[[Plan], object], causes: list[str]) -> None:
    """Run one job of a multirun, with the causes of its failure added to `causes`."""
    try:
        _run(config, run)
    except Interrupted as error:
        causes.append(str(error))
        if _in_this_process():  # which got the signal
            raise _MultirunStopped(str(error)) from None
    except (UserError, CellFailed) as error:
        causes.append(str(error))
    except Exception as error:  # a bug in one job must not end the others
        traceback.print_exc()
        causes.append(f"{type(error).__name__}: {first_line(error)}")


def _in_this_process() -> bool:
    """Whether all jobs of the multirun run in this process, one after another."""
    return "BasicLauncher" in HydraConfig.get().launcher._target_


def _tell_failure(name: str, causes: list[str]) -> None:
    if causes:
        print(hide_secrets(f"failed: {name}: {causes[0]}"), file=sys.stderr)


def _run(config: DictConfig, run: Callable[[Plan], object]) -> None:
    settings, overrides = HydraConfig.get(), _overrides()
    _check_suite(settings.runtime.choices.get("suite"), settings.mode, overrides)
    check_experiment(settings.runtime.choices.get("experiment"), settings.sweeper.get("params"), overrides)
    run(plan_from(config, (*overrides, *_own_configs(overrides))))


def _overrides() -> list[str]:
    """The overrides of the job at hand as they were typed, interpolations included."""
    overrides = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    assert isinstance(overrides, list)
    return overrides


def _own_configs(overrides: list[str]) -> list[str]:
    """The override that stands for a typed --config-dir, which Hydra keeps apart from them."""
    sources = HydraConfig.get().runtime.config_sources
    found = [source.path for source in sources if source.provider == "command-line"]
    is_there = any(override.startswith(f"{CONFIG_DIR}=") for override in overrides)
    return [f"{CONFIG_DIR}={quoted(found[-1])}"] if found and not is_there else []


def _check_suite(suite: str | None, mode: RunMode | None, overrides: list[str]) -> None:
    """Raise UserError for a suite that is run as one cell, or is swept over."""
    if suite is None:
        return
    if mode is RunMode.RUN:
        raise UserError(
            f"suite={suite} is many cells: run them with -m suite={suite}, or one with row=... task=... seed=..."
        )
    if not any(override.startswith("row=") for override in overrides):  # a sweep over suites
        raise UserError(f"suite={suite} is one of several suites: give one suite a command")


def _stop(message: str, code: int, *, by_all: bool = False) -> None:
    """End with `code`; the processes of one cell end alike, and the main one alone prints it, unless `by_all`."""
    if by_all or os.environ.get("RANK", "0") == "0" or not _main_process_ends():
        print(f"error: {hide_secrets(message)}", file=sys.stderr)
    sys.exit(code)


def _main_process_ends() -> bool:
    """Wait for the main process's end, at most MAIN_PROCESS_SECONDS: true once it has ended or where it is not here.

    The launcher kills all other processes at the first one that fails, and reports that one: it has to be the main one,
    after it has printed the error. On another machine, another launcher watches it.
    """
    limit = time.monotonic() + MAIN_PROCESS_SECONDS
    main = _main_process()
    while main is not None and _runs(main):
        if time.monotonic() > limit:
            return False
        time.sleep(0.05)
    return True


def _main_process() -> psutil.Process | None:
    """The process of rank 0 among those that this one's launcher started."""
    launcher = psutil.Process().parent()
    for process in launcher.children() if launcher else []:
        with suppress(psutil.Error):  # it has just ended, or is another user's
            if process.environ().get("RANK") == "0":
                return process
    return None


def _runs(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False
