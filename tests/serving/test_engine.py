"""Mixed batches: each request gets the logits that its cell gives alone."""

from __future__ import annotations

import copy
import dataclasses
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora2_bench.errors import UserError
from lora2_bench.records.store import Store
from lora2_bench.serving.engine import Engine
from lora2_bench.serving.library import Entry, Library
from lora2_bench.tasks.sources import load_task
from lora2_bench.tasks.spec import task_spec
from tests.serving.cells import TEXTS, TOKENS, TOLERANCE, Trained, adapter, requests, train


def answers(engine: Engine, asked: list[tuple[Entry, str, str | None]]) -> list[torch.Tensor]:
    """The logits of one batch, all of which must be there."""
    found = engine.logits([(entry, engine.encode(entry, text, pair)) for entry, text, pair in asked])
    assert all(isinstance(one, torch.Tensor) for one in found), found
    return found


def worst(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> float:
    assert [one.shape for one in found] == [one.shape for one in wanted]
    return max((one - other).abs().max().item() for one, other in zip(found, wanted, strict=True))


def test_each_request_of_a_mixed_batch_gets_its_own_cell_s_logits(trained: Trained, engine: Engine) -> None:
    entries = trained.library().entries
    assert {entry.method.split()[0] for entry in entries.values()} == {
        "lora", "adalora", "sora", "lora2", "dylora", "vera"
    }  # fmt: skip
    assert sorted({entry.outputs for entry in entries.values()}) == [1, 2, 3]
    asked = list(requests(entries.values()))
    random.Random(0).shuffle(asked)
    found = answers(engine, asked)
    assert worst(found, [trained.alone(*one) for one in asked]) <= TOLERANCE
    bare = [torch.zeros_like(one) for one in found]
    assert worst(found, bare) > 0.1  # the outputs are no zeros, and no two cells of a task answer alike
    by_text: dict[Any, list[torch.Tensor]] = {}
    for (entry, text, _), row in zip(asked, found, strict=True):
        by_text.setdefault((entry.task, text), []).append(row)
    for rows in by_text.values():
        assert all((one - other).abs().max() > 1e-3 for one in rows for other in rows if one is not other)


def test_ranks_differ_by_module_and_what_is_pruned_is_not_kept(trained: Trained, engine: Engine) -> None:
    for entry in trained.library().entries.values():
        adapter_of = engine.adapters.get(entry)
        ranks = {key: update.up.shape[0] for key, update in adapter_of.updates.items()}
        told = trained.library().record(entry).result["best"].get("ranks")
        if entry.method.startswith(("adalora", "sora")):
            assert told is not None
            assert ranks == {(int(layer), name): r for layer, maps in told.items() for name, r in maps.items() if r}
            assert len(set(ranks.values())) > 1
        elif entry.task == "stsb":
            assert sorted(ranks) == [(0, "f2"), (0, "v"), (1, "f2"), (1, "v")]
        assert adapter_of.bytes < 60_000


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["roberta", "deberta-v2", "modernbert"])
def test_other_encoders_too(architecture: str, tmp_path: Path) -> None:
    targets = "[q,v,o,f1]" if architecture == "modernbert" else "[q,k,v,f2]"
    made = train(
        tmp_path,
        architecture,
        ("task=rte", *adapter("lora", r=3, targets=targets)),
        ("task=cola", *adapter("dylora", r=2), "seed=1"),
        ("task=mnli", *adapter("vera", r=30)),
    )
    engine = Engine(made.library(), memory=2**30, device="cpu", threads=1)
    asked = list(requests(made.library().entries.values()))
    random.Random(1).shuffle(asked)
    assert worst(answers(engine, asked), [made.alone(*one) for one in asked]) <= TOLERANCE


