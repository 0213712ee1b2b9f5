"""PEFT's tuners as methods: those without a file in conf/method, refused ones, and options that PEFT does not have."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import PeftConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer

from lora2_bench.config.compose import plan_of
from lora2_bench.errors import UserError
from lora2_bench.methods.base import load_method
from lora2_bench.methods.peft_tuner import PeftTuner
from lora2_bench.runner.export import export_adapter
from lora2_bench.training.state import trained_state
from tests.conftest import ARCHITECTURES
from tests.methods.helpers import make_backbone, make_method, method_class, train_steps
from tests.methods.test_contract import logits_of

# Tuners that conf/method has no file for, with options that fit the tiny widths 24 and 40.
OTHERS: dict[str, dict[str, Any]] = {
    "AdamssConfig": {},
    "BeftConfig": {},
    "DeftConfig": {"r": 3},
    "DeloraConfig": {"r": 3},
    "FrodConfig": {},
    "GloraConfig": {"r": 3},
    "GraloraConfig": {"r": 4, "gralora_k": 2},
    "HiraConfig": {"r": 3},
    "LilyConfig": {"r": 3, "num_B": 2},
    "PeanutConfig": {},
    "PsoftConfig": {"r": 3},
    "PveraConfig": {"r": 3},
    "RoadConfig": {"group_size": 8},
    "SupertuningConfig": {},
    "TinyLoraConfig": {},
    "UniLoraConfig": {"r": 3, "theta_d_length": 32},
    "VeraConfig": {"r": 3},
    "WaveFTConfig": {"n_frequency": 20},
}


def tuner_of(name: str, architecture: str, seed: int = 1, **options: Any) -> PeftTuner:
    """The tuner of `peft.<name>` on the q and v maps of a tiny backbone."""
    if not hasattr(peft, name):
        pytest.skip(f"this version of PEFT has no {name}")
    kind = load_method(f"peft.{name}")
    method = kind(kind.parse({"name": "x", "targets": ["q", "v"], **options}), 20)
    method.inject(make_backbone(architecture), torch.Generator().manual_seed(seed))
    assert isinstance(method, PeftTuner)
    return method


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", OTHERS)
def test_a_tuner_trains_starts_as_the_backbone_and_is_read_back_by_peft(
    name: str, architecture: str, tmp_path: Path
) -> None:
    before = logits_of(make_backbone(architecture).model)
    method = tuner_of(name, architecture, **OTHERS[name])
    model = method.backbone.model
    torch.testing.assert_close(logits_of(model), before, rtol=0, atol=1e-6)
    start = trained_state(method)
    train_steps(method, 4)
    moved = [key for key, value in trained_state(method).items() if not torch.equal(value, start[key])]
    assert set(method.backbone.head_parameters()) < set(moved)
    export_adapter(tmp_path / "adapter", method)
    loaded = PeftModel.from_pretrained(make_backbone(architecture).model, str(tmp_path / "adapter"))
    torch.testing.assert_close(logits_of(loaded), logits_of(model), rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        train_steps(method, 1)
    trained = logits_of(model)
    assert torch.isfinite(trained).all()
    if method.merges:
        method.merge()
        assert not any(isinstance(module, BaseTunerLayer) for module in model.modules())
        torch.testing.assert_close(logits_of(model), trained, rtol=1e-5, atol=1e-5)
    else:
        with pytest.raises(UserError, match=r"^Lily cannot be merged into the backbone's maps: keep it beside them$"):
            method.merge()


def test_every_tuner_of_peft_runs_here_or_says_why_not() -> None:
    kinds = {name for name in dir(peft) if name.endswith("Config")}
    tuners = {name for name in kinds if issubclass(getattr(peft, name), PeftConfig)} - {"PeftConfig"}
    by_file = {kind.config_class.__name__ for kind in map(method_class, _peft_files())}
    unknown = []
    for name in sorted(tuners - by_file - set(OTHERS)):
        with pytest.raises(UserError, match=rf"^method\._target_=peft\.{name} cannot be trained here: \w"):
            load_method(f"peft.{name}")
            unknown.append(name)
    assert unknown == []


def _peft_files() -> list[str]:
    from tests.methods.helpers import METHODS

    return [name for name in METHODS if issubclass(method_class(name), PeftTuner)]


# Parameters beside one map (d_in, d_out) with the tests' sizes, as docs/METHODS.md has them.
COUNTS: dict[str, Callable[[int, int], int]] = {
    "dora": lambda d_in, d_out: 3 * (d_in + d_out) + d_out,
    "rslora": lambda d_in, d_out: 3 * (d_in + d_out),
    "pissa": lambda d_in, d_out: 3 * (d_in + d_out),
    "loha": lambda d_in, d_out: 2 * 3 * (d_in + d_out),
    "oft": lambda d_in, d_out: d_in * (4 - 1) // 2,
    "boft": lambda d_in, d_out: d_in * 4 + d_out,
    "fourierft": lambda d_in, d_out: 20,
    "hra": lambda d_in, d_out: 4 * d_in,
    "miss": lambda d_in, d_out: 4 * d_out,
    "randlora": lambda d_in, d_out: math.ceil(min(d_in, d_out) / 3) * (3 + min(d_in, d_out)),
    "c3a": lambda d_in, d_out: d_in * d_out // 8,
    "shira": lambda d_in, d_out: 3 * (d_in + d_out),
    "vblora": lambda d_in, d_out: 3 * (d_in + d_out) // 4 * 8,
}


@pytest.mark.parametrize("name", [*COUNTS, "ia3", "ln_tuning"])
def test_a_tuner_has_the_parameters_that_its_formula_gives(name: str) -> None:
    shapes = ([(24, 24)] * 4 + [(24, 40), (40, 24)]) * 2
    whole = {
        "ia3": 2 * (24 + 24 + 40),  # k and v, and the input of f2
        "ln_tuning": 5 * 2 * 24,  # a scale and a shift of every norm
        "vblora": 8 * 4,  # one bank for all maps
    }
    each = COUNTS.get(name, lambda d_in, d_out: 0)
    count = sum(each(*shape) for shape in shapes) + whole.get(name, 0)
    assert make_method(name, make_backbone("bert")).parameters()["adapter"] == count


def test_the_seed_draws_the_tuner_and_nothing_else() -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    one, again, other = (trained_state(tuner_of("LoraConfig", "bert", seed=seed, r=3)) for seed in (1, 1, 2))
    torch.manual_seed(3)
    tuner_of("LoraConfig", "bert", r=3)
    names = [name for name in one if "lora_A" in name]
    assert names and all(torch.equal(one[name], again[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in names)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"r": 3, "lora_alfa": 2},
            r"method\.lora_alfa is not a setting of LoraConfig: did you mean method\.lora_alpha\?",
        ),
        ({"r": "many"}, r"method\.r=many is not possible: method\.r must be of PEFT's type int"),
        ({"use_dora": 1}, r"method\.use_dora=1 is not possible: method\.use_dora must be of PEFT's type bool"),
        ({"targets": ["q", "q"]}, r"method\.targets=.* a list without repeats"),
        (
            {"targets": ["z"]},
            r"method\.targets=.* a list of some of q, k, v, o, f1, f2, of the encoder's own .* all-linear, or null",
        ),
        ({"targets": None}, r"method\.targets=None with method\.target_modules=None: give one of the two"),
        ({"target_modules": ["query"]}, r"method\.targets=.* give one of the two"),
        ({"modules_to_save": ["x"]}, r"method\.modules_to_save is not a setting of LoraConfig: choose from "),
        ({"r": 0}, r"method\._target_=peft\.LoraConfig is not possible: "),
        ({"init_lora_weights": "eva"}, r"method\.init_lora_weights=eva is not possible: "),
        ({"targets": None, "target_modules": ["nowhere"]}, r"method\._target_=peft\.LoraConfig is not possible: "),
    ],
)
def test_options_that_peft_does_not_have_are_refused_in_one_line(options: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=f"^{line}") as error:
        tuner_of("LoraConfig", "bert", **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("sizes", [{"oft_block_size": 7}, {"oft_block_size": 48}, {"oft_block_size": 0, "r": 5}])
def test_a_block_of_oft_that_peft_would_change_is_refused(sizes: dict[str, int]) -> None:
    option, value = next((name, size) for name, size in sizes.items() if size)
    line = rf"^method\.{option}={value} is not possible: method\.{option} must be a divisor of 24, the inputs of \S+$"
    with pytest.raises(UserError, match=line):
        tuner_of("OFTConfig", "bert", **{"r": 0} | sizes)


@pytest.mark.parametrize("target", ["peft.EvaConfig", "peft.PeftModel", "peft.PeftConfig", "peft.get_peft_model"])
def test_what_is_no_tuner_is_refused(target: str) -> None:
    with pytest.raises(UserError, match=rf"^method\._target_={target} is no tuner: give a config"):
        load_method(target)


def test_any_tuner_is_named_on_the_command_line() -> None:
    plan = plan_of(["method=peft", "method._target_=peft.GraloraConfig", "+method.r=4", "+method.gralora_k=2"])
    other = plan_of(["method=peft", "method._target_=peft.HiraConfig", "+method.r=4"])
    assert (plan.implementation, plan.cell.method["name"]) == ("peft.GraloraConfig", "gralora")
    assert plan.cell.id != other.cell.id


def test_letters_stand_for_module_names_wherever_modules_are_listed() -> None:
    method = make_method("ia3", make_backbone("bert"))
    layers = {
        name: module for name, module in method.backbone.model.named_modules() if hasattr(module, "is_feedforward")
    }
    assert {name.rpartition("layer.")[2][2:] for name, module in layers.items() if module.is_feedforward} == {
        "output.dense"
    }
    assert len(layers) == 6
