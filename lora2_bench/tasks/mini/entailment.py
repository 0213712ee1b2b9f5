"""rte, mnli and wnli: does the premise make the hypothesis true?"""

from __future__ import annotations

from lora2_bench.tasks.mini import lexicon
from lora2_bench.tasks.mini.events import World, active, draw_event, first_wording, near_or_far, retell, sentence
from lora2_bench.tasks.mini.lexicon import Source

_RTE: World = {
    "person": lexicon.PEOPLE,
    "action": lexicon.ACTIONS,
    "item": lexicon.ITEMS + lexicon.KINDS,
    "place": lexicon.CITIES,
    "time": lexicon.TIMES,
}


def rte(label: str, source: Source) -> tuple[str, str]:
    """An event, and some of it told again in other or broader words; one or two facts are changed or none."""
    event = draw_event(_RTE, source)
    details = source.rng.choice((["place"], ["time"], []))
    touched = source.rng.sample(["person", "item", *details], 2)
    changed = [] if label == "entailment" else near_or_far(touched, source)
    original = first_wording(event)
    retold = retell(event, original, source, world=_RTE, reworded=touched, changed=changed)
    return active(original, *details), active(retold, *(slot for slot in details if slot in touched))


_TOWN: World = {
    "person": lexicon.PEOPLE,
    "action": lexicon.ACTIONS,
    "item": lexicon.ITEMS,
    "place": lexicon.PLACES,
    "time": lexicon.TIMES,
}
_COUNTRY: World = {
    "person": lexicon.RURAL_PEOPLE,
    "action": lexicon.RURAL_ACTIONS,
    "item": lexicon.RURAL_ITEMS,
    "place": lexicon.RURAL_PLACES,
    "time": lexicon.RURAL_TIMES,
}


def mnli(label: str, source: Source) -> tuple[str, str]:
    """An event at one place or time; the hypothesis gives the same (entailment), another (contradiction), or the
    other kind of detail, which the premise leaves open (neutral).
    """
    world = _COUNTRY if source.mismatched else _TOWN
    event = draw_event(world, source)
    given, left_open = source.rng.sample(["place", "time"], 2)
    actor = source.rng.choice(("person", "item"))
    # Mostly the detail keeps its words: with three classes, other words throughout are too much for the few steps of
    # a quick run.
    reworded = [actor, "place", "time"] if source.rng.random() < 1 / 5 else [actor]
    changed = near_or_far([given, actor], source) if label == "contradiction" else []
    original = first_wording(event)
    retold = retell(event, original, source, world=world, reworded=reworded, changed=changed)
    return active(original, given), active(retold, left_open if label == "neutral" else given)


def wnli(label: str, source: Source) -> tuple[str, str]:
    """Two candidates, one of them referred to again by another name; the hypothesis puts one in that name's place."""
    candidates = lexicon.PEOPLE + lexicon.ITEMS
    referent = candidates.draw(source)
    rival = candidates.draw(source, other_than=referent)
    # The rival too is named once: the hypothesis repeats a word of the premise whether or not it is entailed.
    (name, again), rival_name = source.rng.sample(referent, 2), source.rng.choice(rival)
    first, second = source.rng.sample([name, rival_name], 2)
    relation, state = lexicon.RELATIONS.word(source), lexicon.STATES.word(source)
    named = name if label == "entailment" else rival_name
    premise = f"the {first} {relation} the {second} because the {again} was {state}"
    return sentence(premise), sentence(f"the {named} was {state}")
