"""`python -m lora2_bench.contract METHOD`."""

from lora2_bench.contract.command import main
from lora2_bench.files.console import console

if __name__ == "__main__":
    with console():
        main()
