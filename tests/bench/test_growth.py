"""Growth with epochs: what the table makes of a history."""

import argparse
import json
from pathlib import Path

from bench import growth


def test_memory_is_held_against_that_of_the_first_epochs(tiny_data, tmp_path, monkeypatch):
    def train_(given):
        held = [{"memory_mb": 100.0 + epoch} for epoch in range(1, 21)]
        (Path(given[3]) / "history.json").write_text(json.dumps({"epochs": held}))
        return 0

    monkeypatch.setattr("train.main", train_)
    monkeypatch.setattr(growth, "OUT", tmp_path)
    table = growth.with_epochs(argparse.Namespace(data_dir=tiny_data, epochs=20))
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()[2:]]
    assert rows == [["2", "102", "+0.0%"], ["10", "110", "+7.8%"], ["20", "120", "+17.6%"]]
    params = json.loads((tmp_path / "epochs" / "params.json").read_text())
    assert (params["arch"], params["num_epochs"]) == ("conv", 20)
