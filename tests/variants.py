"""Every method file, and what it needs on tiny models and three steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from compress_exp.config.schema import CONF

FILES = {str(path.relative_to(CONF / "method").with_suffix("")): path for path in (CONF / "method").rglob("*.yaml")}
VARIANTS = sorted(name for name in FILES if not any(other.startswith(f"{name}/") for other in FILES))
PRUNING = [name for name in VARIANTS if name.startswith("prune")]
TRAINED = [name for name in VARIANTS if "max_steps: 0" not in FILES[name].read_text()]
HOME = {"distill/on_policy": "gpt2"}  # what is not for BERT
FIRST = ("prune/lottery_ticket",)  # what begins before the baseline was trained
UNDOING = ("factorize/svd",)  # what would undo an earlier pruning
LATE = ("prune/cofi",)  # what changes shapes after training, which units being a result of it
SHRINKING = [f"prune/{name}" for name in ("heads", "neurons", "structured", "layers")]
MASKING = [name for name in PRUNING if name not in (*SHRINKING, *LATE, "prune/vocabulary")]
FAMILIES = ("bert", "gpt2", "t5", "bart")
SETTINGS = {
    "prune/block_movement": ["block=[8,8]"],
    "prune/lottery_ticket": ["rounds=2"],
    "prune/snip": ["scope=tensor"],
    "prune/vocabulary": ["minimum_count=60"],
    "prune/soft_movement": ["trim=true", "sparsity=0.5", "scope=tensor"],
    "prune/l0": ["trim=true", "sparsity=0.5"],
    "prune/l1": ["trim=true", "sparsity=0.5"],
    "prune/group_lasso": ["trim=true", "sparsity=0.5"],
}


def chosen(variant: str, key: str | None = None) -> list[str]:
    """The overrides that choose a variant."""
    family = variant.partition("/")[0]
    first = f"method={variant}" if key is None else f"+method@method.{key}={variant}"
    return [first, *(f"method.{key or family}.{item}" for item in SETTINGS.get(variant, ()))]


def trained(variant: str) -> list[str]:
    """The overrides that choose a variant and let it train, for those of pruning that need not."""
    return chosen(variant) + (["method.prune.train.max_steps=3"] if variant not in TRAINED else [])


def fixed_batch(model: Any) -> dict[str, Tensor]:
    """Ids that any vocabulary has, with labels."""
    ids = torch.arange(1, 25).view(2, 12) * 7 % (model.config.vocab_size - 5) + 5
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.flip(1)}
