"""Kept answers: a teacher's logits at every scored position of the training rows, in one file that is mapped.

All classes are kept in float32, or the k most probable ones with their log-probabilities; what those lack to 1 is then
spread evenly over the other classes. Whether the teacher ran in the batches of a training or of this file moves its
logits by rounding: a student of kept answers is another result than one of a teacher that runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from compress_exp.config.checks import UserError
from compress_exp.models.forward import FEATURES
from compress_exp.outputs.progress import Beat, unheard
from compress_exp.tasks.base import Task
from compress_exp.tasks.features import length_batches
from compress_exp.tasks.files import Row
from compress_exp.training.teacher import Teacher

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FILE = "answers.safetensors"
BATCH = 32
LEAST = 1e-12  # of the mass that is spread, so that its logarithm is finite


class KeptAnswers:
    """A teacher that is not there any more.

    Args:
        directory: where `write_answers` put them.
        features: the student's; they must be those that the answers were given to.

    Raises:
        UserError: they are not.
    """

    model = None

    def __init__(self, directory: Path, features: Sequence[Row]) -> None:
        with safe_open(directory / FILE, framework="pt") as file:
            asked = file.metadata()["features"]
            self.tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if asked != features_digest(features):
            raise UserError(f"artifact: the answers in {directory} are to other rows than these; remove it")
        self.classes, self.starts = int(self.tensors.pop("classes")), self.tensors.pop("starts").tolist()
        self.device = torch.device("cpu")

    def to(self, device: torch.device) -> None:
        """Give answers there."""
        self.device = device

    def outputs(self, batch: dict[str, Tensor], needs: Collection[str]) -> dict[str, Any]:
        """The logits of the batch's rows, read from the file."""
        spans = [torch.arange(self.starts[row], self.starts[row + 1]) for row in batch[FEATURES].tolist()]
        places = torch.cat(spans)
        found = {name: tensor[places].to(self.device) for name, tensor in self.tensors.items()}
        return {"logits": found["logits"] if "logits" in found else spread(**found, classes=self.classes)}


def spread(
    indices: Tensor,  # (positions, k)
    log_probabilities: Tensor,  # (positions, k)
    classes: int,
) -> Tensor:  # (positions, classes)
    """Logits of the distribution with these probabilities, its rest spread evenly over the other classes."""
    rest = (1 - log_probabilities.double().exp().sum(-1, keepdim=True)).clamp(min=LEAST)
    others = (rest / (classes - indices.shape[-1])).log().to(log_probabilities.dtype)
    return others.repeat(1, classes).scatter(-1, indices.long(), log_probabilities)


def write_answers(
    teacher: Teacher,
    task: Task,
    features: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
    top_k: int | None,
    device: torch.device,
    beat: Beat = unheard,
) -> int:
    """Ask a teacher about all features; until they are written the answers are held in memory.

    Args:
        teacher: is moved to the device.
        task: says which positions count; its logits are (rows, classes), or (rows, length, classes) as its labels.
        features: the student's, in order.
        tokenizer: the student's.
        directory: gets the file.
        top_k: classes that are kept; None for all.
        device: where the teacher computes.
        beat: called after every batch with (batch, batches).

    Returns:
        How many batches the teacher was asked.
    """
    teacher.to(device)
    found: list[tuple[Tensor, ...]] = [()] * len(features)
    classes, batches = 0, length_batches(features, BATCH)
    for step, numbers in enumerate(batches, 1):
        batch = task.collate([features[number] for number in numbers], tokenizer) | {FEATURES: torch.tensor(numbers)}
        with torch.no_grad():
            logits = teacher.outputs({name: tensor.to(device) for name, tensor in batch.items()}, ())["logits"]
        classes = logits.shape[-1]
        kept: tuple[Tensor, ...] = (logits.float().cpu(),)
        if top_k is not None:
            top = kept[0].log_softmax(-1).topk(top_k)
            kept = top.indices.int(), top.values
        counts = positions_by_row(task, batch)
        for number, part in zip(numbers, zip(*(tensor.split(counts) for tensor in kept), strict=True), strict=True):
            found[number] = part
        beat(step, len(batches))
    names = ("logits",) if top_k is None else ("indices", "log_probabilities")
    tensors = {name: torch.cat([parts[place] for parts in found]) for place, name in enumerate(names)}
    tensors["starts"] = torch.tensor([0, *np.cumsum([len(parts[0]) for parts in found])])
    tensors["classes"] = torch.tensor(classes)
    # One entry: several would stand in another order in each process.
    save_file(tensors, directory / FILE, metadata={"features": features_digest(features)})
    return len(batches)


def positions_by_row(task: Task, batch: dict[str, Tensor]) -> list[int]:
    """How many positions of each row count."""
    labels = batch["labels"]
    rows = torch.arange(len(labels)).view(-1, *[1] * (labels.dim() - 1)).expand_as(labels)
    owners, _ = task.targets({"logits": rows.unsqueeze(-1)}, batch)
    return torch.bincount(owners.flatten(), minlength=len(labels)).tolist()


def features_digest(features: Sequence[Row]) -> str:
    """A digest of all token ids."""
    content = hashlib.sha256()
    for row in features:
        content.update(np.asarray([len(row["input_ids"]), *row["input_ids"]], dtype=np.int64).tobytes())
    return content.hexdigest()[:16]
