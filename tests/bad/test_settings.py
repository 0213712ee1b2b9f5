"""Every number has bounds and every setting a type: what is outside ends in one line when a plan is made."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from lora2_bench.errors import UserError
from lora2_bench.runner.preflight import check_places
from lora2_bench.runner.setup import check_fit
from tests.composed import plan_of

HUGE, VAST = 10**30, 10**400  # above 64 bits, and above every float
NAN, INF = float("nan"), float("inf")
# Setting, value, and what its line says is allowed.
NUMBERS: list[tuple[str, Any, str]] = [
    *[("kr", value, r"at most 65536") for value in (65537, 10**7, HUGE, VAST)],
    *[("kr", value, r"an integer of at least 1") for value in (0, -HUGE, 1.0, True, "8", [8], {"k": 8}, NAN)],
    *[("method.k", value, r"at most 65536") for value in (10**7, VAST)],
    *[("method.r", value, r"at most 65536") for value in (10**7, VAST)],
    ("method.r", 1e9, r"an integer of at least 1"),
    *[("seed", value, r"under 2\*\*32") for value in (2**32, 2**40)],
    *[("seed", value, r"at most 9223372036854775808") for value in (HUGE, VAST)],
    *[("seed", value, r"an integer of at least 0") for value in (-1, -VAST, 0.0, "0x1", None, [0], {})],
    *[("data.seed", value, r"at most 4294967295") for value in (2**32, VAST)],
    *[("protocol.split_seed", value, r"at most 4294967295") for value in (2**32, VAST)],
    *[("threads", value, r"at most 1024") for value in (1025, 10**6, HUGE, VAST)],
    *[("threads", value, r"an integer of at least 1, or null") for value in (0, -1, 1.5, "all", False, [1])],
    *[("eval_batch_size", value, r"at most 65536") for value in (10**6, HUGE, VAST)],
    *[("eval_batch_size", value, r"an integer of at least 1") for value in (0, 2.0, None, "64")],
    *[("train.batch_size", value, r"at most 65536") for value in (10**6, HUGE, VAST)],
    *[("train.batch_size", value, r"an integer of at least 1") for value in (0, -8, 8.0, None, "8")],
    *[
        ("train.accumulate", value, r"at most 1000000000|a divisor of train\.batch_size=32")
        for value in (64, HUGE, VAST)
    ],
    *[("train.max_length", value, r"at most 65536") for value in (10**5, HUGE, VAST)],
    *[("train.max_length", value, r"an integer of at least 8") for value in (7, 0, 64.0, None)],
    *[("train.max_steps", value, r"at most 1000000000") for value in (10**10, VAST)],
    *[("train.eval_steps", value, r"at most 1000000000") for value in (10**10, VAST)],
    *[("train.looks", value, r"at most 1000000000") for value in (10**10, VAST)],
    *[("looks", value, r"at most 1000000000|an integer of at least 1") for value in (VAST, 0, -1, 2.5, "all", [3], {})],
    *[("train.epochs", value, r"a number above 0") for value in (1e7, HUGE, VAST, 0, -1, NAN, INF, None, "3", [3])],
    *[
        ("train.lr", value, r"a number above 0, at most 10")
        for value in (11, HUGE, VAST, -VAST, 1e-320, [1e-3], {}, True)
    ],
    *[("train.weight_decay", value, r"a number from 0 to 10") for value in (11, VAST, -0.1, NAN, None, "0")],
    *[
        ("train.warmup", value, r"a share of all steps|must be under the run's")
        for value in (VAST, HUGE, -1, 2.5, NAN, None, "6%")
    ],
    *[("train.max_grad_norm", value, r"a number of at least 0") for value in (VAST, -1, NAN, None)],
    *[("train.adam_eps", value, r"a number above 0, at most 1") for value in (2, VAST, 0, None)],
    *[("train.cls_dropout", value, r"a number from 0 to 0\.99, or null") for value in (1, -0.1, VAST, "0")],
    *[("data.max_train", value, r"at most 1000000000") for value in (10**10, VAST)],
    *[("data.max_eval", value, r"at most 1000000000") for value in (10**10, VAST)],
    *[("data.max_eval", value, r"an integer of at least 1, or null") for value in (0, 1.0, "10%", [1])],
    *[("checkpoint.steps", value, r"at most 1000000000") for value in (10**10, VAST)],
    *[("checkpoint.steps", value, r"an integer of at least 1, or null") for value in (0, 1.5, "x")],
    *[("checkpoint.minutes", value, r"a number of at least 0, or null") for value in (-1, NAN, INF, VAST, "2m")],
    *[("export.rank", value, r"at most 65536") for value in (10**6, VAST)],
    *[("method.alpha", value, r"a number above 0") for value in (0, 1e9, VAST, NAN, None, "32")],
    *[("method.init_std", value, r"a number above 0") for value in (0, VAST, NAN)],
    *[("method.reg.gamma", value, r"a number of at least 0") for value in (-1, VAST, NAN, None)],
    *[("method.budget.delta_t", value, r"") for value in (0, VAST, NAN, None, "x")],
    *[("method.budget.target_r", value, r"at (least 0|most 8)") for value in (-1, 9, VAST, NAN, "x")],
    *[("rng_version", value, r"2, or 1") for value in (0, 3, 2.0, VAST, None, "2", [2], {})],
]
OTHERS: list[tuple[str, str, Any, str]] = [
    ("vera", "method.r", 10**8, r"at most 65536"),
    ("lora", "method.r", 10**8, r"at most 65536"),
    ("sora", "method.r", VAST, r"at most 65536"),
    ("adalora", "method.r", HUGE, r"at most 65536"),
    ("dylora", "method.r", VAST, r"at most 65536"),
    ("prefix", "method.length", 10**8, r"at most (4096|65536)"),
    ("ptuning_v2", "method.length", VAST, r"at most (4096|65536)"),
    ("prompt", "method.length", 10**8, r"at most (4096|65536)"),
    ("p_tuning", "method.length", 10**8, r"at most (4096|65536)"),
    ("p_tuning", "method.encoder_width", 10**8, r"at most 65536"),
    ("sora", "method.xi_schedule.stages", VAST, r"at most 1000000000"),
    ("vera", "method.d_init", VAST, r"a number"),
]
TYPES: list[tuple[str, Any, str]] = [
    *[
        (name, [], r"must be")
        for name in ("device", "engine", "rerun", "results", "task.name", "method.name", "tracker.name")
    ],
    *[
        (name, {}, r"must be")
        for name in ("device", "engine", "rerun", "results", "model.name", "data.source", "model.source")
    ],
    *[(name, {"a": 1}, r"must be") for name in ("train.schedule", "train.precision", "method.score", "protocol.name")],
    *[("method.targets", value, r"method\.targets") for value in ([[1]], [{"q": 1}], [None], {"q": 1}, 3, "qv")],
    *[("method.reg.on", value, r"method\.reg\.on") for value in ([["uv"]], [{"uv": 1}], [None], {}, 3)],
    *[("method.size", value, r"method\.size") for value in ([], {}, 3, "nope")],
    *[
        ("method._target_", value, r"method\._target_")
        for value in ([], {}, 3, None, "", "x", ".x", "a..b", "os.system", "1.2")
    ],
    *[
        ("results", value, r"results")
        for value in ("", " ", "-x", "~nosuchuser", "a\0b", "a\nb", "\ud800", 3, "a" * 300)
    ],
    *[("init_from", value, r"init_from") for value in ([], {}, 3, "../x", "0" * 15, "G" * 16, "0" * 17)],
    *[("tracker.name", value, r"tracker\.name") for value in ("Wandb", "", None, 3)],
    *[("model.package", value, r"model\.package") for value in ("../x", "torch.nn", "", 3, None, [])],
    *[("task.name", value, r"task") for value in ("RTE", "", "../rte", None, 3)],
]


def line_of(*overrides: str, **changes: Any) -> str:
    with pytest.raises(UserError) as told:
        plan = plan_of(*overrides, changes=changes)
        check_places(plan)
        check_fit(plan)
    line = str(told.value)
    assert line and "\n" not in line and len(line) < 1000
    return line


def shown(part: Any) -> str:
    return str(part)[:24]


@pytest.mark.parametrize(("name", "value", "pattern"), [*NUMBERS, *TYPES], ids=shown)
def test_a_value_outside_its_bounds_is_one_line(name: str, value: Any, pattern: str) -> None:
    line = line_of(**{name: value})
    assert re.search(pattern, line) and name.partition(".")[0] in line, line


@pytest.mark.parametrize(("method", "name", "value", "pattern"), OTHERS, ids=shown)
def test_so_is_that_of_other_methods(method: str, name: str, value: Any, pattern: str) -> None:
    line = line_of(f"method={method}", **{name: value})
    assert re.search(pattern, line) and line.startswith(f"{name}="), line


@pytest.mark.parametrize(
    "words",
    ["kr=10000000", "threads=1000000", f"train.batch_size={HUGE}", f"seed={'9' * 5000}", "train.lr=1e999", "looks=x"],
    ids=shown,
)
def test_the_users_own_entry_ends_so_too(words: str, one_line: Callable[..., str]) -> None:
    assert words.partition("=")[0].rpartition(".")[2] in one_line("run", words)
