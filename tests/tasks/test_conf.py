from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.tasks.helpers import CONFIGS, task

SHARED = Path(__file__).parents[3] / "shared" / "data"
LOCAL = {"sst2": "sst2_sentence_level", "cola": "cola", "rte": "rte", "wikitext2": "wikitext2"} | {
    "cnn_dailymail": "cnn_dailymail",
    "wmt14_en_de": "wmt14",
    "multi30k_en_de": "multi30k",
}


def test_all_tasks_are_there() -> None:
    assert len(CONFIGS) >= 17


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_each_task_builds_and_says_what_it_is(file: Path) -> None:
    built = task(file.stem)
    assert built.name == file.stem
    built.check()
    assert built.metric_settings() is not None and built.primary
    assert OmegaConf.load(file).data_dir is None


@pytest.mark.parametrize("name", LOCAL)
def test_local_copies_are_read(name: str) -> None:
    directory = SHARED / LOCAL[name]
    if not directory.is_dir():
        pytest.skip(f"{directory} is not there")
    built = task(name, data_dir=str(directory))
    built.check()
    assert built.rows("train") and built.rows("evaluation")


def test_glue_tasks_have_their_own_metrics() -> None:
    by_accuracy = ("mrpc", "qqp", "sst2", "mnli", "qnli", "rte", "wnli")
    assert {task(name).primary for name in by_accuracy} == {"accuracy"}
    assert task("cola").primary == "matthews" and task("stsb").primary == "spearman"
    assert task("mnli").splits["validation"] == "validation_matched"
