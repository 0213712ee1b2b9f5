"""`python -m lora2_bench.tune`: see lora2_bench/tune/command.py."""

from lora2_bench.files.console import console

if __name__ == "__main__":
    with console():
        from lora2_bench.tune.command import main

        main()
