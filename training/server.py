"""Trains on request, each time in a process of its own that is forked from this one, which has imported torch already.

python -m training.server [--spawn]

A line of JSON on standard input asks for something, a line on standard output answers (search/launchers.py is the
other end). When the input ends, because whoever asked is gone, the trainings are told to stop, and save what they have.
No GPU is touched here: what CUDA starts does not survive a fork.
"""

import atexit
import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import sys
import tempfile
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import include
from config.space import wrong_combinations

TRAIN: Final = str(include.ROOT / "train.py")
# What a training imports before its first step; torchvision brings with it what every optimizer of torch imports.
IMPORTED_ONCE: Final = ("training.run", "training.lr_find", "training.catalogues", "torchvision")
IMPORTED_LATER: Final = ("matplotlib.figure", "matplotlib.backends.backend_agg")  # after an epoch
GRACE_SECONDS: Final = 120.0  # for a training to save itself when nobody waits for it any more
TAIL_BYTES: Final = 4000
SET_PARENT_DEATH_SIGNAL: Final = 1  # PR_SET_PDEATHSIG of prctl(2)

Running = dict[int, tuple[str, BinaryIO]]  # by process id: the training's name and what it writes to stderr


def main() -> int:
    """Serves until standard input ends."""
    spawn = "--spawn" in sys.argv[1:]
    answers = os.dup(1)
    os.dup2(2, 1)  # nothing else may speak on the channel
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for whoever asked
    if not spawn:
        _import(IMPORTED_ONCE)
        _note_program()
    _say(answers, {"ready": True})

    running: Running = {}
    buffer = b""
    while True:
        readable, _, _ = select.select([0, ended], [], [])
        if ended in readable:
            os.read(ended, 65536)
            _report_ended(running, answers)
        if 0 in readable:
            data = os.read(0, 65536)
            if not data:
                break
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                request = json.loads(line)
                if "train" in request:
                    _start(request, running, spawn, (answers, ended, wake))
                elif "signal" in request:
                    _signal_all(running, request["signal"])
                else:
                    _say(answers, {"problems": _check(request)})
            if running and not spawn:  # the first have begun meanwhile, and import it themselves
                _import(IMPORTED_LATER)
    _stop(running)
    return 0


def _import(modules: Sequence[str]) -> None:
    """Imports what the trainings then share."""
    for module in modules:
        importlib.import_module(module)
    gc.freeze()  # the collector would write to it, and each training have a copy of its own
    for finalizer in vars(weakref.finalize)["_registry"]:
        finalizer.atexit = False  # it would take apart what was imported: in each training a tenth of a second


def _note_program() -> None:
    from training.environment import note_program

    note_program()


def _say(answers: int, message: dict[str, Any]) -> None:
    try:
        os.write(answers, json.dumps(message).encode() + b"\n")
    except BrokenPipeError:
        return  # the end of the input says the same


def _check(request: dict[str, Any]) -> list[str]:
    """What is wrong with the trials of a search, now that names which only torch knows can be looked up."""
    from training.catalogues import catalogues

    return wrong_combinations(Path(request["check"]), request["combinations"], catalogues())


def _start(request: dict[str, Any], running: Running, spawn: bool, own: Sequence[int]) -> None:
    parent = os.getpid()
    errors = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the training lasts)
    pid = os.fork()
    if pid:
        running[pid] = request["train"], errors
        return
    os.setsid()  # its loader workers end with it
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # which whoever started the server may have it ignore
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(128 + signal.SIGTERM)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number, descriptor in enumerate((nowhere, nowhere, errors.fileno())):
        os.dup2(descriptor, number)
    for descriptor in own:  # an answer's reader must see the end when the server is gone
        os.close(descriptor)
    os.environ.update(request["environment"])
    sys.argv = [TRAIN, *request["arguments"]]
    if spawn:
        os.execv(sys.executable, [sys.executable, *sys.argv])
    try:
        runpy.run_path(TRAIN, run_name="__main__")
    except SystemExit as end:
        _leave(int(end.code or 0))


def _leave(code: int) -> None:
    """Ends this process as the interpreter would, but takes nothing apart: that writes to all that was imported.

    To copy those pages first takes over a second (1.7 s; without, 0.02 s).
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _report_ended(running: Running, answers: int) -> None:
    for pid in list(running):
        waited, status = os.waitpid(pid, os.WNOHANG)
        if waited:
            name, errors = running.pop(pid)
            errors.seek(0, os.SEEK_END)
            errors.seek(max(errors.tell() - TAIL_BYTES, 0))
            tail = errors.read().decode("utf-8", "replace")
            errors.close()
            _say(answers, {"ended": name, "code": os.waitstatus_to_exitcode(status), "errors": tail})


def _signal_all(running: Running, number: int) -> None:
    for pid in running:  # not waited for yet, so the id is still its own
        os.kill(pid, number)


def _stop(running: Running) -> None:
    """Ends what runs: asks once, and does not ask again."""
    _signal_all(running, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while running and time.monotonic() < deadline:
        for pid in list(running):
            if os.waitpid(pid, os.WNOHANG)[0]:
                del running[pid]
        time.sleep(0.05)
    _signal_all(running, signal.SIGKILL)


if __name__ == "__main__":
    _leave(main())  # libraries would complain of what is left of them, as it was kept from the collector
