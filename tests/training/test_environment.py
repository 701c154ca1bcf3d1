"""What a run says it was made with."""

import include
from training import environment


def test_what_was_noted_is_said_whatever_changes_later(monkeypatch):
    monkeypatch.setattr(environment, "_noted", [])
    monkeypatch.setattr(environment, "_git", lambda *_: "one")
    now = environment.program()
    assert now.commit == "one"
    assert now.diff == b"one"
    assert now.packages["torch"]
    assert now.sources["utils.py"] == (include.ROOT / "utils.py").read_bytes()
    assert now.sources["training/loop.py"] == (include.ROOT / "training/loop.py").read_bytes()
    environment.note_program()
    monkeypatch.setattr(environment, "_git", lambda *_: "two")
    assert environment.program() == now
    monkeypatch.setattr(environment, "_noted", [])
    assert environment.program().commit == "two"
