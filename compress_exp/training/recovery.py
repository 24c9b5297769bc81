"""Recovering with a part of a model: which parameters train, adapters in place of weights, rates by layer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from compress_exp.config.checks import UserError
from compress_exp.config.recovery import PARTS, Lora, Recovery
from compress_exp.layers.weights import original
from compress_exp.methods.context import Context
from compress_exp.methods.parametrized import Adapter, attach, trained
from compress_exp.methods.select import Select, targets
from compress_exp.models.families.base import Family, layer_counts, roles
from compress_exp.parallel import seeds

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LoraUpdate(Adapter):
    """W + (α/r)·B·A: A is drawn as a linear layer's weight is, B is zero, so that nothing changes at first.

    Args:
        weight: (out, in), or (in, out) for a Conv1D, where the two change places.
        settings: rank and α.
    """

    def __init__(self, weight: Tensor, settings: Lora) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.scale = settings.alpha / settings.rank
        self.first = nn.Parameter(weight.new_empty(settings.rank, columns))
        self.second = nn.Parameter(weight.new_zeros(rows, settings.rank))
        nn.init.kaiming_uniform_(self.first, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """The updated weight."""
        return weight + self.scale * (self.second @ self.first)


def recover(recovery: Recovery, model: PreTrainedModel, context: Context) -> None:
    """Freeze what does not train and put adapters on what they stand for.

    Args:
        recovery: says which.
        model: with all that the methods of the stage inserted, whose own parameters train in any case.
        context: family and seed.

    Raises:
        UserError: nothing matches, or nothing would train.
    """
    if recovery.whole:
        return
    parts = dict(parts_of(model, context.family))
    for key, wanted in (("trainable", recovery.parts), ("freeze", recovery.freeze)):
        for item in wanted or ():
            if not any(_matches(item, name, part) for name, part in parts.items()) and item != "head":
                known = ", ".join(PARTS)
                raise UserError(f"recovery.{key}: {item!r} matches no parameter; parts are {known}, or give a name")
    own = trained(model)
    for name, parameter in own.items():
        chosen = recovery.parts is None or any(_matches(item, name, parts[name]) for item in recovery.parts)
        frozen = any(_matches(item, name, parts[name]) for item in recovery.freeze)
        parameter.requires_grad_(chosen and not frozen)
    if recovery.adapter is not None:
        _adapt(recovery.adapter, model, context)
    elif not any(parameter.requires_grad for parameter in own.values()):
        raise UserError("recovery.freeze: nothing is left to train; freeze less, or set recovery.adapter")


def _adapt(settings: Lora, model: PreTrainedModel, context: Context) -> None:
    for target in targets(model, context.family, Select(roles=settings.roles)):
        weight = original(target.modules[0])
        with torch.random.fork_rng():
            torch.manual_seed(seeds.derived(context.seed, "adapter", target.names[0]))
            update = LoraUpdate(weight, settings)
        weight.requires_grad_(False)
        attach(target.modules, update)


def parts_of(model: PreTrainedModel, family: Family) -> Iterator[tuple[str, str]]:
    """Every parameter by its plain name, with the part that it belongs to.

    A head is the task's own: what lies outside the blocks and is tied to no embedding.
    """
    tables = {id(original(module)) for module in model.modules() if isinstance(module, nn.Embedding)}
    playing = roles(model, family)
    norms = {name for name, module in model.named_modules() if "norm" in type(module).__name__.lower()}
    for name, parameter in trained(model).items():
        module = name.rpartition(".")[0]
        if id(parameter) in tables:
            yield name, "embeddings"
        elif module in norms:
            yield name, "norms"
        elif module in playing and playing[module][0] == "head":
            yield name, "head"
        else:
            yield name, "biases" if parameter.dim() < 2 else "weights"


def rates(model: PreTrainedModel, family: Family, decay: float) -> dict[int, float]:
    """What the learning rate of every parameter of blocks and embeddings is multiplied by, by the parameter's id.

    Args:
        model: in training; an adapter learns as fast as the weight that it stands on would.
        family: says where its blocks are.
        decay: of one layer to the one below: decay^(L − l) for layer l = 0 … L − 1 of a stack, decay^(L + 1) for
            embeddings, 1 for what is not named here.
    """
    counts = layer_counts(model.config, family)
    tables = {id(original(module)) for module in model.modules() if isinstance(module, nn.Embedding)}
    shares: dict[int, float] = {}
    for name, parameter in trained(model).items():
        stack, block = family.stack_of(name), family.block_of(name)
        if id(parameter) in tables:
            shares[id(parameter)] = decay ** (max(counts.values()) + 1)
        elif stack is not None and block is not None and not stack.shared:
            shares[id(parameter)] = decay ** (counts[stack.name] - int(block.rpartition(".")[2]))
    return shares


def _matches(item: str, name: str, part: str) -> bool:
    return item == part if item in PARTS else fnmatchcase(name, item)
