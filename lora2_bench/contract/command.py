"""`lora2-bench contract METHOD`: the properties of a method, in or outside the package, one line each."""

from __future__ import annotations

import sys

from lora2_bench.errors import UserError, first_line
from lora2_bench.experiment.plan import Plan
from lora2_bench.files.arguments import program

_HELP = """usage: {program} METHOD [--config-dir=DIR] [NAME=VALUE ...]

Check what every method promises, on tiny random backbones, one line a property.

  METHOD              the name of its file, conf/method/METHOD.yaml or DIR/method/METHOD.yaml
  --config-dir=DIR    the folder of your own configs
  NAME=VALUE          as for a run: method.width=4; ranks and lengths are made small where they are not given

Exit code 0: all hold; 1: some do not; 2: no such method.
"""


def main() -> None:
    """The command-line entry point."""
    words = sys.argv[1:]
    name = program("lora2_bench.contract")
    if not words or {"-h", "--help"} & {*words}:
        print(_HELP.format(program=name), end="")
        sys.exit(0 if words else 2)
    if words[0].startswith("-") or "=" in words[0]:
        print(f"error: {words[0]} is no method's name: give it first, as in {name} lora2", file=sys.stderr)
        sys.exit(2)
    from lora2_bench.config.launch import launch

    broken: list[int] = []
    sys.argv[1:] = [f"method={words[0]}", *words[1:]]
    launch(lambda plan: broken.append(check(plan)))
    sys.exit(1 if any(broken) else 0)


def check(plan: Plan) -> int:
    """Print one line a property of the plan's method; returns how many do not hold."""
    from lora2_bench.contract.properties import PROPERTIES  # torch and PEFT take seconds; wrong words are told before
    from lora2_bench.contract.subject import SHRUNK, Subject, shrunk
    from lora2_bench.methods.base import load_method

    typed = {word.partition("=")[0].lstrip("+").removeprefix("method.") for word in plan.command}
    sizes = {key: value for key, value in SHRUNK.items() if key not in typed}
    values = {key: value for key, value in plan.cell.method.items() if key != "name"}
    kind = load_method(plan.implementation)
    subject = Subject(str(plan.cell.method["name"]), kind, shrunk(values, sizes))
    if not subject.architectures:
        raise UserError(f"method={subject.name} fits none of the contract's encoders: give it one of bert, roberta")
    width, broken = max(len(one.__name__) for one in PROPERTIES), 0
    for one in PROPERTIES:
        for architecture in subject.architectures:
            try:
                one(subject, architecture)
            except Exception as error:  # a method of one's own may fail in any way
                broken += 1
                kind_of = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
                print(f"fail  {one.__name__:{width}}  {architecture}: {kind_of}{first_line(error)}")
                break
        else:
            print(f"pass  {one.__name__:{width}}  {', '.join(subject.architectures)}")
    print(f"{subject.name}: {len(PROPERTIES) - broken} of {len(PROPERTIES)} properties hold")
    return broken
