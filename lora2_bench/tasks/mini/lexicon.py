"""The words of the generated tasks: lexicons of meanings, each with a part that only dev splits may use.

A table is written as `wording/other wording, ...`: the two wordings between commas share one meaning, and in tables of
kinds (`CITIES`, `KINDS`, `TIMES`) the first is the narrower one, so that it entails the second. Verbs stand in their
base form.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

Meaning = tuple[str, str]
"""The two wordings of one meaning, interchangeable in a sentence (in a table of kinds: the narrower one first)."""


def _meanings(table: str) -> tuple[Meaning, ...]:
    entries = " ".join(table.split()).split(", ")
    return tuple((first, second) for first, second in (entry.split("/") for entry in entries))


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
    actor/movie star, scientist/researcher, singer/vocalist, king/monarch, worker/employee, maid/housekeeper""",
    """guard/watchman, barber/hairdresser, tourist/traveler, judge/magistrate, driver/chauffeur, prisoner/inmate,
    reporter/journalist, nanny/babysitter""",
)

ITEMS = Lexicon.of(
    """bike/bicycle, sofa/couch, car/automobile, rug/carpet, mug/cup, purse/handbag, hat/cap, photo/picture,
    gift/present, rock/stone, television/TV, fridge/refrigerator, sweater/pullover, truck/lorry, movie/film,
    shovel/spade, pan/skillet, bucket/pail, stove/cooker, coat/jacket, gun/firearm, watch/clock, vase/jar,
    map/chart""",
    """pillow/cushion, cab/taxi, torch/flashlight, sack/bag, blanket/quilt, jet/airplane, phone/telephone,
    journal/diary""",
)

KINDS = Lexicon.of(
    """rose/flower, oak/tree, guitar/musical instrument, poodle/dog, apple/fruit, novel/book, gown/dress,
    diamond/gemstone, sandwich/meal, beer/drink""",
    """necklace/piece of jewelry, parrot/bird, yacht/boat, carrot/vegetable""",
)

ACTIONS = Lexicon.of(
    """buy/purchase, repair/fix, find/discover, hide/conceal, destroy/wreck, get/receive, lose/misplace,
    throw away/discard, examine/inspect, steal/swipe, want/desire, bring back/return, choose/select, clean/wash""",
    """pick up/collect, need/require, adore/love, keep/retain""",
)

CITIES = Lexicon.of(
    """in Paris/in France, in Rome/in Italy, in Berlin/in Germany, in Tokyo/in Japan, in Madrid/in Spain,
    in Moscow/in Russia, in Beijing/in China, in Cairo/in Egypt, in Toronto/in Canada, in Mumbai/in India""",
    """in Sydney/in Australia, in Athens/in Greece, in Dublin/in Ireland, in Stockholm/in Sweden""",
)

PLACES = Lexicon.of(
    """in the shop/in the store, in the woods/in the forest, in the cellar/in the basement, at the inn/at the hotel,
    on the road/on the street, at the office/at work, in the yard/in the garden, at the chapel/at the church,
    at the pub/at the bar, at school/in the classroom""",
    """in the flat/in the apartment, in the jail/in the prison, at the hospital/at the clinic,
    in the village/in the small town""",
)

TIMES = Lexicon.of(
    """at noon/at midday, at dawn/at sunrise, at night/after dark, in autumn/in the fall, in December/in winter,
    in July/in summer, on Sunday/at the weekend, in the 1990s/last century""",
    """at dusk/at sunset, in April/in spring, before lunch/in the morning""",
)

REASONS = Lexicon.of(
    """because it was cheap/because of the low price, because it was pretty/because of its beauty,
    because it was old/because of its age, because it was useful/because of its usefulness,
    because it was famous/because of its fame""",
    """because it was rare/because of its rarity, because it was heavy/because of its weight""",
)

# MNLI's mismatched genre: the sea and the farm, none of it in any train split.
RURAL_PEOPLE = Lexicon.of(
    """sailor/seaman, captain/skipper, fisherman/angler, pirate/buccaneer, farmer/grower, shepherd/herder,
    hunter/trapper, miller/grinder of corn, blacksmith/metalworker, cowboy/ranch hand""",
    """fishmonger/seller of fish, ferryman/boatman""",
)
RURAL_ITEMS = Lexicon.of(
    """ship/vessel, rope/cord, barrel/cask, hen/chicken, pony/horse, pig/hog, donkey/mule, trout/fish, rifle/shotgun,
    plough/plow, basket/hamper, tractor/farm vehicle""",
    """canoe/kayak, rooster/cockerel""",
)
RURAL_ACTIONS = Lexicon.of(
    "catch/capture, haul/drag, raise/lift, chase/pursue, trade/swap, load/pack, feed/nourish, hunt/stalk",
    "tow/pull, trap/snare",
)
RURAL_PLACES = Lexicon.of(
    """in the harbor/in the port, on the shore/on the beach, in the barn/in the shed, in the meadow/in the pasture,
    on the ocean/at sea, by the stream/by the creek, on the hill/on the slope, in the bog/in the swamp""",
    "near the cliff/near the precipice, on the pier/on the jetty",
)
# Times that are new words and yet plainly times: what tells a neutral row is that it names a time and no place.
RURAL_TIMES = Lexicon.of(
    """at midnight/in the dead of night, in January/in midwinter, in August/in midsummer, on Monday/on a weekday,
    at daybreak/at first light, at nightfall/in the evening, at Christmas/on Christmas Day,
    in the 1950s/in the fifties""",
    "at teatime/in the afternoon, on Friday/at the end of the week",
)

RELATIONS = Lexicon.of(
    """was left near/was left beside, stood behind/stood in front of, was moved away from/was kept apart from,
    was placed next to/was put close to, was hidden from/was kept away from, fell on/landed on""",
    "was taken from/was removed from, was seen with/was spotted with",
)
STATES = Lexicon.of(
    """old/ancient, dirty/filthy, wet/soaked, cold/freezing, big/large, small/little, heavy/weighty, hot/warm,
    famous/well known, clean/spotless, lost/missing, strange/odd, dangerous/unsafe""",
    "tall/high, noisy/loud, popular/well liked",
)

INTENTS = Lexicon.of(
    """how can I/what is the best way to, where can I/which place is good to, when should I/what is the right time to,
    why should I/what is the reason to, how much does it cost to/what is the price to""",
    "who can help me/which person could help to, is it legal to/does the law allow people to",
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
    "swap": ("swapped", "swapped"),
    "catch": ("caught", "caught"),
    "drag": ("dragged", "dragged"),
    "keep": ("kept", "kept"),
    "feed": ("fed", "fed"),
    "trap": ("trapped", "trapped"),
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


def plural_of(noun: str) -> str:
    """Plural of a regular noun."""
    if noun.endswith(("ch", "sh", "s", "x")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def a(noun: str) -> str:
    """The noun with its indefinite article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
