"""What a family of architectures is: where its blocks, projections and embeddings are, by name.

A family is a file named after the `model_type` of its configuration, here or in `families` of a package that the user
names, holding one constant `FAMILY`; where the type has hyphens, the file has underscores and a constant `MODEL_TYPE`.
All that depends on the architecture stands there, and nothing outside this directory compares a `model_type`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from compress_exp.config.checks import UserError
from compress_exp.config.plugins import modules

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


ATTENTION = ("query", "key", "value", "attention_scores", "attention_probs")
"""What `models.capture` can tell of an attention module."""
HIDDEN = "hidden"

Tell = Callable[[str, Tensor], None]
"""Told the name of what an attention module computes, of `ATTENTION`, and the tensor."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """How a tokenizer that is trained here frames texts.

    Attributes:
        special: its special tokens by the names that transformers has for them.
        opens: the name of the token before a text; None for none.
        closes: the name of the token after a text, and between two; None for none.
        segments: whether the model is told which of two texts a token is of.
    """

    special: dict[str, str]
    opens: str | None = None
    closes: str | None = None
    segments: bool = False


FRAMED = Text(
    special={"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"},
    opens="cls_token",
    closes="sep_token",
)


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
        gated: the feed-forward part always has a gate, a third matrix.
    """

    name: str
    blocks: str
    count: str
    heads: str
    neurons: str
    shared: bool = False
    gated: bool = False


@dataclass(frozen=True, kw_only=True)
class Heads:
    """How the attention modules of a family split their heads.

    Where several heads of queries share a key and a value head, the unit that can go is a key-value head with its
    queries, and "heads" here and in methods are those units.

    Attributes:
        modules: the prefix of its projections' roles ("" or "cross.") -> an attention module's name within its block.
        count: the module's attribute with the number of heads; None where it has none, and counts by their width.
        inner: the module's attribute with the product of their number and width, where its forward pass reads one.
        width: the module's attribute with the width of a head, where it has no `count`.
        own_width: the configuration's attribute with that width, where it tells it on its own.
        key_values: the configuration's attribute with the number of key-value heads, where queries may share them.
        shared_bias: the first block of a stack computes a bias for all blocks, with a column for each head (T5 alone).
    """

    modules: dict[str, str]
    count: str | None = None
    inner: str | None = None
    width: str | None = None
    own_width: str | None = None
    key_values: str | None = None
    shared_bias: bool = False

    def queries(self, config: Any) -> int:
        """How many heads of queries share a key-value head; 1 where each has its own."""
        return int(config.num_attention_heads) // int(getattr(config, self.key_values)) if self.key_values else 1


