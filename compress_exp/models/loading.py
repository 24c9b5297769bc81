"""The model one starts from: the hub, a local directory, or a tiny architecture trained from scratch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress_exp.config.checks import FieldError, UserError, check_number
from compress_exp.models.checkpoint import WANTED, check_dense, check_weights, directory_digest, read_header, read_json
from compress_exp.models.families.base import Family, family_of
from compress_exp.models.sizes import parameter_count, told
from compress_exp.models.task_head import head_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from compress_exp.tasks.base import Task


@dataclass(frozen=True, kw_only=True)
class Model:
    """A Hugging Face architecture with its tokenizer.

    Attributes:
        name: how tables call it.
        hub: its name on the Hugging Face hub.
        revision: commit or tag on the hub.
        path: a local directory of Hugging Face weights; wins over `hub`.
        architecture: arguments of the configuration class, `model_type` among them: random weights, with a
            tokenizer of `vocabulary` entries trained on the task's text.
        vocabulary: entries of that tokenizer.
        finetuned: the checkpoint already is the baseline; nothing is trained before compression.
        learning_rate: the rate at which this architecture trains well (`train.learning_rate` starts from it).
    """

    name: str
    hub: str | None = None
    revision: str | None = None
    path: str | None = None
    architecture: dict[str, Any] | None = None
    vocabulary: int = 1000
    finetuned: bool = False
    learning_rate: float = 5e-5

    def __post_init__(self) -> None:
        check_number("learning_rate", self.learning_rate, 0, 1)
        check_number("vocabulary", self.vocabulary, 300)

    def check(self, key: str = "model") -> None:
        """Look at the directory without loading it.

        Raises:
            UserError: the directory, its weights or its architecture cannot be used.
        """
        if self.path:
            check_weights(Path(self.path), f"{key}.path")
            check_dense(Path(self.path), f"{key}.path", self.path)
            self.family(key)
        elif not self.hub and not self.architecture:
            raise UserError(f"{key}.path: set a directory of Hugging Face weights, or {key}.hub to a name on the hub")
        elif not self.hub and "vocab_size" in (self.architecture or {}):
            raise UserError(f"{key}.architecture.vocab_size: the tokenizer decides it; set {key}.vocabulary")
        elif self.finetuned and not self.hub:
            raise UserError(f"{key}.finetuned: random weights are no baseline; set {key}.path or finetuned=false")

    @cached_property
    def directory(self) -> Path | None:
        """Where the weights lie on this machine (fetched from the hub on first use); None for random weights."""
        if self.path:
            return Path(self.path)
        if not self.hub:
            return None
        from huggingface_hub import snapshot_download

        try:
            snapshot = Path(snapshot_download(self.hub, revision=self.revision, allow_patterns=WANTED))
        except Exception as error:
            raise UserError(
                f"model.hub: {self.hub!r} could not be fetched ({type(error).__name__}); "
                "check the name and the network, or set model.path to a local directory"
            ) from error
        check_weights(snapshot, "model.hub")
        check_dense(snapshot, "model.hub", self.hub)
        return snapshot

    def family(self, key: str = "model") -> Family:
        """The family of the architecture."""
        if self.architecture and not self.path and not self.hub:
            return family_of(str(self.architecture.get("model_type")), f"{key}.architecture.model_type")
        assert self.directory is not None
        config = read_json(self.directory / "config.json", f"{key}.path")
        return family_of(str(config.get("model_type")), f"{key}.path")

    def settings(self) -> dict[str, Any]:
        """The settings of random weights, the vocabulary's size among them."""
        assert self.architecture is not None
        return {**self.architecture, "vocab_size": self.vocabulary}

    def parameters(self) -> int:
        """About how many there are: those of the checkpoint, or of the matrices that random weights would have."""
        if self.directory is None:
            return parameter_count(read_config(self), self.family())
        tensors = (read_header(file)[1].items() for file in self.directory.glob("*.safetensors"))
        shapes = [entry["shape"] for items in tensors for name, entry in items if name != "__metadata__"]
        return sum(math.prod(shape) for shape in shapes)

    def check_architecture(self) -> None:
        """Build random weights without memory for them; a checkpoint has shown that it can be built.

        Raises:
            UserError: transformers cannot, with its reason.
        """
        if self.directory is not None:
            return
        import torch
        from transformers import AutoModel

        try:
            config = _full_config(self.settings(), None)
        except FieldError as error:
            raise error.at("model.architecture") from error
        try:
            with torch.device("meta"):
                AutoModel.from_config(config)
        except Exception as error:  # each architecture checks in its own way, some not at all
            raise UserError(f"model.architecture: {_refused(error)}") from error

    def identity(self) -> dict[str, Any]:
        """What decides the weights and the tokenizer: their content, never where they lie."""
        if self.directory is None:
            return {"architecture": self.architecture, "vocabulary": self.vocabulary}
        return {"content": directory_digest(self.directory), "finetuned": self.finetuned}

    def tokenizer(self, task: Task) -> PreTrainedTokenizerBase:
        """The checkpoint's tokenizer, or one trained on the task's training text."""
        from transformers import AutoTokenizer

        if self.directory is not None:
            return AutoTokenizer.from_pretrained(self.directory)
        from compress_exp.models.tokenizers import train_tokenizer

        return train_tokenizer(self.family().text, self.vocabulary, task.texts(), task.max_length)

    def load(self, task: Task, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
        """The pretrained model with a head for the task, new weights seeded."""
        import torch
        import transformers

        from compress_exp.models.finite import nonfinite_weight

        transformers.utils.logging.disable_progress_bar()
        auto = getattr(transformers, task.auto_class)
        torch.manual_seed(seed)
        if self.directory is not None:
            if self.finetuned:
                self.check_labels(task, "model.finetuned")
            model, found = auto.from_pretrained(
                self.directory,
                **task.config_overrides(),
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
            )
            if self.finetuned and found["missing_keys"]:
                missing = sorted(found["missing_keys"])[0]
                raise UserError(
                    f"model.finetuned: the checkpoint has no {missing}; set model.finetuned=false to train it"
                )
            if (wrong := nonfinite_weight(model)) is not None:
                key, place = ("path", self.path) if self.path else ("hub", self.hub)
                raise UserError(f"model.{key}: the weights in {place!r} are damaged, {wrong}; all must be finite")
        else:
            assert self.architecture is not None
            settings = {key: value for key, value in self.architecture.items() if key != "model_type"}
            config = transformers.AutoConfig.for_model(
                self.architecture["model_type"],
                vocab_size=len(tokenizer),
                **self.family().special_ids(tokenizer),
                **settings,
                **task.config_overrides(),
            )
            model = auto.from_config(config)
        if model.config.pad_token_id is None:
            model.config.pad_token_id = tokenizer.pad_token_id
        return model

    def skeleton(self, task: Task) -> PreTrainedModel:
        """The model that `load` gives of a checkpoint, on the meta device: shapes without weights."""
        import torch
        import transformers

        assert self.directory is not None
        config = transformers.AutoConfig.from_pretrained(self.directory, **task.config_overrides())
        with torch.device("meta"):
            model: PreTrainedModel = getattr(transformers, task.auto_class).from_config(config)
        return model

    def check_head(self, task: Task, key: str) -> None:
        """Require that the checkpoint has the head that the task needs, as far as its configuration says.

        Args:
            task: knows the head.
            key: of the configuration, for the error.

        Raises:
            UserError: it has another.
        """
        names = read_json(Path(self.directory or ".") / "config.json", "model.path").get("architectures") or [""]
        own, wanted = head_of(str(names[0])), task.auto_class.removeprefix("AutoModel")
        if own not in (None, wanted):
            raise UserError(f"{key}: the checkpoint is a {names[0]}, task={task.name} needs one with the head {wanted}")

    def check_labels(self, task: Task, key: str) -> None:
        """Require that the checkpoint means by each label what the task means.

        Args:
            task: knows the labels.
            key: of the configuration, for the error.

        Raises:
            UserError: it does not.
        """
        wanted = {int(index): str(name) for index, name in task.config_overrides().get("id2label", {}).items()}
        config = read_json(Path(self.directory or ".") / "config.json", "model.path")
        own = {int(index): str(name) for index, name in config.get("id2label", {0: "LABEL_0", 1: "LABEL_1"}).items()}
        if wanted and len(own) != len(wanted):
            raise UserError(f"{key}: the checkpoint has {len(own)} labels, task={task.name} has {len(wanted)}")
        spoken = not any(name.startswith("LABEL_") for name in own.values()) and not any(
            name.isdigit() for name in wanted.values()
        )
        for index, name in wanted.items() if spoken else ():
            if own[index].lower() != name.lower():
                raise UserError(
                    f"{key}: label {index} is {own[index]!r} in the checkpoint and {name!r} in the task; "
                    "set task.classes in the checkpoint's order"
                )


def read_config(model: Model, key: str = "model") -> Any:
    """The architecture's configuration, before any weight is read; of transformers' class only if it has to be.

    Raises:
        UserError: the settings make no architecture.
    """
    place = f"{key}.path" if model.path else f"{key}.hub" if model.hub else f"{key}.architecture"
    directory = model.directory
    settings = model.settings() if directory is None else read_json(directory / "config.json", place)
    try:
        return told(settings, model.family(key)) or _full_config(settings, directory)
    except FieldError as error:
        raise error.at(place) from error


def _full_config(settings: dict[str, Any], directory: Path | None) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.for_model(**settings) if directory is None else AutoConfig.from_pretrained(directory)
    except Exception as error:  # each architecture checks in its own way
        raise FieldError("", _refused(error)) from error


def _refused(error: Exception) -> str:
    return f"transformers refuses it ({type(error).__name__}: {' '.join(str(error).split())})"
