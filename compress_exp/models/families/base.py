"""What a family of architectures is: where its blocks, projections and embeddings are, by name.

A family is a file named after the `model_type` of its configuration, holding one constant `FAMILY`; where the type has
hyphens, the file has underscores and a constant `MODEL_TYPE`. All that depends on the architecture stands there, and
nothing outside this directory compares a `model_type`.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from compress_exp.config.checks import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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
        text: how its tokenizer frames texts.
        starts: the tokenizer's token that its decoder starts with; None where the checkpoint or nobody says.
        ends: the token that generation is made to end with at its longest; None for none.
        relative: its positions are relative, so that inputs may have any length.
        after_padding: its positions are counted from the padding index on (RoBERTa).
        prefixed: the sources of a generating task begin with the task's prefix (T5).
    """

    kind: str
    width: str
    stacks: tuple[Stack, ...]
    roles: dict[str, str]
    heads: Heads
    text: Text = FRAMED
    starts: str | None = None
    ends: str | None = None
    relative: bool = False
    after_padding: bool = False
    prefixed: bool = False

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


def model_types() -> list[str]:
    """The types that there are families of, as transformers spells them."""
    files = [file.stem for file in Path(__file__).parent.glob("*.py") if file.stem not in ("__init__", "base")]
    return sorted(getattr(importlib.import_module(f"{__package__}.{name}"), "MODEL_TYPE", name) for name in files)


def family_of(model_type: str, key: str = "model") -> Family:
    """The family of a transformers `model_type`.

    Raises:
        UserError: no file of that name in `compress_exp/models/families`.
    """
    name = model_type.replace("-", "_")
    if not re.fullmatch(r"[a-z0-9_]+", name) or not (Path(__file__).parent / f"{name}.py").is_file() or name == "base":
        allowed = ", ".join(model_types())
        raise UserError(f"{key}: models of type {model_type!r} are not supported; allowed: {allowed}")
    family: Family = importlib.import_module(f"{__package__}.{name}").FAMILY
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
