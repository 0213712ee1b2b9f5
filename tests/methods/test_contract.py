"""What every method of conf/method promises, on every architecture. A new method is tested by being there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from lora2_bench.contract import properties
from lora2_bench.contract.subject import logits_of
from lora2_bench.errors import UserError
from lora2_bench.methods.base import Method, load_method
from lora2_bench.methods.lora import LoRA, LoRALinear, LoRAOptions
from lora2_bench.methods.lowrank.budgeted import BudgetedMethod
from lora2_bench.methods.lowrank.layers import AdaptedLinear
from lora2_bench.methods.lowrank.method import AdapterMethod, RankedMethod
from lora2_bench.runner.export import export_adapter, save_tensors
from lora2_bench.runner.setup import load_adapter
from lora2_bench.training.state import load_trained_state, trained_state
from tests.conftest import ARCHITECTURES
from tests.methods.helpers import (
    METHODS,
    PAIRS,
    fits,
    loss_of_batch,
    make_backbone,
    make_batch,
    make_method,
    method_class,
    options_of,
    subject_of,
    train_steps,
)

MAPS = ["q", "k", "v", "o", "f1", "f2"]
ADAPTERS = [name for name in METHODS if issubclass(method_class(name), AdapterMethod)]
RANKED = [name for name in METHODS if issubclass(method_class(name), RankedMethod)]
BUDGETED = [name for name in METHODS if issubclass(method_class(name), BudgetedMethod)]


@pytest.mark.parametrize(("name", "architecture"), [pair for pair in PAIRS if method_class(pair[0]).starts_as_backbone])
def test_it_starts_as_the_backbone(name: str, architecture: str) -> None:
    properties.starts_as_it_says(subject_of(name), architecture)


@pytest.mark.parametrize("name", [name for name in METHODS if not method_class(name).starts_as_backbone])
def test_one_that_does_not_start_as_the_backbone_says_so(name: str) -> None:
    properties.starts_as_it_says(subject_of(name), "bert")


@pytest.mark.parametrize(
    ("name", "architecture"), [(name, kind) for name in METHODS for kind in ARCHITECTURES if not fits(name, kind)]
)
def test_an_encoder_that_it_does_not_fit_is_refused_in_one_line(name: str, architecture: str) -> None:
    wanted = f"^model=random is of type {architecture}: method={name} fits {', '.join(method_class(name).encoders)} "
    with pytest.raises(UserError, match=wanted) as told:
        make_method(name, make_backbone(architecture))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(("name", "architecture"), PAIRS)
def test_only_what_is_declared_trainable_moves(name: str, architecture: str) -> None:
    original = make_backbone(architecture).model.state_dict()
    method = properties.declared_alone_trains(subject_of(name), architecture)
    if name in ADAPTERS:  # the frozen backbone, found again under its layers' `base`, is bit for bit the one it was
        after = method.backbone.model.state_dict()
        frozen = {key.replace(".base.", "."): value for key, value in after.items()}
        kept = original.keys() - set(method.trainable()) - method.replaced_weights().keys()
        assert len(kept) > 20 and all(torch.equal(frozen[key], original[key]) for key in kept)


def formula(name: str, d_in: int, d_out: int) -> int:
    """Parameters beside one map, with the tests' sizes k = 2 and r = 3."""
    each = d_in + d_out
    counts = {"lora": 3 * each, "adalora": 3 * (each + 1), "sora": 3 * (each + 1), "lora2": 2 * each + 2 * 2 * 3 + 3}
    return {**counts, "dylora": 3 * each, "vera": 3 + d_out, "qlora": 3 * each, "qalora": 3 * (d_in // 8 + d_out)}[name]


@pytest.mark.parametrize("name", METHODS)
def test_counts(name: str) -> None:
    backbone = make_backbone("bert")
    parameters = dict(backbone.model.named_parameters())
    heads = set(backbone.head_parameters())
    head = sum(parameters[key].numel() for key in heads)
    encoder = {key: p.numel() for key, p in parameters.items() if key not in heads}
    shapes = ([(24, 24)] * 4 + [(24, 40), (40, 24)]) * 2
    counts = properties.counts_add_up(subject_of(name), "bert").parameters()
    assert counts["head"] == head
    reparametrised = name in ("prefix", "p_tuning")  # the network that makes the prompt is not kept after training
    assert 0 < counts["active"] < counts["adapter"] if reparametrised else counts["active"] == counts["adapter"]
    known = {
        "full": sum(encoder.values()),
        "bitfit": sum(count for key, count in encoder.items() if key.endswith("bias")),
        **{
            adapter: sum(formula(adapter, *shape) for shape in shapes)
            for adapter in ("lora", "adalora", "sora", "lora2", "dylora", "vera", "qlora", "qalora")
        },
        # LoRA on q, k, v and o; 400 tokens, 80 positions, 2 types and 5 norms of two vectors, of width 24.
        "longlora": 8 * formula("lora", 24, 24) + 24 * (400 + 80 + 2 + 2 * 5),
    }
    assert counts["adapter"] == known.get(name, counts["adapter"])


@pytest.mark.parametrize("name", BUDGETED)
def test_the_budget_is_met_at_the_end_and_pruned_ranks_are_not_active(name: str) -> None:
    method = make_method(name, make_backbone("bert"))
    assert isinstance(method, BudgetedMethod)
    train_steps(method, 20)
    method.finish()
    kept = [rank for row in method.summary()["ranks"].values() for rank in row.values()]
    assert sum(kept) == method.summary()["ranks_kept"] == 12 < method.summary()["ranks_initial"] == 36
    assert method.budget.stacks.gate.value().count_nonzero(dim=1).tolist() == kept
    shapes = ([(24, 24)] * 4 + [(24, 40), (40, 24)]) * 2
    if name == "lora2":  # A and D serve all ranks of a map
        active = sum(rank * 5 + (2 * (i + o) if rank else 0) for rank, (i, o) in zip(kept, shapes, strict=True))
    else:
        active = sum(rank * (i + o + 1) for rank, (i, o) in zip(kept, shapes, strict=True))
    assert method.parameters()["active"] == active < method.parameters()["adapter"]


@pytest.mark.parametrize("name", BUDGETED)
def test_a_budget_that_is_not_met_is_told(name: str) -> None:
    method = make_method(name, make_backbone("bert"))
    train_steps(method, 10)
    with pytest.raises(ValueError, match="ranks are left where the budget has 12"):
        method.finish()


@pytest.mark.parametrize("name", METHODS)
def test_the_penalty_is_a_scalar_that_training_alone_sees(name: str) -> None:
    properties.penalty_is_of_training_alone(subject_of(name), "bert")


@pytest.mark.parametrize(("name", "architecture"), PAIRS)
def test_a_saved_state_gives_the_same_logits(name: str, architecture: str) -> None:
    properties.saved_state_is_whole(subject_of(name), architecture)


class FrozenAndDrawn(LoRALinear):
    """As VeRA's: the first factor is a buffer that no file of the model has, drawn once and never trained."""

    def __init__(self, base: torch.nn.Linear, options: LoRAOptions, generator: torch.Generator) -> None:
        super().__init__(base, options, generator)
        drawn = self.A.detach()
        del self.A
        self.register_buffer("A", drawn, persistent=False)


@pytest.mark.parametrize("engine", ["fast", "plain"])
def test_what_is_drawn_and_frozen_belongs_to_the_saved_state(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LoRA, "adapt", lambda self, base, generator: FrozenAndDrawn(base, self.options, generator))
    method, other = (make_method("lora", make_backbone("bert"), engine=engine, seed=seed) for seed in (1, 2))
    train_steps(method, 3)
    state = trained_state(method)
    assert {name for name in state if name not in method.trainable()} == {
        name for name, _ in method.backbone.model.named_buffers() if name.endswith(".A")
    }
    load_trained_state(other, state)
    assert torch.equal(logits_of(method.backbone.model), logits_of(other.backbone.model))


def test_init_from_reads_what_was_drawn_and_refuses_a_cell_that_did_not_keep_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LoRA, "adapt", lambda self, base, generator: FrozenAndDrawn(base, self.options, generator))
    method, other = (make_method("lora", make_backbone("bert"), seed=seed) for seed in (1, 2))
    train_steps(method, 3)
    state, heads = trained_state(method), method.backbone.head_parameters()
    save_tensors(state, tmp_path / "whole")
    load_adapter(other, tmp_path / "whole", "0123456789abcdef")
    assert all(torch.equal(value, state[name]) for name, value in trained_state(other).items() if name not in heads)
    save_tensors({name: state[name] for name in method.trainable()}, tmp_path / "trained")
    with pytest.raises(UserError, match=r"^init_from=0123456789abcdef kept no .*query\.A, which its method draws"):
        load_adapter(other, tmp_path / "trained", "0123456789abcdef")


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("full", "head")])
def test_init_from_reads_what_a_cell_of_another_task_kept(name: str, tmp_path: Path) -> None:
    method, other = (make_method(name, make_backbone("roberta", num_labels=labels), seed=labels) for labels in (3, 2))
    batch = make_batch(num_labels=3)
    optimizer = torch.optim.AdamW(method.optimizer_groups(0.0), lr=1e-2)
    loss_of_batch(method, batch).backward()
    optimizer.step()
    save_tensors(trained_state(method), tmp_path / "kept")
    heads = other.backbone.head_parameters()
    fresh = {key: value.clone() for key, value in trained_state(other).items()}
    load_adapter(other, tmp_path / "kept", "0123456789abcdef")
    theirs = trained_state(method)
    for key, value in trained_state(other).items():  # the head is the new task's own
        assert torch.equal(value, fresh[key] if key in heads else theirs[key]), key
    assert any(not torch.equal(value, theirs[key]) for key, value in fresh.items() if key not in heads)


