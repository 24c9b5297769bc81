"""Tracking: views of a finished run elsewhere. The record is the truth, so nothing here can fail a run."""

from __future__ import annotations

import csv
import logging
import netrc
import os
import re
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from compress_exp.config import check_choice, check_number

log = logging.getLogger("compress_exp")

Json = Mapping[str, Any]
_SECRET = re.compile(r"(^|_)(api_?key|token|secret|password)$", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Tracking(ABC):
    """Where a finished run is shown beside its record."""

    def log(self, record: Json, curves: Sequence[Json], config: Json, directory: Path) -> None:
        """Show a run; a failure is one warning line.

        Args:
            record: the run's record.
            curves: one row per logged training step; their "step" never falls.
            config: the resolved configuration.
            directory: the run's directory.
        """
        try:
            self._log(clean(record), [clean(row) for row in curves], clean(config), directory)
        except Exception as error:
            text = " ".join(str(error).split())
            log.warning("tracking: %s: %s; the record is complete", type(error).__name__, text)

    @abstractmethod
    def _log(self, record: Json, curves: Sequence[Json], config: Json, directory: Path) -> None: ...


@dataclass(frozen=True, kw_only=True)
class NoTracking(Tracking):
    """The record alone."""

    def _log(self, record: Json, curves: Sequence[Json], config: Json, directory: Path) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class CsvTracking(Tracking):
    """The run's curves as `history.csv` beside its record."""

    def _log(self, record: Json, curves: Sequence[Json], config: Json, directory: Path) -> None:
        columns = list(dict.fromkeys(name for row in curves for name in row))
        temporary = directory / ".history.csv.tmp"
        with temporary.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, columns)
            writer.writeheader()
            writer.writerows(curves)
        os.replace(temporary, directory / "history.csv")


@dataclass(frozen=True, kw_only=True)
class WandbTracking(Tracking):
    """Weights & Biases, in one session at the end of the run.

    Attributes:
        project: W&B project.
        entity: W&B user or team; null takes the account's default.
        mode: "online", "offline" (files under `outputs/wandb`, sent later by `wandb sync`), or "auto": what WANDB_MODE
            says, else online where a key is there and the server answers, else offline.
        timeout: seconds the server may take to answer.
    """

    project: str = "compress_exp"
    entity: str | None = None
    mode: str = "auto"
    timeout: float = 10.0

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, ("auto", "online", "offline"))
        check_number("timeout", self.timeout, 1)

    def _log(self, record: Json, curves: Sequence[Json], config: Json, directory: Path) -> None:
        outputs = Path(str(config.get("outputs", directory.parent.parent))).resolve()
        with _inside(outputs / "wandb"):
            import wandb

            mode = self._mode(str(wandb.setup(wandb.Settings(silent=True)).settings.base_url))
            if mode == "disabled":
                return
            try:
                self._send(record, curves, config, outputs, mode)
            except wandb.errors.Error as error:
                if mode == "offline":
                    raise
                log.warning("tracking: %s: %s; kept offline", type(error).__name__, " ".join(str(error).split()))
                wandb.teardown()  # its service would refuse the id as in use
                self._send(record, curves, config, outputs, "offline")

    def _mode(self, server: str) -> str:
        if self.mode != "auto":
            return self.mode
        given = os.environ.get("WANDB_MODE")
        if given in ("online", "offline", "disabled"):
            return given
        if not has_key(server):
            return "offline"
        if not answers(server, self.timeout):
            log.warning("tracking: %s does not answer; kept offline", server)
            return "offline"
        return "online"

    def _send(self, record: Json, curves: Sequence[Json], config: Json, outputs: Path, mode: str) -> None:
        import wandb

        run_block = record["run"]
        method = "+".join(run_block["method"])
        flat = {name: run_block[name] for name in ("model", "task", "seed")} | {"method": method}
        settings = wandb.Settings(
            silent=True,
            console="off",
            init_timeout=self.timeout,
            login_timeout=self.timeout,
            finish_timeout=60,
            disable_git=True,
            save_code=False,
            program="compress_exp",
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        )
        run = wandb.init(
            project=self.project,
            entity=self.entity,
            dir=outputs,
            id=run_block["id"],
            name=run_block["name"],
            group=f"{run_block['model']}/{run_block['task']}",
            job_type="compress",
            tags=[method[:64], str(run_block["hardware"])[:64]],
            config=flat | {"cfg": dict(config)},
            mode=cast(Literal["online", "offline"], mode),
            resume="allow",
            settings=settings,
        )
        try:
            for row in curves:
                run.log({name: value for name, value in row.items() if name != "step"}, step=int(row["step"]))
            rows = [flatten(row) for row in record["latency"]["rows"]]
            if rows:
                names = list(rows[0])
                cells: list[Iterable[Any]] = [[row.get(name) for name in names] for row in rows]
                run.log({"latency/table": wandb.Table([*names], cells, allow_mixed_types=True)})
            run.summary.update(summary(record))
        finally:
            run.finish()


def summary(record: Json) -> dict[str, Any]:
    """The record by path; the headline row is directly under `latency/`, the primary metric at `quality/primary`."""
    rows = record["latency"]["rows"]
    latency = {name: value for name, value in record["latency"].items() if name != "rows"}
    flat = flatten(dict(record) | {"latency": latency | (dict(rows[0]) if rows else {})})
    return flat | {"quality/primary": record["quality"]["primary"]["value"]}


def flatten(node: Any, path: str = "") -> dict[str, Any]:
    """Nested mappings and lists as one level, the parts of a path joined by `/`; a list of strings is one string."""
    if isinstance(node, list) and node and all(isinstance(item, str) for item in node):
        return {path: ",".join(node)}
    if isinstance(node, Mapping | list):
        items = node.items() if isinstance(node, Mapping) else enumerate(node)
        flat: dict[str, Any] = {}
        for name, value in items:
            flat |= flatten(value, f"{path}/{name}" if path else str(name))
        return flat
    return {path: node}


def clean(node: Any) -> Any:
    """A copy without anything named like a secret, and with `~` for the home directory."""
    if isinstance(node, Mapping):
        return {name: clean(value) for name, value in node.items() if not _SECRET.search(str(name))}
    if isinstance(node, list | tuple):
        return [clean(item) for item in node]
    home = str(Path.home())
    if isinstance(node, str) and home != "/":
        return re.sub(re.escape(home) + r"(?=/|$|\s)", "~", node)
    return node


def has_key(server: str) -> bool:
    """Whether an account is set up: WANDB_API_KEY, or the server's entry in netrc (what `wandb login` writes)."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        hosts = netrc.netrc(os.environ.get("NETRC")).hosts
    except (OSError, netrc.NetrcParseError):
        return False
    return urlsplit(server).hostname in hosts


def answers(server: str, timeout: float) -> bool:
    """Whether the server takes a connection in time; wandb itself would try for much longer."""
    address = urlsplit(server)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), timeout).close()
    except OSError:
        return False
    return True


@contextmanager
def _inside(directory: Path) -> Iterator[None]:
    """Keep wandb's caches and staging under our own directory; it reads the environment only."""
    names = {"WANDB_DATA_DIR": "data", "WANDB_CACHE_DIR": "cache", "WANDB_ARTIFACT_DIR": "artifacts"}
    before = {name: os.environ.get(name) for name in names}
    try:
        for name, folder in names.items():
            os.environ.setdefault(name, str(directory / folder))
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
