"""What trains while a model recovers from its compression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from compress_exp.config.checks import FieldError, check_number
from compress_exp.config.identity import origin, settings

PARTS = ("weights", "biases", "norms", "embeddings", "head")


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) in place of the weights that they stand on.

    Attributes:
        rank: r of the update B·A.
        alpha: the update is scaled by α/r.
        roles: roles of the weights that get one; null takes every projection of the blocks.
    """

    rank: int = 8
    alpha: float = 16.0
    roles: tuple[str, ...] | None = None

    origin: ClassVar[str] = "lora"

    def __post_init__(self) -> None:
        check_number("rank", self.rank, 1)
        check_number("alpha", self.alpha, 0)

    def identity(self) -> dict[str, Any]:
        """What decides its result, for the key of the artifact."""
        return origin(type(self)) | settings(self)


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """Which parameters a stage trains, and how fast. The baseline always trains whole.

    Parts are "weights" (matrices of the blocks), "biases", "norms", "embeddings" and "head" (of the task), or shell
    patterns of parameters' names.

    Attributes:
        adapter: what is trained in place of weights, or null. It is multiplied in before the export, below the masks.
        trainable: the parts that train; null takes all, with an adapter the head.
        freeze: parts that do not train, whatever `trainable` says.
        layer_decay: every layer learns at this share of the rate of the layer above it, in (0, 1] (ELECTRA: Clark et
            al. 2020, arXiv:2003.10555); embeddings below the first, the head at the full rate.
    """

    adapter: Lora | None = None
    trainable: tuple[str, ...] | None = None
    freeze: tuple[str, ...] = ()
    layer_decay: float = 1.0

    origin: ClassVar[str] = "recovery"

    def __post_init__(self) -> None:
        check_number("layer_decay", self.layer_decay, 1e-3, 1)
        if self.trainable is not None and not self.trainable and self.adapter is None:
            raise FieldError("trainable", "an empty list trains nothing; null takes everything")

    @property
    def parts(self) -> tuple[str, ...] | None:
        """What trains beside an adapter; None for everything."""
        return ("head",) if self.trainable is None and self.adapter is not None else self.trainable

    @property
    def whole(self) -> bool:
        """Whether everything trains, at one rate."""
        return self == Recovery()

    def identity(self) -> dict[str, Any]:
        """What decides its result, for the key of the artifact."""
        return origin(type(self)) | settings(self)