def test_a_method_of_several_ranks_is_served_at_each(trained: Trained, engine: Engine) -> None:
    library = trained.library()
    whole = library.find("method=dylora")
    at = [library.find(f"{whole.id}@{rank}") for rank in (1, 2, 3, 4)]
    assert at[1] == library.find("task=cola method=dylora rank=2")
    assert at[1] in library.fitting("rank=2")  # of all cells that serve it, whatever others there are
    assert (at[1].method, at[1].rank, at[1].cell) == ("dylora r=2", 2, whole.id)
    assert at[1].score == library.record(whole).result["by_rank"]["2"]["score"]
    asked: list[tuple[Entry, str, str | None]] = [(entry, TEXTS[0], None) for entry in [*at, whole]]
    found = answers(engine, asked)
    assert worst(found, [trained.alone(*one) for one in asked]) <= TOLERANCE
    assert worst(found[3:4], found[4:]) <= TOLERANCE and worst(found[1:2], found[4:]) > 1e-3


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, len(TEXTS) - 1)), min_size=1, max_size=12))
def test_a_batch_s_other_requests_change_no_logit(
    trained: Trained, engine: Engine, picked: list[tuple[int, int]]
) -> None:
    entries = list(engine.library.entries.values())
    asked = [(entry := entries[one], TEXTS[text], TEXTS[0] if entry.pair else None) for one, text in picked]
    alone = [answers(engine, [one])[0] for one in asked]
    assert worst(answers(engine, asked), alone) <= TOLERANCE


def test_adapters_live_within_the_bound_and_the_least_used_goes_first(trained: Trained) -> None:
    library = trained.library()
    entries = list(library.entries.values())
    asked = list(requests(entries))
    wanted = [trained.alone(*one) for one in asked]
    none = Engine(library, memory=0, device="cpu", threads=1)
    assert worst(answers(none, asked), wanted) <= TOLERANCE
    assert (len(none.adapters), none.adapters.bytes, none.adapters.evictions) == (0, 0, 8)
    store = none.adapters
    first, second, third = sorted(entries, key=lambda entry: -store.get(entry).bytes)[1:4]  # largest first
    store.memory = sum(store.get(entry).bytes for entry in (first, second))
    for entry in (first, second, first, third):
        store.get(entry)
    assert first in store and second not in store and third in store
    assert store.bytes <= store.memory
    loads, hits = store.loads, store.hits
    store.get(third)
    store.get(second)
    assert (store.loads, store.hits) == (loads + 1, hits + 1)


def test_the_frozen_pair_of_vera_is_held_once(trained: Trained) -> None:
    engine = Engine(trained.library(), memory=2**30, device="cpu", threads=1)
    one, other = (entry for entry in engine.library.entries.values() if entry.method.startswith("vera"))
    adapters = engine.adapters
    first = adapters.get(one)
    assert first.shared is not None
    pair = first.shared.bytes
    assert pair == 30 * (40 + 40) * 4 and adapters.bytes == first.bytes + pair
    second = adapters.get(other)
    assert second.shared is not None and second.shared.A is first.shared.A
    assert adapters.bytes == first.bytes + second.bytes + pair
    adapters.memory = adapters.bytes - 1
    adapters.get(engine.library.find("method=sora"))  # both go, and the pair with the second
    assert one not in adapters and (other in adapters) == (adapters.bytes > 60_000)


