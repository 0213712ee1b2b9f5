"""`python -m lora2_bench`: compose the config, run the cell, print its result."""

from lora2_bench.config.launch import launch
from lora2_bench.runner.run import run


def main() -> None:
    """The command-line entry point."""
    launch(run)


if __name__ == "__main__":
    main()
