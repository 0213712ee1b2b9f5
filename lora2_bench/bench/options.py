"""The benchmark's command line, read and checked without torch but for the GPU that it may ask for."""

from __future__ import annotations

import argparse
from pathlib import Path

from lora2_bench.bench.names import BASELINE, SIZE_NAMES, names
from lora2_bench.files.arguments import OneLineParser, folder, program, whole_number


def read_options() -> argparse.Namespace:
    """The checked options: sizes and cases as lists, the device as cpu or cuda. Ends for impossible ones."""
    parser = OneLineParser(
        prog=program("lora2_bench.bench"),
        description="Time one training step of every method and engine, of PEFT's LoRA and AdaLoRA, and of the frozen "
        "backbone, interleaved, and print the ratios. Weights are random: they do not change what a step costs.",
    )
    steps = whole_number(1, 10**6)
    parser.add_argument("--sizes", default="minilm", help=f"some of {','.join(SIZE_NAMES)} (default: minilm)")
    parser.add_argument("--layers", type=whole_number(1, 100), help="layers of each encoder (default: all)")
    parser.add_argument("--rounds", type=steps, default=15, help="steps of each that count (default: 15)")
    parser.add_argument("--warm-up", type=whole_number(0, 10**6), default=3, help="steps of each before them (3)")
    parser.add_argument("--only", default="", help="some cases, by parts of their names, with commas")
    parser.add_argument("--cases", default="", help="exactly these cases, by their names, with commas")
    parser.add_argument("--threads", type=whole_number(1, 1024), help="CPU threads (default: all cores)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="bf16: by autocast")
    shared = "alone and beside a busy process, with threads that sleep where they wait and that spin; prints a table"
    parser.add_argument("--shared", action="store_true", help=f"one case on the CPU, {shared}")
    parser.add_argument("--results", type=folder, default=Path("results"), help="where bench/HOST.json is written")
    parser.add_argument("--peer", action="store_true", help="whole runs beside Trainer + PEFT; --peer --help has more")
    arguments = parser.read()
    arguments.sizes = arguments.sizes.split(",")
    if arguments.shared and len(arguments.sizes) > 1:
        parser.stop(f"--shared takes one size: give one of {', '.join(arguments.sizes)} in --sizes")
    if unknown := [name for name in arguments.sizes if name not in SIZE_NAMES]:
        parser.stop(f"--sizes {unknown[0]} is unknown: give some of {', '.join(SIZE_NAMES)}")
    parts = [part for part in arguments.only.split(",") if part]
    chosen = [name for name in names() if not parts or any(part in name for part in parts)]
    if exact := [name for name in arguments.cases.split(",") if name]:
        if unknown := [name for name in exact if name not in names()]:
            parser.stop(f"--cases {unknown[0]} is unknown: give some of {', '.join(names())}")
        chosen = exact
    if not chosen:
        parser.stop(f"--only {arguments.only} is in no name: give parts of {', '.join(names())}")
    arguments.only = [BASELINE, *(name for name in chosen if name != BASELINE)]
    try:
        (arguments.results / "bench").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.stop(f"--results {arguments.results} cannot be written ({error.strerror}): give another folder")
    if arguments.device != "cpu":
        arguments.device = _device(parser, arguments.device)
    return arguments


def _device(parser: OneLineParser, wanted: str) -> str:
    import torch

    found = torch.cuda.is_available()
    if wanted == "cuda" and not found:
        parser.stop("--device cuda: torch finds no GPU here: give cpu, or auto")
    return "cuda" if found else "cpu"
