"""How many threads the operators of torch are to use: as many as there are cores that nobody else keeps busy.

Threads of one operator wait for each other by spinning. Where another program holds the core of one of them, the others
burn their time: on two cores that several programs were using, a training in bf16 was several times faster with one
thread than with two. One thread fewer costs its share, and no more (python -m bench.busy: ours beside a loop that uses
all threads).
"""

import os
import time
from pathlib import Path
from typing import Final

SECONDS: Final = 0.2  # of watching, at least
SPARED: Final = 0.25  # cores that others may take before a thread is given up
STAT: Final = Path("/proc/stat")


class Watch:
    """Sees what others make the cores do, from its making on."""

    def __init__(self) -> None:
        self._before = STAT.read_text() if STAT.is_file() else None
        self._own, self._started = own_seconds(), time.monotonic()

    def idle_threads(self) -> tuple[int, float]:
        """As many threads as torch would use, less the cores that others have kept busy, but at least one.

        Returns:
            The threads, and the cores that others were seen to keep busy; 0 where that was not looked at: when
            OMP_NUM_THREADS says how many threads are wanted, there is one anyway, or the system does not tell.
        """
        import torch  # a program watches while this is imported

        most = torch.get_num_threads()
        if most == 1 or "OMP_NUM_THREADS" in os.environ or self._before is None:
            return most, 0.0
        time.sleep(max(0.0, SECONDS - (time.monotonic() - self._started)))
        own, seconds = own_seconds() - self._own, time.monotonic() - self._started
        cores = os.sched_getaffinity(0)
        others = max(0.0, busy_cores(self._before, STAT.read_text(), cores) - own / seconds)
        return max(1, min(most, int(len(cores) - others + SPARED))), others


def own_seconds() -> float:
    """Processor time of this process, and of those it started that have ended."""
    return sum(os.times()[:4])


def busy_cores(before: str, after: str, cores: set[int]) -> float:
    """How many of some cores were busy on average between two readings of /proc/stat (proc(5))."""
    busy = total = 0
    for old, new in zip(_times(before, cores), _times(after, cores), strict=True):
        spent = [last - first for first, last in zip(old, new, strict=True)]
        busy += sum(spent) - spent[3] - spent[4]  # idle, and idle while waiting for a disk
        total += sum(spent)
    return len(cores) * busy / total if total else 0.0


def _times(text: str, cores: set[int]) -> list[list[int]]:
    """Of each core the ticks it has spent: user, nice, system, idle, iowait, irq, softirq, steal."""
    lines = (line.split() for line in text.splitlines())
    wanted = {f"cpu{core}" for core in cores}
    return [[int(ticks) for ticks in fields[1:9]] for fields in lines if fields and fields[0] in wanted]
