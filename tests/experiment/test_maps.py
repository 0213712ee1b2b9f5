"""What `method.targets` may say: one cell, however its maps are named."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora2_bench.backbones.backbone import MAPS
from lora2_bench.errors import UserError
from lora2_bench.experiment.maps import MAPS_BY_TYPE, in_letters
from lora2_bench.runner.setup import check_fit
from tests.composed import plan_of
from tests.conftest import ARCHITECTURES
from tests.methods.helpers import make_backbone


@pytest.mark.parametrize(
    ("targets", "letters"),
    [
        ("all-linear", list(MAPS)),
        (["query", "value"], ["q", "v"]),
        (["value_proj", "query_proj"], ["q", "v"]),
        (["dense"], ["o", "f1", "f2"]),
        (["output.dense"], ["o", "f2"]),
        (["attention.output.dense", "intermediate.dense"], ["o", "f1"]),
        (["q", "value"], ["q", "v"]),
        (["query", "q"], ["q"]),
        (["v", "q"], ["v", "q"]),  # letters keep the order that they were given in
        (["q", "q"], ["q", "q"]),  # which is refused later
        (["query", "nothing"], ["query", "nothing"]),
        ("q", "q"),
        ([1], [1]),
        (None, None),
    ],
    ids=str,
)
def test_names_of_modules_become_letters(targets: Any, letters: Any) -> None:
    assert in_letters(targets) == letters


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@given(chosen=st.sets(st.sampled_from(MAPS), min_size=1))
def test_a_models_own_names_choose_the_maps_that_they_name(architecture: str, chosen: set[str]) -> None:
    names = [name for name, letter in MAPS_BY_TYPE[architecture].items() if letter in chosen]
    backbone = make_backbone(architecture)
    ends = tuple(f".{name}" for name in names)
    meant = {name for name, _ in backbone.model.named_modules() if name.endswith(ends) and ".layer." in name}
    assert set(backbone.linear_maps(in_letters(names)).values()) == meant


@pytest.mark.parametrize("targets", ["[query,value]", "[q,value]", "[value_proj,query_proj]"])
def test_one_cell_has_one_id_however_its_maps_are_named(targets: str) -> None:
    assert (
        plan_of("method=lora", f"method.targets={targets}").cell.id
        == plan_of("method=lora", "method.targets=[q,v]").cell.id
    )
    whole = plan_of("method=lora", "method.targets=all-linear")
    assert whole.cell.id == plan_of("method=lora").cell.id and whole.cut == ()


@pytest.mark.parametrize("targets", ["[query,nothing]", "all_linear", "[]", "[q,q]"])
def test_other_targets_are_refused_with_what_is_allowed(targets: str) -> None:
    with pytest.raises(UserError, match=r"^method\.targets=.*(all-linear|without repeats)"):
        check_fit(plan_of("method=lora", f"method.targets={targets}"))
