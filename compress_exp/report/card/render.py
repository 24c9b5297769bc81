"""The text of a card: its metadata block for the Hugging Face hub, and the page below it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from markupsafe import Markup

from compress_exp.models.task_head import head_of
from compress_exp.report.card import markdown
from compress_exp.report.card.lineage import Lineage, Names
from compress_exp.report.card.measured import Measured

HERE = Path(__file__).parent
KINDS = {"int8_linear": "int8 matrices", "int8_embedding": "int8 embeddings"}
# What the hub calls that which a head does; others are spelled as the head, as in token-classification.
PIPELINES = {
    "ForSequenceClassification": "text-classification",
    "ForCausalLM": "text-generation",
    "ForSeq2SeqLM": None,
    "ForMaskedLM": "fill-mask",
}
TAGS = {"prune": "pruning", "quant": "quantization", "distill": "distillation"}


def render(
    key: str,
    line: Lineage,
    names: Names,
    measured: Sequence[Measured],
    passing: Sequence[tuple[str, str]],
    stamp: str,
) -> str:
    """The whole file.

    Args:
        key: of the artifact.
        line: where it comes from.
        names: of what it was made from.
        measured: all that records say of it.
        passing: metrics that it got as a stage of longer pipelines.
        stamp: tells whether the card is that of the present records.
    """
    labels = [step.label for step in line.steps] if line.is_dense else [step.label for step in line.steps[1:]]
    title = " · ".join([names.model, names.task, " → ".join(labels)])
    badges = dict.fromkeys(badge for found in measured for badge in found.badges)
    body = _template().render(
        title=title,
        line=line,
        names=names,
        badges=list(badges),
        facts=_facts(key, line, names),
        measured=measured,
        passing=passing,
        rows=_rows,
        heads=lambda found: Markup("this model" if found.dense else "this model | dense model"),
        ruler=lambda found: Markup("---:" if found.dense else "---: | ---:"),
        limits=_limits(line, measured),
        loading=_loading(key, line),
        stamp=Markup(stamp),
    )
    body = re.sub(r"\n{3,}", "\n\n", body)
    return str(ModelCard(f"---\n{_metadata(line, names, measured, title).to_yaml()}\n---\n\n{body}"))


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), finalize=markdown.escape, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {"fenced": markdown.fenced, "join_cells": _cells}
    return environment.get_template("card.md.j2")


def _metadata(line: Lineage, names: Names, measured: Sequence[Measured], title: str) -> ModelCardData:
    """What the hub reads."""
    pipeline = _auto(line)[1] or {"bleu": "translation"}.get(measured[0].metric if measured else "")
    tags = ["compress_exp", *(TAGS.get(family, family) for family in line.families)]
    base, dataset = (markdown.line(names.hub.get(what) or "") for what in ("model", "dataset"))
    relation = "quantized" if "quant" in line.families else "finetune"
    results = [
        EvalResult(
            task_type=pipeline or "other",
            dataset_type=dataset or re.sub(r"[^\w.-]+", "-", names.task) or "unknown",
            dataset_name=markdown.line(names.task) or "unknown",
            dataset_split=markdown.line(found.split) or None,
            metric_type=found.metric,
            metric_name=markdown.line(" · ".join([found.metric, *found.conditions])),
            metric_value=found.value,
        )
        for found in measured
        if found.value is not None
    ]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=pipeline,
        base_model=base or None,
        datasets=[dataset] if dataset else None,
        metrics=sorted({result.metric_type for result in results}) or None,
        tags=[markdown.line(tag) for tag in dict.fromkeys(tags)],
        model_name=markdown.line(title) if results else None,
        eval_results=results or None,
    )
    if base:
        data["base_model_relation"] = relation
    return data


def _facts(key: str, line: Lineage, names: Names) -> list[tuple[str, str]]:
    task = line.recipe.get("task")
    task = task if isinstance(task, Mapping) else {}
    found = {
        "artifact": key,
        "architecture": f"{_architecture(line)}, {line.config.get('num_hidden_layers') or '?'} layers",
        "base model": names.hub.get("model") or f"{names.model} ({_source(line)})",
        "parent": "" if line.is_dense else line.recipe.get("parent"),
        "dense model": "" if line.is_dense else line.steps[0].key,
        "task": f"{names.task} ({task.get('kind')})",
        "data": names.hub.get("dataset") or "no data set of the hub",
        "longest input": task.get("max_length") and f"{task['max_length']} tokens",
        "seed": line.recipe.get("seed"),
        "stored as": _stored(line),
        "built with": ", ".join(
            f"{name} {version}"
            for name, version in {"compress_exp": line.build.get("compress_exp"), **_versions(line)}.items()
        ),
    }
    return [(what, str(told)) for what, told in found.items() if told not in ("", None)]


def _source(line: Lineage) -> str:
    return "random weights of this architecture" if line.source.get("architecture") else "weights of one's own"


def _stored(line: Lineage) -> str:
    if line.packed is None:
        return f"an ordinary checkpoint of safetensors, {line.config.get('dtype')}"
    groups = line.packed.get("modules")
    if groups is None:  # the first format
        groups = [{"kind": kind, "names": line.packed.get(kind, ())} for kind in KINDS]
    counts: Counter[str] = Counter()
    for group in groups:
        counts[KINDS.get(group["kind"], f"modules of kind {group['kind']}")] += len(group["names"])
    counts["pruned matrices"] = len(line.packed.get("pruned", ()))
    told = [f"{count} {what}" for what, count in counts.items() if count]
    return f"safetensors in the format of compress_exp: {', '.join(told)}"


def _limits(line: Lineage, measured: Sequence[Measured]) -> list[str]:
    found = [f"{name}: {sentence}" for name, sentence in dict.fromkeys(b for one in measured for b in one.badges)]
    if measured:
        found.append(
            "Times and memory hold for the runtime, threads, shapes and machine they stand under, for no other."
        )
        found.append("It is one training with one seed: intervals are over examples and timings, not over seeds.")
        found.append("Quality was measured on the rows of this one task; nothing is known of other data or of biases.")
    else:
        found.append("Nothing was measured yet, so nothing is known of its quality or speed.")
    if line.packed is not None and line.packed.get("pruned"):
        found.append("Its zeros are unstructured: they make the file smaller, dense kernels are not faster for them.")
    if line.packed is not None:
        found.append("Plain transformers cannot read it; compress_exp must be installed where it is loaded.")
    found.append("No licence is stated here: that of the base model and of the data applies.")
    return found


def _loading(key: str, line: Lineage) -> Markup:
    auto, place = _auto(line)[0], f'directory = "outputs/artifacts/{key}"  # where this file lies'
    plain = f"from transformers import {auto}, AutoTokenizer\n\n{place}\nmodel = {auto}.from_pretrained(directory)\n"
    plain += "tokenizer = AutoTokenizer.from_pretrained(directory)"
    if line.packed is not None:
        plain = f"import compress_exp.hf  # teaches transformers the format\n{plain}"
    own = f"import compress_exp\n\n{place}\nmodel = compress_exp.load(directory)"
    return Markup(f"```python\n{plain}\n```\n\nor\n\n```python\n{own}\n```")


def _auto(line: Lineage) -> tuple[str, str | None]:
    """The class of transformers that loads it, and the hub's name for what it does."""
    head = head_of(_architecture(line))
    if head is None:
        return "AutoModel", None
    return f"AutoModel{head}", PIPELINES.get(head, "-".join(re.findall(r"[A-Z][a-z]+", head)[1:]).lower())


def _architecture(line: Lineage) -> str:
    names = line.config.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else "unknown"


def _versions(line: Lineage) -> Mapping[str, Any]:
    found = line.build.get("versions")
    return found if isinstance(found, Mapping) else {}


def _rows(found: Measured) -> str:
    return f"{found.split} examples" if found.rows is None else f"{found.rows:,.0f} {found.split} examples"


def _cells(row: Sequence[str]) -> Markup:
    return Markup(" | ".join(map(markdown.escape, row)))
