"""Model cards: what they say is what the records say, and nothing depends on them."""

from __future__ import annotations

import json
import logging
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from compress_exp.models.checkpoint import directory_digest
from compress_exp.outputs.files import digest
from compress_exp.outputs.manifest import stamp
from compress_exp.outputs.store import Store, damage
from compress_exp.report.card import Names, complete, publish_card
from compress_exp.report.card import write as writing
from compress_exp.report.card.markdown import escape, fenced
from tests.report.test_tables import record as plain_record
from tests.report.test_tables import save

TRAIN = {"epochs": 2.0, "learning_rate": 0.001, "max_steps": None}
TASK = {"kind": "classification", "max_length": 64}
DENSE = {"kind": "baseline", "model": {"architecture": {"model_type": "bert"}}, "task": TASK, "train": TRAIN, "seed": 3}
PRUNE = {"method": "compress_exp.methods.prune.magnitude.MagnitudePruning", "sparsity": 0.5, "train": TRAIN}
QUANT = {"method": "compress_exp.methods.quant.int8.Int8", "calibration": 16, "train": None}
LOSS = {"loss": "compress_exp.losses.soft_targets.SoftTargets", "version": 1, "temperature": 2.0}
HOSTILE = "</td><script>x</script> | [a](http://b) `c` *d* \n---\ninjected: true\n# e"
WORDS = r"[^\n]*"


def stage(parent: str, *methods: dict[str, Any], loss: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"kind": "stage", "parent": parent, "methods": list(methods), "loss": loss, "task": TASK, "seed": 3}


def built(outputs: Path, recipe: dict[str, Any], packed: bool = False) -> str:
    def build(directory: Path, check: Any) -> dict[str, Any]:
        config: dict[str, Any] = {"architectures": ["BertForSequenceClassification"], "num_hidden_layers": 2}
        if packed:
            config["quantization_config"] = {"quant_method": "compress_exp", "pruned": ["a", "b"], "int8_linear": []}
        (directory / "config.json").write_text(json.dumps(config))
        (directory / "model.safetensors").write_text("weights")
        return {"steps": 40, "seconds": 1.25, "versions": {"torch": "2.0"}}

    return Store(outputs / "artifacts").get(recipe, build, "x").name


@pytest.fixture
def chain(tmp_path: Path) -> list[str]:
    """A dense model, a pruned one made of it, and an int8 one made of that."""
    dense = built(tmp_path, DENSE)
    pruned = built(tmp_path, stage(dense, PRUNE, loss=LOSS), packed=True)
    return [dense, pruned, built(tmp_path, stage(pruned, QUANT), packed=True)]


def record(chain: list[str], name: str = "one", **changes: Any) -> dict[str, Any]:
    made = plain_record(name, origin__artifact=chain[-1], origin__baseline=chain[0], **changes)
    made["run"]["method"] = ["prune/magnitude", "quant/int8"]
    labels = ["prune/magnitude", "quant/int8"]
    made["stages"] = [
        {"methods": [label], "artifact": key, "seconds": 1, "steps": 40, "bytes": 10, "quality": None}
        for label, key in zip(labels, chain[1:], strict=True)
    ]
    made["stages"][0]["quality"] = {"accuracy": 0.9125}
    made["quality"] |= {"metrics": {"accuracy": 0.93, "f1": 0.921}, "rows": 200, "split": "validation"}
    made["quality"] |= {"interval": [0.901, 0.951], "baseline_interval": [0.92, 0.97]}
    made["memory"] = {"peak_rss_bytes": 123_000_000, "baseline_peak_rss_bytes": 234_000_000}
    made["energy"] = {"joules_per_1000": None, "baseline_joules_per_1000": None, "reason": "no counter can be read"}
    return made


def card(outputs: Path, key: str) -> tuple[ModelCard, str]:
    path = outputs / "artifacts" / key / "README.md"
    return ModelCard.load(path), path.read_text()


def names(chain: list[str]) -> Names:
    return Names("tiny_bert", "sst2", {chain[1]: "prune/magnitude", chain[2]: "quant/int8"}, {"model": "org/bert"})


