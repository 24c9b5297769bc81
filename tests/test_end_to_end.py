"""The command line as a person uses it: sweeps, the same sweep again, kills, damaged files, failing jobs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from tests.chromium import data, draws_everything, hover, needs_chromium, one, opened, shown, weigh

ROOT = Path(__file__).resolve().parent.parent
SMALL = [
    *("train.threads=1", "train.max_steps=12", "tracking=csv", "model.vocabulary=320", "task.max_length=32"),
    *("model.architecture.hidden_size=32", "model.architecture.num_hidden_layers=2"),
    *("hardware.lengths=[16]", "hardware.batch_sizes=[1]", "hardware.rounds=5", "hardware.seconds=0.2"),
]
FILES = ("model.safetensors", "config.json", "recipe.json", "history.csv")
ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}


def command(outputs, *overrides):
    return [sys.executable, "-m", "compress_exp", f"outputs={outputs}", *SMALL, *overrides]


def cli(outputs, *overrides):
    return subprocess.run(command(outputs, *overrides), cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)


def records(outputs):
    return [json.loads(path.read_text()) for path in sorted(Path(outputs).glob("runs/*/record.json"))]


def artifacts(outputs):
    found = sorted((Path(outputs) / "artifacts").iterdir())
    return {path.name: path for path in found if path.is_dir() and not path.name.startswith(".")}


def assert_same_artifacts(one, other):
    first, second = artifacts(one), artifacts(other)
    assert first.keys() == second.keys()
    for key in first:
        for name in FILES:
            assert (first[key] / name).read_bytes() == (second[key] / name).read_bytes(), (key, name)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The default sweep, once."""
    outputs = tmp_path_factory.mktemp("swept")
    return outputs, cli(outputs, "-m", "method=prune,quant,distill")


def test_the_default_sweep_gives_four_rows_and_three_records(swept):
    outputs, done = swept
    assert done.returncode == 0, done.stderr
    for row in ("baseline", "prune/gradual", "quant/int8", "distill/soft_targets"):
        assert row in done.stdout
    found = records(outputs)
    assert {tuple(record["run"]["method"]) for record in found} == {
        ("prune/gradual",),
        ("quant/int8",),
        ("distill/soft_targets",),
    }
    assert len(artifacts(outputs)) == 4
    assert f"{outputs / 'reports' / 'report.html'}: all 3 runs" in done.stdout


@pytest.mark.browser
@needs_chromium
def test_its_page_shows_all_runs_and_does_what_it_is_asked(swept):
    with opened(swept[0] / "reports" / "report.html") as browser:
        (section,) = data(browser)["sections"]
        assert [entry["label"] for entry in section["entries"] if not entry["dense"]] == [
            "distill/soft_targets",
            "prune/gradual",
            "quant/int8",
        ]
        assert all(entry["chains"] and entry["waterfalls"] for entry in section["entries"] if not entry["dense"])
        entries = section["entries"]
        one(browser, "th[data-column=size] button").click()
        sizes = [entries[index]["bytes"] for index in shown(browser)]
        assert len(sizes) == 4 and sizes == sorted(sizes, reverse=True)
        weigh(browser, "compression", 0)
        weigh(browser, "accuracy", 0)
        speeds = [entries[index]["IS"] for index in shown(browser)]
        assert speeds == sorted(speeds, reverse=True)
        kept = one(browser, "input[name=retained]")
        kept.clear()
        one(browser, "form.choose button").click()
        fastest = max((entry for entry in entries if not entry["dense"]), key=lambda entry: entry["IS"])
        assert fastest["command"] in one(browser, ".answer").text
        kept.send_keys("1000")
        one(browser, "form.choose button").click()
        assert "“at least 1000 % of the quality kept” excludes all runs" in one(browser, ".answer").text
        text = hover(browser)
        (told,) = [entry for entry in entries if not entry["dense"] and entry["command"] in text]
        assert all(line in text for line in told["configuration"])
        assert one(browser, ".detail h3").text == told["label"]
        words = one(browser, "input.filter")
        words.send_keys("int8")
        assert [entries[index]["label"] for index in shown(browser)] == ["quant/int8"]
        words.clear()
        words.send_keys(" ")
        draws_everything(browser)


