"""Calibration block by block: each block's layers see what the compressed blocks before them leave.

The stack's own forward runs with one block only, before which a stub answers with the stored output of the last one,
and is stopped after it; so whatever an architecture hands from block to block (T5's position bias) is handed on. The
encoder comes first; the decoder sees what the compressed encoder gives. Padding is left out of the statistics.
Cost: two passes of each block and a forward pass of one batch, whatever the number of layers; with `sequential` one for
every tensor that weights read, and one. Extra memory: the output of one block for all batches
(and the encoder's final one), the statistics of one block.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from compress_exp.methods.select import Target
from compress_exp.models.families.base import Family, Stack
from compress_exp.models.forward import forward_outputs
from compress_exp.tasks.base import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FROM_ENCODER = ("cross.key", "cross.value")


class Statistic(Protocol):
    """What is gathered of a layer's inputs."""

    def add(self, tokens: Tensor) -> None:
        """Take in the inputs of one call without padding: (tokens, inputs of the layer)."""


Gathered = TypeVar("Gathered", bound=Statistic)


def stream(
    model: PreTrainedModel,
    family: Family,
    batches: Sequence[dict[str, Tensor]],
    chosen: Sequence[Target],
    gather: Callable[[Target], Gathered],
    compress: Callable[[Target, Gathered], None],
    sequential: bool = False,
) -> None:
    """Visit the chosen weights of every block in order: gather statistics of their inputs, then compress them.

    Weights that read one tensor (query, key and value) share one statistic.
    A block that serves every layer (ALBERT) is visited once, with all its calls in the uncompressed model. A weight
    held by several blocks is visited with the first of them. The model comes back in the mode and shape that it had.

    Args:
        model: its chosen weights are changed by `compress` and by nothing else.
        family: of its architecture.
        batches: calibration rows, this rank's own; `compress` adds up statistics over ranks.
        chosen: weights inside blocks.
        gather: an empty statistic for a weight.
        compress: told the statistic over all batches.
        sequential: within a block, too, weights see what the compressed ones before them leave; otherwise a block's
            statistics are all gathered before any of its weights is compressed.
    """
    inputs: list[dict[str, Any]] = [dict(batch) for batch in batches]
    with torch.no_grad(), evaluating(model):
        for stack in family.stacks:
            if stack.shared:
                inside = [target for target in chosen if family.stack_of(target.names[0]) is stack]
                run = partial(_forward, model, inputs)
                _visit(inside, inputs, gather, compress, run, sequential)
            else:
                _stream_stack(model, family, stack, inputs, chosen, gather, compress, sequential)


def _stream_stack(
    model: PreTrainedModel,
    family: Family,
    stack: Stack,
    inputs: list[dict[str, Any]],
    chosen: Sequence[Target],
    gather: Callable[[Target], Gathered],
    compress: Callable[[Target, Gathered], None],
    sequential: bool,
) -> None:
    name, blocks = _block_list(model, stack)
    owner, attribute = model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
    outputs: list[Any] = [None] * len(inputs)
    decoder = family.kind == "encoder_decoder" and stack.name == "decoder"
    followed = stack is not family.stacks[-1]

    def run(index: int, block: nn.Module | None) -> Any:
        before = [] if outputs[index] is None else [_Answer(outputs[index])]
        with _only(owner, attribute, [*before, *([] if block is None else [block])]):
            return _output_of(owner if block is None else block, model, inputs[index])

    for number, block in enumerate(blocks):
        inside = [target for target in chosen if target.names[0].startswith(f"{name}.{number}.")]
        _visit(inside, inputs, gather, compress, partial(run, block=block), sequential, decoder)
        if followed or number < len(blocks) - 1:
            with parametrize.cached():
                for index in range(len(inputs)):
                    outputs[index] = run(index, block)
    if followed:
        for index, batch in enumerate(inputs):
            batch["encoder_outputs"] = run(index, None)
            outputs[index] = None


def _forward(model: PreTrainedModel, inputs: Sequence[dict[str, Any]], index: int) -> Any:
    return forward_outputs(model, inputs[index], ())


