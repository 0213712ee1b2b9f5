"""`python -m lora2_bench.bench`: seconds per training step, beside the frozen backbone's own and PEFT's.

With `--peer` whole runs beside Hugging Face's Trainer with PEFT (peer.py).
"""

from __future__ import annotations

import sys


def main() -> None:
    """The command-line entry point."""
    if "--peer" in sys.argv[1:]:
        from lora2_bench.bench.peer import main as compare_with_peer

        compare_with_peer()
        return
    from lora2_bench.bench.options import read_options

    options = read_options()
    if options.shared:
        from lora2_bench.bench.shared import measure_shared

        measure_shared(options)
        return
    from lora2_bench.bench.measure import measure  # torch takes seconds, and wrong options are told before

    measure(options)
