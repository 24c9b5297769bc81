"""Weights & Biases: a finished run in one session; shown again, offline or online, it stays one run with one history.

The run id is W&B's id. An offline session is written aside and renamed into `outputs/wandb` when it is complete, so
that `wandb sync` never meets half a history. When a run is shown again, the rows of its history are sent only if they
are nowhere yet: sessions that were not synced yet are replaced, what the server has is gone on from.
"""

from __future__ import annotations

import logging
import netrc
import os
import shutil
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import urlsplit

from compress_exp.config import check_choice, check_number
from compress_exp.tracking import Json, Tracking

if TYPE_CHECKING:
    import wandb

log = logging.getLogger("compress_exp")
Mode = Literal["online", "offline"]


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

    @property
    def identity(self) -> dict[str, Any]:
        """The project."""
        return {"tracker": "wandb", "project": self.project, "entity": self.entity}

    def done(self, directory: Path) -> bool:
        """Whether the record that is in a run's directory now was sent, or kept for `wandb sync`."""
        return self._disabled or super().done(directory)

    @property
    def _disabled(self) -> bool:
        return self.mode == "auto" and os.environ.get("WANDB_MODE") == "disabled"

    def _log(self, record: Json, curves: Sequence[Json], config: Json, directory: Path) -> dict[str, Any] | None:
        if self._disabled:
            return None
        place = directory.resolve().parents[1] / "wandb"
        with _inside(place):
            import wandb

            mode = self._mode(str(wandb.setup(wandb.Settings(silent=True)).settings.base_url))
            if mode == "online" and (run := self._reach(record, config, place.parent)) is not None:
                return self._online(run, record, curves, place, directory)
            return self._offline(record, curves, config, place, directory)

    def _mode(self, server: str) -> Mode:
        given = os.environ.get("WANDB_MODE") if self.mode == "auto" else self.mode
        if given in ("online", "offline"):
            return cast(Mode, given)
        if not has_key(server):
            return "offline"
        if not answers(server, self.timeout):
            log.warning("tracking: %s does not answer; kept offline", server)
            return "offline"
        return "online"

    def _reach(self, record: Json, config: Json, place: Path) -> wandb.Run | None:
        """An online session, None where the server refuses."""
        import wandb

        try:
            return self._init(record, config, place, "online")
        except wandb.errors.Error as error:
            log.warning("tracking: %s: %s; kept offline", type(error).__name__, " ".join(str(error).split()))
            wandb.teardown()  # its service would refuse the id as in use
            return None

    def _online(
        self, run: wandb.Run, record: Json, curves: Sequence[Json], place: Path, directory: Path
    ) -> dict[str, Any]:
        """Send what the server does not have."""
        before = self._shown(directory)
        sent, unsent = _sessions(place, before)
        if unsent and len(curves) < before["rows"]:
            run.finish()
            raise RuntimeError(f"its curves are in {place / unsent[-1]} only; send that first by wandb sync")
        shown = {"id": record["run"]["id"], "mode": "online", "on_server": True, "sessions": sent}
        try:
            rows = before["rows"] if before.get("on_server") or sent else 0
            self._note(directory, shown | {"rows": rows, "changing": unsent, "record": None})
            for name in unsent:
                shutil.rmtree(place / name)
            _fill(run, record, [row for row in curves if row["step"] >= run.starting_step])
        finally:
            run.finish()
        return shown | {"rows": max(len(curves), rows)}

    def _offline(
        self, record: Json, curves: Sequence[Json], config: Json, place: Path, directory: Path
    ) -> dict[str, Any]:
        """Keep a session for `wandb sync`, in the place of those that were not synced yet."""
        before = self._shown(directory)
        on_server = bool(before.get("on_server"))
        if on_server and before["rows"] < len(curves):
            raise RuntimeError("the server has a part of this history; the same command completes it once it answers")
        sent, unsent = _sessions(place, before)
        if len(curves) < before.get("rows", 0):  # the artifacts that had them are gone
            sent, unsent = [*sent, *unsent], []
        identifier = record["run"]["id"]
        aside = place / f".partial-{identifier}"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        if sent:
            time.sleep(1)  # W&B names sessions by the second
        run = self._init(record, config, aside, "offline")
        try:
            _fill(run, record, [] if sent or on_server else curves)
        finally:
            run.finish()
        session = Path(run.dir).parent
        rows = max(len(curves), before.get("rows", 0))
        shown = {"id": identifier, "mode": "offline", "on_server": on_server, "rows": rows}
        self._note(directory, shown | {"sessions": sent, "changing": [*unsent, session.name], "record": None})
        for name in unsent:
            shutil.rmtree(place / name)
        session.rename(place / session.name)
        shutil.rmtree(aside, ignore_errors=True)
        return shown | {"sessions": [*sent, session.name]}

    def _init(self, record: Json, config: Json, place: Path, mode: Mode) -> wandb.Run:
        import wandb

        run = record["run"]
        method = "+".join(run["method"])
        flat = {name: run[name] for name in ("model", "task", "seed")} | {"method": method}
        settings = wandb.Settings(
            silent=True,
            console="off",
            init_timeout=self.timeout,
            login_timeout=self.timeout,
            finish_timeout=60,
            finish_timeout_raises=True,
            disable_git=True,
            save_code=False,
            program="compress_exp",
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        )
        started = wandb.init(
            project=self.project,
            entity=self.entity,
            dir=place,
            id=run["id"],
            name=run["name"],
            group=f"{run['model']}/{run['task']}",
            job_type="compress",
            tags=[method[:64], str(run["hardware"])[:64]],
            mode=mode,
            resume="allow",
            settings=settings,
        )
        started.config.update(flat | {"cfg": dict(config)}, allow_val_change=True)
        return started


def _fill(run: wandb.Run, record: Json, curves: Sequence[Json]) -> None:
    import wandb

    for row in curves:
        run.log({name: value for name, value in row.items() if name != "step"}, step=int(row["step"]))
    rows = [flatten(row) for row in record["latency"]["rows"]]
    if rows:
        names = list(rows[0])
        cells: list[Iterable[Any]] = [[row.get(name) for name in names] for row in rows]
        run.log({"latency/table": wandb.Table([*names], cells, allow_mixed_types=True)})
    run.summary.update(summary(record))


def _sessions(place: Path, shown: Json) -> tuple[list[str], list[str]]:
    """The offline sessions of a run that the server got or is about to get, and those that can still be replaced.

    `wandb sync` leaves its state beside what it sends, `wandb sync --clean` deletes it; a session that was being
    published or removed when the process was killed counts only if it is there.
    """
    published = list(shown.get("sessions", []))
    names = [*published, *(name for name in shown.get("changing", []) if (place / name).is_dir())]
    unsent = [name for name in names if (place / name).is_dir() and not list((place / name).glob("*.wandb.sync*"))]
    return [name for name in names if name not in unsent], unsent


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
