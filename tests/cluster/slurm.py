"""A real SLURM of its own on this machine: several nodes on one host, without accounting, without systemd.

Every daemon stays a child of this process and has its own ports, munge socket and key: nothing of the host is touched,
and nothing is killed by name.
"""

from __future__ import annotations

import os
import platform
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import psutil

COMMANDS = ("setpriv", "slurmctld", "slurmd", "munged", "sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket,cred_expire=5
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
ReturnToService=2
PropagateResourceLimits=NONE
SlurmdParameters=config_overrides
KillWait=1
SlurmdTimeout=6
StateSaveLocation={root}/controller
SlurmctldPidFile={root}/slurmctld.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdPidFile={root}/slurmd.%n.pid
SlurmdSpoolDir={root}/%n
SlurmdLogFile={root}/slurmd.%n.log
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
NODE = (
    "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} Sockets=1 CoresPerSocket={cpus} "
    "ThreadsPerCore=1 RealMemory=4000\n"
)


def why_not() -> str | None:
    """Why this machine cannot run it, None if it can."""
    missing = [name for name in COMMANDS if shutil.which(name, path=_path()) is None]
    if missing:
        return f"no {missing[0]} here (apt-get install slurmctld slurmd slurm-client munge; .ci/run does)"
    if find_spec("submitit") is None:
        return "submitit is not installed (pip install 'compress_exp[slurm]')"
    if os.geteuid() != 0:
        return "SLURM's daemons are started by root only"
    if not os.path.ismount("/sys/fs/cgroup"):
        return "slurmd needs something mounted at /sys/fs/cgroup"
    return None


class Cluster:
    """One-machine SLURM with nodes n1, n2, ….

    Args:
        root: an empty directory with a short name, for a socket lies in it.
        nodes: how many.
        cpus: of each node, as jobs see them.
    """

    def __init__(self, root: Path, nodes: int, cpus: int) -> None:
        self.root = root
        self.names = [f"n{index + 1}" for index in range(nodes)]
        host = platform.node().split(".")[0]
        controller, *ports = _free_ports(nodes + 1)
        user = pwd.getpwuid(os.geteuid()).pw_name
        text = CONFIG.format(host=host, port=controller, user=user, root=root)
        for name, port in zip(self.names, ports, strict=True):
            text = text.replace(
                "PartitionName", NODE.format(name=name, host=host, port=port, cpus=cpus) + "PartitionName"
            )
        self.config = root / "slurm.conf"
        self.config.write_text(text)
        self.environment = os.environ | {"SLURM_CONF": str(self.config), "PATH": _path()}
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start the daemons and wait for the nodes."""
        key = self.root / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        places = [f"--{name}-file={self.root}/munge.{name}" for name in ("pid", "log", "seed")]
        self._daemon(
            "munge", "munged", "-F", "--force", f"--socket={self.root}/munge.socket", f"--key-file={key}", *places
        )
        wait_for(lambda: (self.root / "munge.socket").exists(), "munged", 20)
        self._controller()
        for name in self.names:
            self._daemon(name, "slurmd", "-D", "-N", name)
        wait_for(
            lambda: self.command("sinfo", "-h", "-N", "-t", "idle", "-o", "%N").split() == self.names, self._why, 30
        )

    def command(self, *line: str) -> str:
        """What a SLURM command prints; nothing where it fails."""
        return subprocess.run(
            ["timeout", "20", *line], env=self.environment, capture_output=True, text=True, check=False
        ).stdout

    def kill_node(self, name: str) -> None:
        """Let a node die as by a power cut: its daemon, and everything that runs on it, at once."""
        self.daemons[name].kill()
        self._kill(self.processes(name))
        self.daemons.pop(name).wait()

    def restart_controller(self, meanwhile: Callable[[], None]) -> None:
        """Let the controller be away for a while."""
        controller = self.daemons.pop("controller")
        controller.terminate()
        controller.wait()
        try:
            meanwhile()
        finally:
            self._controller()
        wait_for(lambda: bool(self.command("sinfo", "-h").strip()), self._why, 30)

    def processes(self, node: str | None = None) -> list[psutil.Process]:
        """What runs on one node or on all: SLURM's steps, known by their directory, and the jobs in them."""
        nodes = self.names if node is None else [node]
        own = {daemon.pid for daemon in self.daemons.values()}
        return [process for process in psutil.process_iter() if process.pid not in own and self._node(process) in nodes]

    def stop(self) -> None:
        """End all jobs and daemons, whatever state they are in."""
        daemons = list(self.daemons.values())
        for daemon in reversed(daemons):
            daemon.kill()
        while left := self.processes():
            self._kill(left)
            time.sleep(0.1)
        for daemon in daemons:
            daemon.wait()

    def _kill(self, processes: list[psutil.Process]) -> None:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def _node(self, process: psutil.Process) -> str | None:
        try:
            if process.name() == "slurmstepd":
                place = Path(process.cwd())
                return place.name if place.parent == self.root else None
            variables = process.environ()
        except psutil.Error:
            return None
        return variables.get("SLURMD_NODENAME") if variables.get("SLURM_CONF") == str(self.config) else None

    def _controller(self) -> None:
        self._daemon("controller", "slurmctld", "-D")

    def _daemon(self, name: str, *line: str) -> None:
        place = self.root / name
        place.mkdir(exist_ok=True)
        with (self.root / f"{name}.out").open("wb") as out:
            line = ("setpriv", "--pdeathsig=KILL", *line)
            self.daemons[name] = subprocess.Popen(line, env=self.environment, stdout=out, stderr=out, cwd=place)

    def _why(self) -> str:
        logs = sorted(self.root.glob("*.out"))
        return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-600:]}" for log in logs)


def wait_for(condition: Callable[[], bool], what: str | Callable[[], str], seconds: float) -> None:
    """Wait until something is so.

    Raises:
        TimeoutError: it never was.
    """
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(what if isinstance(what, str) else what())
        time.sleep(0.1)


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin"


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for item in sockets:
        item.bind(("127.0.0.1", 0))
    ports = [item.getsockname()[1] for item in sockets]
    for item in sockets:
        item.close()
    return ports
