"""`python -m lora2_bench.submission`: see lora2_bench/report/submission/command.py."""

from lora2_bench.errors import one_line_on_interrupt

if __name__ == "__main__":
    with one_line_on_interrupt():
        from lora2_bench.report.submission.command import main

        main()
