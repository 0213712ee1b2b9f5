"""`python -m lora2_bench.status`: see lora2_bench/sweep/status.py."""

from lora2_bench.sweep.status import main

if __name__ == "__main__":
    main()
