"""Events (who did what to what, where and when) and their wordings: what the tasks' sentences are made of."""

from __future__ import annotations

from collections.abc import Iterable

from lora2_bench.tasks.mini.lexicon import Lexicon, Meaning, Source, a, participle, past

Event = dict[str, Meaning]
"""Slot -> meaning."""
Wording = dict[str, str]
"""Slot -> the wording chosen for it."""
World = dict[str, Lexicon]
"""Slot -> the lexicon that fills it."""


def draw_event(world: World, source: Source) -> Event:
    """One meaning per slot of the world."""
    return {slot: lexicon.draw(source) for slot, lexicon in world.items()}


def first_wording(event: Event) -> Wording:
    """Every slot in its first (in a table of kinds: its narrower) wording."""
    return {slot: meaning[0] for slot, meaning in event.items()}


def draw_wording(event: Event, source: Source) -> Wording:
    """A wording of the event, drawn per slot."""
    return {slot: source.rng.choice(meaning) for slot, meaning in event.items()}


def retell(
    event: Event,
    original: Wording,
    source: Source,
    *,
    world: World,
    reworded: Iterable[str],
    changed: Iterable[str] = (),
) -> Wording:
    """Tell the event again: in other words in the `reworded` slots, with another meaning in the `changed` ones.

    A changed slot takes the wording of its new meaning that stands where the reworded one would: neither the number of
    words shared with `original` nor any word alone then tells whether a meaning has changed.
    """
    retold = dict(original)
    for slots, differs in ((reworded, False), (changed, True)):
        for slot in slots:
            meaning = world[slot].draw(source, other_than=event[slot]) if differs else event[slot]
            retold[slot] = meaning[1 - event[slot].index(original[slot])]
    return retold


def near_or_far(slots: list[str], source: Source) -> list[str]:
    """One or two of the slots: the facts to change.

    One is the near miss that the tasks are about; two is what a small adapter learns the comparison from quickly.
    """
    return slots[: source.rng.randint(1, 2)]


def sentence(words: str) -> str:
    """The words as a sentence: a capital, a full stop unless it is a question, no gaps left by empty slots."""
    text = " ".join(words.split())
    return text[0].upper() + text[1:] + ("" if text.endswith("?") else ".")


def active(wording: Wording, *details: str) -> str:
    """`The doctor bought a bike in Paris.`, with the details (slots) in the order given."""
    tail = " ".join(wording[slot] for slot in details)
    return sentence(f"the {wording['person']} {past(wording['action'])} {a(wording['item'])} {tail}")


def passive(wording: Wording, *details: str) -> str:
    """`In Paris a bike was bought by the doctor.`, with the details (slots) in the order given."""
    head = " ".join(wording[slot] for slot in details)
    return sentence(f"{head} {a(wording['item'])} was {participle(wording['action'])} by the {wording['person']}")