def _visit(
    inside: Sequence[Target],
    inputs: Sequence[dict[str, Any]],
    gather: Callable[[Target], Gathered],
    compress: Callable[[Target, Gathered], None],
    run: Callable[[int], Any],
    sequential: bool,
    decoder: bool = False,
) -> None:
    """Gather and compress the weights of one block; in a decoder after an encoder some see the encoder's positions."""
    if not inside:
        return
    groups = _groups(inside, run)
    for turn in [[group] for group in groups] if sequential else [groups]:
        firsts = [group[0] for group in turn]
        statistics = [gather(target) for target in firsts]
        with parametrize.cached():
            for index, batch in enumerate(inputs):
                own = decoder_positions(batch) if decoder else source_positions(batch)
                valid = [source_positions(batch) if target.role.startswith(FROM_ENCODER) else own for target in firsts]
                with _watching(firsts, statistics, valid):
                    run(index)
        for group, statistic in zip(turn, statistics, strict=True):
            for target in group:
                compress(target, statistic)


def _groups(inside: Sequence[Target], run: Callable[[int], Any]) -> list[list[Target]]:
    """The weights of a block that read the very same tensors, in the order in which a forward pass comes to them."""
    calls: dict[int, list[Tensor]] = {}

    def note(number: int) -> Any:
        return lambda _, arguments: calls.setdefault(number, []).append(arguments[0])

    handles = [
        module.register_forward_pre_hook(note(number))
        for number, target in enumerate(inside)
        for module in target.modules
    ]
    try:
        run(0)
    finally:
        for handle in handles:
            handle.remove()
    groups: dict[tuple[int, ...], list[int]] = {}
    for number in [*calls, *(number for number in range(len(inside)) if number not in calls)]:
        # The tensors are held until here, so that no two of them have one id.
        groups.setdefault(tuple(map(id, calls.get(number, ()))), []).append(number)
    return [[inside[number] for number in sorted(group)] for group in groups.values()]


def source_positions(batch: dict[str, Any]) -> Tensor:  # bool (rows, length)
    """Which positions of `input_ids` are no padding."""
    mask: Tensor | None = batch.get("attention_mask")
    return torch.ones_like(batch["input_ids"], dtype=torch.bool) if mask is None else mask.bool()


def decoder_positions(batch: dict[str, Any]) -> Tensor:  # bool (rows, length)
    """Which positions of an encoder-decoder's decoder are no padding."""
    positions: Tensor = batch["labels"] != IGNORED
    return positions


class _Answer(nn.Module):
    """Stands for all blocks before the present one."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, *arguments: Any, **settings: Any) -> Any:
        return self.output


class _Reached(Exception):
    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output


def _output_of(module: nn.Module, model: PreTrainedModel, batch: dict[str, Any]) -> Any:
    """What a module gives in a forward pass that goes no further."""

    def stop(_: nn.Module, arguments: Any, output: Any) -> None:
        raise _Reached(output)

    handle = module.register_forward_hook(stop)
    try:
        forward_outputs(model, batch, ())
    except _Reached as reached:
        return reached.output
    finally:
        handle.remove()
    raise RuntimeError(f"the forward pass never came to {type(module).__name__}")


@contextmanager
def _watching(inside: Sequence[Target], statistics: Sequence[Statistic], valid: Sequence[Tensor]) -> Iterator[None]:
    """Show the inputs of the targets' modules to their statistics."""

    def watch(module: nn.Module, statistic: Statistic, mask: Tensor) -> Any:
        return module.register_forward_pre_hook(lambda _, arguments: statistic.add(arguments[0][mask]))

    handles = [
        watch(module, statistic, mask)
        for target, statistic, mask in zip(inside, statistics, valid, strict=True)
        for module in target.modules
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _only(owner: nn.Module, attribute: str, blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Let a stack consist of these blocks for the moment."""
    before = getattr(owner, attribute)
    setattr(owner, attribute, nn.ModuleList(blocks))
    try:
        yield
    finally:
        setattr(owner, attribute, before)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for the moment."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _block_list(model: nn.Module, stack: Stack) -> tuple[str, nn.ModuleList]:
    """The list of a stack's blocks and its name."""
    found = (
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and re.search(rf"(^|\.){stack.blocks}$", name)
    )
    return next(found)
