"""English prose that every Python carries: the language reference in `pydoc_data.topics`, without code and grammar.

The text differs between Python releases; its digest is part of a task's identity. Topics repeat each other's
paragraphs, so a paragraph belongs to the first split that holds it: validation, test, train.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from typing import Any

SHARES = {"validation": 0.08, "test": 0.06, "train": 1.0}
WORDS, LETTERS, LARGE = 5, 0.8, 12_000


def rows(split: str) -> list[dict[str, Any]]:
    """Rows with `text`: the paragraphs of a topic, an empty line between them."""
    return [{"text": "\n\n".join(paragraphs)} for paragraphs in _splits()[split]]


@cache
def _splits() -> dict[str, list[list[str]]]:
    from pydoc_data.topics import topics

    cleaned = {name: _paragraphs(text) for name, text in topics.items()}
    # Large topics last, so that they are trained on.
    order = {name: (sum(map(len, cleaned[name])) > LARGE, hashlib.sha256(name.encode()).hexdigest()) for name in topics}
    left = sorted(topics, key=order.__getitem__)
    total = sum(len(paragraph) for paragraphs in cleaned.values() for paragraph in paragraphs)
    seen: set[str] = set()
    splits: dict[str, list[list[str]]] = {}
    for split, share in SHARES.items():
        size, splits[split] = 0, []
        while left and size < share * total:
            fresh = [paragraph for paragraph in dict.fromkeys(cleaned[left.pop(0)]) if paragraph not in seen]
            seen.update(fresh)
            size += sum(map(len, fresh))
            if fresh:
                splits[split].append(fresh)
    return splits


def _paragraphs(text: str) -> list[str]:
    blocks = (re.sub(r"\s+", " ", block).strip().removeprefix("* ") for block in text.split("\n\n"))
    return [block for block in blocks if _is_prose(block)]


def _is_prose(block: str) -> bool:
    letters = sum(character.isalpha() or character == " " for character in block)
    return len(block.split()) >= WORDS and block[-1] in ".:" and letters >= LETTERS * len(block)
