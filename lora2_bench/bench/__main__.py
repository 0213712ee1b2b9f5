"""`python -m lora2_bench.bench`: see lora2_bench/bench/command.py."""

from lora2_bench.files.console import console

if __name__ == "__main__":
    with console():
        from lora2_bench.bench.command import main

        main()
