"""`lora2-bench` and `python -m lora2_bench`: run cells, or the command that is named first (verbs.py)."""

import sys

from lora2_bench.errors import UserError
from lora2_bench.files.console import console


def main() -> None:
    """The command-line entry point."""
    with console():
        from lora2_bench.verbs import chosen

        try:
            entry = chosen(sys.argv[1:])
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        entry()


def run_cells() -> None:
    """Compose the config, run the cell, print its result."""
    from lora2_bench.config.launch import launch
    from lora2_bench.runner.run import run

    launch(run)


if __name__ == "__main__":
    main()
