"""The other processes of a training on several devices: started, awaited, watched and ended by rank 0.

Rank 0 is the job's own process: it holds the leases, owns the signals and writes every file. The others die with it.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from compress_exp.config.checks import UserError
from compress_exp.config.schema import PACKAGE

log = logging.getLogger("compress_exp")
LOCALHOST = "127.0.0.1"
TIMEOUT = timedelta(minutes=30)
NOTICE, LEAVE, HANG = 5.0, 30.0, 60.0


class RankLost(UserError):
    """Another process of the training ended before its time."""


def check_devices(devices: int) -> None:
    """Refuse more devices than this host has.

    Raises:
        UserError: one sentence.
    """
    if torch.cuda.is_available() and devices > (there := torch.cuda.device_count()):
        raise UserError(f"train.devices: {devices} is more than the {there} GPUs of this host; allowed: 1 to {there}")


@contextmanager
def team(devices: int, job: Callable[[], dict[str, Any]]) -> Iterator[None]:
    """Train with so many processes inside; one needs no other.

    Args:
        devices: processes, this one among them.
        job: gives what the others are told (see `compress_exp.experiment.rank`).

    Raises:
        RankLost: one of the others ended first.
    """
    check_devices(devices)
    if devices == 1:
        yield
        return
    store = _open_store(devices)
    others = _Others(devices, store)
    try:
        others.start(job())
        join(store, 0, devices)
        yield
        store.set("done", "1")
        distributed.destroy_process_group()
        others.leave()
    except RuntimeError as error:  # of a collective whose other end is gone
        if (loss := others.lost(NOTICE)) is not None:
            raise loss from error
        raise
    finally:
        others.kill()
        if distributed.is_initialized():
            _abandon_group()
        others.ended.set()


def join(store: TCPStore, rank: int, devices: int) -> None:
    """Become one of the processes of a training."""
    environment, hook = os.environ.copy(), sys.excepthook
    os.environ["GLOO_SOCKET_IFNAME"] = "lo" if sys.platform == "linux" else "lo0"
    backend, device = "gloo", None
    if torch.cuda.is_available():
        backend, device = "nccl", torch.device("cuda", rank)
        torch.cuda.set_device(device)
    try:
        distributed.init_process_group(
            backend, store=store, rank=rank, world_size=devices, timeout=TIMEOUT, device_id=device
        )
    finally:
        sys.excepthook = hook  # PyTorch sets one that writes the rank before every line
        os.environ.pop("GLOO_SOCKET_IFNAME")
        os.environ |= environment


def _abandon_group() -> None:
    """Leave a group whose other processes are gone."""
    if distributed.get_backend() == "nccl":
        distributed.distributed_c10d._abort_process_group()
    else:
        distributed.destroy_process_group()


def _open_store(devices: int) -> TCPStore:
    """A free port of this host that nobody else reaches."""
    listener = socket.socket()
    listener.bind((LOCALHOST, 0))
    port = listener.getsockname()[1]
    return TCPStore(LOCALHOST, port, devices, True, TIMEOUT, wait_for_workers=False, master_listen_fd=listener.detach())


class _Others:
    """The processes of the ranks 1 and up.

    Attributes:
        ended: set once nobody waits for them any more.
    """

    def __init__(self, devices: int, store: TCPStore) -> None:
        self.devices, self.store = devices, store
        self.processes: list[subprocess.Popen[str]] = []
        self.ended = threading.Event()

    def start(self, job: dict[str, Any]) -> None:
        """Start them, and wait until all have read their job."""
        path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path, "TORCH_CPP_LOG_LEVEL": "ERROR"}
        command = [sys.executable, "-m", "compress_exp.experiment.rank"]
        common = {**job, "devices": self.devices, "port": self.store.port, "leader": os.getpid()}
        for rank in range(1, self.devices):
            process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, text=True)
            self.processes.append(process)
            assert process.stdin is not None
            with process.stdin as stream:
                stream.write(json.dumps({**common, "rank": rank}))
        threading.Thread(target=self._watch, daemon=True).start()
        while not self.store.check([f"ready/{rank}" for rank in range(1, self.devices)]):
            if (loss := self.lost(0.0)) is not None:
                raise loss
            time.sleep(0.02)

    def leave(self) -> None:
        """Let them go by themselves."""
        for process in self.processes:
            try:
                process.wait(LEAVE)
            except subprocess.TimeoutExpired:
                log.warning("train.devices: process %d does not end; it is killed", process.pid)

    def kill(self) -> None:
        """Leave none behind."""
        for process in self.processes:
            process.kill()
            process.wait()

    def lost(self, patience: float) -> RankLost | None:
        """Why the first of them that failed did; None if none fails within some seconds."""
        until = time.monotonic() + patience
        while True:
            for rank, process in enumerate(self.processes, 1):
                if code := process.poll():
                    return self._loss(rank, code)
            if time.monotonic() >= until:
                return None
            time.sleep(0.02)

    def _loss(self, rank: int, code: int) -> RankLost:
        how = "was killed (out of memory?)" if code == -signal.SIGKILL else f"ended with exit code {code}"
        told = self.store.check([f"error/{rank}"])
        error = json.loads(self.store.get(f"error/{rank}")) if told else {"how": how, "trace": ""}
        who = f"process {rank + 1} of {self.devices}"
        loss = RankLost(f"train.devices: {who} {error['how']}; the same command goes on from the last checkpoint")
        loss.add_note(error["trace"])
        return loss

    def _watch(self) -> None:
        """End this process if it does not notice by itself that it waits for a dead one, as inside NCCL."""
        while not self.ended.wait(1.0):
            if self.lost(0.0) is not None and not self.ended.wait(HANG):
                print(self.lost(0.0), file=sys.stderr, flush=True)
                os._exit(1)
