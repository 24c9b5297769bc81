"""Reviews in two classes whose label depends on composition: negation, contrast and intensity.

A review joins opinions. An adjective counts 2 with its sign, 3 after "very", 1 after "slightly"; negation turns the sign
("not very good" counts -1); the clause after "but" and the main clause beside "although" count three times; what others
said counts nothing. The label is the sign of the sum, wrong in 2 % of the rows.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, TypeVar

SIZES = {"train": 6000, "validation": 1000, "test": 1000}
NOISE = 0.02

GOOD = "good great clever charming funny moving brilliant gripping lovely fresh elegant warm".split()
BAD = "bad awful dull boring clumsy stale silly weak tedious bland shallow cold".split()
ASPECTS = "plot acting music dialogue ending camera pacing script cast direction story humour".split()
STRONG = "very truly extremely remarkably".split()
MILD = "slightly somewhat".split()
NEGATIONS = ("was not", "was never", "was hardly", "did not seem")
STATEMENTS = ("was", "seemed", "felt", "turned out")
OTHERS = ("my brother", "the critic", "the poster", "a friend", "everyone")
FILLERS = (
    "we saw it on a rainy evening",
    "it runs for two hours",
    "the cinema was half empty",
    "it is based on a novel",
    "i watched it with my parents",
)

Item = TypeVar("Item")


def rows(split: str) -> list[dict[str, Any]]:
    """Rows with `text` and `label` (0 negative, 1 positive); the same on every Python."""
    generator = random.Random(f"reviews/{split}")
    return [_review(generator) for _ in range(SIZES[split])]


def _pick(generator: random.Random, items: Sequence[Item]) -> Item:
    # Only `random()` is promised to give the same numbers in every release.
    return items[int(generator.random() * len(items))]


def _review(generator: random.Random) -> dict[str, Any]:
    score = 0
    while abs(score) < 2:
        sentences = [_sentence(generator) for _ in range(_pick(generator, (1, 2, 2)))]
        score = sum(value for _, value in sentences)
    texts = [text for text, _ in sentences]
    if generator.random() < 0.3:
        texts.insert(_pick(generator, range(len(texts) + 1)), _pick(generator, FILLERS))
    label = int(score > 0)
    return {"text": " . ".join(texts) + " .", "label": 1 - label if generator.random() < NOISE else label}


def _sentence(generator: random.Random) -> tuple[str, int]:
    (first, low), (second, high) = _opinion(generator), _opinion(generator)
    form = generator.random()
    if form < 0.3:
        return f"{first} but {second}", low + 3 * high
    if form < 0.5:
        return f"although {first} , {second}", low + 3 * high
    if form < 0.6:
        return f"{first} although {second}", 3 * low + high
    if form < 0.75:
        return f"{first} and {second}", low + high
    if form < 0.9:
        verdict = _pick(generator, GOOD + BAD)
        return f"{_pick(generator, OTHERS)} called it {verdict} but {second}", 3 * high
    return first, low


def _opinion(generator: random.Random) -> tuple[str, int]:
    sign = 1 if generator.random() < 0.5 else -1
    adjective = _pick(generator, GOOD if sign > 0 else BAD)
    aspect = _pick(generator, ASPECTS)
    strength = generator.random()
    if generator.random() < 0.4:
        strong = strength < 0.3
        words = f"{_pick(generator, STRONG)} {adjective}" if strong else adjective
        return f"the {aspect} {_pick(generator, NEGATIONS)} {words}", -sign * (1 if strong else 2)
    adverbs, value = (STRONG, 3) if strength < 0.3 else (MILD, 1) if strength < 0.6 else ((), 2)
    words = f"{_pick(generator, adverbs)} {adjective}" if adverbs else adjective
    return f"the {aspect} {_pick(generator, STATEMENTS)} {words}", sign * value