@pytest.mark.parametrize("damage", ["flipped", "cut", "foreign", "gone", "text"])
def test_a_damaged_adapter_is_one_line_for_its_own_request(
    damage: str, trained: Trained, engine: Engine, tmp_path: Path
) -> None:
    shutil.copytree(trained.results, tmp_path / "results")
    copied = Trained(tmp_path / "results", trained.backbone, trained.plans)
    library = copied.library()
    hurt, *others = library.entries.values()
    path = hurt.folder / "trained.safetensors"
    content = path.read_bytes()
    engine.adapters, kept = Engine(library, memory=0, device="cpu", threads=1).adapters, engine.adapters
    asked = [(entry, engine.encode(entry, TEXTS[0], TEXTS[1] if entry.pair else None)) for entry in [hurt, *others]]
    try:
        if damage == "flipped":
            path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
        elif damage == "cut":
            path.write_bytes(content[: len(content) // 2])
        elif damage == "foreign":
            shutil.copy(others[0].folder / "trained.safetensors", path)
        elif damage == "gone":
            path.unlink()
        else:
            path.write_text("no tensors")
        found = engine.logits([*asked, asked[0]])
        assert isinstance(found[0], UserError) and isinstance(found[-1], UserError)
        line = str(found[0])
        assert line.startswith(f"cell {hurt.id}: ") and "rerun=true" in line and "\n" not in line
        with pytest.raises(UserError, match=hurt.id):
            engine.answer(hurt, found[0])
        good = [one for one in found if not isinstance(one, UserError)]
        asked_texts = [(entry, TEXTS[0], TEXTS[1] if entry.pair else None) for entry in others]
        assert worst(good, [trained.alone(*one) for one in asked_texts]) <= TOLERANCE
        path.write_bytes(content)
        assert isinstance(engine.logits(asked[:1])[0], torch.Tensor)  # mended, it is served again
    finally:
        engine.adapters = kept


def test_cells_of_earlier_versions_lack_later_settings(trained: Trained, engine: Engine, tmp_path: Path) -> None:
    store = Store(shutil.copytree(trained.results, tmp_path / "results"))
    for name in ("sora", "lora2"):
        record = store.read(trained.library().find(f"method={name}").id)
        assert record is not None
        method: Any = copy.deepcopy(record.cell["method"])
        del (method if name == "sora" else method["reg"])["l1_form" if name == "sora" else "mean_over"]
        older = dataclasses.replace(record, cell={**record.cell, "method": method})
        store.write(older, lambda folder, cell=record.id: _copy(store.folder(cell), folder))
    library = Library(store.results, model_path=str(trained.backbone))
    older_engine = Engine(library, memory=2**30, device="cpu", threads=1)
    asked = [one for one in requests(library.entries.values()) if one[0].method.startswith(("sora", "lora2"))]
    assert len(asked) == 2 * len(TEXTS)
    assert worst(answers(older_engine, asked), [trained.alone(*one) for one in asked]) <= TOLERANCE


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, dirs_exist_ok=True)


def test_a_batch_of_nothing(engine: Engine) -> None:
    assert engine.logits([]) == []


@pytest.mark.parametrize(
    ("task", "texts", "line"),
    [
        ("rte", ("a dog",), "text_pair is missing: task=rte takes two texts"),
        ("rte", ("a dog", " \n"), "text_pair is empty: give a sentence"),
        ("rte", ("", "a dog"), "text is empty: give a sentence"),
        ("cola", ("a dog", "a cat"), "text_pair is too much: task=cola takes one text"),
        ("cola", ("\t",), "text is empty: give a sentence"),
        ("cola", ("half a pair \ud800 here",), "the text cannot be read ("),
        ("cola", (7,), "text is empty: give a sentence"),
    ],
)
def test_texts_that_cannot_be_asked_are_one_line(task: str, texts: tuple[Any, ...], line: str, engine: Engine) -> None:
    entry = next(entry for entry in engine.library.entries.values() if entry.task == task)
    with pytest.raises(UserError) as error:
        engine.encode(entry, *texts)
    assert str(error.value).startswith(line) and "\n" not in str(error.value)


def test_texts_are_cut_as_the_cell_s_own_rows(engine: Engine) -> None:
    for task in ("rte", "cola"):
        entry = next(entry for entry in engine.library.entries.values() if entry.task == task)
        dev = load_task(task, "mini").splits["dev"].head(40)
        rows = engine.encode_split(dev, task_spec(task), entry)
        assert max(map(len, rows)) <= TOKENS and (task == "cola" or max(map(len, rows)) == TOKENS)
        for row, texts in zip(rows, zip(*dev.texts.values(), strict=True), strict=True):
            mine = engine.encode(entry, *texts)
            assert mine.ids.tolist() == row.ids.tolist()
            assert mine.types is not None and row.types is not None and mine.types.tolist() == row.types.tolist()
    long = engine.encode(entry, "dog " * 5000)
    assert len(long) == TOKENS


def test_answers(engine: Engine) -> None:
    entries = {entry.task: entry for entry in engine.library.entries.values()}
    told = engine.answer(entries["mnli"], torch.tensor([0.0, 2.0, -1.0]))
    assert told["label"] == "neutral" and list(told["probabilities"]) == ["entailment", "neutral", "contradiction"]
    assert sum(told["probabilities"].values()) == pytest.approx(1, abs=1e-12)
    assert told["probabilities"]["neutral"] == pytest.approx(0.8438, abs=1e-4)
    assert engine.answer(entries["stsb"], torch.tensor([2.5])) == {"score": 2.5}
    with pytest.raises(UserError, match="gives no finite numbers"):
        engine.answer(entries["stsb"], torch.tensor([float("nan")]))
