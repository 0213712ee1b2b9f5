"""The command line's side of a run: what stops before training, with which line; and every published recipe."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from lora2_bench.config import compose
from lora2_bench.config.compose import CONF, plan_from
from lora2_bench.config.compose import plan_of as made_plan
from lora2_bench.config.launch import launch
from lora2_bench.errors import CellFailed, UserError
from lora2_bench.experiment.plan import Plan
from lora2_bench.experiment.suites import rows
from lora2_bench.runner.setup import check_fit
from lora2_bench.tasks.spec import TASKS
from tests.composed import composed, leaves, plan_of

ROOT = Path(__file__).resolve().parents[2]
MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))


@dataclass
class Told:
    code: int
    out: str
    err: str
    plans: list[Plan]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Told]]:
    """`python -m lora2_bench ARGUMENTS` in this process, up to where a run would begin to load things."""

    def call(*arguments: str, run: Callable[[Plan], Any] = check_fit) -> Told:
        monkeypatch.setattr(sys, "argv", ["lora2_bench", *arguments])
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        plans: list[Plan] = []

        def taken(plan: Plan) -> None:
            plans.append(plan)
            run(plan)

        code = 0
        try:
            launch(taken)
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Told(code, *capfd.readouterr(), plans)

    return call


def python(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, check=False, timeout=120
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


# Wrong command lines -> what the one line must say: the value, and what is allowed or the way out.
WRONG_COMMANDS = {
    "task=foo": ["task=foo", *TASKS],
    "model=foo": ["model=foo", *MODELS],
    "method=foo": ["method=foo", *METHODS],
    "data=foo": ["data=foo", "mini", "local", "hub"],
    "protocol=foo": ["protocol=foo", "paper", "clean"],
    "tracker=foo": ["tracker=foo", "none", "wandb"],
    "row=foo": ["row=foo", "lora_r1", "lora2_k8"],
    "row=[full,bitfit]": ["row=[full,bitfit]", "-m row=A,B"],
    "suite=foo": ["suite=foo", "smoke", "table1", "roberta_large"],
    "suite=table1": ["suite=table1 is many cells", "-m suite=table1", "row=..."],
    "suite=table1 row=full task=rte seed=0": ["suite=table1 is many cells"],
    "task=null": ["task=null"],
    "data=3": ["data=3"],
    "task=rte,mrpc": ["task=rte,mrpc", "-m"],
    "task=[rte,mrpc]": ["task=[rte,mrpc]", "-m task=A,B"],
    "train.foo=1": ["train.foo is not a setting: did you mean train."],
    "+train.learning_rate=1": ["train.learning_rate", "lr"],
    "+method.aplha=1": ["method.aplha", "did you mean method.alpha?"],
    "+sed=1": ["sed", "did you mean seed?"],
    "+nothing.like.it=1": ["nothing", "leave it out"],
    "seed": ["seed", "NAME=VALUE"],
    "=3": ["=3"],
    "kr=[1": ["kr=[1", "NAME=VALUE"],
    "recipe=foo": ["recipe=foo", "MODEL/METHOD"],
    "recipe=minilm/foo": ["model=minilm", "method=foo", "recipe=MODEL/METHOD"],
    "model=deberta_v3_base task=wnli": ["task=wnli", "deberta_v3_base", "lora2", "cola", "recipe=MODEL/METHOD"],
    "method=full kr=8": ["kr=8", "method=full", "leave kr out"],
    "kr=8 method.k=4": ["method.k=4", "kr=8"],
    "model=local": ["model.path", "model.path=..."],
    "train.lr=${foo}": ["foo"],
    "~train.lr": ["train.lr", "train.lr=..."],
}


@pytest.mark.parametrize("line", WRONG_COMMANDS)
def test_a_wrong_command_stops_with_one_line(line: str, command: Callable[..., Told]) -> None:
    told = command(*line.split())
    assert told.code == 2, told
    assert told.err.startswith("error: ")
    assert told.err.count("\n") == 1, told.err
    assert told.out == ""
    for part in WRONG_COMMANDS[line]:
        assert part in told.err


# Wrong values in an otherwise good config. Name, value, what the line must say beside NAME=VALUE.
NAN, INF = float("nan"), float("inf")
WRONG_VALUES: list[tuple[str, Any, str]] = [
    ("kr", 0, "at least 1"),
    ("kr", -3, "at least 1"),
    ("kr", "x", "an integer"),
    ("kr", 1.5, "an integer"),
    ("seed", -1, "at least 0"),
    ("seed", "x", "an integer"),
    ("seed", 1.5, "an integer"),
    ("seed", True, "an integer"),
    ("seed", 2**32, "under 2**32"),
    ("rerun", "maybe", "true or false"),
    ("predict_test", 1, "true or false"),
    ("retention", "stsb", "null, all, or a list of some of sts, probe, mlm, weights"),
    ("retention", [], "null, all, or a list of some of sts, probe, mlm, weights"),
    ("lr_factor", 0, "a number above 0"),
    ("keep", "all", "weights, adapter, nothing"),
    ("keep", ["weights"], "weights, adapter, nothing"),
    ("results", None, "a folder"),
    ("device", "tpu", "auto, cpu, cuda"),
    ("threads", 0, "at least 1"),
    ("engine", "turbo", "fast, plain"),
    ("masks", "mt19937", "auto, torch, sfc64"),
    ("eval_batch_size", 0, "at least 1"),
    ("tracker.name", "foo", "none, wandb"),
    ("train.batch_size", 0, "at least 1"),
    ("train.batch_size", 8.5, "an integer"),
    ("train.accumulate", 0, "at least 1"),
    ("train.accumulate", 5, "a divisor of train.batch_size=32"),
    ("train.lr", NAN, "a number above 0"),
    ("train.lr", INF, "a number above 0"),
    ("train.lr", 0, "a number above 0"),
    ("train.lr", -1e-3, "a number above 0"),
    ("train.lr", "fast", "a number above 0"),
    ("train.lr", None, "a number above 0"),
    ("train.head_lr", 0, "a number above 0, at most 10, or null"),
    ("train.head_lr", "fast", "a number above 0, at most 10, or null"),
    ("export.rank", 0, "an integer of at least 1, or null"),
    ("export.rank", "all", "an integer of at least 1, or null"),
    ("export.merged", 1, "true or false"),
    ("train.epochs", 0, "a number above 0"),
    ("train.epochs", -1, "a number above 0"),
    ("train.epochs", NAN, "a number above 0"),
    ("train.max_steps", 0, "at least 1, or null"),
    ("train.eval_steps", 0, "at least 1, or null"),
    ("train.looks", 0, "at least 1, or null"),
    ("train.looks", 1.5, "at least 1, or null"),
    ("train.weight_decay", -0.1, "from 0"),
    ("train.schedule", "polynomial", "linear, cosine, constant"),
    ("train.warmup", -1, "a share of all steps"),
    ("train.warmup", 1.5, "a share of all steps"),
    ("train.warmup", INF, "a share of all steps"),
    ("train.warmup", NAN, "a share of all steps"),
    ("train.max_grad_norm", -1, "at least 0"),
    ("train.adam_beta1", 1, "under 1"),
    ("train.adam_beta2", -0.1, "under 1"),
    ("train.adam_eps", 0, "above 0"),
    ("train.max_length", 4, "at least 8"),
    ("train.cls_dropout", 1, "0.99"),
    ("train.precision", "fp16", "fp32, bf16"),
    ("data.max_train", 0, "at least 1"),
    ("data.max_eval", -5, "at least 1"),
    ("data.seed", None, "an integer"),
    ("data.dir", 3, "a folder"),
    ("protocol.held_out", 0.2, "0 under protocol=paper"),
    ("protocol.split_seed", -1, "at least 0"),
    ("model.source", "zip", "package, hub, local"),
    ("method.k", 0, "at least 1"),
    ("method.k", 2.0, "an integer"),
    ("method.r", 0, "at least 1"),
    ("method.alpha", 0, "above 0"),
    ("method.dropout", 1.0, "0.99"),
    ("method.targets", ["q", "x"], "q, k, v, o, f1, f2"),
    ("method.targets", ["q", "q"], "without repeats"),
    ("method.targets", [], "q, k, v, o, f1, f2"),
    ("method.targets", "q", "a list"),
    ("method.init_std", 0, "above 0"),
    ("method.score", "half", "reduced, full"),
    ("method.size", "foo", "k, r"),
    ("method.reg.on", ["uv", "zz"], "uv, UV, PQ"),
    ("method.reg.on", "uv", "a list"),
    ("method.reg.form", "cubic", "norm_mean, squared_sum"),
    ("method.reg.gamma", -1, "at least 0"),
    ("method.reg.mean_over", "some", "all, chosen"),
    ("rng_version", 3, "2, or 1"),
    ("rng_version", True, "2, or 1"),
    ("method.budget.target_r", 9, "at most 8"),
    ("method.budget.target_r", -1, "at least 0"),
    ("method.budget.t_init", -1, "a share of all steps"),
    ("method.budget.delta_t", 0, "above 0"),
    ("method.budget.scale", 1, "true or false"),
    ("init_from", "mnli", "16 digits"),
    ("init_from", 3, "16 digits"),
    ("train.warmup", 500, "under the run's 189 steps"),
    ("method.budget.beta1", 1, "under 1"),
    ("method._target_", "lora2_bench.runner.run.run", "derive it from"),
    ("method._target_", "nowhere.LoRA", "cannot be imported"),
    ("method._target_", "LoRA", "MODULE.CLASS"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), WRONG_VALUES, ids=lambda part: str(part)[:30])
def test_a_wrong_value_is_named_with_what_is_allowed(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(UserError) as told:
        check_fit(plan_of(changes={name: value}))
    message = str(told.value)
    typed = json.dumps(value) if value is None or value is True else value
    assert f"{name}={typed}" in message
    assert allowed in message
    assert "\n" not in message


WRONG_FOR_OTHERS: list[tuple[str, str, Any, str]] = [
    ("adalora", "method.r", 0, "at least 1"),
    ("adalora", "method.reg.form", "cubic", "norm_mean, squared_sum"),
    ("adalora", "method.budget.target_r", 3, "at most 2"),
    ("adalora", "method.init_std", 0, "above 0"),
    ("sora", "method.r", 0, "at least 1"),
    ("sora", "method.xi", -1, "at least 0"),
    ("sora", "method.l1", NAN, "at least 0"),
    ("sora", "method.l1_form", "cubic", "sum, mean"),
    ("sora", "method.xi_schedule.max_xi", -1, "at least 0"),
    ("sora", "method.xi_schedule.stages", 1, "at least 2"),
    ("sora", "method.xi_schedule.first", -1, "a share of all steps"),
    ("bitfit", "kr", 2, "leave kr out"),
]


@pytest.mark.parametrize(("method", "name", "value", "allowed"), WRONG_FOR_OTHERS, ids=lambda part: str(part)[:30])
def test_a_wrong_value_of_another_method_too(method: str, name: str, value: Any, allowed: str) -> None:
    with pytest.raises(UserError) as told:
        check_fit(plan_of(f"method={method}", changes={name: value}))
    assert f"{name}={value}" in str(told.value) and allowed in str(told.value)


@pytest.mark.parametrize("name", ["train", "task", "model", "data", "protocol", "tracker", "method", "recipe"])
@pytest.mark.parametrize("value", [3, None, "x"])
def test_a_section_that_is_overwritten_is_named(name: str, value: Any) -> None:
    config = composed()
    OmegaConf.resolve(config)
    config[name] = value
    with pytest.raises(UserError, match=f"{name}=(3|null|x) is not possible"):
        plan_from(config)


@pytest.mark.parametrize(
    ("method", "name"), [("lora2", "method.reg"), ("lora2", "method.budget"), ("sora", "method.xi_schedule")]
)
def test_a_section_of_a_method_that_is_overwritten_is_named(method: str, name: str) -> None:
    config = composed(f"method={method}")
    OmegaConf.update(config, name, 3, merge=False)
    with pytest.raises(UserError, match=f"{name}=3 is not possible"):
        check_fit(plan_from(config))


@pytest.mark.parametrize("name", [name for name in leaves(composed()) if not name.startswith(("recipe.", "hydra."))])
def test_a_value_that_is_taken_away_never_ends_in_a_traceback(name: str) -> None:
    """Most are named as missing; where a folder or path is not needed, nothing happens."""
    config = composed()
    OmegaConf.resolve(config)
    OmegaConf.set_struct(config, False)
    section, _, key = name.rpartition(".")
    del (OmegaConf.select(config, section) if section else config)[key]
    try:
        check_fit(plan_from(config))
    except UserError as error:
        assert key in str(error)
        assert "\n" not in str(error)
    else:
        places = {"data.dir", "model.path", "model.package", "model.folder", "tracker.name"}
        assert name in places | {"method.budget.scale", "train.looks", "train.head_lr"}


def test_budget_phases_over_the_number_of_steps_are_named_with_both_numbers() -> None:
    changes = {"method.budget.t_init": 100, "method.budget.t_final": 89}
    with pytest.raises(UserError) as told:
        check_fit(plan_of(changes=changes))
    for part in ("t_init=100", "t_final=89", "189 steps", "method.budget.t_init=0.1"):
        assert part in str(told.value)
    check_fit(plan_of(changes={**changes, "method.budget.t_final": 88}))


@pytest.mark.parametrize(("name", "value"), [("train.max_steps", 100), ("data.max_train", 600), ("train.epochs", 1)])
def test_a_cut_run_is_measured_by_its_own_steps(name: str, value: int) -> None:
    changes = {"method.budget.t_init": 60, "method.budget.t_final": 60}
    check_fit(plan_of(changes=changes))
    with pytest.raises(UserError, match="must be under the run's"):
        check_fit(plan_of(changes={**changes, name: value}))


def test_a_local_backbone_needs_a_folder_with_weights(tmp_path: Path) -> None:
    for path, said in ((tmp_path / "nowhere", "not a folder"), (tmp_path, "no model.safetensors")):
        with pytest.raises(UserError, match=said) as told:
            plan_of("model=local", changes={"model.path": str(path)})
        assert f"model.path={path.name}" in str(told.value)
    with pytest.raises(UserError, match=r"model\.path=null is not possible"):
        plan_of("model=local", changes={"model.path": None})


def test_a_gpu_that_is_not_there_is_told_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match="device=cuda: torch finds no GPU here: give device=cpu"):
        check_fit(plan_of(changes={"device": "cuda"}))


def test_every_choice_of_help_exists_and_every_choice_is_in_help(bench: Callable[..., Any]) -> None:
    told = bench("--help").out
    for group in ("model", "task", "method", "data", "protocol", "tracker"):
        line = re.search(rf"^ +{group} +(.+(?:\n {{12}}.+)*)$", told, re.MULTILINE)
        assert line is not None, group
        choices = set(re.sub(r"\(.*?\)|\s", "", line[1]).split(","))
        assert choices == {path.stem for path in (CONF / group).glob("*.yaml")}


@pytest.mark.parametrize(
    ("changes", "cut"),
    [
        ({}, ()),
        ({"seed": 3, "kr": 8}, ()),
        (
            {"train.weight_decay": 0.1, "method.alpha": 8},
            ("train.weight_decay=0.1 (recipe: 0.0)", "method.alpha=8 (recipe: 128)"),
        ),
        ({"method.targets": ["q"]}, ("method.targets=[q] (recipe: [q,k,v,o,f1,f2])",)),
        ({"method.budget.target_r": None}, ("method.budget.target_r=null (recipe: 4)",)),
        ({"method.budget.scale": True}, ()),
        (
            {"method.budget.scale": True, "method.budget.t_init": 0.2},
            ("method.budget.t_init=0.2 (recipe: 0.1)",),
        ),
        ({"train.lr": 1e-3, "train.epochs": 5.0}, ()),
        ({"train.max_steps": 10}, ("train.max_steps=10",)),
        ({"data.max_train": 64, "data.max_eval": 32}, ("data.max_train=64", "data.max_eval=32")),
        ({"train.lr": 5e-4}, ("train.lr=0.0005 (recipe: 0.001)",)),
        ({"train.head_lr": 5e-4}, ("train.head_lr=0.0005 (recipe: null)",)),
        (
            {"train.epochs": 1, "train.batch_size": 16},
            ("train.epochs=1 (recipe: 5)", "train.batch_size=16 (recipe: 32)"),
        ),
    ],
    ids=str,
)
def test_a_quick_look_is_marked_as_cut(changes: dict[str, Any], cut: tuple[str, ...]) -> None:
    recipe = {"recipe.lr": 1e-3, "recipe.epochs": 5}
    assert plan_of(changes={**recipe, **changes}).cut == cut


@pytest.mark.parametrize(
    ("overrides", "cut"),
    [
        (["recipe.lr=0.1"], ("recipe.lr=0.1",)),
        (["++recipe.lr=0.1", "seed=3"], ("recipe.lr=0.1",)),
        (["recipe={lr:0.1}"], ("recipe={lr:0.1}",)),
        (["recipe=roberta_base/lora2"], ("recipe=roberta_base/lora2",)),
        (["recipe=minilm/lora2"], ()),
        (["row=targets_qv"], ()),
        (["kr=1", "method.targets=[v,q]"], ()),  # the very cell of that row
        (["kr=8", "method.targets=[v,q]"], ("method.targets=[v,q] (recipe: [q,k,v,o,f1,f2])",)),
        (["method=adalora", "kr=8"], ()),
        (["method=adalora", "kr=8", "method.budget.target_r=2"], ("method.budget.target_r=2 (recipe: 4)",)),
    ],
    ids=" ".join,
)
def test_another_recipe_is_marked_too(overrides: list[str], cut: tuple[str, ...]) -> None:
    assert made_plan(overrides).cut == cut


@pytest.mark.slow
@pytest.mark.parametrize("model", ["deberta_v3_base", "roberta_base"])
def test_no_row_of_the_paper_is_marked(model: str) -> None:
    """Nor on the other two backbones with recipes: tests/experiment/test_suites.py, which composes every row there."""
    for row in rows():
        assert made_plan([f"row={row}", f"model={model}", "data=hub", "task=mnli"]).cut == (), row


def test_kr_sets_the_methods_own_size() -> None:
    assert plan_of(changes={"kr": 8}).cell.method["k"] == 8
    assert plan_of(changes={"kr": 8}).cell.method["r"] == 8
    assert plan_of("method=lora", changes={"kr": 4}).cell.method["r"] == 4
    assert plan_of(changes={"kr": 8, "method.k": 8}).cell.size_value == 8


def test_the_run_options_of_a_plan_are_those_of_the_config(tmp_path: Path) -> None:
    changes = {
        "results": str(tmp_path),
        "device": "cpu",
        "threads": 1,
        "eval_batch_size": 7,
        "rerun": True,
        "predict_test": True,
        "keep": "adapter",
    }
    options = plan_of(changes={**changes, "data.dir": "/glue"}).run_options
    assert (options.results, options.device, options.threads) == (tmp_path, "cpu", 1)
    assert (options.eval_batch_size, options.rerun, options.data_dir) == (7, True, "/glue") and options.predict_test
    assert options.keep == "adapter"


def test_a_good_command_reaches_the_run_with_its_overrides_as_typed(command: Callable[..., Told]) -> None:
    told = command("task=cola", "method=lora", "train.eval_steps=${train.batch_size}")
    assert (told.code, told.err) == (0, "")
    (plan,) = told.plans
    assert plan.command == ("task=cola", "method=lora", "train.eval_steps=${train.batch_size}")
    assert plan.cell.train.eval_steps == 32


def test_a_failed_cell_ends_with_one_line_and_code_1(command: Callable[..., Told]) -> None:
    def fails(plan: Plan) -> None:
        raise CellFailed(7, "the loss is nan")

    told = command("seed=1", run=fails)
    assert (told.code, told.err) == (1, "error: step 7: the loss is nan\n")


def test_a_sweep_goes_on_after_a_bad_cell_and_lists_it(
    command: Callable[..., Told], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = command("-m", "seed=0,-1,2", f"results={tmp_path}", run=lambda plan: None)
    assert told.code == 1
    assert [plan.cell.seed for plan in told.plans] == [0, 2]
    assert "1 of this sweep's cells failed" in told.err
    assert "seed=-1 is not possible" in told.err.splitlines()[-1]


def test_a_single_run_leaves_no_hydra_files(
    command: Callable[..., Told], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("seed=1", run=lambda plan: None).code == 0
    assert list(tmp_path.iterdir()) == []


def test_a_second_error_in_one_process_is_told_like_the_first(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr(sys, "argv", ["lora2_bench", "task=foo"])
    for _ in range(2):
        with pytest.raises(SystemExit):
            launch(check_fit)
        assert capfd.readouterr().err.startswith("error: task=foo is not known")


def test_the_users_own_entry_stops_with_code_2_and_one_line(tmp_path: Path) -> None:
    done = python("-m", "lora2_bench", f"results={tmp_path}", "method=full", "kr=8")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: kr=8 does not fit method=full, which has no size: leave kr out\n"
    assert list(tmp_path.iterdir()) == []


WITHOUT_TORCH = """
import sys
from lora2_bench.__main__ import main
sys.argv = ["lora2_bench", *sys.argv[1:]]
try:
    main()
    code = 0
