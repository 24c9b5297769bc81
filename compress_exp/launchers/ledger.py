"""Which SLURM job was asked for what: one line for each in `jobs.jsonl` beside the jobs' logs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from compress_exp.launchers.remote import Remote
from compress_exp.outputs.files import digest


@dataclass(frozen=True)
class Ledger:
    """The jobs that were ever submitted to one place.

    Attributes:
        path: of the file.
    """

    path: Path

    def latest(self) -> dict[str, str]:
        """The last job of each request; a line that a kill tore is left out."""
        found: dict[str, str] = {}
        for line in self.path.read_text().splitlines() if self.path.is_file() else []:
            try:
                row = json.loads(line)
                found[row["request"]] = row["job"]
            except (ValueError, KeyError, TypeError):
                continue
        return found

    def add(self, rows: Iterable[tuple[str, str, list[str]]]) -> None:
        """Note jobs: each with its request and its overrides."""
        lines = [json.dumps({"job": job, "request": asked, "overrides": overrides}) for job, asked, overrides in rows]
        with self.path.open("a") as stream:
            stream.write("".join(f"{line}\n" for line in lines))


def request(sweep: Remote, overrides: list[str]) -> str:
    """A name for what a job is to do: where, from which configuration, with which overrides."""
    own = OmegaConf.masked_copy(sweep.config, [str(name) for name in sweep.config if name != "hydra"])
    return digest([sweep.place, OmegaConf.to_container(own), overrides])
