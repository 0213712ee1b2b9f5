"""rte and mnli: does the premise's event make the hypothesis true?"""

from __future__ import annotations

from random import Random

from lora2_bench.tasks.mini.events import World, active, draw_event, first_wording, retell
from lora2_bench.tasks.mini.lexicon import ACTIONS, CITIES, ITEMS, KINDS, PEOPLE, TIMES

_RTE: World = {"person": PEOPLE, "action": ACTIONS, "item": ITEMS + KINDS, "place": CITIES, "time": TIMES}


def rte(label: str, rng: Random, dev: bool) -> tuple[str, str]:
    """A premise of five facts, and a hypothesis of four in other words: one fact is changed unless it is entailed."""
    event = draw_event(_RTE, rng, dev)
    premise = first_wording(event)
    detail = rng.choice(("place", "time"))
    slots = ["person", "item", detail]
    touched = rng.sample(slots, rng.randint(1, 3))
    changed = [] if label == "entailment" else touched[:1]
    hypothesis = retell(event, premise, touched, changed, _RTE, rng, dev)
    order = rng.sample(["place", "time"], 2)
    return active(premise, *order), active(hypothesis, detail)