except SystemExit as stop:
    code = stop.code or 0
heavy = {"torch", "transformers", "accelerate", "datasets", "pandas", "peft"} & set(sys.modules)
print("HEAVY", *sorted(heavy), file=sys.stderr)
sys.exit(code)
"""


def test_cfg_job_shows_a_config_that_can_be_read_and_loads_nothing_heavy() -> None:
    done = python("-c", WITHOUT_TORCH, "--cfg", "job", "--resolve", "task=mrpc", "kr=8")
    assert (done.returncode, done.stderr) == (0, "HEAVY\n")
    shown = yaml.safe_load(done.stdout)
    assert (shown["task"], shown["method"]["k"], shown["train"]["lr"]) == (
        {"name": "mrpc"},
        8,
        plan_of("task=mrpc").cell.train.lr,
    )
    assert "${" not in done.stdout


def test_cfg_job_unresolved_and_help_load_nothing_heavy() -> None:
    done = python("-c", WITHOUT_TORCH, "--cfg", "job")
    assert (done.returncode, done.stderr) == (0, "HEAVY\n")
    assert list(yaml.safe_load(done.stdout)["train"])[:3] == ["epochs", "max_steps", "batch_size"]
    done = python("-c", WITHOUT_TORCH, "--help")
    assert (done.returncode, done.stderr) == (0, "HEAVY\n")
    assert "python -m lora2_bench method=lora2 task=rte" in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 120
    assert "${" not in done.stdout


def test_a_config_that_cannot_be_resolved_is_told_in_one_line(command: Callable[..., Told]) -> None:
    told = command("--cfg", "job", "--resolve", "model=deberta_v3_base", "task=wnli")
    assert told.code == 2
    assert told.err.startswith("error: task=wnli has no recipe")
    assert told.err.count("\n") == 1


def test_a_suite_runs_its_rows_tasks_and_seeds(command: Callable[..., Told], tmp_path: Path) -> None:
    told = command("-m", "suite=smoke", f"results={tmp_path}")
    assert told.code == 0, told
    asked = [(plan.cell.method_label, plan.cell.task, plan.cell.seed) for plan in told.plans]
    assert asked == [("lora r=1", "rte", 0), ("lora r=1", "cola", 0), ("lora2 k=1", "rte", 0), ("lora2 k=1", "cola", 0)]
    assert {plan.cell.model.name for plan in told.plans} == {"minilm"}
    assert {plan.cut for plan in told.plans} == {("train.max_steps=40",)}


def test_the_command_line_narrows_a_suite(command: Callable[..., Told], tmp_path: Path) -> None:
    told = command("-m", "suite=table4", "task=rte", "seed=0,1", "model=minilm", "data=mini", f"results={tmp_path}")
    assert told.code == 0, told
    targets = [("".join(plan.cell.method["targets"]), plan.cell.seed) for plan in told.plans]
    assert targets == [(maps, seed) for maps in ("qk", "qv", "qkv", "qkvof1f2") for seed in (0, 1)]
    assert {(plan.cell.model.name, plan.cell.data.source) for plan in told.plans} == {("minilm", "mini")}
    assert len({plan.cell.id for plan in told.plans}) == 8


def test_one_suite_a_command(command: Callable[..., Told], tmp_path: Path) -> None:
    told = command("-m", "suite=smoke,table4", f"results={tmp_path}")
    assert told.code == 1
    assert told.plans == []
    assert "suite=smoke is one of several suites: give one suite a command" in told.err


def test_looks_stand_for_the_recipes_own_and_never_beside_those_given_by_hand() -> None:
    plain, looked = (plan_of("model=deberta_v3_base", "data=hub", *words).cell for words in ((), ("looks=10",)))
    assert (plain.train.eval_steps, plain.train.looks) == (100, None)
    assert (looked.train.eval_steps, looked.train.looks) == (None, 10)
    assert looked.id != plain.id
    with pytest.raises(UserError, match=r"^looks=10 and train.eval_steps=7: give one of the two$"):
        plan_of("looks=10", "train.eval_steps=7")
    with pytest.raises(UserError, match="give one of the two"):
        compose.plan_of(["looks=10", "train.eval_steps=null"])
    with pytest.raises(UserError, match=r"^looks=190 is above the run's 189 steps: give at most that"):
        check_fit(plan_of("looks=190"))
    check_fit(plan_of("looks=189"))


def test_a_suite_looks_as_often_at_every_methods_runs() -> None:
    rows = ("full", "lora_r1", "sora_r8", "lora2_k1")
    cells = [plan_of("suite=table1", f"row={row}", "looks=10").cell for row in rows]
    assert {(cell.train.looks, cell.train.eval_steps) for cell in cells} == {(10, None)}
    assert len({plan_of("suite=table1", f"row={row}").cell.train.eval_steps for row in rows}) > 1
