"""The words of the generated tasks: lexicons of meanings, each with a part that only dev splits may use.

A table is written as `wording/other wording, ...`: wordings between commas share one meaning, and in tables of kinds
(`CITIES`, `KINDS`) the first is the narrower one. Verbs stand in their base form.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

Meaning = tuple[str, ...]
"""The wordings of one meaning, interchangeable in a sentence (in a table of kinds: the narrower one first)."""


def _meanings(table: str) -> tuple[Meaning, ...]:
    return tuple(tuple(entry.split("/")) for entry in " ".join(table.split()).split(", "))


@dataclass(frozen=True)
class Source:
    """Where a row's words come from.

    Attributes:
        rng: draws the words.
        held_out: True for dev rows, which may use the held-out part of every lexicon.
        mismatched: True for the rows of MNLI's mismatched genre.
    """

    rng: Random
    held_out: bool
    mismatched: bool = False


@dataclass(frozen=True)
class Lexicon:
    """Meanings that fill one slot of a sentence.

    Attributes:
        train: meanings that every split draws from.
        held_out: meanings that only dev splits draw from.
    """

    train: tuple[Meaning, ...]
    held_out: tuple[Meaning, ...]

    @classmethod
    def of(cls, train: str, held_out: str) -> Lexicon:
        """The lexicon written as two tables."""
        return cls(_meanings(train), _meanings(held_out))

    def __add__(self, other: Lexicon) -> Lexicon:
        return Lexicon(self.train + other.train, self.held_out + other.held_out)

    def draw(self, source: Source, other_than: Meaning | None = None) -> Meaning:
        """One meaning that the source may use, never `other_than`."""
        pool = self.train + self.held_out if source.held_out else self.train
        return source.rng.choice([meaning for meaning in pool if meaning != other_than])

    def word(self, source: Source) -> str:
        """One wording of one meaning that the source may use."""
        return source.rng.choice(self.draw(source))


PEOPLE = Lexicon.of(
    """doctor/physician, lawyer/attorney, child/kid, teacher/instructor, thief/burglar, cop/policeman, writer/author,
    boss/manager, cook/chef, priest/pastor, soldier/trooper, merchant/trader, guest/visitor, student/pupil,
    actor/performer, scientist/researcher, singer/vocalist, king/monarch, worker/employee, neighbor/man next door,
    painter/artist, maid/housekeeper""",
    """guard/watchman, barber/hairdresser, tourist/traveler, judge/magistrate, driver/chauffeur, prisoner/inmate,
    reporter/journalist, nanny/babysitter""",
)

ITEMS = Lexicon.of(
    """bike/bicycle, sofa/couch, car/automobile, rug/carpet, mug/cup, purse/handbag, hat/cap, photo/picture,
    gift/present, rock/stone, television/TV, fridge/refrigerator, sweater/pullover, truck/lorry, movie/film,
    shovel/spade, pan/skillet, bucket/pail, stove/cooker, coat/jacket, jewel/gem, gun/firearm, watch/clock, vase/jar,
    map/chart""",
    """rabbit/bunny, cab/taxi, torch/flashlight, sack/bag, blanket/quilt, jet/airplane, phone/telephone,
    journal/diary""",
)

KINDS = Lexicon.of(
    """rose/flower, oak/tree, hammer/tool, guitar/instrument, dog/animal, apple/fruit, novel/book, gown/dress,
    diamond/gemstone, sandwich/meal, beer/drink, dagger/weapon""",
    """necklace/piece of jewelry, parrot/bird, yacht/boat, carrot/vegetable""",
)

ACTIONS = Lexicon.of(
    """buy/purchase, repair/fix, find/discover, hide/conceal, destroy/wreck, get/receive, lose/misplace,
    throw away/discard, examine/inspect, steal/rob, want/desire, bring back/return, choose/select, sell/trade away""",
    """clean/wash, pick up/collect, need/require, adore/love""",
)

PLACES = Lexicon.of(
    """in the shop/in the store, in the woods/in the forest, in the harbor/in the port, in the cellar/in the basement,
    at the inn/at the hotel, on the road/on the street, on the shore/on the beach, at the office/at work,
    in the yard/in the garden, at the chapel/at the church, at the pub/at the bar, in the house/at home""",
    """in the flat/in the apartment, in the jail/in the prison, at the hospital/at the clinic,
    in the village/in the small town""",
)

CITIES = Lexicon.of(
    """in Paris/in France, in Rome/in Italy, in Berlin/in Germany, in Tokyo/in Japan, in Madrid/in Spain,
    in Moscow/in Russia, in Beijing/in China, in Cairo/in Egypt, in Toronto/in Canada, in Mumbai/in India""",
    """in Sydney/in Australia, in Athens/in Greece, in Dublin/in Ireland, in Stockholm/in Sweden""",
)

TIMES = Lexicon.of(
    """at noon/at midday, at dawn/at sunrise, at night/after dark, in autumn/in the fall, in December/in winter,
    in July/in summer, on Sunday/at the weekend, in the 1990s/last century""",
    """at dusk/at sunset, in April/in spring, before lunch/in the morning""",
)

_IRREGULAR = {
    "buy": ("bought", "bought"),
    "find": ("found", "found"),
    "hide": ("hid", "hidden"),
    "get": ("got", "gotten"),
    "lose": ("lost", "lost"),
    "throw": ("threw", "thrown"),
    "steal": ("stole", "stolen"),
    "bring": ("brought", "brought"),
    "choose": ("chose", "chosen"),
    "sell": ("sold", "sold"),
}


def _inflect(verb: str, form: int) -> str:
    head, _, particle = verb.partition(" ")
    if head in _IRREGULAR:
        inflected = _IRREGULAR[head][form]
    elif head.endswith("e"):
        inflected = head + "d"
    else:
        inflected = head + "ed"
    return f"{inflected} {particle}".strip()


def past(verb: str) -> str:
    """Past tense of a base form, its particle kept: `throw away` -> `threw away`."""
    return _inflect(verb, 0)


def participle(verb: str) -> str:
    """Past participle of a base form, its particle kept."""
    return _inflect(verb, 1)


def a(noun: str) -> str:
    """The noun with its indefinite article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
