"""Checkpoints of a running cell: written atomically, the last two kept, and all removed at the cell's end."""

from __future__ import annotations

import hashlib
import shutil
import sys
import time
import warnings
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from lora2_bench.experiment.plan import CheckpointSchedule
from lora2_bench.files.writing import write_whole

_KEPT = 2


class Checkpoints:
    """The checkpoints of one cell in one folder.

    Args:
        folder: where they are written.
        schedule: when one is due.
        origin: the cell's id, its total steps, and hashes of data and backbone; a checkpoint with another origin is
            not continued, and a line says so.
        code: commit and dirty flag of the running code; a checkpoint of other code is continued, and a line says so.

    Attributes:
        newest_step: step of the newest checkpoint, 0 for none.
        code_before: the other commits, with their dirty flags, that trained what was loaded.
        seconds_before: that the processes before this one took up to what was loaded.
    """

    def __init__(
        self, folder: Path, schedule: CheckpointSchedule, origin: dict[str, Any], code: dict[str, Any]
    ) -> None:
        self.folder = folder
        self.schedule = schedule
        self.origin = origin
        self.code = code
        self.code_before: list[dict[str, Any]] = []
        self.newest_step = 0
        self.seconds_before = 0.0
        self._began = self._last = time.monotonic()

    def due(self, step: int) -> bool:
        """True where a checkpoint should be written after `step`."""
        minutes = self.schedule.minutes
        by_time = minutes is not None and time.monotonic() - self._last >= 60 * minutes
        return by_time or (self.schedule.steps is not None and step % self.schedule.steps == 0)

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write the state after `step` and drop all but the last two.

        Where that fails (a full disk, say), a line says so and the earlier ones stay: training can go on.
        """
        self._last = time.monotonic()
        path = self._path(step)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            values = {"origin": self.origin, "code": [*self.code_before, self.code], "step": step, "state": state}
            values["seconds"] = self.seconds_before + self._last - self._began
            write_whole(path, partial(torch.save, {"sha256": content_digest(values), **values}))
        except (OSError, RuntimeError) as error:  # torch's writer makes a RuntimeError of a failed write
            reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
            stays = f"step {self.newest_step} is still kept" if self.newest_step else "none is kept so far"
            line = f"warning: {path} cannot be written ({reason}): {stays}, and training goes on"
            tqdm.write(line, file=sys.stderr)  # without breaking the progress bar
            return
        self.newest_step = step
        for old in self._paths()[:-_KEPT]:
            with suppress(OSError):  # a folder in its place, say
                old.unlink()

    def load(self) -> dict[str, Any] | None:
        """The newest readable state, or None. Tensors and plain data only: nothing in it is executed."""
        for unfinished in self.folder.glob(".step-*"):  # left by a writer that was killed
            with suppress(OSError):  # a folder in its place, say
                unfinished.unlink()
        for path in reversed(self._paths()):
            try:
                if not path.is_file():  # to open a pipe would wait for ever
                    raise ValueError("it is no file")
                with warnings.catch_warnings(action="ignore"):  # of what a foreign pickle would need
                    found = torch.load(path, map_location="cpu", weights_only=True)
                if found.pop("sha256") != content_digest(found):
                    raise ValueError("its content is not what was written")
                state: dict[str, Any] = found["state"]
                origin, code, step = found["origin"], found["code"], found["step"]
                seconds = float(found.get("seconds", 0.0))  # earlier versions wrote none
                if type(state) is not dict:
                    raise ValueError("it holds no state")
                if path != self._path(step):
                    raise ValueError(f"it holds step {step}")
                other = [name for name in self.origin if origin.get(name) != self.origin[name]]
                names = [_commit_name(one) for one in code]
            except Exception as error:  # whatever a truncated or foreign file makes of torch's reader
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                print(f"warning: {path} cannot be read ({reason}): an earlier one is tried", file=sys.stderr)
                continue
            if other:
                print(f"warning: {path} is of another run ({', '.join(other)}): the cell starts anew", file=sys.stderr)
                return None
            self.newest_step, self.seconds_before = step, seconds
            self.code_before = [one for one in code if one != self.code]
            if self.code_before:
                print(
                    f"warning: {path} was trained by {names[-1]}, {_commit_name(self.code)} goes on with "
                    "it; the record will name both",
                    file=sys.stderr,
                )
            return state
        return None

    def remove(self) -> None:
        """Remove all checkpoints, once the record is written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}.pt"

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.pt"))


def _commit_name(code: dict[str, Any]) -> str:
    """A `code_state` in a few words."""
    if code["sha"] is None:
        return "an installed package"
    return f"commit {code['sha'][:10]}" + (" with changes" if code["dirty"] else "")


def content_digest(value: Any) -> str:
    """SHA-256 over plain data and tensors, nested in dicts and lists: a bit that flips on disk is found on reading."""
    digest = hashlib.sha256()

    def add(item: Any) -> None:
        digest.update(f"{type(item).__name__}\0".encode())
        if isinstance(item, torch.Tensor):
            flat = item.detach().cpu().contiguous().reshape(-1)
            digest.update(f"{item.dtype}{tuple(item.shape)}\0".encode())
            digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
        elif isinstance(item, dict):
            for key, part in item.items():
                add(key)
                add(part)
        elif isinstance(item, list | tuple):
            for part in item:
                add(part)
        else:
            digest.update(f"{item!r}\0".encode())

    add(value)
    return digest.hexdigest()
