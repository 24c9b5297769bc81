"""Which tensors a file of weights holds, beside those that the model's skeleton asks for: by name, dtype and shape.

No weight is read: the file tells by its header, the skeleton lies on the meta device.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from compress_exp.config.checks import UserError
from compress_exp.formats.codecs import Kind, codecs, with_pieces
from compress_exp.formats.description import ANY
from compress_exp.models.families.base import is_conv1d

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHOWN = 3
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def kind_of(tensor: Tensor) -> Kind:
    """The kind of a tensor."""
    return _DTYPES.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape)


def kinds_in(files: Sequence[Path | str]) -> dict[str, Kind]:
    """The tensors of safetensors files, from their headers."""
    from safetensors import safe_open

    found: dict[str, Kind] = {}
    for file in files:
        with safe_open(file, "pt") as stored:
            slices = {name: stored.get_slice(name) for name in stored.keys()}  # noqa: SIM118
            found |= {name: (str(part.get_dtype()), tuple(part.get_shape())) for name, part in slices.items()}
    return found


def differences(
    stored: Mapping[str, Kind], skeleton: PreTrainedModel, tensors: Mapping[str, str], absent: Collection[str]
) -> list[str]:
    """What is missing, not expected, or of another dtype or shape.

    Args:
        stored: the tensors that there are.
        skeleton: the model that they are for; of parameters that it ties one has to be there.
        tensors: the codecs of tensors that are not stored as they are, by name.
        absent: tensors that modules have from others, and nothing of them stored.

    Returns:
        A phrase for each tensor, ordered by its name.
    """
    left = dict(stored)
    found: dict[str, str] = {}
    missing: dict[tuple[str, Kind], str] = {}
    present: set[tuple[str, Kind]] = set()
    all_pieces = sorted({piece for codec in codecs().values() for piece in codec.PIECES})
    for name, tensor in skeleton.state_dict().items():
        if name in absent:
            continue
        names = ["", *all_pieces] if name in tensors else [""]
        stems = {piece: f"{name}_{piece}" if piece else name for piece in names}
        pieces = {piece: left.pop(stem) for piece, stem in stems.items() if stem in left}
        one = (skeleton.all_tied_weights_keys.get(name, name), kind_of(tensor))
        missing.setdefault(one, name)
        if pieces:
            present.add(one)
            axis = input_axis(skeleton.get_submodule(name.rpartition(".")[0]))
            told = _misfits(pieces, kind_of(tensor), tensors.get(name, ANY), axis)
            found |= {stems[piece]: phrase for piece, phrase in told}
    found |= {name: "is missing" for one, name in missing.items() if one not in present}
    found |= {name: "is not expected" for name in left}
    return [f"{name} {found[name]}" for name in sorted(found)]


def input_axis(module: nn.Module) -> int:
    """The axis of a module's weight along which its inputs lie."""
    return 0 if is_conv1d(module) else 1


def _misfits(pieces: Mapping[str, Kind], kind: Kind, codec: str, inputs: int) -> Iterator[tuple[str, str]]:
    """What is wrong with the pieces of one tensor: the piece ("" for the tensor itself) and a phrase."""
    given = with_pieces(pieces)
    if set(pieces) == {""} and codec == ANY:
        wanted = {"": kind}
    elif given is None or codec not in (ANY, given):
        names = " and ".join(sorted(piece or "dense" for piece in pieces))
        yield "", f"is there as {names}" + (" only" if len(pieces) == 1 else "")
        return
    else:
        try:
            wanted = codecs()[given].expected(pieces, kind, inputs)
        except ValueError as error:
            yield "values", str(error)
            return
    for piece, promised in wanted.items():
        if pieces[piece] != promised:
            yield piece, f"is {_told(pieces[piece])} and not {_told(promised)}"


def other_modules(model: nn.Module, skeleton: nn.Module) -> list[str]:
    """Modules of another class than the skeleton's, and buffers that are not stored and that it does not have."""
    own, wanted = (dict(one.named_modules(remove_duplicate=False)) for one in (model, skeleton))
    found = {name: "is missing" for name in wanted.keys() - own.keys()}
    for name, module in own.items():
        promised = type(wanted[name]).__name__ if name in wanted else "module of the architecture"
        if name not in wanted or type(module) is not type(wanted[name]):
            found[name] = f"is {type(module).__name__} and no {promised}"
    mine, theirs = _not_stored(model), _not_stored(skeleton)
    found |= {name: "is a buffer that is not stored" for name, kind in mine.items() if theirs.get(name) != kind}
    return [f"{name} {found[name]}" for name in sorted(found)]


def _not_stored(model: nn.Module) -> dict[str, Kind]:
    stored = model.state_dict().keys()
    return {name: kind_of(buffer) for name, buffer in model.named_buffers() if name not in stored}


def listed(found: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(found[:SHOWN]) + more


def refuse(found: Sequence[str], place: str) -> None:
    """Refuse a file whose tensors are not those of its model.

    Args:
        found: what is wrong, a phrase each.
        place: the file.

    Raises:
        UserError: there is something.
    """
    if found:
        raise UserError(
            f"artifact: {place} does not hold the model of its config.json ({listed(found)}); "
            "copy both again, or build the artifact anew"
        )


def _told(kind: Kind) -> str:
    return f"{kind[0]} {list(kind[1])}"
