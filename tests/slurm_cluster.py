"""Starts a real SLURM for the tests: one controller and a few virtual nodes on this host, in a folder of its own.

The system's own configuration is not changed: SLURM_CONF points to the configuration, messages are not authenticated
(auth/none, hence no munge), and each node is a slurmd with its own name and an address 127.0.0.1x. Needs root and the
packages slurmctld, slurmd and slurm-client (`apt-get install slurmctld slurmd slurm-client`).
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

NEEDED = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
SEARCH = os.pathsep.join(["/usr/local/sbin", "/usr/sbin", "/sbin", os.environ["PATH"]])


def absent() -> str:
    """Return why SLURM cannot be started here; empty if it can."""
    missing = [name for name in NEEDED if shutil.which(name, path=SEARCH) is None]
    if missing:
        return f"{', '.join(missing)} not installed (apt-get install slurmctld slurmd slurm-client)"
    if os.geteuid() != 0:
        return "slurmd needs root"
    return ""


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def wait_for(what: str, condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.2)


class SlurmCluster:
    """A SLURM with the partitions `debug` (default), `low` and `high`; jobs in `high` preempt those in `low`, which are
    requeued after `grace` seconds.

    user_signal: preemption sends the signal that a job requested (--signal), which sites can configure; else only
    SIGTERM."""

    def __init__(self, folder: Path, nodes: int = 2, cpus: int = 4, grace: int = 20, user_signal: bool = True) -> None:
        self.folder, self.nodes = folder, nodes
        folder.mkdir(parents=True)
        self.conf = folder / "slurm.conf"
        self.conf.write_text(self._configuration(cpus, grace, user_signal))
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
        self.environment = {**os.environ, "SLURM_CONF": str(self.conf), "PATH": SEARCH}
        self.processes: list[subprocess.Popen[bytes]] = []

    def _configuration(self, cpus: int, grace: int, user_signal: bool) -> str:
        host, folder = socket.gethostname().split(".")[0], self.folder
        controller, *ports = free_ports(1 + self.nodes)
        lines = [
            "ClusterName=test",
            f"SlurmctldHost={host}(127.0.0.1)",
            f"SlurmctldPort={controller}",
            "AuthType=auth/none",
            "CredType=cred/none",
            "AuthInfo=cred_expire=5",  # seconds for which a requeued job waits
            "SlurmUser=root",
            "SlurmdUser=root",
            f"StateSaveLocation={folder}/controller",
            f"SlurmdSpoolDir={folder}/spool.%n",
            f"SlurmctldPidFile={folder}/slurmctld.pid",
            f"SlurmdPidFile={folder}/slurmd.%n.pid",
            f"SlurmctldLogFile={folder}/slurmctld.log",
            f"SlurmdLogFile={folder}/slurmd.%n.log",
            "ProctrackType=proctrack/linuxproc",
            "TaskPlugin=task/none",
            "JobAcctGatherType=jobacct_gather/none",
            "AccountingStorageType=accounting_storage/none",
            "MpiDefault=none",
            "ReturnToService=2",
            "SlurmdParameters=config_overrides",  # use the CPUs given below, not those of the host
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_CPU",
            "SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0,sched_min_interval=0",
            "PriorityType=priority/basic",
            "KillWait=5",
            "JobRequeue=1",
            "PreemptType=preempt/partition_prio",
            "PreemptMode=REQUEUE",
            *(["SlurmctldParameters=preempt_send_user_signal"] if user_signal else []),
        ]
        for i, port in enumerate(ports, 1):
            lines.append(
                f"NodeName=sim{i} NodeHostname={host} NodeAddr=127.0.0.{10 + i} Port={port} CPUs={cpus} "
                "RealMemory=64000 State=UNKNOWN"
            )
        common = "Nodes=ALL MaxTime=INFINITE State=UP"
        lines += [
            f"PartitionName=debug {common} Default=YES PriorityTier=5 PreemptMode=OFF",
            f"PartitionName=low {common} PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace}",
            f"PartitionName=high {common} PriorityTier=10 PreemptMode=OFF",
        ]
        return "\n".join(lines) + "\n"

    def __enter__(self) -> SlurmCluster:
        (self.folder / "controller").mkdir()
        self._start("slurmctld", "-D")
        for i in range(1, self.nodes + 1):
            (self.folder / f"spool.sim{i}").mkdir()
            self._start("slurmd", "-D", "-N", f"sim{i}")
        try:
            wait_for(
                "idle nodes",
                lambda: self.command("sinfo", "-h", "-p", "debug", "-t", "idle", "-o", "%D") == str(self.nodes),
            )
        except BaseException:
            self.stop()
            raise
        return self

    def _start(self, name: str, *arguments: str) -> None:
        path = shutil.which(name, path=SEARCH)
        assert path is not None
        with open(self.folder / f"{name}.{len(self.processes)}.out", "wb") as output:
            self.processes.append(
                subprocess.Popen([path, *arguments], env=self.environment, stdout=output, stderr=subprocess.STDOUT)
            )

    def command(self, *command: str) -> str:
        """Return the output of a SLURM command; empty if it fails."""
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False).stdout.strip()

    def state(self, job: str) -> str:
        """Return the state of a job or array task, also after its end: PENDING, RUNNING, COMPLETED, FAILED ..."""
        return self.command("squeue", "-h", "-t", "all", "-j", job, "-o", "%T")

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End all jobs, then the daemons."""
        self.command("scancel", "--full", "--signal=KILL", "--user=root")
        self.command("scancel", "--user=root")
        deadline = time.monotonic() + 30
        while self.command("squeue", "-h", "-o", "%i") and time.monotonic() < deadline:
            time.sleep(0.2)
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
