"""Weights & Biases: a finished run in one session; shown again, offline or online, it stays one run with one history.

The run id is W&B's id. An offline session is written aside and renamed into `outputs/wandb` when it is complete, so
that `wandb sync` never meets half a history. When a run is shown again, the rows of its history are sent only if they
are nowhere yet: sessions that were not synced yet are replaced, what the server has is gone on from.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from compress_exp.config.checks import check_choice, check_number
from compress_exp.outputs.manifest import sweep_of
from compress_exp.tracking.base import Json, Tracking, flatten, summary
from compress_exp.tracking.wandb_account import ANSWER_SECONDS, answers, has_key

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
        mode: "online", "offline" (files under `outputs/wandb`, sent later by `wandb sync`), "disabled", or "auto": what
            WANDB_MODE says, else online where a key is there and the server answers within 3 seconds, else offline.
        timeout: seconds that the server may take until it has the run, that answer included; then it is kept offline.
        finish_timeout: seconds that sending it may take at the end; a server that is lost in between costs these and
            10 more, and the run counts as not shown.
    """

    project: str = "compress_exp"
    entity: str | None = None
    mode: str = "auto"
    timeout: float = 4.0
    finish_timeout: float = 60.0

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, ("auto", "online", "offline", "disabled"))
        check_number("timeout", self.timeout, 1)
        check_number("finish_timeout", self.finish_timeout, 1)

    @property
    def identity(self) -> dict[str, Any]:
        """The project."""
        return {"tracker": "wandb", "project": self.project, "entity": self.entity}

    def done(self, directory: Path) -> bool:
        """Whether the record that is in a run's directory now was sent, or kept for `wandb sync`."""
        return self._asked == "disabled" or super().done(directory)

    def sent(self, directory: Path) -> bool:
        """Whether the server has the record that is in a run's directory now, as far as is known here."""
        shown = self._shown(directory)
        return super().done(directory) and (
            shown["mode"] == "online" or not _sessions(directory.resolve().parents[1] / "wandb", shown)[1]
        )

    @property
    def _asked(self) -> str:
        """The mode that was asked for; in "auto" WANDB_MODE may say which."""
        given = os.environ.get("WANDB_MODE") if self.mode == "auto" else self.mode
        return given if given in ("online", "offline", "disabled") else "auto"

    def _log(self, record: Json, curves: Sequence[Json], config: Json, directory: Path) -> dict[str, Any] | None:
        if self._asked == "disabled":
            return None
        place = directory.resolve().parents[1] / "wandb"
        with own_places(place):
            if (run := self._reach(record, config, place.parent)) is not None:
                return self._online(run, record, curves, place, directory)
            return self._offline(record, curves, config, place, directory)

    def _reach(self, record: Json, config: Json, outputs: Path) -> wandb.Run | None:
        """An online session; None where it is kept offline, which is said unless it was asked for."""
        import wandb

        until = time.monotonic() + self.timeout
        if self._asked == "offline":
            return None
        server = address(outputs)
        if not has_key(server):
            level = logging.INFO if self._asked == "auto" else logging.WARNING
            log.log(level, "tracking: there is no key for %s; kept offline, `wandb sync` sends it", server)
            return None
        if self._asked == "auto" and not answers(server, min(ANSWER_SECONDS, self.timeout)):
            log.warning("tracking: %s does not answer; kept offline", server)
            return None
        try:
            return self._init(record, config, outputs, "online", max(1.0, until - time.monotonic()))
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
        run = self._init(record, config, place.parent, "offline", self.timeout, aside)
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

    def _init(
        self, record: Json, config: Json, outputs: Path, mode: Mode, seconds: float, aside: Path | None = None
    ) -> wandb.Run:
        import wandb

        run = record["run"]
        method = "+".join(run["method"])
        flat = {name: run[name] for name in ("model", "task", "seed")} | {"method": method}
        settings = wandb.Settings(
            silent=True,
            console="off",
            init_timeout=seconds,
            finish_timeout=self.finish_timeout,
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
            dir=aside or outputs,
            id=run["id"],
            name=run["name"],
            group=sweep_of(outputs, run["id"]) or f"{run['model']}/{run['task']}",
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


def address(outputs: Path) -> str:
    """The server that wandb is set up for."""
    with own_places(outputs / "wandb"):
        import wandb

        return str(wandb.setup(wandb.Settings(silent=True)).settings.base_url)


@contextmanager
def own_places(directory: Path) -> Iterator[None]:
    """Keep wandb's caches and staging under our own directory, and its waiting short.

    It reads the environment only; what the user set there counts. While a server is silent, its telemetry would hold up
    the end of every process for 10 seconds, and a single question of its client 19.
    """
    own = {"WANDB_DATA_DIR": "data", "WANDB_CACHE_DIR": "cache", "WANDB_ARTIFACT_DIR": "artifacts"}
    values = {name: str(directory / folder) for name, folder in own.items()}
    values |= {"WANDB_ERROR_REPORTING": "false", "WANDB_HTTP_TIMEOUT": "10"}
    missing = {name: value for name, value in values.items() if name not in os.environ}
    os.environ |= missing
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)
