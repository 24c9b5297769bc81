"""Magnitude pruning (Han et al. 2015, arXiv:1506.02626): the k = round(s·n) weights of smallest |w| become zero.

One-shot, gradually by the cubic schedule of Zhu & Gupta (2017, arXiv:1710.01878), s_t = s·(1 − (1 − t)³), or in rounds
by the geometric one, which is the iterative pruning of Frankle & Carbin (2019, arXiv:1803.03635) without rewinding.
Defaults: 50 % of every tensor; `gradual` cuts during the first 70 % of the training, `iterative` in 4 rounds.
Cost: no data; see `compress_exp.methods.prune.common.base`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from compress_exp.methods.prune.common.base import Pruning
from compress_exp.methods.window import Rounds


@dataclass(frozen=True, kw_only=True)
class MagnitudePruning(Rounds, Pruning):
    """Rank by |w|, as it is at the time of a cut."""

    origin: ClassVar[str] = "prune/magnitude"
