"""All that a GPU can show of this package's speed, in one run: `python scripts/bench_gpu.py --help`."""

from lora2_bench.bench.gpu import main

if __name__ == "__main__":
    main()
