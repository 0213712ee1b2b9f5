"""The measures of retention against slow computations of their equations, and that they leave no trace."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import spearmanr
from torch import Tensor

from lora2_bench.errors import UserError
from lora2_bench.retention.encoder import frozen, pooled
from lora2_bench.retention.probe import ALPHA, C, pair_features, probe_score
from lora2_bench.retention.rows import Source, evenly
from lora2_bench.retention.sts import similarity_score
from lora2_bench.retention.weights import effective_rank, largest_cosines, map_change, map_changes
from lora2_bench.tasks.data import Split
from lora2_bench.tasks.encoding import EncodedSplit, RaggedRows
from lora2_bench.tasks.spec import TASKS
from tests.methods.helpers import METHODS, fits, make_backbone, make_method

GENERATOR = torch.Generator().manual_seed(5)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=GENERATOR, dtype=torch.float64)


@pytest.mark.parametrize("rank", [1, 2, 5, 8])
def test_an_effective_rank_is_the_entropys_and_at_most_the_rank(rank: int) -> None:
    update = drawn(12, rank) @ drawn(rank, 8)
    values = np.linalg.svd(update.numpy(), compute_uv=False)[:rank]
    shares = [value / sum(values) for value in values]
    slow = math.exp(-sum(share * math.log(share) for share in shares))
    assert effective_rank(update) == pytest.approx(slow, rel=1e-9)
    assert 1 - 1e-9 <= effective_rank(update) <= rank + 1e-9
    even = torch.linalg.qr(drawn(12, rank))[0] @ torch.linalg.qr(drawn(8, rank))[0].T
    assert effective_rank(3 * even) == pytest.approx(rank)
    assert effective_rank(3 * even, floor=4.0) == 0


def test_no_update_has_no_rank_no_size_and_no_intruder() -> None:
    before = drawn(12, 8)
    change = map_change(before, before.clone())
    assert (change.update, change.effective_rank, change.intruders) == (0, 0, 0)
    assert change.cosines == pytest.approx([1.0] * 8)


def test_cosines_are_the_largest_with_any_of_the_old_vectors() -> None:
    before, after = drawn(9, 7), drawn(9, 7)
    old, new = (np.linalg.svd(one.numpy(), full_matrices=False)[0] for one in (before, after))
    slow = [max(abs(float(new[:, at] @ old[:, i])) for i in range(7)) for at in range(4)]
    assert largest_cosines(before, after, top=4) == pytest.approx(slow)


def test_a_new_orthogonal_direction_is_an_intruder_and_a_longer_old_one_is_none() -> None:
    before = drawn(12, 8)
    old, values, other = torch.linalg.svd(before, full_matrices=False)
    outside = drawn(12)
    outside -= old @ (old.T @ outside)
    new = map_change(before, before + 2 * values[0] * torch.outer(outside / outside.norm(), other[3]))
    left_of_old = float(values[3] / torch.hypot(values[3], 2 * values[0]))
    assert new.intruders == 1 and new.cosines[0] == pytest.approx(left_of_old)
    assert new.effective_rank == pytest.approx(1)
    assert new.update == pytest.approx(2 * float(values[0] / before.norm()))
    longer = map_change(before, before + 2 * values[0] * torch.outer(old[:, 5], other[5]))
    assert longer.intruders == 0 and longer.update == pytest.approx(new.update)


UNCHANGED = {"head", "bitfit", "ln_tuning", "prefix", "ptuning_v2", "prompt", "p_tuning"}
"""Methods that move no linear map of the encoder."""


@pytest.mark.parametrize("name", METHODS)
def test_every_methods_maps_are_measured_without_a_trace(name: str) -> None:
    architecture = "bert" if fits(name, "bert") else "roberta"
    base, adapted = make_backbone(architecture), make_backbone(architecture)
    method = make_method(name, adapted)
    with torch.no_grad():
        for number, parameter in enumerate(method.trainable().values()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            parameter.data = parameter + 0.05 * noise
    adapted.model.train()
    before = {key: value.clone() for key, value in adapted.model.state_dict().items()}
    random = torch.get_rng_state()
    with frozen(adapted), frozen(base):
        changes = map_changes(base, adapted)
    assert adapted.model.training and all(module.training for module in adapted.model.modules())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(before[key], value) for key, value in adapted.model.state_dict().items())

    assert {layer: set(maps) for layer, maps in changes.items()} == {at: set("qkvo") | {"f1", "f2"} for at in (0, 1)}
    found = [change for maps in changes.values() for change in maps.values()]
    moved = [change for change in found if change.update > 1e-6]
    assert all(change.effective_rank > 0 for change in moved) and bool(moved) == (name not in UNCHANGED)
    assert all(change.effective_rank == 0 for change in found if change not in moved)
    rank = {"lora": 3, "lora2": 2, "full": 24}.get(name)
    assert rank is None or max(change.effective_rank for change in found) <= rank + 1e-3
    if name == "lora":
        for (layer, letter), module in base.linear_maps().items():
            lora_a, lora_b = (method.lora_factors() or {})[module]
            size = (lora_b @ lora_a).norm() / base.model.get_submodule(module).get_parameter("weight").norm()
            assert changes[layer][letter].update == pytest.approx(float(size), rel=1e-4)


def test_a_map_that_is_not_linear_is_refused() -> None:
    base, adapted = make_backbone("bert"), make_backbone("bert")
    layer = adapted.model.get_submodule("bert.encoder.layer.0.intermediate")
    layer.dense = torch.nn.Sequential(layer.dense, torch.nn.Tanh())
    with frozen(adapted), pytest.raises(UserError, match="are not linear"):
        map_changes(base, adapted)


def encoded(lengths: list[int]) -> EncodedSplit:
    rows = [[(7 * row + at) % 50 + 5 for at in range(length)] for row, length in enumerate(lengths)]
    types = [[0] * length for length in lengths]
    return EncodedSplit(RaggedRows.of(rows), RaggedRows.of(types), [0] * len(lengths), (0, 0))


def test_features_are_means_over_a_rows_own_tokens() -> None:
    backbone, rows = make_backbone("bert"), encoded([3, 11, 2, 7, 5])
    backbone.model.train()
    with frozen(backbone):
        together = pooled(backbone, rows, 2, 0)
        for number, features in enumerate(together):
            alone = backbone.model.base_model(input_ids=torch.tensor(rows.input_ids[number][None].astype(np.int64)))
            slow = alone.last_hidden_state[0].mean(dim=0)
            np.testing.assert_allclose(features, slow.numpy(), atol=1e-5)
    assert backbone.model.training


def test_similarity_is_spearmans_of_the_cosines() -> None:
    first, second, scores = drawn(20, 6).float().numpy(), drawn(20, 6).float().numpy(), drawn(20).numpy()
    cosines = [float(a @ b) / math.sqrt(float(a @ a) * float(b @ b)) for a, b in zip(first, second, strict=True)]
    assert similarity_score(first, second, scores) == pytest.approx(spearmanr(cosines, scores).statistic)
    assert similarity_score(first, 3 * first, scores) == pytest.approx(0, abs=1)  # defined for equal cosines too


def test_probes_are_ridge_and_logistic_regression_on_standardised_features() -> None:
    train, dev = drawn(60, 4).numpy() * 3 + 1, drawn(30, 4).numpy() * 3 + 1
    scores = train @ [1.0, -2.0, 0.5, 0.0] + drawn(60).numpy()
    wanted = dev @ [1.0, -2.0, 0.5, 0.0] + drawn(30).numpy()
    x, z = ((one - train.mean(axis=0)) / train.std(axis=0) for one in (train, dev))
    weights = np.linalg.solve(x.T @ x + ALPHA * np.eye(4), x.T @ (scores - scores.mean()))
    slow = np.corrcoef(z @ weights, wanted)[0, 1]
    fast = probe_score(
        TASKS["stsb"], train.astype(np.float32), scores.tolist(), dev.astype(np.float32), wanted.tolist()
    )
    assert fast == pytest.approx(slow, abs=1e-5)

    labels, asked = (scores > 0).astype(int), (wanted > 0).astype(int)

    def loss(theta: np.ndarray) -> float:
        margins = (2 * labels - 1) * (x @ theta[:4] + theta[4])
        return float(C * np.logaddexp(0, -margins).sum() + theta[:4] @ theta[:4] / 2)

    theta = minimize(loss, np.zeros(5)).x
    slow = float(np.mean((z @ theta[:4] + theta[4] > 0) == asked))
    features = train.astype(np.float32), dev.astype(np.float32)
    assert probe_score(TASKS["rte"], features[0], labels.tolist(), features[1], asked.tolist()) == pytest.approx(slow)
    assert probe_score(TASKS["rte"], features[0], [1] * 60, features[1], asked.tolist()) == asked.mean()


def test_a_pair_has_its_two_texts_their_distance_and_their_product() -> None:
    first, second = np.array([[1.0, -2.0]]), np.array([[3.0, 4.0]])
    assert pair_features(first, second).tolist() == [[1.0, -2.0, 3.0, 4.0, 2.0, 6.0, 3.0, -8.0]]


def test_rows_are_spread_evenly_and_a_source_says_what_it_lacks() -> None:
    split = Split({"sentence": [str(number) for number in range(10)]}, list(range(10)))
    assert evenly(split, 4).labels == [0, 2, 5, 7] and evenly(split, 10) is split and evenly(split, None) is split
    mini = Source("stsb", "mini", None, 0, None, None)
    assert mini.lacking("sts") == {"sts": "task=stsb trains on it"} and mini.has_nothing_for("sts")
    assert not mini.lacking("probe") and "stsb" not in mini.probed() and not mini.has_nothing_for("weights")
    nowhere = Source("rte", "local", "/nowhere", 0, None, None)
    assert set(nowhere.lacking("probe")) == {"probe.cola", "probe.sst2", "probe.mrpc", "probe.stsb", "probe.qnli"}
    assert "there is no folder /nowhere" in nowhere.has_nothing_for("probe")
    with pytest.raises(UserError, match="there is no folder /nowhere"):
        nowhere.sts_rows()
