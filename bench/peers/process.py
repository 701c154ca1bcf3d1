"""One measurement, in a process of its own: python -m bench.peers.process LOOP JOB prints what the clock saw.

The interpreter may be one that has only torch, torchvision and the peer.
"""

import importlib
import json
import platform
import re
import sys
from importlib.metadata import version
from pathlib import Path

from bench.peers.job import Clock, Job
from bench.peers.loops import LOOPS


def processor() -> str:
    """Its name."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.*)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.is_file() else None
    return found[1] if found else platform.processor()


def main() -> int:
    """Runs the loop and prints one line of JSON."""
    loop, job = LOOPS[sys.argv[1]], Job(**json.loads(sys.argv[2]))
    clock = Clock()
    module, function = loop.function.split(":")
    getattr(importlib.import_module(f"bench.peers.{module}"), function)(job, clock)
    import torch

    packages = dict.fromkeys(("torch", "torchvision", *loop.packages))
    found = clock.figures() | {
        "first_step": clock.first_step,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else processor(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
    }
    print(json.dumps(found))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
