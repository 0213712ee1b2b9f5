"""A backbone's weights read while libraries are imported: reading and hashing need no interpreter."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from lora2_bench.backbones.folder import find_folder, weights_files
from lora2_bench.backbones.reading import read_weights
from lora2_bench.experiment.cell import Model
from lora2_bench.files.digests import hash_files, stamped


def read_ahead(model: Model, *, path: str | None, package: str | None, folder: str | None) -> None:
    """Begin to read and hash the weights in a thread; `load_backbone` then finds both done, or waits for them.

    Whatever is wrong with the files is left for it to tell.
    """

    def read() -> None:
        root = find_folder(model, path=path, package=package, folder=folder)
        files = stamped(weights_files(root, model.name, is_pinned=model.source == "hub"))
        hash_files(files)
        read_weights(files)

    executor = ThreadPoolExecutor(1, "weights")
    executor.submit(read)
    executor.shutdown(wait=False)
