import json
import math
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import nn

from compress_exp.config.build import build
from compress_exp.config.checks import UserError
from compress_exp.layers.bf16 import kernels_available
from compress_exp.layers.int8 import Int8Linear
from compress_exp.layers.surgery import mark_pruned
from compress_exp.layers.weight_only import WeightOnlyLinear
from compress_exp.measurement import cpu
from compress_exp.measurement.comparison import flags_of
from compress_exp.measurement.measure import MeasureError, host_lock, measure
from compress_exp.measurement.size import zeros_in_matrices
from compress_exp.measurement.subject import Subject
from compress_exp.runtimes.base import runtime
from compress_exp.runtimes.eager import EagerPredictor

HARDWARE: dict[str, Any] = {
    "_target_": "compress_exp.measurement.hardware.Hardware",
    "name": "test",
    "runtime": {"encoder": "openvino", "decoder": "eager", "encoder_decoder": "eager"},
    "batch_sizes": [1, 2],
    "lengths": [40],
    "new_tokens": 3,
    "rounds": 10,
    "seconds": 0.2,
}
KEYS = {"artifact": "own", "baseline": "dense"}


@pytest.fixture(autouse=True)
def fake_task_is_importable_in_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def save(model_type: str, layers: int, directory: Path, change: Callable[[nn.Module], None] | None = None) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    from compress_exp.formats import artifact
    from compress_exp.models.families.base import family_of
    from compress_exp.models.tokenizers import train_tokenizer

    cls, sizes = {
        "bert": (
            AutoModelForSequenceClassification,
            {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 64}
            | {"max_position_embeddings": 24},
        ),
        "gpt2": (AutoModelForCausalLM, {"n_embd": 32, "n_layer": layers, "n_head": 2, "n_positions": 24}),
    }[model_type]
    tokenizer = train_tokenizer(family_of(model_type).text, 300, iter(["some text"]), 24)
    special = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(layers)
    model = cls.from_config(AutoConfig.for_model(model_type, vocab_size=len(tokenizer), **sizes, **special))
    if change is not None:
        change(model)
    directory.mkdir()
    artifact.save(model, tokenizer, directory)


def int8(model: nn.Module, limit: int = 63) -> None:
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and name != "classifier":
            rows = module.weight.detach().abs().amax(1) / limit
            grid = torch.tensor(0.03), torch.tensor(128)
            model.set_submodule(name, Int8Linear.from_float(module.weight, module.bias, rows, *grid))


