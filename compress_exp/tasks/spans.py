"""Answers as tokens of a window and as characters of the context that it shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compress_exp.tasks.formulas import Array

Span = tuple[int, int]
NOWHERE: Span = (-1, -1)


def tokens_of(span: Span, offsets: Sequence[Span | None]) -> Span | None:
    """The first and the last token of a span of characters; None where the window lacks some of it.

    Args:
        span: begin and end in the context.
        offsets: of the window's tokens in the context, None for tokens that are not of it.
    """
    begin, end = span
    shown = [(place, own) for place, own in enumerate(offsets) if own is not None and own[0] < end and own[1] > begin]
    if not shown or shown[0][1][0] > begin or shown[-1][1][1] < end:
        return None
    return shown[0][0], shown[-1][0]


def best_span(
    starts: Array,  # (length,)
    ends: Array,  # (length,)
    offsets: Sequence[Span | None],
    context: str,
    longest: int,
    n_best: int,
) -> tuple[float, Span]:
    """The span of a window with the largest sum of its start's and its end's logit, of those that are some text.

    Args:
        starts: logits of the tokens.
        ends: likewise.
        offsets: of the tokens in the context, None for tokens that are not of it.
        context: the text.
        longest: tokens of an answer.
        n_best: the likeliest starts, and ends, that are looked at.

    Returns:
        The sum and the characters, without white space at the ends; -inf and `NOWHERE` where there is none.
    """
    tokens = np.array([place for place, span in enumerate(offsets) if span is not None], dtype=np.int64)
    firsts = tokens[np.argsort(-starts[tokens], kind="stable")[:n_best]]
    lasts = tokens[np.argsort(-ends[tokens], kind="stable")[:n_best]]
    lengths = lasts[None, :] - firsts[:, None] + 1
    scores = np.where((lengths >= 1) & (lengths <= longest), starts[firsts][:, None] + ends[lasts][None, :], -np.inf)
    for place in np.argsort(-scores, axis=None, kind="stable"):
        row, column = divmod(int(place), len(lasts))
        first, last = offsets[firsts[row]], offsets[lasts[column]]
        if scores[row, column] == -np.inf or first is None or last is None:
            break
        text = context[first[0] : last[1]]
        if text.strip():  # byte-level tokens hold the space before a word
            begin = first[0] + len(text) - len(text.lstrip())
            return float(scores[row, column]), (begin, begin + len(text.strip()))
    return -np.inf, NOWHERE
