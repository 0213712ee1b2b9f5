"""Batches: every row once an epoch, alike in length, the same for a seed, padded without a trace."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora2_bench.errors import UserError
from lora2_bench.tasks.batches import BucketSampler, by_length
from lora2_bench.tasks.data import Split
from lora2_bench.tasks.encoding import EncodedSplit, RaggedRows, encode
from lora2_bench.tasks.spec import task_spec


def seed_of(seed: int) -> Callable[[int], int]:
    return lambda epoch: 1000 * seed + epoch


lengths = st.lists(st.integers(1, 60), min_size=1, max_size=300)


@settings(max_examples=60, deadline=None)
@given(lengths, st.integers(1, 40), st.integers(0, 5), st.integers(0, 3))
def test_an_epoch_has_every_row_once(lengths: list[int], size: int, seed: int, epoch: int) -> None:
    sampler = BucketSampler(lengths, size, seed_of(seed))
    sampler.begin(epoch)
    batches = list(sampler)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert len(batches) == len(sampler)
    assert sum(len(batch) < size for batch in batches) <= 1
    assert batches == list(sampler)


def test_epochs_and_seeds_differ() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        sampler = BucketSampler(list(range(1, 200)), 8, seed_of(seed))
        sampler.begin(epoch)
        return list(sampler)

    assert order(0, 0) != order(0, 1) != order(1, 0)


def test_bucketing_saves_padding() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(5, 100, (2000,), generator=generator).tolist()
    batches = list(BucketSampler(lengths, 32, seed_of(0)))
    padded = sum(len(batch) * max(lengths[row] for row in batch) for batch in batches)
    assert padded < 1.1 * sum(lengths)


@given(lengths, st.integers(1, 40))
def test_evaluation_takes_the_longest_first(lengths: list[int], size: int) -> None:
    batches = by_length(lengths, size)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    longest = [max(lengths[row] for row in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)


def test_padding_is_on_the_right_and_masked() -> None:
    rows = EncodedSplit(RaggedRows.of([[5, 6, 7], [8]]), RaggedRows.of([[0, 0, 1], [0]]), [1, 0], (9, 3))
    batch = rows.collate([rows[1], rows[0]])
    assert batch["input_ids"].tolist() == [[8, 9, 9], [5, 6, 7]]
    assert batch["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert batch["token_type_ids"].tolist() == [[0, 3, 3], [0, 0, 1]]
    assert batch["labels"].tolist() == [0, 1] and batch["labels"].dtype == torch.int64
    scores = EncodedSplit(RaggedRows.of([[1]]), None, [2.5], (0, 0))
    assert scores.collate([scores[0]])["labels"].dtype == torch.float32


@pytest.mark.parametrize("architecture", ["bert", "roberta", "deberta-v2"])
def test_pairs_are_cut_to_length_and_joined(tiny_folders, architecture: str) -> None:  # type: ignore[no-untyped-def]
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_folders(architecture))
    split = Split(
        {"sentence1": ["Anna gave the book to Ben. " * 9, "Anna left."], "sentence2": ["Ben left.", "Yes."]}, [0, 1]
    )
    rows = encode(split, task_spec("rte"), tokenizer, 20)
    assert max(rows.lengths()) == 20 and min(rows.lengths()) < 20
    joined = tokenizer("Anna left.", "Yes.")
    assert rows.input_ids[1].tolist() == joined["input_ids"]
    assert (rows.token_type_ids is not None) == ("token_type_ids" in tokenizer.model_input_names)
    with pytest.raises(UserError, match=r"train.max_length=65 is above the backbone's 64 tokens"):
        encode(split, task_spec("rte"), tokenizer, 65)
