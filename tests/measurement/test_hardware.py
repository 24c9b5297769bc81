import json
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from compress_exp.config.build import build, plain
from compress_exp.config.checks import UserError
from compress_exp.config.schema import CONF
from compress_exp.measurement.hardware import Hardware
from compress_exp.parallel.cores import available_cores
from compress_exp.runtimes.base import runtime

PLAIN: dict[str, Any] = {
    "_target_": "compress_exp.measurement.hardware.Hardware",
    "name": "test",
    "runtime": {"encoder": "openvino", "decoder": "eager", "encoder_decoder": "eager"},
    "batch_sizes": [1],
    "lengths": [8],
}


PROFILES = [
    ("cpu", "auto"),
    ("cpu_openvino", "openvino"),
    ("cpu_onnxruntime", "onnxruntime"),
    ("cpu_eager", "eager"),
    ("cuda", "eager"),
]


def profile(name: str) -> Hardware:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return build(plain(compose(f"hardware/{name}").hardware), "hardware")


@pytest.mark.parametrize(("name", "encoder"), PROFILES)
def test_profiles_compose_and_build(name: str, encoder: str) -> None:
    hardware = profile(name)
    hardware.check()
    assert hardware.name == name and hardware.runtime["encoder"] == encoder and hardware.precision == "f32"
    assert hardware.device == ("cuda" if name == "cuda" else "cpu") and hardware.threads == 1
    assert json.loads(json.dumps(hardware.identity()))["runtime"] == hardware.runtime


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": "gpu"}, "hardware.device: 'gpu' is not allowed"),
        ({"runtime": {"encoder": "onnx", "decoder": "eager", "encoder_decoder": "eager"}}, "hardware.runtime.encoder"),
        ({"runtime": {"encoder": "eager"}}, "hardware.runtime.decoder: this key must be set"),
        ({"batch_sizes": []}, "hardware.batch_sizes: at least one"),
        ({"lengths": [0]}, "hardware.lengths: 0 is not allowed"),
        ({"rounds": 1}, "hardware.rounds: 1 is not allowed"),
        ({"precision": "f16"}, "hardware.precision: 'f16' is not allowed"),
        ({"roundz": 1}, "hardware.roundz: there is no such key; did you mean rounds"),
    ],
)
def test_bad_values_get_one_sentence(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        build({**PLAIN, **change}, "hardware")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_runtimes_of_encoders_on_the_cpu_take_nothing_else() -> None:
    runtimes = {"encoder": "openvino", "decoder": "openvino", "encoder_decoder": "eager"}
    words = (
        r"hardware.runtime.decoder: openvino does not run models of kind decoder on device=cpu; allowed: auto, eager"
    )
    with pytest.raises(UserError, match=words):
        build({**PLAIN, "runtime": runtimes}, "hardware").check()
    with pytest.raises(UserError, match="openvino does not run models of kind encoder on device=cuda"):
        build({**PLAIN, "device": "cuda"}, "hardware").check()


def test_the_one_asked_for_comes_first_and_eager_last() -> None:
    for asked in ("auto", "openvino", "onnxruntime", "eager"):
        hardware = build({**PLAIN, "runtime": {**PLAIN["runtime"], "encoder": asked}}, "hardware")
        found = [one.name for one in hardware.candidates("encoder")]
        assert sorted(found) == ["eager", "onnxruntime", "openvino"]
        assert found[0] == ("openvino" if asked == "auto" else asked) and (asked == "eager" or found[-1] == "eager")
        assert [one.name for one in hardware.candidates("decoder")] == ["eager"]


def test_a_host_without_gpu_or_cores_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="PyTorch finds no GPU"):
        profile("cuda").check_host()
    with pytest.raises(UserError, match="hardware.threads: 4096 is more than"):
        build({**PLAIN, "threads": 4096}, "hardware").check_host()
    build(PLAIN, "hardware").check_host()


def test_predictions_depend_on_the_runtime_not_on_timing() -> None:
    one, two = build(PLAIN, "hardware"), build({**PLAIN, "rounds": 99, "lengths": [4]}, "hardware")
    assert one.evaluation_identity(runtime("openvino")) == two.evaluation_identity(runtime("openvino"))
    assert one.evaluation_identity(runtime("openvino")) != one.evaluation_identity(runtime("eager"))
    assert one.identity() != two.identity()


def test_a_slurm_job_counts_its_own_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    before = available_cores()
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert available_cores() == 1
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1000")
    assert available_cores() == before