def test_before_anything_is_measured_the_card_says_how_it_was_made(tmp_path: Path, chain: list[str]) -> None:
    for key in chain:
        publish_card(tmp_path / "artifacts", key, names(chain))
    data, text = card(tmp_path, chain[2])
    assert data.data.library_name == "transformers"
    assert data.data.tags == ["compress_exp", "pruning", "quantization"]
    assert data.data.base_model == "org/bert"
    assert data.data["base_model_relation"] == "quantized"
    assert data.data.pipeline_tag == "text-classification"
    assert data.data.eval_results is None
    assert "No numbers yet" in text
    for expected in ("sparsity=0.5", "temperature=2.0", "learning\\_rate=0.001", "calibration=16", "soft\\_targets"):
        assert expected in text
    assert text.count("| 40 | 1.2 |") + text.count("| 40 | 1.3 |") == 3
    assert f"| parent | {chain[1]} |" in text
    assert "import compress_exp.hf" in text
    dense = card(tmp_path, chain[0])[1]
    assert "import compress_exp.hf" not in dense
    assert "AutoModelForSequenceClassification.from_pretrained" in dense


def test_its_numbers_are_those_of_the_record_with_their_conditions(tmp_path: Path, chain: list[str]) -> None:
    made = record(chain)
    save(tmp_path, made)
    complete(tmp_path, ["one"])
    data, text = card(tmp_path, chain[2])
    (result,) = data.data.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", made["quality"]["primary"]["value"])
    assert result.dataset_split == "validation"
    assert result.task_type == "text-classification"
    for row in (
        "| accuracy | 0.93 | 0.95 |",
        "| f1 | 0.921 | 0.94 |",
        "| 95 % interval of accuracy | 0.901 – 0.951 | 0.92 – 0.97 |",
        f"| kept of the dense model's | {93 / 0.95:.5g} % | 100 % |",
        "| weights and configuration | 1,000,000 B (1.00 MB) | 4,000,000 B (4.00 MB) |",
        "| compression ratio | 4× | 1× |",
        "| peak memory of a process that runs it | 123,000,000 B (123.00 MB) | 234,000,000 B (234.00 MB) |",
        "Energy: none, no counter can be read.",
        "quality on 200 validation examples",
        "**few rows**",
    ):
        assert row in text
    timing = made["latency"]["rows"][0]
    cells = [f"{timing['batch_size']} × {timing['length']}", f"{timing['p50_ms']:g}"]
    assert re.search(rf"\| {' . '.join(cells)} \|{WORDS}\| 2× ", text)
    assert "1 thread" in text
    dense = card(tmp_path, chain[0])
    assert dense[0].data.eval_results[0].metric_value == 0.95
    assert "| accuracy | 0.95 |" in dense[1]
    assert "accuracy 0.9125" in card(tmp_path, chain[1])[1]


def test_two_hardware_profiles_stand_side_by_side(tmp_path: Path, chain: list[str]) -> None:
    one, two = record(chain), record(chain, "two", run__hardware="cpu8", quality__primary__value=0.875)
    two["quality"]["metrics"]["accuracy"] = 0.875
    save(tmp_path, one)
    complete(tmp_path, ["one"])
    save(tmp_path, two)
    complete(tmp_path, ["two"])
    data, text = card(tmp_path, chain[2])
    assert sorted(result.metric_value for result in data.data.eval_results) == [0.875, 0.93]
    assert [line for line in text.split("\n") if line.startswith("### cpu8 ")]
    assert [line for line in text.split("\n") if line.startswith("### cpu ")]


def test_nothing_that_counts_sees_a_card(tmp_path: Path, chain: list[str]) -> None:
    artifact = tmp_path / "artifacts" / chain[2]

    def facts() -> list[Any]:
        files = sorted(path for path in artifact.iterdir() if path.name != "README.md")
        return [
            [(path.name, digest(path.read_text()), path.stat().st_mtime_ns) for path in files],
            [directory_digest(artifact), damage(artifact), stamp(artifact)],
        ]

    before = facts()
    publish_card(artifact.parent, chain[2], names(chain))
    assert facts() == before
    save(tmp_path, record(chain))
    complete(tmp_path, ["one"])
    assert (artifact / "README.md").exists()
    assert facts() == before
    assert built(tmp_path, stage(chain[1], QUANT)) == chain[2]
    assert facts() == before
    assert not list(artifact.parent.glob(".*.tmp"))


