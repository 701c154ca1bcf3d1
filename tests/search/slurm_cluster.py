"""A real Slurm of one machine for tests: munged, slurmctld and slurmd of its own, in a folder of its own."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("setpriv", "munged", "mungekey", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo")
LONGEST_ARRAY = 8  # MaxArraySize: tasks
SECONDS = 60.0

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={place}/munge.socket
CommunicationParameters=NoInAddrAny
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
MaxArraySize={longest}
KillWait=20
GresTypes=gpu
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=6 RealMemory=2000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why there can be no cluster here; empty when there can."""
    if os.geteuid() != 0:
        return "slurmd needs root"
    path = os.environ["PATH"] + ":/usr/sbin"
    absent = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
    return f"without {', '.join(absent)}: apt-get install slurm-wlm" if absent else ""


@contextlib.contextmanager
def slurm_cluster() -> Iterator[dict[str, str]]:
    """Yields the environment in which sbatch and its siblings find the cluster."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, contextlib.ExitStack() as stack:
        place = Path(folder)
        for name in ("state", "spool"):
            (place / name).mkdir()
        host = socket.gethostname().split(".")[0]
        config = CONFIG.format(host=host, place=place, ports=_free_ports(2), longest=LONGEST_ARRAY)
        (place / "slurm.conf").write_text(config)
        for index in range(2):
            (place / f"gpu{index}").touch()
        (place / "gres.conf").write_text(f"Name=gpu File={place}/gpu[0-1]\n")
        (place / "cgroup.conf").touch()
        environment = os.environ | {
            "SLURM_CONF": str(place / "slurm.conf"),
            "PATH": os.environ["PATH"] + ":/usr/sbin",
        }
        subprocess.run(["mungekey", "--create", f"--keyfile={place}/key"], check=True, env=environment)
        munge = [f"--{name}={place}/munge.{name}" for name in ("socket", "pid-file", "log-file", "seed-file")]
        for command in (
            ["munged", "--foreground", "--force", f"--key-file={place}/key", *munge],
            ["slurmctld", "-D"],
            ["slurmd", "-D", "-N", host],
        ):
            stack.enter_context(_running(command, environment, place / f"{command[0]}.out"))
        _wait_until_idle(environment, place)
        yield environment


@contextlib.contextmanager
def _running(command: list[str], environment: dict[str, str], output: Path) -> Iterator[None]:
    with output.open("w") as file:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig=TERM", *command],  # no test that is killed leaves a cluster behind
            env=environment, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_idle(environment: dict[str, str], place: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        state = subprocess.run(["sinfo", "--noheader", "--format=%T"], env=environment, capture_output=True, text=True)
        if state.stdout.strip() == "idle":
            return
        time.sleep(0.1)
    logs = "\n".join(path.read_text()[-2000:] for path in sorted(place.glob("*.log")) + sorted(place.glob("*.out")))
    raise RuntimeError(f"the Slurm of this test does not come up:\n{logs}")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
