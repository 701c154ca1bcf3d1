"""Starts a measurement and watches the machine meanwhile."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from bench.peers.job import Job, cpu_seconds, family
from bench.peers.loops import LOOPS
from training.threads import STAT, busy_cores

ROOT: Final = Path(__file__).resolve().parent.parent.parent
WATCHED: Final = 0.5  # seconds between two looks at the memory


class FailedError(SystemExit):
    """A program ended with an error; its last line, which is printed, with exit code 1, where nobody catches it."""


def measure(name: str, job: Job, python: str) -> dict[str, Any]:
    """Runs a loop in a process of its own.

    Args:
        name: a key of LOOPS.
        job: what to train.
        python: the interpreter of the peers.

    Returns:
        What its clock saw; seconds from the start of the process to its first step and to its end; the most memory it
        held with the processes it started; the load before and after, and how many cores other programs kept busy on
        average.

    Raises:
        FailedError: it did.
    """
    scratch = Path(job.scratch)
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    loop = LOOPS[name]
    interpreter = sys.executable if loop.function.startswith("ours:") else python
    given = json.dumps(dataclasses.asdict(dataclasses.replace(job, tuned=loop.tuned)))
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    load, cores, cpu, started = os.getloadavg()[0], cores_now(), cpu_seconds(), time.monotonic()
    with (scratch / "stdout").open("w") as stdout, (scratch / "stderr").open("w") as stderr:
        command = [interpreter, "-m", "bench.peers.process", name, given]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=stdout, stderr=stderr)
        try:
            peak = watch(process)
        finally:
            process.kill()
            process.wait()
    seconds = time.monotonic() - started
    if process.returncode:
        last = (scratch / "stderr").read_text().strip().splitlines()[-1:]
        raise FailedError(f"{name}: exit code {process.returncode}: {''.join(last)}")
    found: dict[str, Any] = json.loads((scratch / "stdout").read_text().splitlines()[-1])
    others = None
    if cores is not None and (after := cores_now()) is not None:
        own = (cpu_seconds() - cpu) / seconds
        others = round(max(0.0, busy_cores(cores, after, os.sched_getaffinity(0)) - own), 2)
    first = round(found.pop("first_step") - started, 2)
    watched = {
        "first_step_s": first,
        "seconds": round(seconds, 2),
        "peak_mb": peak,
        "load": [round(load, 2), round(os.getloadavg()[0], 2)],
    }
    return {"what": name} | found | watched | {"others": others}


def cores_now() -> str | None:
    """What the cores have done so far; None where the system does not tell."""
    return STAT.read_text() if STAT.is_file() else None


def watch(process: subprocess.Popen[bytes]) -> float | None:
    """Waits for a process; returns the most memory, in MB, that it and those it started were seen to hold."""
    peak = 0.0
    while True:
        try:
            process.wait(WATCHED)
        except subprocess.TimeoutExpired:
            peak = max(peak, sum(map(memory_mb, family(process.pid))))
            continue
        return round(peak, 1) if peak else None


def memory_mb(pid: int) -> float:
    """The memory of a process, what it shares with others counted in parts (PSS)."""
    try:
        found = re.search(r"^Pss:\s*(\d+) kB$", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    except OSError:  # it has ended, or there is no such system
        return 0.0
    return int(found[1]) / 2**10 if found else 0.0
