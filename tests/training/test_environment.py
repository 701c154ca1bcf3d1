"""What a run says it was made with."""

import subprocess

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


def test_the_difference_to_the_commit_can_be_applied(tmp_path, monkeypatch):
    def git(*arguments):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    (tmp_path / "a.py").write_text("one\n\n")
    git("init")
    git("add", "a.py")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-m", "first")
    git("config", "color.diff", "always")
    (tmp_path / "a.py").write_text("two\n\n")
    monkeypatch.setattr(include, "ROOT", tmp_path)
    diff = environment._git("diff", "--no-color", "--no-ext-diff", "HEAD", "--", "*.py")
    git("checkout", "a.py")
    (tmp_path / "code.diff").write_text(diff)
    git("apply", "code.diff")
    assert (tmp_path / "a.py").read_text() == "two\n\n"
