"""The same cells with Hugging Face's Trainer and PEFT, and with this package: `python scripts/bench_peer.py --help`."""

from lora2_bench.bench.peer import main

if __name__ == "__main__":
    main()
