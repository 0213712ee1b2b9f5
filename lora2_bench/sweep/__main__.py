"""`python -m lora2_bench.sweep`: see lora2_bench/sweep/command.py."""

from lora2_bench.files.console import console

if __name__ == "__main__":
    with console():
        from lora2_bench.sweep.command import main

        main()