def test_a_lost_or_old_card_is_made_again_and_a_good_one_left_alone(tmp_path: Path, chain: list[str]) -> None:
    save(tmp_path, record(chain))
    complete(tmp_path, ["one"])
    path = tmp_path / "artifacts" / chain[2] / "README.md"
    whole, seen = path.read_text(), path.stat().st_mtime_ns
    complete(tmp_path, ["one"])
    assert path.stat().st_mtime_ns == seen
    for harm in (path.unlink, lambda: path.write_text("x"), lambda: path.write_bytes(b"\xff")):
        harm()
        complete(tmp_path, ["one"])
        assert path.read_text() == whole
    path.unlink()
    publish_card(path.parents[1], chain[2], names(chain))
    assert path.read_text() == whole


def test_hostile_names_stay_text(tmp_path: Path, chain: list[str]) -> None:
    made = record(chain, run__model=HOSTILE, run__task=HOSTILE, run__hardware=HOSTILE)
    made["quality"]["primary"]["name"] = HOSTILE
    made["run"]["overrides"] = ["a=```\n<script>"]
    made["flags"] = [HOSTILE]
    made["stages"][1]["methods"] = [HOSTILE]
    made["origin"]["sources"] = {"model": HOSTILE, "dataset": HOSTILE}
    made["energy"]["reason"] = HOSTILE
    save(tmp_path, made)
    complete(tmp_path, ["one"])
    data, text = card(tmp_path, chain[2])
    assert "injected" not in data.data.to_dict()
    assert data.data.library_name == "transformers"
    assert text.count("\n---\n") == 1
    body = re.sub(r"(?ms)^(`{3,})\w*\n.*?^\1$", "", text.split("\n---\n")[1])
    assert "<script" not in body
    assert not re.search(r"(?<!\\)\[a", body)
    assert not re.search(r"(?m)^# e", body)
    assert not re.search(r"(?<!\\)`", body)


def test_a_key_that_is_none_names_no_directory(tmp_path: Path, chain: list[str]) -> None:
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    (outside / "build.json").write_text("{}")
    made = record(chain)
    made["origin"]["artifact"] = made["stages"][1]["artifact"] = "../elsewhere"
    save(tmp_path, made)
    complete(tmp_path, ["one"])
    assert not (outside / "README.md").exists()


@pytest.mark.parametrize("harm", ["rendering", "writing"])
def test_a_card_that_cannot_be_written_is_one_warning(
    harm: str, tmp_path: Path, chain: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, record(chain))
    if harm == "writing":
        for key in chain:
            (tmp_path / "artifacts" / key / "README.md").mkdir()
    else:
        (tmp_path / "evaluations").write_text("no directory")
        monkeypatch.setattr(writing, "lineage", lambda *_: 1 / 0)
    with caplog.at_level(logging.WARNING):
        complete(tmp_path, ["one"])
        assert len(caplog.records) == 1
        publish_card(tmp_path / "artifacts", "0" * 16, names(chain))
    assert len(caplog.records) == 2
    assert "model card" in caplog.text


def test_records_that_lack_things_have_cards(tmp_path: Path, chain: list[str]) -> None:
    made = record(chain)
    for block in ("memory", "energy", "flags", "score"):
        del made[block]
    made["quality"], made["latency"], made["size"] = {}, {}, {}
    made["origin"] = {"artifact": chain[2], "baseline": chain[0]}
    made["quality"]["primary"] = {"name": "accuracy", "value": float("nan"), "higher_is_better": True}
    save(tmp_path, made)
    complete(tmp_path, ["one"])
    data, text = card(tmp_path, chain[2])
    assert data.data.eval_results is None
    assert "It was not timed." in text


def test_writers_at_once_leave_the_card_of_all_records(tmp_path: Path, chain: list[str]) -> None:
    def work(index: int) -> None:
        save(tmp_path, record(chain, f"run{index}", run__hardware=f"cpu{index}"))
        complete(tmp_path, [f"run{index}"])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for key in (chain[0], chain[2]):
        text = card(tmp_path, key)[1]
        assert all(f"### cpu{index} " in text for index in range(6))


def test_text_in_markdown() -> None:
    assert escape("a|b_c\nd <e>") == r"a\|b\_c d &lt;e&gt;"
    assert fenced("a ```` b", "sh") == "`````sh\na ```` b\n`````"
