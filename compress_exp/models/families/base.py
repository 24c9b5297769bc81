"""What a family of architectures is: where its blocks, projections and embeddings are, by name.

A family is a file named after the `model_type` of its configuration, holding one constant `FAMILY`.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from compress_exp.config.checks import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SUPPORTED = ("bert", "roberta", "distilbert", "albert", "gpt2", "t5", "bart")


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A stack of equal blocks.

    Attributes:
        name: "encoder" or "decoder".
        blocks: where the list of blocks is in the module's name, as a regular expression without the index.
        count: the configuration's attribute with the number of layers.
        heads: the configuration's attribute with the number of attention heads of a block.
        neurons: the configuration's attribute with the width of a block's feed-forward part.
        shared: one block serves every layer (ALBERT): fewer layers change the count, not the weights.
    """

    name: str
    blocks: str
    count: str
    heads: str
    neurons: str
    shared: bool = False


@dataclass(frozen=True, kw_only=True)
class Heads:
    """How the attention modules of a family split their heads.

    Attributes:
        modules: the prefix of its projections' roles ("" or "cross.") -> an attention module's name within its block.
        count: the module's attribute with the number of heads.
        inner: the module's attribute with the product of their number and width, where its forward pass reads one.
        own_width: the configuration's attribute with that width, where it tells it on its own and so can say any number
            of heads.
        shared_bias: the first block of a stack computes a bias for all blocks, with a column for each head.
    """

    modules: dict[str, str]
    count: str
    inner: str | None = None
    own_width: str | None = None
    shared_bias: bool = False


@dataclass(frozen=True, kw_only=True)
class Family:
    """Where the parts of an architecture are.

    Attributes:
        kind: "encoder", "decoder" or "encoder_decoder".
        width: the configuration's attribute with the width of the tensors between blocks.
        stacks: its stacks of blocks.
        roles: a module's name within its block -> the role that it plays.
        heads: where its attention heads are.
    """

    kind: str
    width: str
    stacks: tuple[Stack, ...]
    roles: dict[str, str]
    heads: Heads

    def stack_of(self, name: str) -> Stack | None:
        """The stack in whose blocks the named module lies."""
        return next((stack for stack in self.stacks if re.search(rf"(^|\.){stack.blocks}\.\d+\.", name)), None)

    def block_of(self, name: str) -> str | None:
        """The name of the block in which the named module lies."""
        found = (re.match(rf"(?:.*?\.)??{stack.blocks}\.\d+(?=\.)", name) for stack in self.stacks)
        return next((match[0] for match in found if match), None)

    def role(self, name: str, module: nn.Module) -> str | None:
        """The role of a module: a projection's role, "embedding", "position_embedding", "head", or None."""
        if stack := self.stack_of(name):
            inner = re.split(rf"(?:^|\.){stack.blocks}\.\d+\.", name, maxsplit=1)[1]
            if inner in self.roles:
                return self.roles[inner]
            return "relative_bias" if isinstance(module, nn.Embedding) else None
        if isinstance(module, nn.Embedding):
            word = re.search(r"(word_embeddings|wte|shared|embed_tokens)$", name)
            return "embedding" if word else "position_embedding"
        return "head" if is_linear(module) else None


def is_linear(module: nn.Module) -> bool:
    """A Linear, or GPT-2's Conv1D, which is a Linear with a transposed weight."""
    return isinstance(module, nn.Linear) or is_conv1d(module)


def is_conv1d(module: nn.Module) -> bool:
    """GPT-2's Conv1D (weight: in × out), also while its weight is parametrized."""
    return any(cls.__name__ == "Conv1D" for cls in type(module).__mro__)


def output_axis(module: nn.Module) -> int:
    """The axis of output channels in the module's weight: 1 for Conv1D, else 0 (an embedding's rows)."""
    return 1 if is_conv1d(module) else 0


def family_of(model_type: str, key: str = "model") -> Family:
    """The family of a transformers `model_type`.

    Raises:
        UserError: no file of that name in `compress_exp/models/families`.
    """
    if not re.fullmatch(r"[a-z0-9_]+", model_type) or model_type == "base":
        raise UserError(f"{key}: {model_type!r} is no model type; allowed: {', '.join(SUPPORTED)}")
    try:
        module = importlib.import_module(f"compress_exp.models.families.{model_type}")
    except ModuleNotFoundError as error:
        raise UserError(
            f"{key}: models of type {model_type!r} are not supported; allowed: {', '.join(SUPPORTED)}"
        ) from error
    family: Family = module.FAMILY
    return family


def layer_counts(config: Any, family: Family) -> dict[str, int]:
    """The number of layers of each stack, by the stack's name."""
    return {stack.name: int(getattr(config, stack.count)) for stack in family.stacks}


def width_of(config: Any, stack: Stack) -> int:
    """The width of the feed-forward part of a stack's blocks, as the configuration tells it."""
    # GPT-2's n_inner is null where it is the usual 4 · n_embd.
    return int(getattr(config, stack.neurons) or 4 * config.hidden_size)


def block_sizes(config: Any, family: Family) -> tuple[dict[str, int], dict[str, int]]:
    """Heads and neurons of a block of each stack, by the stack's name."""
    heads = {stack.name: int(getattr(config, stack.heads)) for stack in family.stacks}
    return heads, {stack.name: width_of(config, stack) for stack in family.stacks}


def input_widths(config: Any, family: Family) -> dict[str, tuple[int, ...]]:
    """The inputs of the projections of each role, as the configuration tells them."""
    hidden = int(config.hidden_size)
    own = family.heads.own_width
    heads = int(getattr(config, own)) * int(config.num_attention_heads) if own else hidden
    neurons = tuple(width_of(config, stack) for stack in family.stacks)
    special = {"ffn_out": neurons, "attention_output": (heads,), "cross.attention_output": (heads,)}
    return {role: special.get(role, (hidden,)) for role in family.roles.values()}


def roles(model: PreTrainedModel, family: Family) -> dict[str, tuple[str, nn.Module]]:
    """Every module that plays a role: name -> (role, module)."""
    found = ((name, family.role(name, module), module) for name, module in model.named_modules())
    return {name: (role, module) for name, role, module in found if role}


def blocks(model: PreTrainedModel, family: Family) -> dict[str, dict[str, tuple[str, nn.Module]]]:
    """The projections of every block: name of the block -> role -> (name, module), in the order of the modules."""
    found: dict[str, dict[str, tuple[str, nn.Module]]] = {}
    for name, (role, module) in roles(model, family).items():
        block = family.block_of(name)
        if block is not None and role in family.roles.values():
            found.setdefault(block, {})[role] = (name, module)
    return found