def half_zeros(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter[::2] = 0


def run(
    root: Path,
    model_type: str,
    layers: int,
    change: Callable[[nn.Module], None] | None,
    hardware: dict[str, Any] | None = None,
) -> dict[str, Any]:
    own, dense = root / "own", root / "dense"
    if not own.exists():
        save(model_type, layers, own, change)
        save(model_type, 2, dense)
    task = {"_target_": "fake_task.FakeTask", "log": str(root / "log"), "generates": model_type != "bert"}
    return measure(own, dense, task, hardware or HARDWARE, KEYS, root, root / "deploy", dense)


def check_timing(row: dict[str, Any]) -> None:
    """What holds on a busy machine, too: nothing is missing, percentiles and intervals are in order."""
    for figures in (row, row["baseline"], row["baseline_eager"]):
        assert 0 < figures["p50_ms"] <= figures["p90_ms"] <= figures["p99_ms"] < math.inf
        assert 0 < figures["throughput"] < math.inf and 0 <= figures["cores"] < math.inf
    for name in ("speedup", "speedup_over_eager"):
        low, high = row[f"{name}_interval"]
        assert 0 < low <= row[name] <= high < math.inf


def test_int8_encoder_in_openvino_and_what_is_kept(tmp_path: Path) -> None:
    record = run(tmp_path, "bert", 1, int8)
    json.dumps(record)
    assert record["runtime"]["name"] == "openvino" and record["runtime"]["precision"] == "f32"
    assert record["runtime"]["baseline_executed"] == {"f32": 14}
    executed = record["runtime"]["executed"]
    running = executed.get("u8", 0) + executed.get("i8", 0)
    assert sum(executed.values()) == 8 and executed["f32"] == 8 - running
    assert running == 7 or f"integers: {running} of 7 int8 layers run in integers in openvino" in record["flags"]
    primary = record["quality"]["primary"]
    assert primary["name"] == "mean" and record["quality"]["rows"] == 6
    assert record["quality"]["retained"] == pytest.approx(primary["value"] / record["quality"]["baseline"]["mean"])
    rows = record["latency"]["rows"]
    assert [(row["batch_size"], row["length"]) for row in rows] == [(1, 24), (2, 24)]
    assert {name: value for name, value in record["latency"].items() if name != "rows"} == rows[0]
    assert rows[0]["repeats"] == 10 and rows[0]["baseline_eager"] != rows[0]["baseline"]
    for row in rows:
        check_timing(row)
    assert record["size"]["compression_ratio"] > 2
    deployed = sum(path.stat().st_size for path in (tmp_path / "deploy" / "openvino").iterdir())
    assert record["size"]["deployed_bytes"] == deployed
    assert record["memory"]["peak_rss_bytes"] > 2e7 and record["memory"]["baseline_peak_rss_bytes"] > 2e7
    assert record["energy"]["joules_per_1000"] is None and record["energy"]["reason"]

    entries = sorted((tmp_path / "evaluations").glob("*/build.json"))
    assert len(entries) == 4  # two evaluations, the baseline's export and the choice of a runtime
    evaluations = [path.parent for path in entries if (path.parent / "evaluation.json").exists()]
    first = (tmp_path / "log").read_text().splitlines()
    assert len(first) == 2 and all(line.startswith("OpenVINOPredictor") for line in first)
    damaged = evaluations[0] / "predictions.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-5])
    again = run(tmp_path, "bert", 1, int8)
    assert len((tmp_path / "log").read_text().splitlines()) == 3  # the damaged one only
    assert again["quality"] == record["quality"]


def test_decoder_with_zeros_in_eager(tmp_path: Path) -> None:
    record = run(tmp_path, "gpt2", 1, half_zeros)
    assert 0.45 < record["size"]["sparsity"] < 0.55
    assert record["runtime"]["name"] == "eager" and not (tmp_path / "deploy").exists()
    headline = record["latency"]
    assert headline["length"] == 24 - 3
    for figures in (headline, headline["baseline"]):
        assert figures["new_tokens"] == 3 and 0 < figures["prompt_ms"] < math.inf
        assert math.isclose(figures["token_ms"], (figures["p50_ms"] - figures["prompt_ms"]) / 2)
    check_timing(headline)
    assert headline["speedup"] == headline["speedup_over_eager"]
    assert headline["speedup_interval"] == headline["speedup_over_eager_interval"]
    assert (tmp_path / "log").read_text().startswith("EagerPredictor")


@pytest.mark.parametrize(
    ("model_type", "projections"), [("bert", ("query.weight", "key.weight")), ("gpt2", ("c_attn.weight",))]
)
def test_finite_weights_whose_outputs_are_not_end_in_one_sentence(
    model_type: str, projections: tuple[str, ...], tmp_path: Path
) -> None:
    def overflow(model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            if name.endswith(projections):
                parameter.data *= 1e25  # products of queries and keys are infinite

    message = rf"^artifact own{'' if model_type == 'bert' else ' in eager'}: its outputs .*not finite, NaN in \d"
    with pytest.raises(UserError, match=message) as caught:
        run(tmp_path, model_type, 1, overflow)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "evaluations").glob("*/evaluation.json"))


@pytest.mark.parametrize(
    ("own_zeros", "dense_zeros", "interval", "flagged"),
    [
        (0.5, 0.0, [0.9, 1.1], True),
        (0.5, 0.0, [1.05, 3.0], True),  # what may be chance alone is no speed-up
        (0.5, 0.0, [1.15, 1.2], False),
        (0.0, 0.0, [0.9, 1.1], False),
        (0.5, 0.5, [0.9, 1.1], False),  # zeros that the baseline has, too
        (0.02, 0.0, [0.9, 1.1], False),
        (0.1, 0.0, [0.9, 1.1], True),
    ],
)
def test_zeros_that_bring_no_speed_are_flagged(
    own_zeros: float, dense_zeros: float, interval: list[float], flagged: bool, tmp_path: Path
) -> None:
    subjects = []
    for share in (own_zeros, dense_zeros):
        layer = nn.Linear(10, 10)
        with torch.no_grad():
            layer.weight.copy_((torch.arange(100) >= 100 * share).float().view(10, 10))
        subjects.append(deployed(layer, tmp_path))
    flags = flags_of(*subjects, "eager", timings(interval))
    assert flags == (["zeros: no speed-up expected on this runtime"] if flagged else [])


