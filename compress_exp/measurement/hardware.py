"""The hardware profile: where and how a result is deployed and timed. It never changes what is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from compress_exp.config.checks import FieldError, UserError, check_choice, check_number
from compress_exp.config.identity import settings
from compress_exp.parallel.cores import available_cores
from compress_exp.runtimes.base import Runtime, names, runtime, serving

KINDS = ("encoder", "decoder", "encoder_decoder")
AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """One place where models run.

    Attributes:
        name: how tables call it.
        device: "cpu" or "cuda".
        runtime: for each kind of model (encoder, decoder, encoder_decoder) the name of a runtime, or "auto": the one
            that is fastest for the compressed model here.
        precision: of models that do not choose their own; always passed to the runtime and read back.
        threads: CPU threads of timing.
        batch_sizes: timed batch sizes; the first is the headline's.
        lengths: timed input lengths; the longest is the headline's; a model's maximum clips them.
        new_tokens: generated tokens of a timed generation.
        rounds: turns of each timing.
        seconds: no new round of a timing starts after so many seconds, once there are enough for an interval.
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

    def __post_init__(self) -> None:
        check_choice("device", self.device, ("cpu", "cuda"))
        check_choice("precision", self.precision, ("f32",))
        allowed = (AUTO, *names())
        for kind, name in self.runtime.items():
            check_choice("runtime", kind, KINDS)
            check_choice(f"runtime.{kind}", name, allowed)
        for kind in KINDS:
            if kind not in self.runtime:
                raise FieldError(f"runtime.{kind}", f"this key must be set, to one of {', '.join(allowed)}")
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
        for kind, name in self.runtime.items():
            if name != AUTO and not runtime(name).serves(kind, self.device, self.precision):
                others = ", ".join((AUTO, *(one.name for one in serving(kind, self.device, self.precision))))
                what = f"models of kind {kind} on device={self.device}"
                raise UserError(f"hardware.runtime.{kind}: {name} does not run {what}; allowed: {others}")

    def check_host(self) -> None:
        """Refuse what this host cannot do.

        Raises:
            UserError: one sentence.
        """
        import torch

        if self.device == "cuda" and not torch.cuda.is_available():
            raise UserError("hardware.device: cuda is asked for, but PyTorch finds no GPU here; allowed: hardware=cpu")
        if self.device == "cpu" and self.threads > (cores := available_cores()):
            raise UserError(f"hardware.threads: {self.threads} is more than the {cores} cores of this host")

    def candidates(self, kind: str) -> list[Runtime]:
        """The runtimes that take a kind of model: the one that is asked for, then by preference, eager last."""
        return sorted(serving(kind, self.device, self.precision), key=lambda one: one.name != self.runtime[kind])

    def identity(self) -> dict[str, Any]:
        """What decides a record: everything."""
        return settings(self)

    def evaluation_identity(self, runtime: Runtime) -> dict[str, Any]:
        """What decides the predictions of a model in a runtime."""
        return {
            "runtime": runtime.name,
            "version": runtime.version,
            "device": self.device,
            "precision": self.precision,
        }
