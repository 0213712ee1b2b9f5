"""Events (who did what to what, where and when) and their wordings: what the tasks' sentences are made of."""

from __future__ import annotations

from random import Random

from lora2_bench.tasks.mini.lexicon import Lexicon, Meaning, a, participle, past

Event = dict[str, Meaning]
"""Slot -> meaning."""
Wording = dict[str, str]
"""Slot -> the wording chosen for it."""
World = dict[str, Lexicon]
"""Slot -> the lexicon that fills it."""


def draw_event(world: World, rng: Random, dev: bool) -> Event:
    """One meaning per slot of the world."""
    return {slot: lexicon.draw(rng, dev) for slot, lexicon in world.items()}


def first_wording(event: Event) -> Wording:
    """Every slot in its first (in a table of kinds: its narrower) wording."""
    return {slot: meaning[0] for slot, meaning in event.items()}


def draw_wording(event: Event, rng: Random) -> Wording:
    """A wording of the event, drawn per slot."""
    return {slot: rng.choice(meaning) for slot, meaning in event.items()}


def other_wording(meaning: Meaning, wording: str, rng: Random) -> str:
    """A wording of the meaning that is not `wording`."""
    return rng.choice([other for other in meaning if other != wording])


def retell(
    event: Event, told: Wording, touched: list[str], changed: list[str], world: World, rng: Random, dev: bool
) -> Wording:
    """Tell `event` again: other words in the touched slots, and another meaning in those that are also changed.

    As many words differ from `told` whether or not a meaning changed, so that counting shared words tells nothing.
    """
    retold = dict(told)
    for slot in touched:
        if slot in changed:
            retold[slot] = rng.choice(world[slot].draw(rng, dev, other_than=event[slot]))
        else:
            retold[slot] = other_wording(event[slot], told[slot], rng)
    return retold


def sentence(words: str) -> str:
    """The words as a sentence: first letter large, a full stop at the end, no gaps left by empty slots."""
    text = " ".join(words.split())
    return text[0].upper() + text[1:] + ("" if text.endswith("?") else ".")


def active(wording: Wording, *details: str) -> str:
    """`The doctor bought a bike in Paris.`, with the details (slots) in the order given."""
    tail = " ".join(wording[slot] for slot in details)
    return sentence(f"the {wording['person']} {past(wording['action'])} {a(wording['item'])} {tail}")


def passive(wording: Wording, *details: str) -> str:
    """`In Paris a bike was bought by the doctor.`"""
    head = " ".join(wording[slot] for slot in details)
    return sentence(f"{head} {a(wording['item'])} was {participle(wording['action'])} by the {wording['person']}")
