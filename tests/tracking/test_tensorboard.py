"""What TensorBoard itself reads back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compress_exp.config.checks import UserError
from compress_exp.config.schema import CONF
from compress_exp.tracking.tensorboard import TensorboardTracking

RUN = {"id": "abc123", "name": "x", "model": "tiny", "task": "reviews", "method": ["distill", "quant"], "seed": 3}
CURVES: list[dict[str, Any]] = [{"step": float(5 * step), "train/loss": 1 / (step + 1)} for step in range(8)]


def show(outputs: Path, quality: float, curves: list[dict[str, Any]] = CURVES) -> Path:
    directory = outputs / "runs" / "x"
    directory.mkdir(parents=True, exist_ok=True)
    record = {"run": RUN | {"hardware": "cpu"}, "quality": {"primary": {"value": quality}}}
    record |= {"latency": {"p50_ms": 1.5, "rows": [{"p50_ms": 1.5}]}, "energy": {"joules": None, "reason": "none"}}
    (directory / "record.json").write_text(json.dumps(record))
    TensorboardTracking().log(record, curves, {}, directory)
    assert TensorboardTracking().done(directory)
    return outputs / "tensorboard" / "x"


def read(place: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(place))
    events.Reload()
    return events


def test_curves_and_numbers_are_there_and_not_twice_when_shown_again(tmp_path: Path) -> None:
    show(tmp_path, 0.1)
    place = show(tmp_path, 0.2)
    assert [path.name for path in (tmp_path / "tensorboard").iterdir()] == ["x"]
    assert not [path for path in place.iterdir() if path.is_dir()]
    events = read(place)
    found = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert found == [(row["step"], pytest.approx(row["train/loss"])) for row in CURVES]
    assert [event.value for event in events.Scalars("quality/primary")] == [pytest.approx(0.2)]
    assert [event.value for event in events.Scalars("latency/p50_ms")] == [1.5]
    assert not [name for name in events.Tags()["scalars"] if name.startswith(("energy", "run/"))]


def test_a_run_can_be_told_by_what_it_is(tmp_path: Path) -> None:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    events = read(show(tmp_path, 0.1, curves=[]))
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    given = HParamsPluginData.FromString(content).session_start_info.hparams
    assert given["method"].string_value == "distill+quant" and given["seed"].number_value == 3
    assert {name: given[name].string_value for name in ("model", "task", "hardware")} == {
        "model": "tiny",
        "task": "reviews",
        "hardware": "cpu",
    }


def test_without_the_package_it_is_one_sentence_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import sys; sys.modules['tensorboard'] = None; sys.argv[0] = 'x'; from compress_exp.cli.main import main; "
    line = [sys.executable, "-c", f"{code}sys.exit(main())", "tracking=tensorboard", f"outputs={tmp_path}"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=CONF.parent)
    assert done.returncode == 1
    assert done.stderr.strip().startswith("tracking=tensorboard needs the package tensorboard: pip install ")
    assert len(done.stderr.splitlines()) == 1 and not list(tmp_path.iterdir())
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UserError):
        TensorboardTracking()
