"""`python -m lora2_bench`: compose the config, run the cell, print its result."""

from lora2_bench.files.console import console


def main() -> None:
    """The command-line entry point."""
    with console():
        from lora2_bench.config.launch import launch
        from lora2_bench.runner.run import run

        launch(run)


if __name__ == "__main__":
    main()
