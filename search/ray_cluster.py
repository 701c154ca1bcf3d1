"""Trainings as tasks of Ray, which says on which machine of its cluster there is room for each."""

import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final

import include
from config.space import Combination
from search.launchers import SECONDS_TO_SAVE, Ended, Environment, LauncherLost, Server, wrong_here
from training.signals import ASKED
from utils import UserError, log, optional_import, printable

LOST: Final = "the Ray cluster is gone"
# Of Ray, unless the environment says otherwise.
SETTINGS: Final = {
    "RAY_USAGE_STATS_ENABLED": "0",  # it would report to its makers
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else it announces a change at each start
    "RAY_worker_niceness": "0",  # else trainings yield to every other process of the machine
}


class Ray:
    """Trainings as tasks of Ray. A task is one process that runs train.py; when this process ends, they are stopped.

    Args:
        cpus: cores of each training.
        gpus: GPUs of each training.
        address: of a cluster that is up; None: one of this machine alone, for as long as this process lasts.

    Raises:
        UserError: without Ray, or when the cluster is not there.
    """

    remedy = "ray status says how the cluster is"

    def __init__(self, *, cpus: int = 1, gpus: int = 0, address: str | None = None) -> None:
        self._ray = _connected(address)
        self._warn_of_too_little(cpus, gpus, address)
        self._task = self._ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(_found_from(str(include.ROOT)))
        self._cpus = cpus
        self._running: dict[Any, str] = {}  # by Ray's reference to the result

    def wrong(self, params: Path, combinations: Sequence[Combination]) -> list[str]:
        """What is wrong with the trials of a search, as far as only torch knows it: asked on this machine."""
        return wrong_here(params, combinations)

    def held(self) -> Collection[str]:
        """None: trainings end with the process that had them started."""
        return ()

    def train(self, name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        """Has train.py started with these arguments as soon as there is room."""
        result = self._task.remote(name, list(arguments), dict(environment), self._cpus, str(Path.cwd()))
        self._running[result] = name

    def signal(self, number: int) -> None:
        """Has every training stop, whatever the signal; those that have not begun do not begin."""
        for result in self._running:
            self._ray.cancel(result)

    def wait(self, seconds: float) -> list[Ended]:
        """The trainings that have ended, after at most so long.

        Raises:
            LauncherLost: when the cluster is no more.
        """
        if not self._running:
            time.sleep(seconds)
            return []
        try:
            self._ray.wait(list(self._running), num_returns=1, timeout=seconds)
            done, _ = self._ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        except (self._ray.exceptions.RayError, ConnectionError) as error:
            raise LauncherLost(LOST) from error
        return [self._ended(result) for result in done]

    def kill(self) -> None:
        """Leaves it to Ray, which ends the tasks of a process that is gone."""

    def close(self) -> None:
        """Stops the trainings that still run, and lets go of the cluster when they have saved what they have."""
        with contextlib.suppress(self._ray.exceptions.RayError, ConnectionError):  # a cluster that is gone
            if self._running:
                self.signal(signal.SIGTERM)
                self._ray.wait(list(self._running), num_returns=len(self._running), timeout=SECONDS_TO_SAVE)
        self._ray.shutdown()

    def _ended(self, result: Any) -> Ended:
        name = self._running.pop(result)
        try:
            return Ended(name, *self._ray.get(result))
        except self._ray.exceptions.TaskCancelledError:  # before it began
            return Ended(name, -signal.SIGTERM, "")
        except self._ray.exceptions.RayTaskError as error:  # the task could not run where it was put
            return Ended(name, 1, str(error))
        except self._ray.exceptions.RayError as error:  # its process or its machine is gone
            log.warning("%s: %s", name, printable(str(error).strip().partition("\n")[0]))
            return Ended(name, -signal.SIGKILL, "")

    def _warn_of_too_little(self, cpus: int, gpus: int, address: str | None) -> None:
        """Says so when a training would have to wait for a machine that is not there."""
        there = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(has.get("CPU", 0) >= cpus and has.get("GPU", 0) >= gpus for has in there):
            message = f"no machine of the Ray cluster has {cpus} cores and {gpus} GPUs for a training"
            if address is None:
                self._ray.shutdown()
                raise UserError(message)
            log.warning("%s; waiting for one", message)


def _found_from(root: str) -> Callable[..., tuple[int, str]]:
    """The function below, for processes that may look for modules elsewhere first."""

    def task(*arguments: Any) -> tuple[int, str]:
        if sys.path[0] != root:
            sys.path.insert(0, root)
        from search.ray_cluster import train

        return train(*arguments)

    return task


def train(name: str, arguments: Sequence[str], environment: Environment, cpus: int, folder: str) -> tuple[int, str]:
    """One training, in a process of its own, started from a process of Ray's; returns its exit code and errors."""
    import ray

    asked = list[int]()

    def ask(number: int, _frame: FrameType | None) -> None:
        asked.append(number)

    before = signal.signal(signal.SIGINT, ask)  # how Ray cancels a task that runs
    os.chdir(folder)
    server = Server(cpus, spawn=True)
    try:
        gpus = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, ray.get_gpu_ids()))}
        ended = server.train_to_the_end(name, arguments, environment | gpus, lambda: bool(asked))
    except LauncherLost as error:
        return -signal.SIGKILL, str(error)
    finally:
        server.close()
        signal.signal(signal.SIGINT, before)
    return ended.code, ended.errors


def _connected(address: str | None) -> Any:
    """Ray, connected to a cluster.

    Raises:
        UserError: when it is not installed, or there is none at the address.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    ray = optional_import("ray", "ray")
    handlers = {number: signal.getsignal(number) for number in ASKED}
    # "local" starts one, whatever other cluster was last seen on this machine.
    own: dict[str, Any] = {"address": "local", "include_dashboard": False} if address is None else {"address": address}
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"--ray_address {address}: {printable(str(error).strip().partition(chr(10))[0])}") from error
    for number, handler in handlers.items():  # some of which Ray has taken
        signal.signal(number, handler)
    return ray