@dataclass(frozen=True, kw_only=True)
class Family:
    """Where the parts of an architecture are.

    Attributes:
        kind: "encoder", "decoder" or "encoder_decoder".
        width: the configuration's attribute with the width of the tensors between blocks.
        stacks: its stacks of blocks.
        roles: a module's name within its block -> the role that it plays.
        heads: where its attention heads are.
        embeddings: what the embedding of tokens is called, the last part of its name; others are of positions.
        text: how its tokenizer frames texts.
        starts: the tokenizer's token that its decoder starts with; None where the checkpoint or nobody says.
        ends: the token that generation is made to end with at its longest; None for none.
        relative: its positions are relative, so that inputs may have any length.
        rotary: its positions are rotations of queries and keys, without weights.
        after_padding: its positions are counted from the padding index on (RoBERTa).
        prefixed: the sources of a generating task begin with the task's prefix (T5).
        attention: what can be captured of its attention modules, names of `ATTENTION`.
        observe: how, where they are not on transformers' attention interface: given a model and what each attention
            module tells, it sets hooks while it is open.
    """

    kind: str
    width: str
    stacks: tuple[Stack, ...]
    roles: dict[str, str]
    heads: Heads
    embeddings: tuple[str, ...] = ("word_embeddings", "wte", "shared", "embed_tokens")
    text: Text = FRAMED
    starts: str | None = None
    ends: str | None = None
    relative: bool = False
    rotary: bool = False
    after_padding: bool = False
    prefixed: bool = False
    attention: tuple[str, ...] = ATTENTION
    observe: Callable[[PreTrainedModel, Mapping[nn.Module, Tell]], AbstractContextManager[None]] | None = None

    @property
    def captures(self) -> frozenset[str]:
        """What a loss may ask for beside the task's outputs: "hidden", "query" … of all stacks, "cross.query" …

        With a stack before it, as in "decoder.cross.attention_probs", a name means that stack's alone.
        """
        bare = [f"{prefix}{what}" for prefix in self.heads.modules for what in self.attention]
        return frozenset((HIDDEN, *bare, *(f"{stack}.{name}" for name in bare for stack in self.captured_stacks(name))))

    def captured_stacks(self, name: str) -> list[str]:
        """The stacks that have what a name without a stack means; cross-attention is the decoder's alone."""
        names = [stack.name for stack in self.stacks]
        return names[1:] if name.startswith("cross.") else names

    def positions(self, config: Any) -> int | None:
        """The longest input that a model's position embeddings serve; None where any length is."""
        found = None if self.relative else getattr(config, "max_position_embeddings", None)
        return None if found is None else int(found) - (config.pad_token_id + 1 if self.after_padding else 0)

    def special_ids(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
        """The special tokens that a configuration names, by the tokenizer's ids."""
        ids = {f"{name}_id": getattr(tokenizer, f"{name}_id") for name in ("pad_token", "eos_token", "bos_token")}
        if self.starts is not None:
            ids["decoder_start_token_id"] = getattr(tokenizer, f"{self.starts}_id")
        if self.ends is not None:
            ids["forced_eos_token_id"] = getattr(tokenizer, f"{self.ends}_id")
        return {name: int(value) for name, value in ids.items() if value is not None}

    def stack_of(self, name: str) -> Stack | None:
        """The stack in whose blocks the named module lies."""
        return next((stack for stack in self.stacks if re.search(rf"(^|\.){stack.blocks}\.\d+\.", name)), None)

    def block_of(self, name: str) -> str | None:
        """The name of the block in which the named module lies."""
        found = (re.match(rf"(?:.*?\.)??{stack.blocks}\.\d+(?=\.)", name) for stack in self.stacks)
        return next((match[0] for match in found if match), None)

    def role(self, name: str, module: nn.Module) -> str | None:
        """The role of a module: "embedding", "position_embedding", "head", a projection's role, or None.

        A linear layer inside a projection, such as a factor of it, has its role with the layer's name: "query.first".
        """
        if stack := self.stack_of(name):
            inner = re.split(rf"(?:^|\.){stack.blocks}\.\d+\.", name, maxsplit=1)[1]
            if inner in self.roles:
                return self.roles[inner]
            outer, _, part = inner.rpartition(".")
            if outer in self.roles and is_linear(module):
                return f"{self.roles[outer]}.{part}"
            return "relative_bias" if isinstance(module, nn.Embedding) else None
        if isinstance(module, nn.Embedding):
            return "embedding" if name.endswith(self.embeddings) else "position_embedding"
        return "head" if is_linear(module) else None


def attention_modules(model: PreTrainedModel, family: Family) -> Iterator[tuple[Stack, str, nn.Module]]:
    """Every attention module with its stack and the prefix of its roles, "" or "cross."."""
    prefixes = {inner: prefix for prefix, inner in family.heads.modules.items()}
    for name, module in model.named_modules():
        block = family.block_of(f"{name}.")
        if block is not None and (prefix := prefixes.get(name[len(block) + 1 :])) is not None:
            stack = family.stack_of(f"{name}.")
            assert stack is not None
            yield stack, prefix, module


def is_linear(module: nn.Module) -> bool:
    """A Linear, or GPT-2's Conv1D, which is a Linear with a transposed weight."""
    return isinstance(module, nn.Linear) or is_conv1d(module)


def is_conv1d(module: nn.Module) -> bool:
    """GPT-2's Conv1D (weight: in × out), also while its weight is parametrized."""
    return any(cls.__name__ == "Conv1D" for cls in type(module).__mro__)


def output_axis(module: nn.Module) -> int:
    """The axis of output channels in the module's weight: 1 for Conv1D, else 0 (an embedding's rows)."""
    return 1 if is_conv1d(module) else 0


def _files() -> dict[str, str]:
    """The modules of families, ours and those of the user's packages, by their files' names."""
    return {name: module for name, module in modules("compress_exp.models.families").items() if name != "base"}


def model_types() -> list[str]:
    """The types that there are families of, as transformers spells them."""
    return sorted(getattr(importlib.import_module(module), "MODEL_TYPE", name) for name, module in _files().items())


def family_of(model_type: str, key: str = "model") -> Family:
    """The family of a transformers `model_type`.

    Raises:
        UserError: no file of that name in `compress_exp/models/families`, nor in `families` of a package of the user's.
    """
    module = _files().get(model_type.replace("-", "_"))
    if module is None:
        allowed = ", ".join(model_types())
        hint = "or name your package that has it, plugins=[my_package]"
        raise UserError(f"{key}: models of type {model_type!r} are not supported; allowed: {allowed}; {hint}")
    family: Family = importlib.import_module(module).FAMILY
    return family


def layer_counts(config: Any, family: Family) -> dict[str, int]:
    """The number of layers of each stack, by the stack's name."""
    return {stack.name: int(getattr(config, stack.count)) for stack in family.stacks}


def width_of(config: Any, stack: Stack) -> int:
    """The width of the feed-forward part of a stack's blocks, as the configuration tells it."""
    # GPT-2's n_inner is null where it is the usual 4 · n_embd.
    return int(getattr(config, stack.neurons) or 4 * config.hidden_size)


def head_count(config: Any, family: Family, stack: Stack) -> int:
    """The heads of a stack's attention modules that can go on their own, as the configuration tells it."""
    return int(getattr(config, family.heads.key_values or stack.heads))


def block_sizes(config: Any, family: Family) -> tuple[dict[str, int], dict[str, int]]:
    """Heads and neurons of a block of each stack, by the stack's name."""
    heads = {stack.name: head_count(config, family, stack) for stack in family.stacks}
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