@pytest.mark.parametrize("name", BUDGETED)
def test_ranks_are_counted_at_the_step_of_the_score(name: str) -> None:
    """20 steps with a budget that falls from 36 to 12 ranks between step 4 and 15, every second step."""
    method = make_method(name, make_backbone("bert"))
    assert isinstance(method, BudgetedMethod)
    optimizer = train_steps(method, 3)
    early = method.at_scoring()
    assert (early["ranks_kept"], early["budget_met"], early["active"]) == (36, False, method.parameters()["adapter"])
    train_steps(method, 8, first=4, optimizer=optimizer)
    between, gates = method.at_scoring(), method.budget.stacks.gate.value()
    in_use = (gates != 0) | method.budget.masks  # pruned ones have grown again since the last choice
    assert 12 < sum(method.budget.kept) < between["ranks_kept"] == int(in_use.sum())
    assert [rank for row in between["ranks"].values() for rank in row.values()] == in_use.sum(1).tolist()
    train_steps(method, 9, first=12, optimizer=optimizer)
    method.finish()
    late = method.at_scoring()
    assert (late["ranks_kept"], late["budget_met"], late["ranks"]) == (12, True, method.summary()["ranks"])
    assert late["active"] == method.parameters()["active"] < early["active"]


@pytest.mark.parametrize("name", METHODS)
def test_a_checkpoint_goes_on_with_the_same_numbers(name: str) -> None:
    properties.checkpoint_goes_on(subject_of(name), "roberta")