def test_zeros_of_a_coarse_grid_are_no_pruning(tmp_path: Path) -> None:
    for pruned in (False, True):
        own = deployed(packed(), tmp_path)
        if pruned:
            mark_pruned(own.eager.model)
        assert zeros_in_matrices(own.eager.model) > 0.1
        flags = flags_of(own, deployed(nn.Linear(32, 16), tmp_path), "eager", timings([0.9, 1.1]))
        told = ["zeros: no speed-up expected on this runtime"] if pruned else []
        assert [flag for flag in flags if not flag.startswith("packed")] == told


def test_packed_layers_that_a_runtime_unpacks_are_flagged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, dense = deployed(packed(), tmp_path), deployed(nn.Linear(32, 16), tmp_path)
    told = "packed: 0 of 1 layers of u4 codes stay packed in eager"
    assert flags_of(own, dense, "eager", timings([1.2, 1.4])) == [told]
    monkeypatch.setattr(own.deployed["eager"], "executed", lambda: {"f32 u4": 1})
    assert not flags_of(own, dense, "eager", timings([1.2, 1.4]))


def packed() -> WeightOnlyLinear:
    """A layer of 4-bit codes, as many as there are zero."""
    layer = WeightOnlyLinear(32, 16, False, 4, 16)
    codes = torch.arange(16, dtype=torch.uint8).repeat(16, 2)
    codes[:, ::4] = 8
    return layer.fill(codes, torch.ones(16, 2).half(), torch.full((16, 2), 8, dtype=torch.uint8))


def deployed(layer: nn.Module, directory: Path) -> Subject:
    """A layer as a model in eager PyTorch."""
    layer.config, layer.dtype = None, torch.float32  # type: ignore[assignment]
    (directory / "config.json").write_text("{}")
    predictor = EagerPredictor(layer)
    subject = Subject(directory, directory, build(HARDWARE, "hardware"), None, predictor, None, None)  # type: ignore[arg-type]
    subject.deployed["eager"] = predictor
    return subject


def timings(interval: list[float]) -> list[dict[str, Any]]:
    """The headline's row with such a speed-up, and a faster one."""
    row = {"batch_size": 1, "length": 8, "speedup": sum(interval) / 2, "speedup_interval": interval}
    row |= {"cores": 1.0, "baseline": {"cores": 1.0}}
    return [row, {**row, "length": 4, "speedup_interval": [2.0, 3.0]}]


@pytest.mark.parametrize("instructions", [True, False])
@pytest.mark.parametrize(("interval", "slow"), [([0.5, 0.7], True), ([0.9, 1.3], True), ([1.2, 1.4], False)])
def test_int8_that_does_not_pay_is_a_result_with_its_reason(
    interval: list[float], slow: bool, instructions: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "cpu_flags", lambda: frozenset({"avx2", "avx512_vnni"} if instructions else {"avx2"}))
    weight, grid = torch.eye(16), (torch.tensor(0.1), torch.tensor(3))
    layer = Int8Linear.from_float(weight, None, torch.full((16,), 1 / 63), *grid)
    own, dense = deployed(layer, tmp_path), deployed(nn.Linear(16, 16), tmp_path)
    flags = [flag for flag in flags_of(own, dense, "eager", timings(interval)) if flag.startswith("slow")]
    reason = "" if instructions else ", a CPU without VNNI or AMX"
    told = f"slow: int8 brings no certain speed-up in eager here{reason} ({interval[0]:.2f}–{interval[1]:.2f}×)"
    assert flags == ([told] if slow else [])


AUTO = {**HARDWARE, "runtime": {**HARDWARE["runtime"], "encoder": "auto"}, "batch_sizes": [1]}


def test_auto_times_every_runtime_keeps_its_choice_and_measures_there(tmp_path: Path) -> None:
    record = run(tmp_path, "bert", 1, int8, AUTO)
    rows = record["latency"]["by_runtime"]
    assert set(rows) == {"openvino", "onnxruntime", "eager"}
    chosen, dense = record["runtime"]["name"], record["runtime"]["baseline_name"]
    headline = record["latency"]
    assert headline["p50_ms"] == rows[chosen]["p50_ms"] and headline["baseline"] == rows[dense]["baseline"]
    assert headline["speedup_same_runtime"] == rows[chosen]["speedup"]
    if chosen != "eager":
        assert [path.name for path in (tmp_path / "deploy").iterdir()] == [chosen]
    assert record["runtime"]["version"] == runtime(chosen).version
    (file,) = (tmp_path / "evaluations").glob("*/choice.json")
    other = next(name for name in rows if name != chosen)
    file.write_text(json.dumps({"artifact": other, "baseline": "eager"}))
    facts = json.loads(file.with_name("build.json").read_text())
    facts["files"]["choice.json"] = file.stat().st_size
    file.with_name("build.json").write_text(json.dumps(facts))
    again = run(tmp_path, "bert", 1, int8, AUTO)
    assert (again["runtime"]["name"], again["runtime"]["baseline_name"]) == (other, "eager")


