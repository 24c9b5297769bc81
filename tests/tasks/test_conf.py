from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.tasks.helpers import CONFIGS, task


def test_all_tasks_are_there() -> None:
    assert len(CONFIGS) >= 17


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_each_task_builds_and_says_what_it_is(file: Path) -> None:
    built = task(file.stem)
    assert built.name == file.stem
    built.check()
    assert built.metric_settings() is not None and built.primary
    assert OmegaConf.load(file).data_dir is None


def test_glue_tasks_have_their_own_metrics() -> None:
    by_accuracy = ("mrpc", "qqp", "sst2", "mnli", "qnli", "rte", "wnli")
    assert {task(name).primary for name in by_accuracy} == {"accuracy"}
    assert task("cola").primary == "matthews" and task("stsb").primary == "spearman"
    assert task("mnli").splits["validation"] == "validation_matched"
