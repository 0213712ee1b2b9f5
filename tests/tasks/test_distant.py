"""The long generated task: its length, where the evidence is, that it is needed, and where its rows come from."""

from __future__ import annotations

import dataclasses
import re
from functools import cache

import pytest
from transformers import AutoTokenizer

from lora2_bench.backbones.folder import find_folder
from lora2_bench.errors import UserError
from lora2_bench.experiment.cell import Model
from lora2_bench.tasks.data import Split
from lora2_bench.tasks.mini import DEV_ROWS, TRAIN_ROWS, mini_splits
from lora2_bench.tasks.mini.distant import EARLY, FILLERS
from lora2_bench.tasks.sources import load_task
from lora2_bench.tasks.spec import TASKS, task_spec
from tests.composed import plan_of
from tests.tasks.test_mini import BAG_OF_WORDS_BOUND, bag_of_words_score, rows_of, words_of

SPEC = task_spec("distant")


@cache
def splits() -> dict[str, Split]:
    return mini_splits(SPEC)


def sentences(passage: str) -> list[str]:
    return [f"{part}." for part in passage.rstrip(".").split(". ")]


def evidence(passage: str) -> int:
    """The place of the only sentence that is no filler."""
    (place,) = [n for n, one in enumerate(sentences(passage)) if not re.fullmatch(r"The \w+ was \w+ \w+\.", one)]
    return place


def test_it_is_no_task_of_glue_and_has_balanced_labels_and_rows_of_its_own() -> None:
    assert "distant" not in TASKS
    rows = [texts for split in splits().values() for texts in rows_of(SPEC, split)]
    assert len(set(rows)) == len(rows) == sum(SPEC.rows.values())
    assert SPEC.rows == {"train": TRAIN_ROWS, "dev": DEV_ROWS}
    for split in splits().values():
        assert sum(split.labels) * 2 == len(split)
    known = set().union(*(words_of(texts) for texts in rows_of(SPEC, splits()["train"])))
    unseen = sum(bool(words_of((statement,)) - known) for _, statement in rows_of(SPEC, splits()["dev"]))
    assert unseen > 0.25 * DEV_ROWS
    assert mini_splits(SPEC, 1)["dev"].texts != splits()["dev"].texts


def test_rows_fill_512_tokens_and_none_is_cut() -> None:
    plan = plan_of("task=distant")
    assert plan.cell.train.max_length == 512 and plan_of("task=rte").cell.train.max_length == 128
    model: Model = plan.cell.model
    options = plan.run_options
    folder = find_folder(model, path=None, package=options.model_package, folder=options.model_folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    passages, statements = (splits()["dev"].texts[name] for name in SPEC.columns)
    coded = tokenizer(passages, statements)["input_ids"]
    lengths = [len(ids) for ids in coded]
    assert min(lengths) >= 470 and max(lengths) <= 512
    for passage, ids in zip(passages, coded, strict=True):
        told = " ".join(sentences(passage)[: evidence(passage) + 1])
        begins = ids.index(tokenizer.sep_token_id) + 1  # the statement
        assert begins - len(tokenizer(told)["input_ids"]) > 256


def test_the_event_is_told_once_and_early() -> None:
    places = [evidence(passage) for passage in splits()["train"].texts["passage"]]
    assert min(places) == 0 and max(places) == EARLY - 1
    assert {len(sentences(passage)) for passage in splits()["train"].texts["passage"]} == {FILLERS + 1}


def test_without_the_evidence_the_statement_cannot_be_judged() -> None:
    """A bag of words of all, and of the statement alone, is near chance."""
    train, dev = splits()["train"], splits()["dev"]
    assert bag_of_words_score(SPEC, train, dev, False) <= BAG_OF_WORDS_BOUND
    alone = dataclasses.replace(SPEC, columns=("statement",))
    assert bag_of_words_score(alone, train, dev, False) <= BAG_OF_WORDS_BOUND


@pytest.mark.parametrize("source", ["hub", "local"])
def test_files_that_do_not_exist_are_not_asked_for(source: str) -> None:
    told = rf"^task=distant is made by the package and is not in data={source}: give data=mini$"
    with pytest.raises(UserError, match=told):
        load_task("distant", source)
    with pytest.raises(UserError, match=told):
        plan_of("task=distant", f"data={source}")
