"""What is seen while a search runs."""

import json
import sys

import pytest

from config.run_folder import RunFolder
from search import live
from search.layout import lay_out
from search.live import Board
from search.plan import make_plan
from search.terminal import Redrawn
from tests.search.searches import search_folder


@pytest.fixture
def plan(tmp_path):
    """Three trials: one has finished, one is in its third epoch, one waits."""
    plan = make_plan(search_folder(tmp_path / "x", {"learning_rate": [0.1, 0.01, 0.001]}, num_epochs=8))
    lay_out(plan)
    first, second, _ = plan.trials
    RunFolder(first.path).write_json("metrics_val_best_weights.json", {"accuracy": 0.875})
    RunFolder(first.path).set_state("finished")
    rows = [{"epoch": epoch, "valid": {"loss": 1.5, "accuracy": epoch / 10}} for epoch in (1, 2)]
    (second.path / "history.json").write_text(json.dumps({"epochs": rows}))
    RunFolder(second.path).set_state("running")
    return plan


def test_a_line_for_each_running_trial_and_one_for_the_best(plan, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(live, "REFRESH_SECONDS", 0.0)
    board = Board(plan)
    board.show(plan.trials[1:2], 1)
    assert capsys.readouterr().out.splitlines() == [
        "  learning_rate_0.01  epoch 2/8  loss 1.5000  accuracy 0.2000",
        "1 of 3 finished, 1 waiting; best learning_rate_0.1: accuracy 0.875",
    ]
    board.show([], 0)
    assert capsys.readouterr().out.startswith("\x1b[2A\x1b[J1 of 3 finished")


def test_what_a_cluster_has_in_its_queue_waits_and_the_last_line_is_always_seen(plan, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    _, second, third = plan.trials
    Board(plan).show([second, third], 0)
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 2
    assert shown[1].startswith("1 of 3 finished, 1 waiting")
    monkeypatch.setenv("LINES", "5")
    Board(plan).show([second] * 9, 0)
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 4
    assert shown[3].startswith("1 of 3 finished, 0 waiting")


def test_off_a_terminal_only_how_trials_ended(plan, capsys, caplog):
    board = Board(plan)
    board.show(plan.trials[1:2], 1)
    assert capsys.readouterr().out == ""
    _, second, third = plan.trials
    RunFolder(second.path).write_json("metrics_val_best_weights.json", {"accuracy": 0.9})
    RunFolder(second.path).set_state("finished")
    RunFolder(third.path).set_state("failed", reason="oom", message="too \x1b large")
    with caplog.at_level("INFO", logger="dossier"):
        board.tell(second)
        board.tell(third)
    assert caplog.messages == [
        "learning_rate_0.01: finished, accuracy 0.9",
        "learning_rate_0.001: failed (oom): too \\x1b large",
    ]
    assert board.best() == second


def test_no_more_lines_than_the_terminal_holds(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "10")
    monkeypatch.setenv("LINES", "4")
    screen = Redrawn()
    screen.draw([f"{number} and more than ten" for number in range(9)])
    assert capsys.readouterr().out == "0 and mor\n1 and mor\n2 and mor\n"
    screen.clear()
    screen.clear()
    assert capsys.readouterr().out == "\x1b[3A\x1b[J"
