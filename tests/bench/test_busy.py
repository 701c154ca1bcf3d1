"""Beside a busy program: what is held against what."""

import itertools

import pytest

from bench import busy
from bench.peers import measure
from bench.peers.loops import OURS
from training.threads import STAT

PEER = "torchvision tuned"


def test_each_loop_alone_and_beside_the_program(tiny_data, tmp_path, capsys, monkeypatch):
    running, rates = [], itertools.count(1)

    def measured(name, job, options):
        beside = bool(running)
        yield {"what": name, "seed": job.seed, "void": True, "images_per_second": 1000.0}
        rate = {(OURS, False): 40.0, (OURS, True): 20.0, (PEER, False): 30.0, (PEER, True): 9.0}[name, beside]
        yield {"what": name, "seed": job.seed, "void": False, "images_per_second": rate * next(rates)}

    class Program:
        def __init__(self, command):
            running.append(command)

        def kill(self):
            running.pop()

        def wait(self):
            assert not running

    monkeypatch.setattr(busy, "measured", measured)
    monkeypatch.setattr(busy, "installed", lambda python, names: names)
    monkeypatch.setattr(busy, "SETTLED", 0)
    monkeypatch.setattr(busy.subprocess, "Popen", Program)
    given = ["--data_dir", str(tiny_data), "--train", "24", "--valid", "12", "--out", str(tmp_path / "out"),
             "--json", str(tmp_path / "lines.jsonl"), "--rounds"]  # fmt: skip
    assert busy.main([*given, "1"]) == 0
    assert busy.main([*given, "1"]) == 0  # goes on with another seed
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in capsys.readouterr().out.splitlines()[-2:]]
    assert rows == [
        [OURS, "120.0", "80.0", "0.80 (0.60 to 1.00)", "2"],  # 40 x 1, 20 x 2; 40 x 5, 20 x 6
        [PEER, "150.0", "54.0", "0.37 (0.34 to 0.40)", "2"],  # 30 x 3, 9 x 4; 30 x 7, 9 x 8
    ]
    assert not running


@pytest.mark.skipif(not STAT.is_file(), reason="the system does not tell what the cores do")
def test_the_busy_program_makes_nothing_void():
    before = measure.cpu_seconds()
    with busy.busy_program():
        assert measure.cpu_seconds() > before + 0.05  # as what this process started, it is none of the others