def test_records_hold_what_was_promised_and_agree_with_the_disk(swept):
    outputs, _ = swept
    for record in records(outputs):
        own, dense = (outputs / "artifacts" / record["origin"][name] for name in ("artifact", "baseline"))
        size = sum((own / name).stat().st_size for name in ("model.safetensors", "config.json"))
        assert record["size"]["artifact_bytes"] == size
        dense_size = sum((dense / name).stat().st_size for name in ("model.safetensors", "config.json"))
        assert record["size"]["compression_ratio"] == pytest.approx(dense_size / size)
        assert size < dense_size
        primary = record["quality"]["primary"]
        assert record["quality"]["metrics"][primary["name"]] == primary["value"]
        retained = primary["value"] / record["quality"]["baseline"][primary["name"]]
        assert record["quality"]["retained"] == pytest.approx(retained)
        row = record["latency"]["rows"][0]
        assert row["speedup_interval"][0] <= row["speedup"] <= row["speedup_interval"][1]
        assert record["energy"]["joules_per_1000"] is None
        assert record["energy"]["reason"]
        assert record["run"]["runtime"]["name"] in row["by_runtime"]


def test_the_same_sweep_again_builds_nothing(swept):
    outputs, _ = swept
    before = {path: path.stat().st_mtime_ns for path in outputs.rglob("*") if path.suffix in (".safetensors", ".bin")}
    again = cli(outputs, "-m", "method=prune,quant,distill")
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("3 of 3 runs are finished\n")
    assert "built in" not in again.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_every_artifact_has_a_card_that_comes_back_when_it_is_lost(swept):
    outputs, _ = swept
    cards = {path / "README.md": (path / "README.md").read_text() for path in artifacts(outputs).values()}
    assert len(cards) == 4
    for record in records(outputs):
        own = ModelCard.load(outputs / "artifacts" / record["origin"]["artifact"] / "README.md")
        assert own.data.eval_results[0].metric_value == record["quality"]["primary"]["value"]
        for row in record["latency"]["rows"]:
            assert f"| {row['p50_ms']:.5g} |" in own.text
    run = next(record for record in records(outputs) if record["run"]["method"] == ["prune/gradual"])
    own = [outputs / "artifacts" / run["origin"][name] / "README.md" for name in ("artifact", "baseline")]
    for lost, way in ((list(cards), ["-m", "method=prune,quant,distill"]), (own, ["method=prune"])):
        for path in lost:
            path.unlink()
        again = cli(outputs, *way)
        assert again.returncode == 0, again.stderr
        assert "built in" not in again.stdout
        assert {path: path.read_text() for path in cards} == cards


def test_a_truncated_record_and_artifact_are_said_and_made_again(swept):
    outputs, _ = swept
    record = next(path for path in outputs.glob("runs/*/record.json") if "prune" in path.parent.name)
    content = json.loads(record.read_text())
    weights = outputs / "artifacts" / content["origin"]["artifact"] / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    record.write_text(record.read_text()[:200])
    again = cli(outputs, "method=prune")
    assert again.returncode == 0, again.stderr
    assert "is damaged" in again.stdout
    assert "model.safetensors is truncated" in again.stdout
    assert weights.read_bytes() == whole
    assert json.loads(record.read_text())["size"]["artifact_bytes"] == content["size"]["artifact_bytes"]


def test_a_pipeline_shares_its_prefix(swept):
    outputs, _ = swept
    before = set(artifacts(outputs))
    done = cli(outputs, "method=[prune,quant]")
    assert done.returncode == 0, done.stderr
    assert len(set(artifacts(outputs)) - before) == 1
    record = next(r for r in records(outputs) if len(r["stages"]) == 2)
    assert record["origin"]["parent"] in before
    assert record["size"]["sparsity"] > 0.1
    assert record["stages"][0]["quality"] is None
    again = cli(outputs, "method=[prune,quant]", "measure.stages=all", "score.compression=0")
    assert again.returncode == 0, again.stderr
    record = next(r for r in records(outputs) if len(r["stages"]) == 2)
    alone = next(r for r in records(outputs) if r["run"]["method"] == ["prune/gradual"])
    assert record["stages"][0]["quality"] == alone["quality"]["metrics"]
    assert record["score"]["weights"]["compression"] == 0


