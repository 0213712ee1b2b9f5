"""`python -m lora2_bench.publish`: see lora2_bench/tracking/publish.py."""

from lora2_bench.files.console import console

if __name__ == "__main__":
    with console():
        from lora2_bench.tracking.publish import main

        main()
