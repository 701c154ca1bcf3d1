"""How a training that was forked ends: with its exit code, its last words and what it left to do at the end."""

import json
import signal
import subprocess
import sys

import pytest

import include

SERVE = """
import sys
from training import server
server.IMPORTED_ONCE = server.IMPORTED_LATER = ()
server._note_program = lambda: None
server.TRAIN = sys.argv[1]
server.main()
"""


@pytest.fixture
def serve(tmp_path):
    """A server without torch, whose train.py is this text; answers what it said of a training."""

    def ask(text):
        script = tmp_path / "train.py"
        script.write_text(text)
        with subprocess.Popen(
            [sys.executable, "-c", SERVE, str(script)], cwd=include.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as server:
            request = {"train": "x", "arguments": ["--model_dir", "x"], "environment": {"PLACE": str(tmp_path)}}
            server.stdin.write(json.dumps(request).encode() + b"\n")
            server.stdin.flush()
            assert json.loads(server.stdout.readline()) == {"ready": True}
            answer = json.loads(server.stdout.readline())
            server.stdin.close()
        return answer

    return ask


@pytest.mark.parametrize("code", [0, 3])
def test_what_was_to_be_done_at_the_end_is_done(serve, tmp_path, code):
    answer = serve(f"""
import atexit, os, pathlib, sys
atexit.register(lambda: pathlib.Path(os.environ["PLACE"], "end").write_text(" ".join(sys.argv[1:])))
sys.stderr.write("last words")
raise SystemExit({code})
""")
    assert answer == {"ended": "x", "code": code, "errors": "last words"}
    assert (tmp_path / "end").read_text() == "--model_dir x"


def test_a_fault_is_told(serve):
    answer = serve("raise ValueError('no reason')")
    assert answer["code"] == 1
    assert answer["errors"].endswith("ValueError: no reason\n")


def test_a_signal_is_told(serve):
    assert serve(f"import os; os.kill(os.getpid(), {signal.SIGKILL:d})")["code"] == -9
