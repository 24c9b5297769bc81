"""Reviews in two classes whose label depends on composition: negation, contrast and intensity.

A review joins opinions. An adjective counts 2 with its sign, 3 after "very", 1 after "slightly"; negation turns the
sign ("not very good" counts -1); the clause after "but" and the main clause beside "although" count three times; what
others said counts nothing. The label is the sign of the sum, wrong in 1.5 % of the rows.
"""

from __future__ import annotations

import random
from typing import Any

from compress_exp.tasks.embedded.drawing import pick

SIZES = {"train": 6000, "validation": 1000, "test": 1000}
NOISE = 0.015

GOOD = ["good", "great", "clever", "charming", "funny", "moving", "brilliant", "lovely", "fresh", "warm"]
BAD = ["bad", "awful", "dull", "boring", "clumsy", "stale", "silly", "weak", "bland", "cold"]
ASPECTS = ["plot", "acting", "music", "dialogue", "ending", "camera", "script", "cast", "story", "humour"]
STRONG = ("very", "truly")
MILD = ("slightly",)
NEGATIONS = ("was not", "was never")
STATEMENTS = ("was", "seemed")
OTHERS = ("my brother", "the critic", "the poster", "a friend", "everyone")
FILLERS = (
    "we saw it on a rainy evening",
    "it runs for two hours",
    "the cinema was half empty",
    "it is based on a novel",
    "i watched it with my parents",
)


def rows(split: str) -> list[dict[str, Any]]:
    """Rows with `text` and `label` (0 negative, 1 positive); the same on every Python."""
    generator = random.Random(f"reviews/{split}")
    return [_review(generator) for _ in range(SIZES[split])]


def _review(generator: random.Random) -> dict[str, Any]:
    score = 0
    while abs(score) < 2:
        # Opinions lean to one side, as in real reviews.
        mood = 1 if generator.random() < 0.5 else -1
        count = 2 if generator.random() < 0.1 else 1
        sentences = [_sentence(generator, mood) for _ in range(count)]
        score = sum(value for _, value in sentences)
    texts = [text for text, _ in sentences]
    if count == 1 or generator.random() < 0.3:
        texts.insert(pick(generator, range(count + 1)), pick(generator, FILLERS))
    label = int(score > 0)
    return {"text": " . ".join(texts) + " .", "label": 1 - label if generator.random() < NOISE else label}


def _sentence(generator: random.Random, mood: int) -> tuple[str, int]:
    (first, low), (second, high) = _opinion(generator, mood), _opinion(generator, mood)
    form = generator.random()
    if form < 0.3:
        return f"{first} but {second}", low + 3 * high
    if form < 0.55:
        return f"although {first} , {second}", low + 3 * high
    if form < 0.7:
        return f"{first} and {second}", low + high
    if form < 0.85:
        return f"{pick(generator, OTHERS)} called it {pick(generator, GOOD + BAD)} but {second}", 3 * high
    return first, low


def _opinion(generator: random.Random, mood: int) -> tuple[str, int]:
    sign = mood if generator.random() < 0.6 else -mood
    strength, aspect = generator.random(), pick(generator, ASPECTS)
    if generator.random() < 0.3:
        adjective, strong = pick(generator, BAD if sign > 0 else GOOD), strength < 0.3
        words = f"{pick(generator, STRONG)} {adjective}" if strong else adjective
        return f"the {aspect} {pick(generator, NEGATIONS)} {words}", sign * (1 if strong else 2)
    adverbs, value = (STRONG, 3) if strength < 0.3 else (MILD, 1) if strength < 0.6 else (("",), 2)
    words = f"{pick(generator, adverbs)} {pick(generator, GOOD if sign > 0 else BAD)}".strip()
    return f"the {aspect} {pick(generator, STATEMENTS)} {words}", sign * value