def test_a_failing_job_stops_no_other_and_is_listed(swept):
    outputs, _ = swept
    done = cli(outputs, "-m", "method=finetune", "hardware=cuda,cpu")
    assert done.returncode == 1
    assert "1 of 2 runs failed" in done.stdout + done.stderr
    assert "finds no GPU" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert any(record["run"]["method"] == ["finetune"] for record in records(outputs))


@pytest.mark.parametrize("method", ["prune", "quant", "distill"])
def test_kill_nine_in_training_loses_nothing_and_changes_nothing(method, tmp_path):
    settings = (f"method={method}", "train.max_steps=150", "train.checkpoint_steps=7", "hardware=cpu_eager")
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert cli(undisturbed, *settings).returncode == 0
    process = subprocess.Popen(command(killed, *settings), cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    wait_for(lambda: any(killed.glob("artifacts/*/build.json")), process)
    wait_for(lambda: any(killed.glob("artifacts/*.partial-*/state/checkpoint.ckpt")), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not records(killed)
    finished = cli(killed, *settings)
    assert finished.returncode == 0, finished.stderr
    assert "going on at step" in finished.stdout
    assert_same_artifacts(undisturbed, killed)
    assert not list(killed.glob("artifacts/*.partial-*"))


def test_kill_nine_in_exporting_loses_nothing_and_changes_nothing(tmp_path):
    settings = ("method=quant/static", "hardware=cpu_eager")
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert cli(undisturbed, *settings).returncode == 0
    die = (
        "import os, signal, sys; import compress_exp.outputs.store as store\n"
        "write = store.write_json\n"
        "def die(path, content):\n"
        "    if path.name == 'recipe.json': os.kill(os.getpid(), signal.SIGKILL)\n"
        "    write(path, content)\n"
        "store.write_json = die\n"
        "from compress_exp.cli.main import main; main(sys.argv[1:])\n"
    )
    overrides = [f"outputs={killed}", *SMALL, *settings]
    dead = subprocess.run([sys.executable, "-c", die, *overrides], cwd=ROOT, env=ENVIRONMENT, capture_output=True)
    assert dead.returncode == -signal.SIGKILL
    assert list(killed.glob("artifacts/*.partial-*/model.safetensors"))
    assert cli(killed, *settings).returncode == 0
    assert_same_artifacts(undisturbed, killed)


@pytest.mark.parametrize(
    ("model", "task", "sizes", "metric"),
    [
        ("tiny_gpt2", "language_modelling", ("n_embd=32", "n_inner=64", "n_layer=2"), "perplexity"),
        ("tiny_t5", "seq2seq", ("d_model=32", "d_kv=16", "d_ff=64"), "bleu"),
    ],
)
def test_generating_models_are_evaluated_and_timed_token_by_token(model, task, sizes, metric, data, tmp_path):
    small = [override for override in SMALL if "architecture" not in override]
    small += [f"model={model}", f"task={task}", f"task.data_dir={data}", "hardware.new_tokens=4"]
    small += [f"model.architecture.{size}" for size in sizes]
    small += ["task.stride=16"] if task == "language_modelling" else ["task.max_new_tokens=6"]
    overrides = [*small, "method=quant/static", f"outputs={tmp_path}"]
    run = [sys.executable, "-m", "compress_exp", *overrides]
    done = subprocess.run(run, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (record,) = records(tmp_path)
    assert record["quality"]["primary"]["name"] == metric
    assert record["run"]["runtime"]["name"] == "eager"
    row = record["latency"]["rows"][0]
    assert row["new_tokens"] == 4
    assert 0 < row["token_ms"] < row["p50_ms"]
    assert record["size"]["compression_ratio"] > 1.5


def wait_for(condition, process):
    while not condition():
        assert process.poll() is None, "the process ended before it could be killed"
        time.sleep(0.02)


def test_a_plan_says_what_would_be_done_and_does_nothing(tmp_path):
    done = cli(tmp_path, "method=[prune,quant]", "plan=true")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("to be built") == 3
    swept = cli(tmp_path, "-m", "method=prune,quant", "plan=true")
    assert swept.returncode == 0, swept.stdout
    assert swept.stdout.count("to be built") == 4
    assert "MB are needed" in done.stdout
    assert not list(tmp_path.glob("artifacts/*"))
