"""cola and sst2: one sentence, its grammar or its sentiment."""

from __future__ import annotations

from collections.abc import Callable

from lora2_bench.tasks.mini import lexicon
from lora2_bench.tasks.mini.events import Wording, draw_event, draw_wording, sentence
from lora2_bench.tasks.mini.lexicon import Lexicon, Source, participle, past, plural_of

_SCENE = {
    "person": lexicon.PEOPLE,
    "action": lexicon.ACTIONS,
    "item": lexicon.ITEMS,
    "place": lexicon.CITIES + lexicon.PLACES,
}


def _agreement(words: Wording, good: bool, plural: bool) -> str:
    """The map was / *were seen in the shop; the maps were / *was seen in the shop."""
    noun = plural_of(words["item"]) if plural else words["item"]
    return f"the {noun} {'were' if plural == good else 'was'} {participle(words['action'])} {words['place']}"


def _determiner(words: Wording, good: bool, plural: bool) -> str:
    """The child saw this / *these map; the child saw these / *this maps."""
    noun = plural_of(words["item"]) if plural else words["item"]
    determiner = "these" if plural == good else "this"
    return f"the {words['person']} {past(words['action'])} {determiner} {noun} {words['place']}"


def _auxiliary(words: Wording, good: bool, perfect: bool) -> str:
    """The child will see / *seen the map; the child has seen / *see the map."""
    verb = participle(words["action"]) if perfect == good else words["action"]
    return f"the {words['person']} {'has' if perfect else 'will'} {verb} the {words['item']} {words['place']}"


def _question(words: Wording, good: bool, perfect: bool) -> str:
    """Did the child see / *seen the map? Has the child seen / *see the map?"""
    verb = participle(words["action"]) if perfect == good else words["action"]
    return f"{'has' if perfect else 'did'} the {words['person']} {verb} the {words['item']} {words['place']}?"


def _object(words: Wording, good: bool, _: bool) -> str:
    """The child wrecked the map / *wrecked the."""
    item = words["item"] if good else ""
    return f"the {words['person']} {past(words['action'])} the {item} {words['place']}"


def _article(words: Wording, good: bool, _: bool) -> str:
    """The child saw the map / *map the."""
    item = f"the {words['item']}" if good else f"{words['item']} the"
    return f"the {words['person']} {past(words['action'])} {item} {words['place']}"


def _verb_order(words: Wording, good: bool, _: bool) -> str:
    """The child saw the map / *The saw child the map."""
    head = f"{words['person']} {past(words['action'])}" if good else f"{past(words['action'])} {words['person']}"
    return f"the {head} the {words['item']} {words['place']}"


_PATTERNS: tuple[Callable[[Wording, bool, bool], str], ...] = (
    _agreement,
    _auxiliary,
    _object,
    _article,
    _verb_order,
    _determiner,
    _question,
)


def cola(label: str, source: Source) -> tuple[str]:
    """A sentence that is grammatical, or broken in agreement, verb form, word order or a missing noun."""
    words = draw_wording(draw_event(_SCENE, source), source)
    pattern = source.rng.choice(_PATTERNS)
    variant = source.rng.random() < 0.5
    return (sentence(pattern(words, label == "acceptable", variant)),)


_GOOD = Lexicon.of(
    """wonderful/superb, brilliant/excellent, funny/charming, delightful/lovely, fresh/original, moving/touching,
    gripping/exciting, clever/witty""",
    "amazing/fantastic, elegant/beautiful, enjoyable/pleasant",
)
_BAD = Lexicon.of(
    """terrible/awful, boring/dull, stupid/silly, painful/unpleasant, stale/tired, annoying/irritating,
    ugly/clumsy, weak/poor""",
    "horrible/dreadful, tedious/dreary, lousy/disappointing",
)
_WORKS = Lexicon.of(
    """film/movie, plot/story, cast/acting, dialogue/script, music/soundtrack, ending/final scene, hero/leading man,
    director/filmmaker, novel/book, play/show""",
    "comedy/farce, sequel/remake, concert/performance, photography/camera work",
)
_AFFIRM = Lexicon.of("really/truly, very/extremely, always/simply, quite/rather", "utterly/absolutely")
_NEGATE = Lexicon.of(
    "not/not at all, never/hardly ever, not really/not very, anything but/far from", "by no means/in no way"
)


def sst2(label: str, source: Source) -> tuple[str]:
    """A verdict on a work, negated half of the time, sometimes after an opposite or equal opinion of others."""
    rng = source.rng
    negated = rng.random() < 0.5
    praises = (label == "positive") != negated
    verdict = f"{(_NEGATE if negated else _AFFIRM).word(source)} {(_GOOD if praises else _BAD).word(source)}"
    work = _WORKS.word(source)
    if rng.random() < 0.3:
        rumour = rng.choice((_GOOD, _BAD)).word(source)
        return (sentence(f"they called the {work} {rumour}, but to me it was {verdict}"),)
    return (sentence(f"the {work} is {verdict}"),)
