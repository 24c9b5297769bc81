"""Questions about short reports, answered by a phrase of the report.

A report is one or two sentences, each of somebody who did something to a thing at a place at a time, among others that
say nothing of this. A question names the deed and asks for one of the other parts. Two sentences have different deeds,
so the answer is certain; all that tells it from the other phrase of its kind is the sentence that it stands in.
"""

from __future__ import annotations

import random
from typing import Any

from compress_exp.tasks.embedded.drawing import pick

SIZES = {"train": 6000, "validation": 500, "test": 500}
SENTENCES, FILLERS = (1, 1, 2), (1, 2, 3)

PEOPLE = ["anna", "boris", "clara", "david", "emma", "felix", "greta", "henry", "ida", "jonas", "karla", "leo"]
ROLES = ["doctor", "baker", "sailor", "teacher", "farmer", "judge"]
DEEDS = ["painted", "sold", "found", "lost", "carried", "bought", "cleaned", "mended", "washed", "opened"]
THINGS = ["boat", "clock", "violin", "lamp", "table", "coat", "letter", "camera", "basket", "mirror"]
COLOURS = ["red", "old", "small", "heavy", "green"]
PLACES = ["garden", "harbour", "kitchen", "market", "station", "library", "tower", "school"]
TIMES = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
OTHERS = (
    "it rained the whole day .",
    "nobody else was there .",
    "the newspaper wrote about it .",
    "we heard of it much later .",
    "people still talk about that .",
)
PARTS = ("who", "what", "where", "when")


def rows(split: str) -> list[dict[str, Any]]:
    """Rows with `id`, `title`, `context`, `question` and `answers` as SQuAD has them; the same on every Python."""
    generator = random.Random(f"questions/{split}")
    return [_row(generator, f"{split}-{number}") for number in range(SIZES[split])]


def _row(generator: random.Random, name: str) -> dict[str, Any]:
    count = pick(generator, SENTENCES)
    deeds: list[str] = []
    while len(deeds) < count:
        deed = pick(generator, DEEDS)
        if deed not in deeds:
            deeds.append(deed)
    asked, part = pick(generator, deeds), pick(generator, PARTS)
    order: list[str | None] = [*deeds]
    for _ in range(pick(generator, FILLERS)):
        order.insert(pick(generator, range(len(order) + 1)), None)
    context, question, answer, start = "", "", "", 0
    for own in order:
        if own is None:
            context += f"{pick(generator, OTHERS)} "
            continue
        pieces = _sentence(generator, own)
        kinds, texts = zip(*pieces, strict=True)
        if own == asked:
            place = kinds.index(part)
            question, answer = _question(part, dict(pieces)), texts[place]
            start = len(context) + sum(len(text) + 1 for text in texts[:place])
        context += " ".join(texts) + " . "
    answers = {"text": [answer], "answer_start": [start]}
    return {"id": name, "title": "report", "context": context.strip(), "question": question, "answers": answers}


def _sentence(generator: random.Random, deed: str) -> list[tuple[str, str]]:
    """Its pieces with the part that each plays, in one of two orders."""
    role = f"the {pick(generator, ROLES)}"
    who = role if generator.random() < 0.3 else pick(generator, PEOPLE)
    colour = f"{pick(generator, COLOURS)} " if generator.random() < 0.5 else ""
    thing = f"the {colour}{pick(generator, THINGS)}"
    place, time = f"the {pick(generator, PLACES)}", pick(generator, TIMES)
    core = [("who", who), ("deed", deed), ("what", thing), ("", "in"), ("where", place)]
    if generator.random() < 0.5:
        return [("", "on"), ("when", time), *core]
    return [*core, ("", "on"), ("when", time)]


def _question(part: str, phrases: dict[str, str]) -> str:
    if part == "who":
        return f"who {phrases['deed']} {phrases['what']} ?"
    if part == "what":
        return f"what was {phrases['deed']} by {phrases['who']} ?"
    return f"{part} was {phrases['what']} {phrases['deed']} ?"
