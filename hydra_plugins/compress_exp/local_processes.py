"""N jobs at once on one machine, each in a process of its own, so that one that dies takes no other along.

The processes are forked from a server that has torch, lightning and transformers imported already; they end with the
process that launched them. Nothing heavy is imported here: Hydra loads this module at every start.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING, Any, NoReturn

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from compress_exp.config.checks import UserError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

log = logging.getLogger("compress_exp")

GRACE_SECONDS = 20.0
PRELOAD = ["compress_exp.run", "compress_exp.training.trainer", "compress_exp.formats.artifact", "transformers"]


class LocalProcessesLauncher(Launcher):
    """See the module.

    Args:
        n_jobs: jobs at once; each trains with its share of the cores where `train.threads` is null.
    """

    def __init__(self, n_jobs: int = 2) -> None:
        self.n_jobs = n_jobs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra hands over."""
        self.context, self.function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; a job that fails or dies is a failed JobReturn."""
        import multiprocessing
        from multiprocessing.connection import wait

        import cloudpickle

        from compress_exp.launchers.remote import Remote

        if not isinstance(self.n_jobs, int) or self.n_jobs < 1:
            raise UserError(f"hydra.launcher.n_jobs: {self.n_jobs!r} is not allowed, a whole number of at least 1 is")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        sweep = cloudpickle.dumps(Remote.here(self.context, self.function, self.config))
        jobs = [list(overrides) for overrides in job_overrides]
        waiting = list(range(len(jobs)))
        running: dict[Any, tuple[int, Any]] = {}
        returns: dict[int, JobReturn] = {}
        with _quiet_bars(), _stopping(running):
            _start_server()
            while waiting or running:
                while waiting and len(running) < self.n_jobs:
                    index = waiting.pop(0)
                    receiver, sender = context.Pipe(duplex=False)
                    arguments = (sender, sweep, jobs[index], initial_job_idx + index, self.n_jobs)
                    process = context.Process(target=_work, args=arguments)
                    process.start()
                    sender.close()
                    running[receiver] = (index, process)
                for ready in wait(list(running)):
                    index, process = running[ready]
                    returns[index] = _answer(ready, process, jobs[index])
                    del running[ready]
        return [returns[index] for index in range(len(jobs))]


def _answer(receiver: Any, process: Any, overrides: list[str]) -> JobReturn:
    from compress_exp.launchers.remote import failed

    try:
        reason = receiver.recv_bytes().decode()
    except EOFError:
        process.join()
        code = process.exitcode
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        reason = f"its process ended ({name}); the same command goes on from there"
    process.join()
    return failed(overrides, reason) if reason else JobReturn(overrides=overrides, status=JobStatus.COMPLETED)


def _start_server() -> None:
    """Start what jobs are forked from deaf to Ctrl-C, as its jobs are then: they are told to leave by `_stopping`."""
    from multiprocessing import forkserver

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, before)


def _work(sender: Connection, sweep: bytes, overrides: list[str], number: int, n_jobs: int) -> None:
    """One job, in its own process; sends the sentence of its failure, or nothing."""
    from compress_exp.parallel.cores import available_cores

    Thread(target=_leave_with_launcher, daemon=True).start()
    job = pickle.loads(sweep)(overrides, number, str(number), max(1, available_cores() // n_jobs))
    sender.send_bytes(b"" if job.status is JobStatus.COMPLETED else str(job._return_value).encode())


def _leave_with_launcher() -> None:
    """Wait until the launching process is gone, then ask this one to leave, and make it."""
    from multiprocessing import parent_process
    from multiprocessing.connection import wait

    launcher = parent_process()
    assert launcher is not None
    wait([launcher.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def _quiet_bars() -> Iterator[None]:
    """No progress bars of several processes on one terminal; tqdm reads the environment when it is imported."""
    before = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TQDM_DISABLE"]
        else:
            os.environ["TQDM_DISABLE"] = before


@contextmanager
def _stopping(running: dict[Any, tuple[int, Any]]) -> Iterator[None]:
    """Let the jobs write their checkpoints when this process is told to end, and end with them."""

    def stop(number: int, frame: Any) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        processes = [process for _, process in running.values()]
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(GRACE_SECONDS)
            process.kill()
