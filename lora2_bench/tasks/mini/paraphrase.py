"""mrpc, qqp, stsb and qnli: whether two texts speak of the same event or question."""

from __future__ import annotations

from lora2_bench.tasks.mini import lexicon
from lora2_bench.tasks.mini.events import (
    World,
    active,
    draw_event,
    draw_wording,
    near_or_far,
    passive,
    retell,
    sentence,
)
from lora2_bench.tasks.mini.lexicon import Source, a

_NEWS: World = {
    "person": lexicon.PEOPLE,
    "action": lexicon.ACTIONS,
    "item": lexicon.ITEMS,
    "place": lexicon.PLACES,
}


def mrpc(label: str, source: Source) -> tuple[str, str]:
    """One event told twice, once perhaps in the passive; two facts in other words, one or both changed or none."""
    event = draw_event(_NEWS, source)
    original = draw_wording(event, source)
    touched = source.rng.sample(sorted(_NEWS), 2)
    changed = [] if label == "equivalent" else near_or_far(touched, source)
    retold = retell(event, original, source, world=_NEWS, reworded=touched, changed=changed)
    voice = source.rng.choice((active, passive))
    return active(original, "place"), voice(retold, "place")


_QUESTIONS: World = {"intent": lexicon.INTENTS, "action": lexicon.ACTIONS, "item": lexicon.ITEMS}


def qqp(label: str, source: Source) -> tuple[str, str]:
    """Two questions; one or two of what is asked, the action and the item differ unless they are duplicates."""
    event = draw_event(_QUESTIONS, source)
    original = draw_wording(event, source)
    touched = source.rng.sample(sorted(_QUESTIONS), 2)
    changed = [] if label == "duplicate" else near_or_far(touched, source)
    retold = retell(event, original, source, world=_QUESTIONS, reworded=touched, changed=changed)
    question1, question2 = (
        sentence(f"{wording['intent']} {wording['action']} {a(wording['item'])}?") for wording in (original, retold)
    )
    return question1, question2


_FACTS: World = {**_NEWS, "time": lexicon.TIMES}


def stsb(score: int, source: Source) -> tuple[str, str]:
    """Two sentences of five facts each, of which `score` agree; facts that agree are mostly told in other words."""
    event = draw_event(_FACTS, source)
    original = draw_wording(event, source)
    slots = source.rng.sample(sorted(_FACTS), len(_FACTS))
    same, changed = slots[:score], slots[score:]
    reworded = [slot for slot in same if source.rng.random() < 0.7]
    retold = retell(event, original, source, world=_FACTS, reworded=reworded, changed=changed)
    return active(original, "place", "time"), active(retold, "place", "time")


_ANSWERS: World = {**_NEWS, "time": lexicon.TIMES, "reason": lexicon.REASONS}
_ASKS = {"place": "where", "time": "when", "reason": "why"}


def qnli(label: str, source: Source) -> tuple[str, str]:
    """Where, when or why something was done, and a sentence that says so, or says something else of it."""
    event = draw_event(_ANSWERS, source)
    original = draw_wording(event, source)
    asked = source.rng.choice(list(_ASKS))
    wrong = [] if label == "entailment" else near_or_far(source.rng.sample(["answer", "item"], 2), source)
    given = source.rng.choice([slot for slot in _ASKS if slot != asked]) if "answer" in wrong else asked
    changed = ["item"] if "item" in wrong else []
    retold = retell(event, original, source, world=_ANSWERS, reworded=["item"], changed=changed)
    question = sentence(f"{_ASKS[asked]} did the {original['person']} {original['action']} the {original['item']}?")
    return question, active(retold, given)
