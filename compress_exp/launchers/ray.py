"""Running the jobs of a launch as tasks of a Ray cluster, and waiting for every one of them."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import ray
from hydra.core.utils import JobReturn
from ray.exceptions import RayError, RayTaskError

from compress_exp.config.checks import UserError
from compress_exp.config.refusal import sentence
from compress_exp.launchers.remote import Remote, failed

if TYPE_CHECKING:
    from hydra_plugins.compress_exp.ray import RayLauncher

log = logging.getLogger("compress_exp")
ANSWER_SECONDS = 10.0


def launch(settings: RayLauncher, sweep: Remote, batch: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
    """Run all jobs; Ray runs those again whose node or process dies.

    Raises:
        UserError: no cluster answers.
    """
    _connect(settings.address)
    work = ray.remote(
        num_cpus=settings.num_cpus,
        num_gpus=settings.num_gpus,
        resources=settings.resources,
        max_retries=settings.max_retries,
        max_calls=1,  # a fresh process for each job
    )(_work)
    travelling = ray.put(sweep)
    pending = {
        work.remote(travelling, list(overrides), first + index, settings.num_cpus): index
        for index, overrides in enumerate(batch)
    }
    log.info("%d Ray tasks submitted", len(pending))
    returns: dict[int, JobReturn] = {}
    while pending:
        for ready in ray.wait(list(pending))[0]:
            index = pending.pop(ready)
            returns[index] = _result(ready, list(batch[index]))
    return [returns[index] for index in range(len(batch))]


def _connect(address: str) -> None:
    """Join the cluster; an address where nothing listens is refused at once, Ray itself would wait for minutes."""
    if ray.is_initialized():
        return
    host, _, port = address.rpartition(":")
    try:
        if host and port.isdigit():
            socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
        ray.init(address=address, logging_level=logging.WARNING)
    except (OSError, ValueError, RuntimeError) as error:  # ConnectionError among them
        reason = f"no Ray cluster answers at {address!r} ({sentence(error).split('. ')[0]})"
        raise UserError(f"hydra.launcher.address: {reason}; `ray start --head` starts one") from error


def _work(sweep: Remote, overrides: list[str], number: int, cores: int) -> JobReturn:
    return sweep(overrides, number, ray.get_runtime_context().get_task_id() or str(number), cores)


def _result(ready: Any, overrides: list[str]) -> JobReturn:
    try:
        answer: JobReturn = ray.get(ready)
        return answer
    except RayTaskError as error:
        return failed(overrides, sentence(error.cause) if isinstance(error.cause, Exception) else sentence(error))
    except RayError as error:
        return failed(overrides, f"Ray lost the job: {sentence(error)}")
