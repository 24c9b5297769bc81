"""Submitting the jobs of a launch to SLURM through submitit, and waiting for every one of them."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus
from submitit import Job, JobEnvironment, SlurmExecutor, SlurmJob
from submitit.core.utils import DelayedSubmission, FailedJobError, JobPaths, pickle_load

from compress_exp.config.checks import UserError
from compress_exp.launchers.ledger import Ledger, request
from compress_exp.launchers.remote import Remote, failed
from compress_exp.launchers.squeue import ENDED, ENDING, GONE, Queue

if TYPE_CHECKING:
    from hydra_plugins.compress_exp.slurm import SlurmLauncher

log = logging.getLogger("compress_exp")

LOOK_SECONDS = 1.0  # between looks for results
ASK_SECONDS = (3.0, 30.0)  # between questions to SLURM, at first and later
GRACE_SECONDS = 15.0  # for a result to show on a shared file system, and for SLURM to requeue what it ended
KILL_SECONDS = 180.0  # from SIGTERM to SIGKILL at most; SLURM's KillWait is 30 by default
ARRAY = 1000  # jobs of one array; the usual limit of a cluster is 1001
WARNING = signal.SIGUSR2  # what SLURM sends before it takes a job off its node
# A warning while Python imports would kill the job; so it waits until the stay can answer it.
PATIENT = (
    f"import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, [{int(WARNING)}]); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


@dataclass(frozen=True)
class Stay:
    """One run on the cluster: submitit calls it in every stay on a node until it returns.

    Attributes:
        sweep: what runs it.
        overrides: of the run.
        number: of the run in its launch.
    """

    sweep: Remote
    overrides: list[str]
    number: int

    def __call__(self) -> JobReturn:
        """Run it, or go on with it.

        SIGTERM says that SLURM is about to kill the job: what fails from then on (a child process that the signal
        ended) is no verdict on the run. SLURM has the last word: the job is requeued, or counts as cancelled.
        """
        environment = JobEnvironment()
        for torn in environment.paths.folder.glob("*.save_tmp"):  # a kill left it; submitit would write no result
            torn.unlink()
        told: list[int] = []
        before = signal.getsignal(signal.SIGTERM)

        def note(number: int, frame: FrameType | None) -> None:
            told.append(number)
            if callable(before):
                before(number, frame)

        signal.signal(signal.SIGTERM, note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [WARNING])
        cores = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE")
        done = self.sweep(self.overrides, self.number, environment.job_id, int(cores) if cores else None)
        if done.status is JobStatus.FAILED and told:
            time.sleep(KILL_SECONDS)
        return done

    def checkpoint(self) -> DelayedSubmission:
        """What submitit runs after a requeue: the same, since all progress is on disk."""
        return DelayedSubmission(self)


def launch(settings: SlurmLauncher, sweep: Remote, batch: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
    """Submit what is not in the queue already, wait for everything.

    Raises:
        UserError: `sbatch` refuses.
    """
    queue = Queue()
    stays = [Stay(sweep, list(overrides), first + index) for index, overrides in enumerate(batch)]
    jobs = _adopt(settings, stays, queue)
    new = [index for index in range(len(stays)) if index not in jobs]
    try:
        for start in range(0, len(new), ARRAY):
            part = new[start : start + ARRAY]
            jobs |= dict(zip(part, _submit(settings, [stays[index] for index in part]), strict=True))
        returns = dict(_returns(jobs, stays, queue))
    except KeyboardInterrupt:
        left = _arrays(job for job in jobs.values() if not _finished(job.paths))
        if left:
            log.warning("SLURM goes on with its jobs; `scancel %s` stops them, the same command waits for them", left)
        raise
    return [returns[index] for index in range(len(stays))]


def _submit(settings: SlurmLauncher, stays: Sequence[Stay]) -> list[Job[Any]]:
    python = f"{shlex.quote(sys.executable)} -S -c {shlex.quote(PATIENT)}"
    executor = SlurmExecutor(settings.submitit_folder, max_num_timeout=settings.max_num_timeout, python=python)
    try:
        executor.update_parameters(**_parameters(settings))
        with _own_environment():
            jobs = executor.submit_array(stays)
    except FailedJobError as error:
        lines = [line.removeprefix("sbatch: ").removeprefix("error: ") for line in str(error).splitlines()]
        raise UserError(f"hydra.launcher: sbatch refuses: {'; '.join(filter(None, lines))}") from error
    requests = [request(stay.sweep, stay.overrides) for stay in stays]
    ledger = _ledger(settings)
    ledger.add((job.job_id, asked, stay.overrides) for job, asked, stay in zip(jobs, requests, stays, strict=True))
    log.info("%d SLURM jobs submitted as %s, logs in %s", len(jobs), _arrays(jobs), ledger.path.parent)
    return jobs


def _ledger(settings: SlurmLauncher) -> Ledger:
    return Ledger(JobPaths.get_first_id_independent_folder(settings.submitit_folder) / "jobs.jsonl")


def _parameters(settings: SlurmLauncher) -> dict[str, Any]:
    """The launcher's settings in the words of submitit."""
    cores = settings.cpus_per_task
    parameters = {
        "job_name": settings.name,
        "time": settings.timeout_min,
        "signal_delay_s": settings.signal_delay_s,
        "array_parallelism": settings.array_parallelism,
        "cpus_per_task": cores,
        "srun_args": [f"--cpus-per-task={cores}"] if cores else None,  # srun does not take it over from sbatch
        "gpus_per_node": settings.gpus_per_node,
        "mem": f"{settings.mem_gb * 1024:.0f}MB" if settings.mem_gb else None,
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "constraint": settings.constraint,
        "exclude": settings.exclude,
        "gres": settings.gres,
        "comment": settings.comment,
        "setup": settings.setup_commands,
        "additional_parameters": settings.additional_parameters,
        "stderr_to_stdout": True,
    }
    return {name: value for name, value in parameters.items() if value is not None}