def test_bfloat16_stays_in_the_runtime_that_computes_in_it(tmp_path: Path) -> None:
    record = run(tmp_path, "bert", 2, lambda model: model.to(torch.bfloat16))
    computed = record["runtime"]["precision"]  # OpenVINO emulates it on some CPUs that have no instructions for it
    assert record["runtime"]["name"] == "openvino" and computed in (
        ["bf16"] if kernels_available() else ["bf16", "f32"]
    )
    told = "precision: bf16 was asked for, the runtime uses f32" in record["flags"]
    assert told == (computed == "f32")
    assert not [flag for flag in record["flags"] if "left out" in flag]


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="this CPU is not x86")
def test_a_runtime_that_saturates_is_left_out_with_the_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    record = run(tmp_path, "bert", 1, lambda model: int8(model, 127))
    assert record["runtime"]["name"] != "openvino" and "openvino" not in record["latency"]["by_runtime"]
    (flag,) = (flag for flag in record["flags"] if "left out" in flag)
    assert f"runtime: openvino was asked for, {record['runtime']['name']} is measured" in record["flags"]
    assert re.fullmatch(
        r"openvino: left out, its int8 kernels are wrong by \d+\.\d% on this CPU \(weight codes up to 127\)", flag
    )
    safe = tmp_path / "safe"
    safe.mkdir()
    assert run(safe, "bert", 1, int8)["runtime"]["name"] == "openvino"


@pytest.mark.parametrize(
    ("fail", "error", "message"),
    [
        ("user", UserError, r"^task.columns.text: there is no such column$"),
        ("bug", MeasureError, r"^measuring .*own failed: ZeroDivisionError: first line \(fake_task.py:\d+\)"),
        ("death", MeasureError, r"^measuring .*own failed: its process ended with exit code 3$"),
    ],
)
def test_failures_of_the_process_are_one_line(fail: str, error: type[Exception], message: str, tmp_path: Path) -> None:
    task = {"_target_": "fake_task.FakeTask", "log": "", "fail": fail}
    with pytest.raises(error, match=message) as caught:
        measure(tmp_path / "own", tmp_path, task, HARDWARE, KEYS, tmp_path, tmp_path, tmp_path)
    assert "\n" not in str(caught.value)


def test_one_measurement_at_a_time_on_a_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "compress_exp")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # a lock of this test's own
    code = (
        "import pathlib, sys, time; from compress_exp.measurement.measure import host_lock;"
        "lock = host_lock('first'); lock.__enter__(); print('held', flush=True); time.sleep(0.5);"
        "pathlib.Path(sys.argv[1]).touch()"
    )
    finished = tmp_path / "finished"
    process = subprocess.Popen([sys.executable, "-c", code, str(finished)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    with host_lock("second"):
        assert finished.exists()
    assert f"waiting for another measurement on this host (process {process.pid}, first)" in caplog.text
    process.wait()
    process.stdout.close()


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    task = tmp_path / "slow_task.py"
    task.write_text(
        "import os, pathlib, time\nclass Slow:\n    def __init__(self, log: str) -> None:\n"
        "        pathlib.Path(log).write_text(str(os.getpid())); time.sleep(600)\n"
    )
    log = tmp_path / "log"
    code = (
        "import sys; from compress_exp.measurement.measure import run_child;"
        "task = {'_target_': 'slow_task.Slow', 'log': sys.argv[1]};"
        "run_child({'what': 'comparison', 'artifact': 'a', 'task': task}, 1)"
    )
    environment = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}", "PATH": "", "TMPDIR": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, "-c", code, str(log)], env=environment)
    try:
        deadline = time.monotonic() + 120
        while not log.exists() or not log.read_text():
            assert parent.poll() is None, "the parent ended before its child began"
            assert time.monotonic() < deadline, "the child did not begin"
            time.sleep(0.05)
        child = int(log.read_text())
        assert parent.poll() is None and lives(child)
    finally:
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 30
    while lives(child):
        assert time.monotonic() < deadline, "the child outlived its parent"
        time.sleep(0.05)