EXPORTED = [(name, architecture, 2) for name, architecture in PAIRS]
EXPORTED += [(name, architecture, 20) for name, architecture in PAIRS if name in RANKED]  # some ranks are off by then


@pytest.mark.parametrize(("name", "architecture", "steps"), EXPORTED)
def test_an_export_gives_the_same_logits_in_peft(name: str, architecture: str, steps: int, tmp_path: Path) -> None:
    """Early, and where a method can switch ranks off, after it has."""
    method = properties.export_loads_in_peft(subject_of(name), architecture, steps, tmp_path)
    if method.exports in ("weights", "none"):
        with pytest.raises(ValueError, match=r"has no LoRA factors$"):
            export_adapter(tmp_path / "adapter", method)
        assert not list(tmp_path.iterdir())
        return
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert method.exports == "peft" or config["peft_type"] == "LORA"
    assert config["target_modules"] == sorted(config["target_modules"])  # PEFT keeps a set, in an order of the process
    if name in ("adalora", "sora"):  # ranks that are off are cut out
        ranks = [config["rank_pattern"].get(module, config["r"]) for module in config["target_modules"]]
        assert sum(ranks) == method.summary()["ranks_kept"]


@pytest.mark.parametrize(("name", "architecture"), [pair for pair in PAIRS if method_class(pair[0]).merges])
def test_merged_maps_give_the_same_logits_and_nothing_is_left_beside_them(name: str, architecture: str) -> None:
    plain = make_backbone(architecture)
    method = properties.merges_as_it_says(subject_of(name), architecture)
    model = method.backbone.model
    before = logits_of(model)
    assert (before - logits_of(plain.model)).abs().max() > 1e-4
    assert not any(isinstance(module, AdaptedLinear | BaseTunerLayer) for module in model.modules())
    if not method.replaced_weights():  # the merged model is one of the backbone's own form
        plain.model.load_state_dict(model.state_dict(), strict=True)
        torch.testing.assert_close(logits_of(plain.model), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_a_merge_changes_no_other_backbone_of_the_process(name: str) -> None:
    properties.shares_its_backbone(subject_of(name), "bert")


@pytest.mark.parametrize("name", [name for name in METHODS if not method_class(name).merges])
def test_what_is_not_merged_says_so_also_before_it_is_injected(name: str) -> None:
    kind = method_class(name)
    for method in (make_method(name, make_backbone("bert")), kind(kind.parse(options_of(name)), 20)):
        with pytest.raises(UserError, match=r"^\w+ cannot be merged into .*: [^\n]+$"):
            method.merge()


def test_a_promise_that_means_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LoRA, "exports", "PEFT")
    with pytest.raises(UserError, match=r" has exports=PEFT: give one of lora, peft, weights, none$"):
        load_method("lora2_bench.methods.lora.LoRA")


