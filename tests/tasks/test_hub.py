"""The hub is read from a small cache that the test fills, in a child process that is offline."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import ClassLabel, DatasetInfo, Features, SplitDict, SplitInfo, Value
from datasets.arrow_writer import ArrowWriter

CHILD = """
import json, sys
from compress_exp.config.checks import UserError
from tests.tasks.helpers import task
out = {}
for name in sys.argv[1:]:
    name, _, split = name.partition(":")
    try:
        built = task(name, **({"evaluate_on": split} if split else {}))
        built.check()
        out[name + split] = [built.rows("train"), built.rows("evaluation"), built.identity()["rows"]]
    except UserError as error:
        out[name + split] = str(error)
print(json.dumps(out))
"""

LABEL = ClassLabel(names=["negative", "positive"])
SST2 = Features({"sentence": Value("string"), "label": LABEL, "idx": Value("int32")})


def fill(cache: Path, path: str, config: str, features: Features, splits: dict[str, list[dict]]) -> None:
    """Write what `datasets` leaves after a download: Arrow files and their description."""
    owner, name = path.split("/")
    directory = cache / f"{owner}___{name}" / config / "0.0.0" / ("0" * 40)
    directory.mkdir(parents=True)
    infos = SplitDict(dataset_name=name)
    for split, rows in splits.items():
        with ArrowWriter(path=str(directory / f"{name}-{split}.arrow"), features=features) as writer:
            for row in rows:
                writer.write(row)
            writer.finalize()
        infos.add(SplitInfo(name=split, num_examples=len(rows), dataset_name=name))
    info = DatasetInfo(features=features, splits=infos, dataset_name=name, config_name=config, version="0.0.0")
    info.write_to_directory(str(directory))


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict:
    home = tmp_path_factory.mktemp("hub")
    cache = home / "datasets"
    rows = [{"sentence": f"film {index}", "label": index % 2, "idx": index} for index in range(6)]
    unlabelled = [row | {"label": -1} for row in rows]
    fill(cache, "nyu-mll/glue", "sst2", SST2, {"train": rows, "validation": rows[:2], "test": unlabelled})
    text = Features({"text": Value("string")})
    lines = [{"text": ""}, {"text": " = Title = \n"}, {"text": "Words .\n"}]
    fill(cache, "Salesforce/wikitext", "wikitext-2-raw-v1", text, dict.fromkeys(("train", "validation", "test"), lines))
    pair = Features({"en": Value("string"), "de": Value("string")})
    pairs = [{"en": "a dog", "de": "ein Hund"}]
    fill(cache, "bentrevett/multi30k", "default", pair, dict.fromkeys(("train", "validation", "test"), pairs))
    offline = {"HF_HOME": str(home), "HF_DATASETS_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    names = ["sst2", "sst2:test", "wikitext2", "multi30k_en_de", "cola"]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *names], capture_output=True, text=True, env=os.environ | offline, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_rows_come_with_our_names(answers: dict) -> None:
    train, evaluated, digest = answers["sst2"]
    assert train[3] == {"text": "film 3", "label": 1} and len(train) == 6 and len(evaluated) == 2
    assert len(digest) == 64
    assert answers["wikitext2"][1] == [{"text": ""}, {"text": " = Title = \n"}, {"text": "Words .\n"}]
    assert answers["multi30k_en_de"][0] == [{"source": "a dog", "target": "ein Hund"}]


def test_an_unlabelled_test_split_is_refused(answers: dict) -> None:
    assert "unlabelled" in answers["sst2test"] and "\n" not in answers["sst2test"]


def test_what_cannot_be_loaded_is_told_in_one_sentence(answers: dict) -> None:
    assert answers["cola"].startswith("task.hub: split 'train' of nyu-mll/glue (cola) could not be loaded")
    assert "task.data_dir" in answers["cola"] and "\n" not in answers["cola"]
