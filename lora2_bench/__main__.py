"""`python -m lora2_bench`: compose the config, run the cell, print its result."""

from lora2_bench.errors import one_line_on_interrupt


def main() -> None:
    """The command-line entry point."""
    with one_line_on_interrupt():
        from lora2_bench.config.launch import launch
        from lora2_bench.runner.run import run

        launch(run)


if __name__ == "__main__":
    main()