@contextmanager
def _own_environment() -> Iterator[None]:
    """Hide what describes the job that the parent itself runs in; sbatch would hand it down."""
    inherited = ("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_") if "SLURM_JOB_ID" in os.environ else ()
    hidden = {name: os.environ[name] for name in os.environ if name.startswith(inherited) and name != "SLURM_CONF"}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def _adopt(settings: SlurmLauncher, stays: Sequence[Stay], queue: Queue) -> dict[int, Job[Any]]:
    """Jobs of an interrupted parent that were asked for the same and are still in the queue."""
    folder, known = settings.submitit_folder, _ledger(settings).latest()
    asked = {index: known.get(request(stay.sweep, stay.overrides)) for index, stay in enumerate(stays) if known}
    open_jobs = {index: job for index, job in asked.items() if job and not _finished(JobPaths(folder, job, 0))}
    states = _settled(queue, open_jobs.values()) if open_jobs else {}
    adopted = {index: job for index, job in open_jobs.items() if states.get(job, GONE) not in ENDED | {ENDING}}
    if adopted:
        log.info("waiting for %d SLURM jobs that were submitted before: %s", len(adopted), " ".join(adopted.values()))
    return {index: SlurmJob(folder, job, [0]) for index, job in adopted.items()}


def _settled(queue: Queue, jobs: Iterable[str]) -> dict[str, str]:
    """States of jobs, those that are just ending given a moment to say as what: cancelled, or requeued to come back."""
    wanted, until = list(jobs), time.monotonic() + GRACE_SECONDS
    while True:
        states = queue.states(wanted) or {}
        if ENDING not in states.values() or time.monotonic() > until:
            return states
        time.sleep(LOOK_SECONDS)


def _returns(jobs: Mapping[int, Job[Any]], stays: Sequence[Stay], queue: Queue) -> Iterator[tuple[int, JobReturn]]:
    """Every job's number and return, as they come; a job that ended without a result counts as failed."""
    pending = dict(jobs)
    ended: dict[int, float] = {}
    began = asked = time.monotonic()
    while True:
        for index, job in list(pending.items()):
            if _finished(job.paths):
                del pending[index]
                answer = _result(job, stays[index])
                word = "done" if answer.status is JobStatus.COMPLETED else "failed"
                count = f"{len(jobs) - len(pending)} of {len(jobs)}"
                log.info("SLURM job %s %s (%s): %s", job.job_id, word, count, _label(stays[index], stays))
                yield index, answer
        if not pending:
            return
        now = time.monotonic()
        soonest, latest = ASK_SECONDS
        if now - asked >= (soonest if ended else min(latest, max(soonest, (now - began) / 10))):
            asked = now
            states = queue.states(job.job_id for job in pending.values()) or {}
            over = {index: states[job.job_id] for index, job in pending.items() if states.get(job.job_id) in ENDED}
            ended = {index: ended.get(index, now) for index in over}
            for index, since in list(ended.items()):
                if now - since >= GRACE_SECONDS and not _finished(pending[index].paths):
                    del ended[index]
                    yield index, _lost(pending.pop(index), stays[index], over[index], queue)
        time.sleep(LOOK_SECONDS)


def _finished(paths: JobPaths) -> bool:
    """Whether a job's result is there; listing its directory makes a network file system look again."""
    try:
        return paths.result_pickle.name in os.listdir(paths.folder)
    except OSError:
        return False


def _label(stay: Stay, stays: Sequence[Stay]) -> str:
    """What sets a job apart from the others of its launch."""
    own = [item for item in stay.overrides if not all(item in other.overrides for other in stays)]
    return " ".join(own or stay.overrides)


def _result(job: Job[Any], stay: Stay) -> JobReturn:
    outcome, answer = pickle_load(job.paths.result_pickle)
    if outcome == "error":
        reason = (str(answer).strip().splitlines() or ["?"])[-1]
        return failed(stay.overrides, f"SLURM job {job.job_id} failed: {reason}; its log: {job.paths.stdout}")
    returned: JobReturn = answer
    return returned


def _lost(job: Job[Any], stay: Stay, state: str, queue: Queue) -> JobReturn:
    if state == GONE:
        state = queue.ending(job.job_id) or "LOST"
    reason = f"SLURM job {job.job_id} ended as {state} without a result; its log: {job.paths.stdout}"
    log.warning("%s", reason)
    return failed(stay.overrides, reason)


def _arrays(jobs: Iterable[Job[Any]]) -> str:
    """The jobs as `scancel` takes them."""
    return " ".join(dict.fromkeys(job.job_id.split("_")[0] for job in jobs))
