"""The command line before Hydra reads it: options that are not there, or not safe, and settings that contradict."""

from __future__ import annotations

import difflib
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from lora2_bench.errors import UserError, first_line
from lora2_bench.files.paths import results_folder, shortened, user_path

# Hydra's own options. Its parser also takes any beginning of their names, which this one does not.
_OPTIONS: tuple[str, ...] = ("--help", "--hydra-help", "--version", "--cfg", "--resolve", "--package", "--run")
_OPTIONS += ("--multirun", "--shell-completion", "--config-path", "--config-name", "--config-dir", "--info")
_VALUED: tuple[str, ...] = ("--cfg", "--package", "--config-path", "--config-name", "--config-dir", "--info")
_VALUED += ("-c", "-p", "-cp", "-cn", "-cd", "-i")
_CHOICES: dict[str, tuple[str, ...]] = {
    "--cfg": ("job", "hydra", "all"),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
}
_CHOICES |= {"-c": _CHOICES["--cfg"], "-i": _CHOICES["--info"]}
CONFIG_DIR = "config_dir"
_SHORT = ("-h", "-c", "-p", "-r", "-m", "-sc", "-cp", "-cn", "-cd", "-i")


def check_arguments(arguments: Sequence[str]) -> None:
    """Raise UserError for an unknown option, one that runs code, and settings that change nothing; warn of doubles."""
    for argument, after in zip(arguments, [*arguments[1:], ""], strict=False):
        if argument.startswith("-"):
            _check_option(argument)
            _check_value(argument, after)
    if not any(one in ("--cfg", "-c") or one.startswith("--cfg=") for one in arguments):
        for option in ("--package", "-p", "--resolve"):  # without --cfg Hydra would run a cell
            if any(one == option or one.startswith(f"{option}=") for one in arguments):
                raise UserError(f"{option} belongs to --cfg: give --cfg job {option}")
    _check_overrides([argument for argument in arguments if not argument.startswith("-") and "=" in argument])


def options_first(arguments: Sequence[str]) -> list[str]:
    """The arguments with Hydra's options at their head: its parser refuses overrides on both sides of one."""
    options: list[str] = []
    overrides: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        is_value = before in _VALUED and "=" not in argument
        (options if argument.startswith("-") or is_value else overrides).append(argument)
    return [*options, *overrides]


def config_folder(arguments: Sequence[str]) -> Path | None:
    """The absolute folder of the user's own configs, as `--config-dir` or `config_dir=` names it.

    Raises UserError where there is no such folder.
    """
    found = None
    for before, argument in zip(["", *arguments], arguments, strict=False):
        option, equals, value = argument.partition("=")
        if option in ("--config-dir", "-cd") and equals:
            found = value
        elif option == CONFIG_DIR and equals:
            found = _unquoted(argument)
        elif before in ("--config-dir", "-cd"):
            found = argument
    if found in (None, "", "null"):
        return None
    folder = user_path(str(found), CONFIG_DIR).absolute()
    if not folder.is_dir():
        shown = shortened(str(found))
        raise UserError(f"{CONFIG_DIR}={shown} is no folder: give one with task/, method/ or recipe/ in it")
    return folder


def _unquoted(override: str) -> str:
    """The value of an override, without the quotes and escapes that Hydra wants in it. Raises UserError."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        value = OverridesParser.create().parse_override(override).value()
    except HydraException:
        raise UserError(f"{shortened(override)} cannot be read: give {CONFIG_DIR}='DIR', quotes included") from None
    return "null" if value is None else str(value)


def _check_option(argument: str) -> None:
    option = argument.partition("=")[0]
    if option.startswith("--experimental-rerun"):
        raise UserError(
            f"{option} is not possible: it would run code from a pickle; run the command in the cell's record again"
        )
    if option in _OPTIONS or option in _SHORT:
        return
    near = difflib.get_close_matches(option, (*_OPTIONS, *_SHORT), n=1)
    hint = f"did you mean {near[0]}?" if near else "--help lists the settings, which are given as NAME=VALUE"
    raise UserError(f"{option} is not an option: {hint}")


def _check_value(argument: str, after: str) -> None:
    """Raise UserError for an option whose value is missing, or none of its choices."""
    option, equals, value = argument.partition("=")
    if option not in _VALUED:
        return
    if not equals:
        value = "" if after.startswith("-") or "=" in after else after
    choices = _CHOICES.get(option, ())
    if not value and option not in ("--info", "-i"):
        raise UserError(f"{option} has no value: give {option} {choices[0] if choices else 'VALUE'}")
    if value and choices and value not in choices:
        raise UserError(f"{option} {value} is not known: choose one of {', '.join(choices)}")


def _check_overrides(overrides: Sequence[str]) -> None:
    given: dict[str, str] = {}
    for override in overrides:
        key, _, value = override.partition("=")
        name = key.lstrip("+")
        if value == "{}":
            raise UserError(f"{override} changes nothing: give {name}.NAME=VALUE, or leave it out")
        if name == "hydra/launcher" and value == "submitit_slurm":
            _check_slurm(override)
        if name == "results":  # before Hydra makes a multirun's folder below it
            results_folder(value.strip("'\""))
        if given.get(name, value) != value:  # as scripts do that append to a command
            print(f"warning: {name} is given as {given[name]} and as {value}: the last one counts", file=sys.stderr)
        given[name] = value


def _check_slurm(override: str) -> None:
    """Raise UserError where Slurm takes no jobs: submitit would print sbatch's own lines too."""
    if shutil.which("sbatch") is None:
        raise UserError(f"{override} needs Slurm's sbatch, which is not here: start from a machine that has it")
    try:
        done = subprocess.run(["scontrol", "ping"], capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:  # a part of Slurm that a machine may lack
        return
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(f"{override}: Slurm's scontrol cannot be asked ({first_line(error)}): mend it") from None
    if done.returncode:
        reason = " ".join(f"{done.stdout} {done.stderr}".split())[:200]
        raise UserError(f"{override}: Slurm's controller does not answer ({reason}): wait for it, or leave this out")


def check_processes(environment: Mapping[str, str]) -> None:
    """Raise UserError where the variables of a launcher of several processes are there, and are none's.

    Without their rendezvous address the processes would wait for each other for ever.
    """
    size = environment.get("WORLD_SIZE", "1")
    if not size.isdecimal() or int(size) < 1:
        raise UserError(f"WORLD_SIZE={size} is not possible: it must be a number of processes, or not be set")
    for name in ("RANK", "LOCAL_RANK"):
        rank = environment.get(name, "0")
        if not rank.isdecimal() or int(rank) >= int(size):
            raise UserError(f"{name}={rank} is not possible: it must be under WORLD_SIZE={size}, or not be set")
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in environment]
    if int(size) > 1 and missing:
        raise UserError(
            f"WORLD_SIZE={size} without {missing[0]} is no launcher's: unset it, or start with `accelerate launch`"
        )
