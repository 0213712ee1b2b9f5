"""Where a task's rows come from: `data=mini`, `data=local` or `data=hub`. Importing this reads and loads nothing."""

from __future__ import annotations

import os
from pathlib import Path

from lora2_bench.errors import UserError
from lora2_bench.files.paths import user_path
from lora2_bench.tasks.data import Split, TaskData
from lora2_bench.tasks.spec import TaskSpec, check_source, task_spec, test_parts

SOURCES = ("mini", "local", "hub")


def load_task(name: str, source: str, *, glue_dir: str | None = None, mini_seed: int = 0) -> TaskData:
    """Load the labelled splits of one task.

    Args:
        name: the task, as in `task=rte`.
        source: "mini" (generated), "local" (files on disk) or "hub" (cache or network).
        glue_dir: the folder for "local"; the environment variable GLUE_DIR where None or empty.
        mini_seed: seed of the generator for "mini".

    Raises:
        UserError: an unknown task or source, or rows that cannot be had.
    """
    spec = task_spec(name)
    check_source(spec, source)
    if source == "mini":
        from lora2_bench.tasks.mini import mini_splits

        return TaskData(spec, "mini", mini_splits(spec, mini_seed))
    if source == "local":
        from lora2_bench.tasks.local import load_local

        return load_local(spec, local_folder(glue_dir))
    if source == "hub":
        from lora2_bench.tasks.hub import load_hub

        return load_hub(spec)
    raise UserError(f"data={source} is not a source of rows: choose one of {', '.join(SOURCES)}")


def load_test_rows(name: str, source: str, *, glue_dir: str | None = None) -> dict[str, Split]:
    """The rows of one GLUE task that have no labels, by `test_parts`' names: MNLI's have the diagnostic set among them.

    Raises UserError where they cannot be had; the package's generated tasks have none.
    """
    parts = test_parts(task_spec(name))
    if source == "local":
        from lora2_bench.tasks.local import load_local_test

        folder = local_folder(glue_dir)
        return {part: load_local_test(spec, split, folder) for part, (spec, split) in parts.items()}
    if source == "hub":
        from lora2_bench.tasks.hub import load_hub_test

        return {part: load_hub_test(spec, split) for part, (spec, split) in parts.items()}
    raise UserError(f"data={source} has no test rows: give data=local or data=hub, which are GLUE's own")


def find_rows(spec: TaskSpec, source: str, *, glue_dir: str | None = None) -> None:
    """Raise UserError where the rows of a task that is not a user's own are not on this machine; nothing is read."""
    if source == "hub":
        from lora2_bench.tasks.hub import find_hub

        find_hub(spec)
    if source == "local":
        from lora2_bench.tasks.local import find_local

        find_local(spec, local_folder(glue_dir))


def local_folder(glue_dir: str | None) -> Path:
    """The folder of `data=local`: `glue_dir`, else GLUE_DIR. Raises UserError without either."""
    folder = glue_dir or os.environ.get("GLUE_DIR")
    if not folder:
        raise UserError("data=local without a folder: set GLUE_DIR or data.dir=... to the GLUE files, or use data=mini")
    return user_path(folder, "data.dir" if glue_dir else "GLUE_DIR")
