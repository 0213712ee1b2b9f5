"""The generated tasks: shapes, determinism, disjoint splits, labels that follow the text, and no shortcut by words."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from functools import cache

import numpy as np
import pytest
from scipy.sparse import hstack
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from lora2_bench.tasks.data import Split, TaskData
from lora2_bench.tasks.mini import DEV_ROWS, TRAIN_ROWS, lexicon, mini_splits
from lora2_bench.tasks.mini.lexicon import Lexicon, past
from lora2_bench.tasks.spec import TASKS, TaskSpec, task_spec

SPECS = [pytest.param(spec, id=name) for name, spec in TASKS.items()]
PAIR_SPECS = [pytest.param(spec, id=name) for name, spec in TASKS.items() if len(spec.columns) == 2]
LEXICONS = {name: value for name, value in vars(lexicon).items() if isinstance(value, Lexicon)}
# A linear model that cannot compare the two columns is near chance; dev has 400 rows, so 0.65 is six deviations off.
BAG_OF_WORDS_BOUND = 0.65


@cache
def splits_of(name: str, seed: int = 0) -> dict[str, Split]:
    return mini_splits(task_spec(name), seed)


def rows_of(spec: TaskSpec, split: Split) -> list[tuple[str, ...]]:
    return list(zip(*[split.texts[column] for column in spec.columns], strict=True))


def words_of(texts: tuple[str, ...]) -> set[str]:
    return set(re.findall(r"\w+", " ".join(texts).lower()))


@pytest.mark.parametrize("spec", SPECS)
def test_splits_have_the_task_shape(spec: TaskSpec) -> None:
    splits = splits_of(spec.name)
    assert tuple(splits) == spec.splits
    for name, split in splits.items():
        rows = TRAIN_ROWS if name == "train" else DEV_ROWS
        assert tuple(split.texts) == spec.columns
        assert len(split) == rows
        assert all(len(column) == rows for column in split.texts.values())
    assert (TRAIN_ROWS, DEV_ROWS) == (2000, 400)


@pytest.mark.parametrize("spec", SPECS)
def test_labels_are_valid_and_balanced(spec: TaskSpec) -> None:
    for split in splits_of(spec.name).values():
        counts = Counter(split.labels)
        assert set(counts) == set(range(spec.num_labels) if spec.labels else (0.0, 1.0, 2.0, 3.0, 4.0, 5.0))
        assert {type(label) for label in split.labels} == {int if spec.labels else float}
        assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("spec", SPECS)
def test_labels_are_in_no_order(spec: TaskSpec) -> None:
    labels = splits_of(spec.name)["train"].labels
    assert len(set(labels[:40])) == len(set(labels))
    assert labels != sorted(labels)
    period = len(set(labels))
    assert any(labels[i] != labels[i + period] for i in range(100))


@pytest.mark.parametrize("spec", SPECS)
def test_sentences_are_short_and_clean(spec: TaskSpec) -> None:
    for split in splits_of(spec.name).values():
        for texts in rows_of(spec, split):
            assert len(" ".join(texts).split()) <= 32, texts
            for text in texts:
                assert re.fullmatch(r"[A-Z][A-Za-z0-9, ]*[.?]", text) and "  " not in text, text


@pytest.mark.parametrize("spec", SPECS)
def test_no_row_occurs_twice_in_or_across_splits(spec: TaskSpec) -> None:
    rows = [texts for split in splits_of(spec.name).values() for texts in rows_of(spec, split)]
    assert len(set(rows)) == len(rows)


@pytest.mark.parametrize("spec", SPECS)
def test_dev_has_words_unseen_in_train(spec: TaskSpec) -> None:
    splits = splits_of(spec.name)
    known = set().union(*(words_of(texts) for texts in rows_of(spec, splits["train"])))
    for name in spec.dev_splits:
        rows = rows_of(spec, splits[name])
        unseen = sum(bool(words_of(texts) - known) for texts in rows)
        assert unseen >= 0.4 * len(rows), name


def test_mismatched_genre_shares_no_lexicon_with_train() -> None:
    rural = {word for name, value in LEXICONS.items() if name.startswith("RURAL") for word in wordings(value)}
    for texts in rows_of(task_spec("mnli"), splits_of("mnli")["dev_mismatched"]):
        assert any(f"The {person} " in texts[0] for person in wordings(lexicon.RURAL_PEOPLE)), texts
    town = (lexicon.PEOPLE, lexicon.ITEMS, lexicon.ACTIONS, lexicon.PLACES, lexicon.TIMES)
    assert rural.isdisjoint(word for value in town for word in wordings(value))


@pytest.mark.parametrize("spec", SPECS)
def test_another_seed_gives_other_rows(spec: TaskSpec) -> None:
    first, other = splits_of(spec.name), splits_of(spec.name, 1)
    for name in spec.splits:
        shared = set(rows_of(spec, first[name])) & set(rows_of(spec, other[name]))
        assert len(shared) < 0.5 * len(first[name])


@pytest.mark.slow
def test_same_seed_gives_the_same_rows_in_any_process() -> None:
    code = (
        "from lora2_bench.tasks.data import TaskData; from lora2_bench.tasks.mini import mini_splits\n"
        "from lora2_bench.tasks.spec import TASKS\n"
        "for spec in TASKS.values(): print(TaskData(spec, 'mini', mini_splits(spec, 3)).content_hash())"
    )
    here = [TaskData(spec, "mini", mini_splits(spec, 3)).content_hash() for spec in TASKS.values()]
    for hash_seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": hash_seed}
        there = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        assert there.stdout.split() == here


def bag_of_words_score(spec: TaskSpec, train: Split, dev: Split, per_column: bool) -> float:
    """Dev accuracy (Pearson for a regression) of a linear model on word counts."""
    joined = [" ".join(texts) for texts in rows_of(spec, train)], [" ".join(texts) for texts in rows_of(spec, dev)]
    columns = [(train.texts[c], dev.texts[c]) for c in spec.columns] if per_column else [joined]
    fitted = [(CountVectorizer().fit(seen), seen, new) for seen, new in columns]
    seen_counts = hstack([vectorizer.transform(seen) for vectorizer, seen, _ in fitted])
    new_counts = hstack([vectorizer.transform(new) for vectorizer, _, new in fitted])
    model = Ridge() if spec.is_regression else LogisticRegression(max_iter=1000)
    predicted = model.fit(seen_counts, train.labels).predict(new_counts)
    if spec.is_regression:
        return float(np.corrcoef(predicted, dev.labels)[0, 1])
    return float(np.mean(predicted == np.array(dev.labels)))


@pytest.mark.parametrize("per_column", [False, True], ids=["joined", "per_column"])
@pytest.mark.parametrize("spec", PAIR_SPECS)
def test_a_bag_of_words_does_not_solve_a_pair_task(spec: TaskSpec, per_column: bool) -> None:
    splits = splits_of(spec.name)
    for name in spec.dev_splits:
        assert bag_of_words_score(spec, splits["train"], splits[name], per_column) <= BAG_OF_WORDS_BOUND


def wordings(value: Lexicon) -> list[str]:
    return [word for meaning in value.train + value.held_out for word in meaning]


@pytest.mark.parametrize("name", LEXICONS)
def test_no_wording_of_a_lexicon_has_two_meanings(name: str) -> None:
    words = wordings(LEXICONS[name])
    assert LEXICONS[name].train and LEXICONS[name].held_out
    assert len(set(words)) == len(words)


def meaning_of(word: str, *lexicons: Lexicon) -> tuple[str, str]:
    return next(m for value in lexicons for m in value.train + value.held_out if word in m)


def test_stsb_score_is_the_number_of_facts_that_agree() -> None:
    slots = (
        (lexicon.PEOPLE,),
        (lexicon.ACTIONS,),
        (lexicon.ITEMS,),
        (lexicon.PLACES,),
        (lexicon.TIMES,),
    )
    base = {past(word): word for word in wordings(lexicon.ACTIONS)}
    words = [[word for value in values for word in wordings(value)] for values in slots]
    words[1] = list(base)
    groups = ["(" + "|".join(map(re.escape, options)) + ")" for options in words]
    pattern = re.compile("The {} {} an? {} {} {}\\.".format(*groups))

    def facts(text: str) -> list[tuple[str, str]]:
        found = pattern.fullmatch(text)
        assert found, text
        values = [base.get(word, word) for word in found.groups()]
        return [meaning_of(word, *lexicons) for word, lexicons in zip(values, slots, strict=True)]

    for split in splits_of("stsb").values():
        for (first, second), score in zip(rows_of(task_spec("stsb"), split), split.labels, strict=True):
            assert sum(a == b for a, b in zip(facts(first), facts(second), strict=True)) == score, (first, second)


def test_wnli_is_entailed_when_the_hypothesis_names_the_one_referred_to() -> None:
    spec, candidates = task_spec("wnli"), (lexicon.PEOPLE, lexicon.ITEMS)
    for split in splits_of("wnli").values():
        for (premise, hypothesis), label in zip(rows_of(spec, split), split.labels, strict=True):
            again = re.search(r" because the (.+) was ", premise)
            named = re.match(r"The (.+) was ", hypothesis)
            assert again and named
            assert re.search(rf"\bthe {named[1]}\b", premise, re.IGNORECASE), "both candidates are in the premise"
            entailed = meaning_of(named[1], *candidates) == meaning_of(again[1], *candidates)
            assert spec.labels[int(label)] == ("entailment" if entailed else "not_entailment"), premise
