"""Where the trials of a search run, when not as processes of this machine: what the options say, and which launcher."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from search.launchers import Launcher
from search.ray_cluster import Ray
from search.slurm import Slurm
from utils import UserError

LOCAL: Final = "local"
FEW: Final = 8  # with more at the same time a sampler knows too little, unless asked for more


@dataclass(frozen=True)
class Cluster:
    """A cluster, and what each training asks of it.

    Attributes:
        engine: its name in ENGINES.
        jobs: trainings at the same time; None: as many as the cluster has room for.
        cpus: cores of each training.
        gpus: GPUs of each training.
        pack: trainings of one job, one after the other.
        sbatch: further options of sbatch, as one would type them.
        address: of a Ray cluster; None: one on this machine.
    """

    engine: str
    jobs: int | None = None
    cpus: int = 1
    gpus: int = 0
    pack: int = 1
    sbatch: str = ""
    address: str | None = None

    def at_once(self, total: int, *, adaptive: bool, pruned: bool) -> int:
        """How many trainings to hand over together: all, where what comes next does not depend on how they end."""
        if self.engine == "slurm" and not (adaptive or pruned):
            return total  # it keeps to `jobs` by itself
        return min(self.jobs or (FEW if adaptive else total), total)

    def launcher(self, parent: Path) -> Launcher:
        """What starts the trials of the search in that folder."""
        return ENGINES[self.engine](self, parent)


ENGINES: Final[dict[str, Callable[[Cluster, Path], Launcher]]] = {
    "slurm": lambda cluster, parent: Slurm(
        parent, cpus=cluster.cpus, gpus=cluster.gpus, jobs=cluster.jobs, pack=cluster.pack, sbatch=cluster.sbatch
    ),
    "ray": lambda cluster, _: Ray(cpus=cluster.cpus, gpus=cluster.gpus, address=cluster.address),
}
# The options that only some engines know.
OWN: Final = {
    "gpus": (LOCAL,),
    "jobs_per_gpu": (LOCAL,),
    "spawn": (LOCAL,),
    "cpus_per_trial": ("slurm", "ray"),
    "gpus_per_trial": ("slurm", "ray"),
    "pack": ("slurm",),
    "sbatch": ("slurm",),
    "ray_address": ("ray",),
}


def add_options(parser: argparse.ArgumentParser, positive: Callable[[str], int]) -> None:
    """The options of search_hyperparams.py that say where trials run."""
    group = parser.add_argument_group("where the trainings run (docs/clusters.md)")
    group.add_argument("--engine", choices=(LOCAL, *ENGINES), default=LOCAL, help="this machine, Slurm or Ray")
    group.add_argument("--cpus_per_trial", type=positive, metavar="N", help="cores of each training (1)")
    group.add_argument("--gpus_per_trial", type=positive, metavar="N", help="GPUs of each training (none)")
    group.add_argument("--sbatch", metavar='"OPTIONS"',
                       help='more options of sbatch, as in --sbatch="-p gpu -t 4:00:00"')  # fmt: skip
    group.add_argument("--pack", type=positive, metavar="K", help="so many trainings in one job, one after the other")
    group.add_argument("--ray_address", metavar="ADDRESS", help="of a Ray cluster that is up; auto: the one here")


def cluster_of(options: argparse.Namespace) -> Cluster | None:
    """The cluster that the options name; None: this machine.

    Raises:
        UserError: for an option that the engine does not know.
    """
    given = vars(options)
    for name, engines in OWN.items():
        if given[name] not in (None, False) and options.engine not in engines:
            raise UserError(f"--{name} is for --engine {' and '.join(engines)}, not for {options.engine}")
    if options.engine == LOCAL:
        return None
    return Cluster(
        options.engine,
        jobs=options.jobs,
        cpus=options.cpus_per_trial or 1,
        gpus=options.gpus_per_trial or 0,
        pack=options.pack or 1,
        sbatch=options.sbatch or "",
        address=options.ray_address,
    )
