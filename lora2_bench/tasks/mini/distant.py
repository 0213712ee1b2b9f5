"""distant: long passages, and statements whose evidence is far from them."""

from __future__ import annotations

from functools import cache
from itertools import product

from lora2_bench.tasks.mini.entailment import rte
from lora2_bench.tasks.mini.events import sentence
from lora2_bench.tasks.mini.lexicon import Lexicon, Source

FILLERS = 77
"""Sentences of a passage beside the event's: with it and the statement, 470 to 512 tokens."""
EARLY = FILLERS // 3
"""The event stands among the first so many of them: more than 300 tokens lie between it and the statement."""

# None of these words is of an event.
_THINGS = Lexicon.of(
    """river/lake, sky/moon, wind/storm, valley/mountain, snow/ice, rain/fog, island/desert, bridge/tower, wall/fence,
    sand/mud, grass/moss, sun/cloud""",
    "shadow/light, coast/cliff",
)
_DEGREES = Lexicon.of("very/quite, rather/fairly, always/often, still/almost", "never/seldom")
_STATES = Lexicon.of(
    """calm/quiet, cold/warm, dark/bright, high/low, near/far, wide/narrow, dry/wet, grey/white, old/new, soft/hard,
    thin/thick, pale/deep""",
    "wild/still, smooth/rough",
)


@cache
def _fillers(held_out: bool) -> list[str]:
    """All sentences of six words and signs that say nothing of an event."""

    def words(lexicon: Lexicon) -> list[str]:
        meanings = lexicon.train + lexicon.held_out if held_out else lexicon.train
        return [word for meaning in meanings for word in meaning]

    parts = product(words(_THINGS), words(_DEGREES), words(_STATES))
    return [sentence(f"the {thing} was {degree} {state}") for thing, degree, state in parts]


def distant(label: str, source: Source) -> tuple[str, str]:
    """The event and the statement of an `rte` row, the event told once, early in a passage about something else."""
    event, statement = rte(label, source)
    passage = source.rng.sample(_fillers(source.held_out), FILLERS)
    passage.insert(source.rng.randrange(EARLY), event)
    return " ".join(passage), statement
