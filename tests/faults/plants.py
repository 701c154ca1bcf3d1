"""Faults that a training can be given; each is planted in a fork of tests/faults/server.py before train.main runs."""

import copy
import hashlib
import importlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import utils
from model import small_nets
from tests.faults.boundaries import Boundaries, kill
from training import curves, environment

tell: Callable[[], object] = lambda: None  # noqa: E731  set by the server: says that the moment has come
tells: list[str] = []  # the functions at which it will be said
at_the_end: list[Callable[[], object]] = []


def wrap(where: str, around: Callable[..., Any]) -> None:
    """Puts a function around another.

    Args:
        where: "module:function" or "module:Class.method".
        around: called with the function and its arguments.
    """
    module, _, dotted = where.partition(":")
    owner: Any = importlib.import_module(module)
    *path, name = dotted.split(".")
    for part in path:
        owner = getattr(owner, part)
    call = getattr(owner, name)
    setattr(owner, name, lambda *args, **kwargs: around(call, *args, **kwargs))


def reach(where: str, count: int = 1, pause: float = 0.0) -> None:
    """Tells the server when a function is called for the count-th time, and waits there for some seconds."""

    def then() -> None:
        tell()
        time.sleep(pause)

    at_call(where, count, then)
    tells.append(where)


def lose_worker(where: str, count: int = 1) -> None:
    """Kills a loader worker when a function is called for the count-th time."""
    at_call(where, count, lambda: os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL))


def at_call(where: str, count: int, then: Callable[[], object]) -> None:
    """Does something before the count-th call of a function."""
    seen = 0

    def around(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == count:
            then()
        return call(*args, **kwargs)

    wrap(where, around)


def small_net() -> None:
    """Gives the net a hundredth of its weights, whose number has no part in what is tested."""
    vars(small_nets)["CONV_WIDTHS"] = (4, 6, 12)


def quick() -> None:
    """Leaves out what takes time and has no part in what is tested: drawing the curves, copying the sources."""
    no_drawing()
    wrap("training.environment:sources", lambda call, *args: {})
    no_git()


def draw_seldom() -> None:
    """Draws after the first two epochs and at the end, so that each run writes the same files as often."""
    vars(curves)["SHARE"] = 1e-9


def no_drawing() -> None:
    """Writes the history itself in the place of the curves, as often."""
    draw_seldom()
    wrap("training.recorder:plot_history", lambda call, history, title: utils.to_json(history))


def no_git() -> None:
    """Trains as where there is no git, which need not be started then."""
    wrap("training.environment:_git", lambda call, *args: None)


def few_sources() -> None:
    """Copies one package's sources, as each of them is written alike."""
    vars(environment)["SOURCES"] = ("config",)
    no_git()


# --- calls that change files -----------------------------------------------------------------------------------------


def boundaries(roots: dict[str, str], note: str) -> None:
    """Notes the labels of all boundaries in a file."""
    seen = Boundaries(roots, lambda number, label: None)
    seen.wrap()
    at_the_end.append(lambda: Path(note).write_bytes(utils.to_json(seen.labels)))


def killed_at(roots: dict[str, str], number: int, lost: str = "", flushing: bool = True) -> None:
    """Kills the process at a boundary.

    Args:
        roots: see Boundaries.
        number: of the boundary.
        lost: what goes with it, as Boundaries.lose names it: "" as when only the process ends, more as when the power
            fails.
        flushing: False: a program that forgets to flush.
    """

    def at(now: int, label: str) -> None:
        if now == number:
            os.write(1, f"{label}: {seen.lose(lost)} lost".encode())
            kill()

    seen = Boundaries(roots, at, flushing)
    seen.wrap()


def fails_at(roots: dict[str, str], number: int, code: int) -> None:
    """Lets the call at a boundary fail.

    Args:
        roots: see Boundaries.
        number: of the boundary.
        code: errno of the failure.
    """

    def at(now: int, label: str) -> None:
        if now == number:
            os.write(1, f"{label}\n".encode())
            raise OSError(code, os.strerror(code))

    Boundaries(roots, at).wrap()


def fails_in(where: str, code: int) -> None:
    """Lets every flush within a function fail, with an errno."""

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    def around(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with mock.patch("os.fsync", refuse):
            return call(*args, **kwargs)

    wrap(where, around)


def note_writes(note: str) -> None:
    """Notes what is written into the experiment folder: a line with the sha256 and the path of each file."""

    def around(call: Callable[..., object], folder: Path, files: Mapping[str, bytes]) -> object:
        with Path(note).open("a") as file:
            for name, data in files.items():
                file.write(f"{hashlib.sha256(data).hexdigest()} {folder / name}\n")
        return call(folder, files)

    wrap("config.run_folder:write_all_atomic", around)
    wrap("utils:write_all_atomic", around)  # which write_atomic calls


# --- the checkpoint --------------------------------------------------------------------------------------------------


def forget(key: list[str], delete: bool = False) -> None:
    """Continues without one field of the checkpoint.

    Args:
        key: the way to it; "*" stands for every key.
        delete: whether it is missing; otherwise it has the value that a fresh start gives it.
    """

    def around(call: Callable[..., Any], recorder: Any, saved: dict[str, Any], state: Any) -> None:
        learning = {name: part.state_dict() for name, part in recorder.learning.items()}
        fresh = copy.deepcopy({"learning": learning, "progress": state.state_dict()})
        _replace(saved, key, None if delete else fresh)
        call(recorder, saved, state)

    wrap("training.recorder:Recorder.restore", around)


def _replace(saved: Any, key: list[str], fresh: Any) -> None:
    first, *rest = key
    for name in list(saved) if first == "*" else [first]:
        known = fresh is not None and name in fresh
        if rest:
            _replace(saved[name], rest, fresh[name] if known else None)
        elif known:
            saved[name] = fresh[name]
        else:
            del saved[name]
