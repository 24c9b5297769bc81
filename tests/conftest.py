"""Tiny models, contexts and configurations that several test files share."""

from __future__ import annotations

import logging
import os
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from torch import Tensor

from compress_exp.config.train import TrainConfig
from compress_exp.experiment.build import build_baseline
from compress_exp.experiment.plan import Plan
from compress_exp.methods.base import Facts
from compress_exp.methods.context import Context
from compress_exp.models.families.base import family_of, layer_counts
from compress_exp.outputs.store import Store
from tests import covering
from tests.experiments import write_data
from tests.moments import bare_context
from tests.tracking.wandb_server import WANDB_KEY, Wandb, serve

ENCODER = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
SEQ2SEQ = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "bert": ENCODER,
    "roberta": ENCODER | {"pad_token_id": 0},
    "albert": ENCODER | {"embedding_size": 16},
    "distilbert": {"dim": 32, "n_layers": 4, "n_heads": 2, "hidden_dim": 64},
    "gpt2": {"n_embd": 32, "n_layer": 4, "n_head": 2, "n_inner": 64, "bos_token_id": 0, "eos_token_id": 0},
    "t5": {"d_model": 32, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2, "d_kv": 16, "d_ff": 64}
    | {"decoder_start_token_id": 0},
    "bart": {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "scale_embedding": True} | SEQ2SEQ,
    "electra": ENCODER | {"embedding_size": 16},
    "llama": ENCODER | {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8},
}
HEADS = {
    "encoder": "AutoModelForSequenceClassification",
    "decoder": "AutoModelForCausalLM",
    "encoder_decoder": "AutoModelForSeq2SeqLM",
}
VOCABULARY = 400


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A runner in the background is deaf to Ctrl-C, and the processes that tests interrupt would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--all 1`: the contract for every combination of levels; `--all 0.02`: for a seeded fiftieth of them."""
    parser.addoption("--all", type=float, metavar="SHARE", help="test this share of the full product of the contract")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`row`: an experiment of the covering design, or of the full product."""
    if "row" in metafunc.fixturenames:
        rows, share = covering.read()[0], metafunc.config.getoption("all")
        if share is not None:
            every = covering.full()
            rows = random.Random(0).sample(every, round(share * len(every)))
            print(f"{len(rows)} of {len(every)} combinations")
        metafunc.parametrize("row", rows, ids=["-".join(row) for row in rows])


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Two cores, two workers: more threads only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """Hydra, run in-process, leaves a handler of the log on a stream that only lives as long as its test."""
    root = logging.getLogger()
    before = list(root.handlers)
    yield
    for handler in [handler for handler in root.handlers if handler not in before]:
        if type(handler) is logging.StreamHandler:
            root.removeHandler(handler)


def build_model(model_type: str) -> Any:
    """A seeded random model of a family, with the head of its usual kind of task."""
    import transformers

    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, vocab_size=VOCABULARY, **ARCHITECTURES[model_type])
    model = getattr(transformers, HEADS[family_of(model_type).kind]).from_config(config).eval()
    if config.pad_token_id is None:
        config.pad_token_id = 0
    return model


@pytest.fixture
def tiny() -> Callable[[str], Any]:
    """`tiny("bert")`: a seeded random model."""
    return build_model


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """Seeded ids with labels that any head can take."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 300, (3, 9), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.flip(1)}


@pytest.fixture
def context(batch: dict[str, Tensor]) -> Callable[[str], Context]:
    """`context("bert")`: what a method may use, with two calibration batches."""

    def make(model_type: str) -> Context:
        def dense() -> Any:
            return build_model(model_type)

        return replace(bare_context(model_type, [batch] * 2), baseline=dense, pretrained=dense)

    return make


@pytest.fixture
def facts(tiny: Callable[[str], Any]) -> Callable[[str], Facts]:
    """`facts("bert")`: what is known of the tiny model."""

    def make(model_type: str) -> Facts:
        family = family_of(model_type)
        return Facts(family, layer_counts(tiny(model_type).config, family), VOCABULARY)

    return make


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small files that serve all three kinds of task."""
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Artifacts that the tests of one process share."""
    return Store(tmp_path_factory.mktemp("artifacts"))


@pytest.fixture(scope="session")
def dense(store: Store) -> Callable[[Plan], Path]:
    """`dense(plan)`: the plan's baseline, built once."""
    return lambda plan: store.get(
        plan.baseline_recipe, lambda directory, check: build_baseline(plan, directory), "baseline"
    )


@pytest.fixture
def budget() -> TrainConfig:
    """Three steps."""
    return TrainConfig(epochs=1, learning_rate=1e-3, batch_size=4, max_steps=3, threads=1)


@pytest.fixture
def no_budget() -> TrainConfig:
    """Post-training."""
    return TrainConfig(epochs=1, learning_rate=1e-3, batch_size=4, max_steps=0)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Wandb]:
    """A server, an account on it, and a home directory of its own; the key is in no file and no line of the log."""
    import wandb

    caplog.set_level(logging.DEBUG)

    with serve() as state:
        (tmp_path / "home").mkdir()
        for name, value in {"HOME": str(tmp_path / "home"), "WANDB_BASE_URL": state.address}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("WANDB_API_KEY", WANDB_KEY)
        monkeypatch.delenv("WANDB_MODE", raising=False)
        wandb.teardown()  # it reads the environment once
        yield state
        wandb.teardown()
        assert not state.unknown
        assert WANDB_KEY not in caplog.text
        assert not [path for path in tmp_path.rglob("*") if path.is_file() and WANDB_KEY.encode() in path.read_bytes()]
