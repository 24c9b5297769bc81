"""Small experiments on tiny models and small files, for tests that run the real thing."""

from __future__ import annotations

import json
import random
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from compress_exp.config.schema import CONF
from compress_exp.experiment.plan import Plan, plan

SMALL = {
    "bert": ("tiny_bert", "classification", {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}),
    "albert": ("tiny_albert", "classification", {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}),
    "distilbert": (
        "tiny_bert",
        "classification",
        {"model_type": "distilbert", "hidden_size": 32, "hidden_dim": 64, "num_attention_heads": 2},
    ),
    "electra": ("tiny_electra", "classification", {"hidden_size": 32, "intermediate_size": 64}),
    "answers": (
        "tiny_bert",
        "question_answering",
        {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2},
    ),
    "gpt2": ("tiny_gpt2", "language_modelling", {"n_embd": 32, "n_inner": 64, "n_head": 2}),
    "llama": ("tiny_llama", "language_modelling", {"hidden_size": 32, "head_dim": 8, "intermediate_size": 64}),
    "t5": ("tiny_t5", "seq2seq", {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_heads": 2}),
    "bart": ("tiny_bart", "seq2seq", {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}),
}
WORDS = "the a good bad film plot actor was is not very but slow fine dull bright we they saw liked".split()  # noqa: SIM905


def write_data(directory: Path, rows: int = 48) -> Path:
    """Files that serve every kind of task: text, label, source, target, and SQuAD's columns."""
    directory.mkdir(parents=True, exist_ok=True)
    generator = random.Random(0)
    for split, count in (("train", rows), ("validation", rows // 3)):
        with (directory / f"{split}.jsonl").open("w") as stream:
            for index in range(count):
                words = generator.choices(WORDS, k=generator.randint(4, 12))
                row = {"text": " ".join(words), "label": index % 2}
                row |= {"source": " ".join(words), "target": " ".join(reversed(words))}
                row |= {"question": words[0], "context": " ".join(words)}
                row["answers"] = {"text": [words[-1]], "answer_start": [len(" ".join(words)) - len(words[-1])]}
                stream.write(json.dumps(row) + "\n")
    return directory


def configure(family: str, data: Path, *overrides: str) -> DictConfig:
    """The configuration of a small experiment: three steps, one thread."""
    model, task, sizes = SMALL[family]
    common = [f"model={model}", f"task={task}", f"task.data_dir={data}", "tracking=disabled", "model.vocabulary=320"]
    common += [f"++model.architecture.{name}={value}" for name, value in sizes.items()]
    common += ["train.max_steps=3", "train.threads=1", "task.batch_size=8", "task.max_length=32"]
    if task == "language_modelling":
        common.append("task.stride=16")
    if task == "question_answering":
        common += ["task.max_question_length=8", "task.doc_stride=8"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", [*common, *overrides])


def planned(family: str, data: Path, *overrides: str) -> Plan:
    """The checked plan of a small experiment."""
    return plan(configure(family, data, *overrides))
