"""`python -m lora2_bench.status`: see lora2_bench/sweep/status.py."""

from lora2_bench.files.console import console

if __name__ == "__main__":
    with console():
        from lora2_bench.sweep.status import main

        main()
