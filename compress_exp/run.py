"""One experiment, top to bottom: check, build what is missing, measure what was exported, record it."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from omegaconf import DictConfig

from compress_exp.config.build import plain
from compress_exp.config.checks import UserError
from compress_exp.experiment.chain import produce
from compress_exp.experiment.plan import Plan, disk_bytes, identity, plan
from compress_exp.experiment.record import assemble, measure_run
from compress_exp.outputs.files import digest, replace_directory, write_json
from compress_exp.outputs.history import curves
from compress_exp.outputs.lease import Lease, LeaseLost, leased
from compress_exp.outputs.manifest import Identity
from compress_exp.outputs.progress import STATUS, reported
from compress_exp.outputs.records import finished, keep_score, read_record
from compress_exp.outputs.store import Store
from compress_exp.report.card import complete

log = logging.getLogger("compress_exp")


def run(config: DictConfig, arguments: Sequence[str] | None = None) -> dict[str, Any] | None:
    """Build, measure and record what one configuration asks for; a finished record is returned as it is.

    Args:
        config: the composed configuration, without Hydra's own part.
        arguments: the overrides that it was composed of, where no command line asked for the run.

    Returns:
        The record; None for `plan=true`.

    Raises:
        UserError: the configuration or this machine cannot do it, in one sentence.
    """
    from compress_exp.measurement.measure import check_kernels
    from compress_exp.parallel.team import check_devices

    planned = plan(config)
    outputs = Path(config.outputs)
    store = Store(outputs / "artifacts", config.lease_seconds)
    directory = outputs / "runs" / planned.run_name
    if config.plan:
        show_plan(planned, store, directory)
        return None
    asked = identity(planned, config)
    if (record := _there(asked, directory)) is not None:
        keep_score(directory, asked.score, config.lease_seconds)
        complete(outputs, [planned.run_id])
        if not planned.tracking.done(directory):
            with leased(directory, config.lease_seconds, planned.label):
                if planned.tracking.done(directory):
                    return record
                _track(planned, config, record, [place for key in planned.chain if (place := store.find(key))])
        return record
    if asked.until is None:
        planned.hardware.check_host()
        if planned.largest_code is not None:
            check_kernels(planned.hardware, planned.facts.family.kind, planned.largest_code, outputs)
    wanted = planned.chain if asked.until is None else planned.chain[: asked.until + 1]
    missing = sum(store.find(key) is None for key in wanted)
    if missing:
        planned.model.check_architecture()
        check_devices(max((budget.devices for budget in planned.budgets(len(wanted) - 1)), default=1))
    if (needed := disk_bytes(planned, missing)) > (free := free_bytes(outputs)):
        raise UserError(
            f"outputs: about {needed / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free; make room first"
        )
    while True:
        try:
            with leased(directory, config.lease_seconds, planned.label) as lease:
                return _work(planned, asked, config, store, lease, arguments)
        except LeaseLost:
            log.warning("%s: another process took over this run; looking at what it did", planned.label)


def _there(asked: Identity, directory: Path) -> dict[str, Any] | None:
    if asked.force or asked.until is not None:
        return None
    record = finished(directory, asked.every_stage, asked.score)
    if record is not None:
        log.info("%-24s finished before -> %s", record["run"]["name"], directory / "record.json")
    return record


def _work(
    planned: Plan, asked: Identity, config: DictConfig, store: Store, lease: Lease, arguments: Sequence[str] | None
) -> dict[str, Any] | None:
    """Build, measure and record, with the run's directory to oneself."""
    directory = Path(config.outputs) / "runs" / planned.run_name
    if (record := _there(asked, directory)) is not None:
        (directory / STATUS).unlink(missing_ok=True)
        return record
    fresh = config.since or psutil.Process().create_time()
    needed = [*planned.chain, *(digest(recipe) for recipe in planned.answers if recipe is not None)]
    with reported(directory, planned.run_id, needed, lease) as progress:
        until = len(planned.stages) if asked.until is None else asked.until
        newer_than = fresh if asked.force in ("run", "all") else 0.0
        paths = produce(planned, store, progress, until, newer_than, asked.force == "all")
        if asked.until is not None:
            log.info("%-24s is there; until=%s measures nothing", paths[-1], config.until)
            return None
        progress.stage("measuring")
        started = time.monotonic()
        for left in directory.glob("deploy.partial-*"):
            shutil.rmtree(left, ignore_errors=True)
        deploy = directory / f"deploy.partial-{lease.token[:12]}"
        measured = measure_run(planned, config, paths, deploy, fresh if asked.force else 0.0)
        cost = {"measuring_seconds": time.monotonic() - started}
        record = assemble(planned, config, paths, measured, cost, arguments)
        lease.check()
        if deploy.exists():
            replace_directory(deploy, directory / "deploy")
        write_json(directory / "record.json", record)
    complete(Path(config.outputs), [planned.run_id])
    log.info("%-24s measured in %.0f s -> %s", planned.label, cost["measuring_seconds"], directory / "record.json")
    _track(planned, config, record, paths)
    return record


def _track(planned: Plan, config: DictConfig, record: dict[str, Any], paths: list[Path]) -> None:
    """Show the run elsewhere; without curves where an artifact of its chain is gone."""
    rows = curves(paths) if len(paths) == len(planned.chain) else []
    planned.tracking.log(record, rows, plain(config), Path(config.outputs) / "runs" / planned.run_name)


def show_plan(planned: Plan, store: Store, directory: Path) -> None:
    """Say what would be built, what is there, and the disk it takes."""
    missing, labels = 0, ["baseline", *(stage.label for stage in planned.stages)]
    for label, key, answers in zip(labels, planned.chain, [None, *planned.answers], strict=True):
        there = store.find(key)
        missing += there is None
        if answers is not None:
            kept = store.find(digest(answers))
            log.info("%-24s %s %s", "answers", "is there:   " if kept else "to be built:", store.path(answers))
        log.info("%-24s %s %s", label, "is there:   " if there else "to be built:", store.root / key)
    done = read_record(directory) is not None
    log.info("%-24s %s %s", "record", "is there:   " if done else "to be made: ", directory / "record.json")
    log.info(
        "disk: about %.0f MB are needed, %.0f MB are free",
        disk_bytes(planned, missing) / 1e6,
        free_bytes(directory) / 1e6,
    )


def free_bytes(path: Path) -> int:
    """Free bytes on the file system that a path will be on."""
    place = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    return shutil.disk_usage(place).free
