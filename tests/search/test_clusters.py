"""Where trials run, as the command line says it."""

import pytest

import search_hyperparams
from search.clusters import ENGINES, OWN, Cluster, cluster_of


def cluster(*options):
    return cluster_of(search_hyperparams.parse(["--data_dir", "d", "--parent_dir", "x", *options]))


def test_this_machine_is_no_cluster():
    assert cluster() is None
    assert cluster("--engine", "local", "--jobs", "3", "--gpus", "0,1", "--jobs_per_gpu", "2", "--spawn") is None


def test_what_each_training_asks_for():
    asked = ["--cpus_per_trial", "4", "--gpus_per_trial", "1"]
    options = [*asked, "--jobs", "9", "--pack", "5", "--sbatch", "-p gpu"]
    assert cluster("--engine", "slurm", *options) == Cluster("slurm", 9, 4, 1, 5, "-p gpu")
    assert cluster("--engine", "ray", *asked, "--ray_address", "auto") == Cluster("ray", None, 4, 1, address="auto")
    assert cluster("--engine", "slurm") == Cluster("slurm", None, 1, 0, 1, "", None)


@pytest.mark.parametrize("engine", ["local", *ENGINES])
@pytest.mark.parametrize("option", OWN)
def test_an_option_of_another_engine_is_refused(option, engine, capsys):
    value = [] if option == "spawn" else ["1"]
    given = ["--data_dir", "d", "--parent_dir", "x", "--engine", engine, f"--{option}", *value]
    if engine in OWN[option]:
        cluster_of(search_hyperparams.parse(given))
    else:
        assert search_hyperparams.main(given) == 2
        where = " and ".join(OWN[option])
        assert capsys.readouterr().err == f"--{option} is for --engine {where}, not for {engine}\n"


@pytest.mark.parametrize(
    ("engine", "jobs", "adaptive", "pruned", "number"),
    [("slurm", None, False, False, 100), ("slurm", 3, False, False, 100), ("slurm", 3, False, True, 3),
     ("slurm", None, False, True, 100), ("slurm", None, True, False, 8), ("slurm", 30, True, True, 30),
     ("ray", None, False, False, 100), ("ray", 3, False, False, 3), ("ray", None, True, False, 8),
     ("ray", 300, False, False, 100)],
)  # fmt: skip
def test_how_many_are_handed_over_together(engine, jobs, adaptive, pruned, number):
    assert Cluster(engine, jobs).at_once(100, adaptive=adaptive, pruned=pruned) == number
