"""`python -m lora2_bench.bench`: seconds per training step, beside the frozen backbone's own and PEFT's."""

from __future__ import annotations

from lora2_bench.bench.options import read_options
from lora2_bench.bench.shared import measure_shared


def main() -> None:
    """The command-line entry point."""
    options = read_options()
    if options.shared:
        measure_shared(options)
        return
    from lora2_bench.bench.measure import measure  # torch takes seconds, and wrong options are told before

    measure(options)
