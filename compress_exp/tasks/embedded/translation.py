"""English into a small invented language, with agreement and another word order.

English says subject, verb, object; the invented language says subject, place, object, verb. Its nouns have a gender
that their form does not show; articles and adjectives (after their noun) agree with it and with the number, and so does
the verb at the end with its subject; "in" follows its noun; a reason ("because") comes before what it explains.
"""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from compress_exp.tasks.embedded.drawing import pick

SIZES = {"train": 6000, "validation": 500, "test": 500}


class Noun(NamedTuple):
    """A noun: English singular and plural, invented stem, gender (0 or 1)."""

    singular: str
    plural: str
    stem: str
    gender: int


class Verb(NamedTuple):
    """A verb: English base, third person, past, and the invented stem."""

    base: str
    third: str
    past: str
    stem: str


def _nouns(*rows: str) -> list[Noun]:
    return [
        Noun(singular, plural, stem, int(gender)) for singular, plural, stem, gender in (row.split() for row in rows)
    ]


NOUNS = _nouns(
    "cat cats mirul 0",
    "dog dogs tavek 0",
    "horse horses belun 1",
    "bird birds sorim 1",
    "child children pelat 0",
    "woman women durana 1",
    "queen queens halisa 1",
    "book books lampor 1",
    "house houses zumet 0",
    "tree trees arvil 0",
    "boat boats wenit 1",
    "letter letters sqolu 0",
)
PLACES = _nouns(
    "garden gardens yutam 0",
    "city cities brenka 1",
    "kitchen kitchens dolit 0",
    "river rivers sefar 1",
)
VERBS = [
    Verb(*row.split())
    for row in (
        "see sees saw vid",
        "follow follows followed sek",
        "find finds found trov",
        "love loves loved amur",
        "help helps helped jut",
        "paint paints painted pikt",
        "carry carries carried porv",
        "hear hears heard odil",
    )
]
ADJECTIVES = dict(old="vekh", young="nilm", red="rosk", small="pikol", big="gront", quiet="silm")
ADVERBS = dict(often="semfer", never="nuka")
NUMBERS = dict(two="duz", three="triz")
ARTICLES = (("lo", "lon"), ("ta", "tan"))
INDEFINITE = ("um", "uma")
ENDINGS = (("ur", "urs"), ("ena", "enas"))
TENSES = (("at", "aton"), ("ivo", "ivon"), ("iva", "ivan"))


def rows(split: str) -> list[dict[str, Any]]:
    """Rows with `source` (English) and `target`; the same on every Python."""
    generator = random.Random(f"translation/{split}")
    return [_sentence(generator) for _ in range(SIZES[split])]


def _sentence(generator: random.Random) -> dict[str, Any]:
    source, target = _clause(generator)
    form = generator.random()
    if form < 0.1:
        other, translated = _clause(generator)
        source, target = f"{source} and {other}", f"{target} e {translated}"
    elif form < 0.2:
        other, translated = _clause(generator)
        source, target = f"{source} because {other}", f"{translated} deku {target}"
    return {"source": f"{source}.", "target": f"{target}."}


def _clause(generator: random.Random) -> tuple[str, str]:
    subject, own, gender, plural = _noun_phrase(generator, NOUNS)
    thing, translated, _, _ = _noun_phrase(generator, NOUNS)
    verb, past, negated = pick(generator, VERBS), generator.random() < 0.5, generator.random() < 0.25
    if negated:
        english = f"{'did' if past else 'do' if plural else 'does'} not {verb.base}"
    else:
        english = verb.past if past else verb.base if plural else verb.third
    # The past agrees with the subject's gender too.
    final = ("nu " if negated else "") + verb.stem + TENSES[1 + gender if past else 0][plural]
    source, middle = f"{subject} {english} {thing}", translated
    if generator.random() < 0.2:
        adverb = pick(generator, list(ADVERBS))
        source, final = f"{subject} {adverb} {english} {thing}", f"{ADVERBS[adverb]} {final}"
    if generator.random() < 0.3:
        place, where, _, _ = _noun_phrase(generator, PLACES)
        source, middle = f"{source} in {place}", f"{where} ine {middle}"
    return source, f"{own} {middle} {final}"


def _noun_phrase(generator: random.Random, nouns: list[Noun]) -> tuple[str, str, int, int]:
    noun, plural = pick(generator, nouns), int(generator.random() < 0.4)
    english, own = (noun.plural if plural else noun.singular), noun.stem + ("i" if plural else "")
    for _ in range(pick(generator, (0, 0, 0, 1, 1))):
        adjective = pick(generator, list(ADJECTIVES))
        english, own = f"{adjective} {english}", f"{own} {ADJECTIVES[adjective]}{ENDINGS[noun.gender][plural]}"
    if plural and generator.random() < 0.3:
        number = pick(generator, list(NUMBERS))
        return f"{number} {english}", f"{NUMBERS[number]} {own}", noun.gender, plural
    if not plural and generator.random() < 0.4:
        return f"a {english}", f"{INDEFINITE[noun.gender]} {own}", noun.gender, plural
    return f"the {english}", f"{ARTICLES[noun.gender][plural]} {own}", noun.gender, plural
