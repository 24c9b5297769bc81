"""The hardware profile: where and how a result is deployed and timed. It never changes what is trained."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from compress_exp.config import FieldError, UserError, check_choice, check_number

KINDS = ("encoder", "decoder", "encoder_decoder")
RUNTIMES = {"openvino": "openvino", "eager": "torch"}


def available_cores() -> int:
    """The cores that this process may use: its affinity, a container's quota, a SLURM job's share."""
    limits = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        limits.append(max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or no limit: "max 100000"
        pass
    if (share := os.environ.get("SLURM_CPUS_PER_TASK", "")).isdigit():
        limits.append(int(share))
    return min(limits)


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """One place where models run.

    Attributes:
        name: how tables call it.
        device: "cpu" or "cuda".
        runtime: for each kind of model (encoder, decoder, encoder_decoder) "openvino" or "eager".
        precision: of models that do not choose their own; always passed to the runtime and read back.
        threads: CPU threads of timing.
        batch_sizes: timed batch sizes; the first is the headline's.
        lengths: timed input lengths; the longest is the headline's; a model's maximum clips them.
        new_tokens: generated tokens of a timed generation.
        rounds: turns of each timing.
        seconds: no new round of a timing starts after so many seconds, once there are enough for an interval.
        allow_slow: run int8 models where integer kernels are missing, and say so in the record.
    """

    name: str
    runtime: dict[str, str]
    batch_sizes: list[int]
    lengths: list[int]
    device: str = "cpu"
    precision: str = "f32"
    threads: int = 1
    new_tokens: int = 16
    rounds: int = 40
    seconds: float = 6.0
    allow_slow: bool = False

    def __post_init__(self) -> None:
        check_choice("device", self.device, ("cpu", "cuda"))
        check_choice("precision", self.precision, ("f32",))
        for kind, runtime in self.runtime.items():
            check_choice("runtime", kind, KINDS)
            check_choice(f"runtime.{kind}", runtime, RUNTIMES)
        for kind in KINDS:
            if kind not in self.runtime:
                raise FieldError(f"runtime.{kind}", "this key must be set, to openvino or eager")
        for name in ("batch_sizes", "lengths"):
            values: list[int] = getattr(self, name)
            if not values:
                raise FieldError(name, "at least one number is needed")
            for value in values:
                check_number(name, value, 1)
        check_number("threads", self.threads, 1)
        check_number("new_tokens", self.new_tokens, 1)
        check_number("rounds", self.rounds, 5)
        check_number("seconds", self.seconds, 0)

    def check(self) -> None:
        """Refuse what no host can do.

        Raises:
            UserError: one sentence.
        """
        for kind, runtime in self.runtime.items():
            if runtime == "openvino" and kind != "encoder":
                raise UserError(f"hardware.runtime.{kind}: openvino serves encoders only; allowed: eager")
            if runtime == "openvino" and self.device == "cuda":
                raise UserError(f"hardware.runtime.{kind}: openvino runs on the CPU; with device=cuda allowed: eager")

    def check_host(self, kind: str, int8: bool) -> None:
        """Refuse what this host cannot do.

        Args:
            kind: of the model: encoder, decoder or encoder_decoder.
            int8: whether an int8 model is to run.

        Raises:
            UserError: one sentence.
        """
        import torch

        if self.device == "cuda" and not torch.cuda.is_available():
            raise UserError("hardware.device: cuda is asked for, but PyTorch finds no GPU here; allowed: hardware=cpu")
        if self.device == "cpu" and self.threads > (cores := available_cores()):
            raise UserError(f"hardware.threads: {self.threads} is more than the {cores} cores of this host")
        if int8 and not self.allow_slow and not self.integer_kernels():
            runtime = f"{self.runtime[kind]} on this {'GPU' if self.device == 'cuda' else 'CPU'}"
            reason = f"{runtime} has no integer kernels, so an int8 model would be slow"
            raise UserError(f"hardware.runtime.{kind}: {reason}; hardware.allow_slow=true measures it all the same")

    def integer_kernels(self) -> bool:
        """Whether int8 layers run in integers on this host; both runtimes rest on the same instructions."""
        from compress_exp.layers.int8 import kernels_available

        return self.device == "cpu" and kernels_available()

    def identity(self) -> dict[str, Any]:
        """What decides a record: everything."""
        return asdict(self)

    def evaluation_identity(self, kind: str) -> dict[str, Any]:
        """What decides the predictions of a model of some kind."""
        runtime = self.runtime[kind]
        return {
            "runtime": runtime,
            "version": version(RUNTIMES[runtime]),
            "device": self.device,
            "precision": self.precision,
        }