@pytest.mark.parametrize("name", METHODS)
def test_gradients_of_a_batch_in_parts_are_those_of_the_whole(name: str) -> None:
    properties.parts_sum_up(subject_of(name), "deberta-v2" if fits(name, "deberta-v2") else "roberta")


@pytest.mark.parametrize(("name", "architecture"), PAIRS)
def test_bf16_trains_to_finite_numbers(name: str, architecture: str) -> None:
    properties.bf16_is_finite(subject_of(name), architecture)


TARGETS = [["q"], ["o", "f2"], ["f2", "f1"], ["q", "k", "v"]]
# Which maps the names are is the architecture's part, tested with LoRA: the others have one choice on each.
CHOICES = [("lora", architecture, targets) for architecture in ARCHITECTURES for targets in TARGETS]
CHOICES += [
    (name, architecture, TARGETS[(ADAPTERS.index(name) + ARCHITECTURES.index(architecture)) % len(TARGETS)])
    for name, architecture in PAIRS
    if name in ADAPTERS and name != "lora"
]


@pytest.mark.parametrize(("name", "architecture", "targets"), CHOICES)
def test_targets_choose_exactly_the_maps_they_name(name: str, architecture: str, targets: list[str]) -> None:
    method = make_method(name, make_backbone(architecture), targets=targets)
    assert isinstance(method, AdapterMethod)
    assert set(method.layers) == {(layer, target) for layer in (0, 1) for target in targets}
    # The feed-forward's output.dense is not the attention's: their inputs differ in width.
    widths = {target: 40 if target == "f2" else 24 for target in MAPS}
    assert all(layer.base.in_features == widths[short] for (_, short), layer in method.layers.items())
    train_steps(method, 1)


@pytest.mark.parametrize("name", METHODS)
def test_one_row_is_a_batch(name: str) -> None:
    properties.one_row_is_a_batch(subject_of(name), "deberta-v2" if fits(name, "deberta-v2") else "roberta")


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_model_without_the_named_target_is_refused(name: str) -> None:
    from transformers import DistilBertConfig

    from lora2_bench.backbones.backbone import random_backbone

    config = DistilBertConfig(vocab_size=50, dim=8, n_layers=1, n_heads=2, hidden_dim=8, max_position_embeddings=16)
    with pytest.raises(UserError, match="of type distilbert: adapters fit bert, roberta, deberta-v2"):
        make_method(name, random_backbone(config))


@pytest.mark.parametrize("name", METHODS)
def test_options_that_no_method_has_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"^method\.no_such is not a setting"):
        method_class(name).parse({**options_of(name), "no_such": 1})


@pytest.mark.parametrize("target", ["lora2_bench.methods.nothing.X", "lora2_bench.experiment.cell.Cell", "nodots"])
def test_a_class_that_is_no_method_is_refused(target: str) -> None:
    with pytest.raises(UserError, match=r"^method._target_="):
        load_method(target)


def test_methods_are_those_of_the_config() -> None:
    assert {"full", "bitfit", "lora", "adalora", "sora", "lora2"} <= set(METHODS)
    assert all(issubclass(method_class(name), Method) for name in METHODS)
    assert {"adalora", "lora2"} <= set(BUDGETED) and {"adalora", "sora", "lora2"} <= set(RANKED)
