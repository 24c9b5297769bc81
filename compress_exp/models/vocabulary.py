"""A smaller vocabulary: a tokenizer without the entries that a corpus does not use, and a model without their rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compress_exp.config.checks import FieldError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast


def counts(features: Iterable[dict[str, Any]]) -> Counter[int]:
    """How often each id occurs in the inputs, and in labels that are ids."""
    found: Counter[int] = Counter()
    for row in features:
        found.update(row["input_ids"])
        if isinstance(row.get("labels"), list):
            found.update(label for label in row["labels"] if label >= 0)
    return found


def smaller_tokenizer(tokenizer: PreTrainedTokenizerBase, wanted: Iterable[int]) -> PreTrainedTokenizerFast:
    """A tokenizer that splits as before every text that needs only the wanted entries.

    Kept as well: special and added tokens, single characters (so that an unseen word is split and not unknown), and
    what byte-pair merges need on the way to a wanted entry. The order of the entries stays.

    Args:
        tokenizer: a fast one: WordPiece, byte-pair encoding, Unigram or WordLevel.
        wanted: ids.

    Raises:
        FieldError: the tokenizer is of another kind.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    backend = getattr(tokenizer, "backend_tokenizer", None)
    content: dict[str, Any] = json.loads(backend.to_str()) if backend is not None else {"model": {}}
    kind = content["model"].get("type", type(tokenizer).__name__)
    if kind not in ("WordPiece", "BPE", "Unigram", "WordLevel"):
        raise FieldError("", f"a tokenizer of type {kind} cannot be made smaller; leave prune/vocabulary out")
    names: dict[int, str] = {index: token for token, index in tokenizer.get_vocab().items()}
    added = {item["content"] for item in content["added_tokens"]}
    unknown = content["model"].get("unk_token")
    keep = {names[index] for index in wanted if index in names} | added | set(tokenizer.all_special_tokens)
    keep |= {token for token in names.values() if len(token.removeprefix("##").removeprefix("▁")) <= 1}
    keep |= {unknown} & set(names.values())
    if kind == "BPE":
        keep |= _parts(content["model"]["merges"], keep)
    kept = [names[index] for index in sorted(names) if names[index] in keep]
    _renumber(content, {token: index for index, token in enumerate(kept)})
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)),
        model_max_length=tokenizer.model_max_length,
        model_input_names=list(tokenizer.model_input_names),
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        clean_up_tokenization_spaces=tokenizer.clean_up_tokenization_spaces,
        **{name: token for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)},
    )


def _pair(merge: str | list[str]) -> tuple[str, str]:
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second


def _parts(merges: Sequence[Any], keep: set[str]) -> set[str]:
    """What the wanted entries are merged from, down to single characters."""
    made: dict[str, tuple[str, str]] = {}
    for merge in merges:
        first, second = _pair(merge)
        made.setdefault(first + second, (first, second))
    found: set[str] = set()
    pending = list(keep)
    while pending:
        for part in made.get(pending.pop(), ()):
            if part not in found:
                found.add(part)
                pending.append(part)
    return found


def _renumber(content: dict[str, Any], ids: dict[str, int]) -> None:
    """Give the entries of a serialised tokenizer their new ids, in place."""
    model = content["model"]
    if model["type"] == "Unigram":
        unknown = model["vocab"][model["unk_id"]][0] if model["unk_id"] is not None else None
        model["vocab"] = [entry for entry in model["vocab"] if entry[0] in ids]
        if [entry[0] for entry in model["vocab"]] != list(ids)[: len(model["vocab"])]:
            raise FieldError(
                "",
                "added tokens stand among the pieces of this tokenizer, so it cannot be made smaller; leave "
                "prune/vocabulary out",
            )
        model["unk_id"] = None if unknown is None else ids[unknown]
    else:
        model["vocab"] = {token: ids[token] for token in model["vocab"] if token in ids}
    if model["type"] == "BPE":
        pairs = [_pair(merge) for merge in model["merges"]]
        model["merges"] = [[a, b] for a, b in pairs if a in ids and b in ids and a + b in ids]
    for item in content["added_tokens"]:
        item["id"] = ids[item["content"]]
    content["padding"] = content["truncation"] = None
    for processor in _processors(content.get("post_processor")):
        for name in ("sep", "cls"):
            if name in processor:
                processor[name] = [processor[name][0], ids[processor[name][0]]]
        for special in processor.get("special_tokens", {}).values():
            special["ids"] = [ids[token] for token in special["tokens"]]


def _processors(node: Any) -> list[dict[str, Any]]:
    if node is None:
        return []
    return list(node["processors"]) if node["type"] == "Sequence" else [node]


def shrink(model: PreTrainedModel, before: PreTrainedTokenizerBase, after: PreTrainedTokenizerBase) -> None:
    """Keep the rows of a smaller tokenizer's entries, in its order, wherever the model has one per entry.

    Args:
        model: nothing of it is parametrized; tied weights stay tied.
        before: the tokenizer that it reads with.
        after: the smaller one.
    """
    old = before.get_vocab()
    entries = sorted(after.get_vocab().items(), key=lambda item: item[1])
    rows = torch.tensor([old[token] for token, _ in entries], device=model.device)
    tables = [module for module in (model.get_input_embeddings(), model.get_output_embeddings()) if module is not None]
    weights = {id(module.weight) for module in tables}
    made: dict[int, nn.Parameter] = {}

    def cut(tensor: Tensor) -> nn.Parameter:
        if id(tensor) not in made:
            made[id(tensor)] = nn.Parameter(tensor.detach()[rows].clone())
        return made[id(tensor)]

    for module in [module for module in model.modules() if id(getattr(module, "weight", None)) in weights]:
        assert isinstance(module, nn.Embedding | nn.Linear)
        module.weight = cut(module.weight)
        if isinstance(module, nn.Embedding):
            module.num_embeddings = len(rows)
            module.padding_idx = None if module.padding_idx is None else _new(module.padding_idx, rows)
        else:
            module.out_features = len(rows)
            if module.bias is not None:
                module.bias = cut(module.bias)
    for name, buffer in list(model.named_buffers()):
        if name.endswith("final_logits_bias"):
            model.get_submodule(name.rpartition(".")[0]).register_buffer("final_logits_bias", buffer[:, rows])
    for config in (model.config, getattr(model, "generation_config", None)):
        if config is not None:
            _renumber_config(config, rows)
    model.config.vocab_size = len(rows)


def _new(index: int, rows: Tensor) -> int | None:
    places = (rows == index).nonzero().flatten()
    return int(places[0]) if len(places) else None


def _renumber_config(config: Any, rows: Tensor) -> None:
    for name in [name for name in vars(config) if name.endswith("token_id")]:
        value = getattr(config, name)
        if isinstance(value, int):
            setattr(config, name, _new(value, rows))
        elif isinstance(value, list):
            setattr(config, name, [new for item in value if (new := _new(item, rows)) is not None])
