"""`python -m lora2_bench.status`: see lora2_bench/sweep/status.py."""

from lora2_bench.errors import one_line_on_interrupt

if __name__ == "__main__":
    with one_line_on_interrupt():
        from lora2_bench.sweep.status import main

        main()
