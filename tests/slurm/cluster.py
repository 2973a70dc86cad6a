"""A real Slurm of one node in a temporary folder: munged, slurmctld and slurmd, nothing of it outside the folder."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
ROOT = Path(__file__).parents[2]

CONF = """
ClusterName=gentool
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2,requeue_delay=1
SlurmdParameters=config_overrides
JobRequeue=1
KillWait=30
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""

WRAPPER = """#!/bin/bash
# What the jobs call `gentool`: this checkout's, its steps slowed down where the job asks.
export PYTHONPATH={root} OMP_NUM_THREADS=1
exec {python} -m tests.slurm.slowed "$@"
"""


def unavailable() -> str | None:
    """Why no Slurm can be run here, or None; as root on a Debian, the packages are installed first."""
    missing = [name for name in DAEMONS if shutil.which(name, path=_path()) is None]
    if os.geteuid() != 0:
        return "running slurmctld and slurmd takes root"
    if missing and shutil.which("apt-get"):
        command = ["apt-get", "install", "-y", "-qq", "slurm-wlm", "munge"]
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(command, capture_output=True, env=environment, timeout=600)
        missing = [name for name in DAEMONS if shutil.which(name, path=_path()) is None]
    return f"not installed: {', '.join(missing)} (Debian's slurm-wlm and munge)" if missing else None


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Cluster:
    """The running cluster, and the folder that jobs are submitted from."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.work = folder, folder / "work"
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "GENTOOL"))},
            "PATH": f"{folder}/bin:{_path()}",
            "SLURM_CONF": str(folder / "slurm.conf"),
        }

    def shell(self, command: str, **more: str) -> str:
        """Runs a shell line in the folder of the jobs; its output, or the reason why it failed."""
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.work,
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}{done.stdout}"
        return done.stdout.strip()

    def state(self, job: str) -> str:
        """RUNNING, PENDING, COMPLETED ... of a job, or of the task of an array (`7_0`)."""
        return self._field(job, "JobState")

    def restarts(self, job: str) -> int:
        return int(self._field(job, "Restarts"))

    def _field(self, job: str, name: str) -> str:
        words = self.shell(f"scontrol show job -o {job}").split()
        return next(word.partition("=")[2] for word in words if word.startswith(f"{name}="))

    def wait(self, job: str, *states: str, seconds: float = 240) -> None:
        """Until the job is in one of the states; one that ends otherwise fails at once."""
        final = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}

        def there() -> bool:
            state = self.state(job)
            assert state in states or state not in final, f"job {job} is {state}:\n{self.logs()}"
            return state in states

        self.until(there, f"job {job} to be {' or '.join(states)}", seconds)

    def until(self, there: Callable[[], bool], what: str, seconds: float = 240) -> None:
        end = time.monotonic() + seconds
        while not there():
            assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}:\n{self.logs()}"
            time.sleep(0.5)

    def logs(self) -> str:
        files = [*sorted(self.work.glob("*.log")), self.folder / "slurmctld.log", self.folder / "slurmd.log"]
        return "\n".join(f"--- {file.name}\n{file.read_text()[-3000:]}" for file in files if file.is_file())


@contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """Starts the three daemons in `folder`; stops them, and whatever they started, at the end."""
    for name in ("munge", "state", "spool", "bin", "work"):
        (folder / name).mkdir(mode=0o755)
    host = socket.gethostname().partition(".")[0]
    (folder / "slurm.conf").write_text(
        CONF.format(folder=folder, host=host, ctld_port=_free_port(), slurmd_port=_free_port())
    )
    wrapper = folder / "bin" / "gentool"
    wrapper.write_text(WRAPPER.format(root=ROOT, python=sys.executable))
    wrapper.chmod(0o755)
    key = folder / "munge" / "key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    cluster = Cluster(folder)
    names = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    munge = ["munged", "--foreground", "--force"]
    munge += [f"--{option}={folder}/munge/{name}" for option, name in names.items()]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for command in (munge, ["slurmctld", "-D"], ["slurmd", "-D", "-N", host]):
            with open(folder / f"{command[0]}.out", "wb") as out:
                started.append(
                    subprocess.Popen(
                        command, env=cluster.environment, stdout=out, stderr=out, start_new_session=True
                    )
                )
            if command is munge:
                cluster.until((folder / "munge" / "socket").exists, "munged", 20)
        cluster.until(lambda: "idle" in _sinfo(cluster), "the node to be idle", 60)
        yield cluster
        subprocess.run(["scancel", "--full", "-s", "KILL", "-u", "root"], env=cluster.environment, timeout=60)
    finally:
        for daemon in reversed(started):
            daemon.terminate()
        for daemon in started:
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _sinfo(cluster: Cluster) -> str:
    done = subprocess.run(
        ["sinfo", "-h", "-o", "%T"], env=cluster.environment, capture_output=True, text=True, timeout=60
    )
    return done.stdout
