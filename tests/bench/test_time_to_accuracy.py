"""Time to accuracy: which peer is held against ours, with which seeds, and what the tables say."""

import json

import pytest

from bench import time_to_accuracy
from bench.peers.loops import OURS

PEERS = ["torchvision tuned", "lightning tuned"]
ACCURACIES = {(PEERS[0], 0.001): 0.7, (PEERS[0], 0.01): 0.9, (PEERS[1], 0.001): 0.8, (PEERS[1], 0.01): 0.6}


@pytest.fixture
def measured(monkeypatch):
    """Stands in for the trainings: (what, highest rate, seed) of each, the first of all being void."""
    calls, kept = [], []

    def measure(name, job, options):
        calls.append((name, job.peak, job.seed))
        about = {"what": name, "peak": job.peak, "seed": job.seed, "seconds": 10.0 + job.seed}
        if not kept:
            yield about | {"accuracy": 1.0, "seconds": 99.0, "void": True}
        if name == OURS:
            about["seconds"] /= 2
        kept.append(about | {"accuracy": 0.95 if name == OURS else ACCURACIES[name, job.peak], "void": False})
        yield kept[-1]

    monkeypatch.setattr(time_to_accuracy, "measured", measure)
    monkeypatch.setattr(time_to_accuracy, "installed", lambda python, names: names)
    return calls


def test_the_best_tuned_peer_races_with_new_seeds(measured, tiny_data, tmp_path, capsys):
    kept = tmp_path / "lines.jsonl"
    given = ["--data_dir", str(tiny_data), "--train", "24", "--valid", "12", "--experiment", "experiments/digits",
             "--peers", *PEERS, "--peaks", "0.001", "0.01", "--out", str(tmp_path / "out"), "--json", str(kept),
             "--pairs", "2"]  # fmt: skip
    assert time_to_accuracy.main(given) == 0
    assert measured[:4] == [(name, peak, 0) for name in PEERS for peak in (0.001, 0.01)]
    best = (PEERS[0], 0.01)
    assert measured[4:] == [(OURS, 0.01, 1), (*best, 1), (*best, 2), (OURS, 0.01, 2)]
    shown = capsys.readouterr().out.partition("| one seed")[2].splitlines()
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in shown if row]
    assert [PEERS[0], "0.01", "0.9000", "10"] in cells
    assert all("1.0000" not in row for row in cells)  # what is void counts nowhere
    assert cells[-3:] == [
        [OURS, "0.9500 (n = 2)", "5.75 (5.50 to 6.00)"],
        ["torchvision tuned, 0.01", "0.9000 (n = 2)", "11.50 (11.00 to 12.00)"],
        ["ours less the other's; times the other's", "0.0500 (n = 2)", "0.50 (0.50 to 0.50)"],
    ]

    measured.clear()
    assert time_to_accuracy.main([*given[:-1], "1"]) == 0  # goes on where it was
    assert measured == [(OURS, 0.01, 3), (*best, 3)]
    assert len(kept.read_text().splitlines()) == 11
    assert json.loads(kept.read_text().splitlines()[0])["settings"]["experiment"] == "digits"
