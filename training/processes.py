"""The processes that train one experiment: here a single one; training/distributed.py has those that torchrun starts.

All of them run the same program. What they must agree on, exchange, or leave to the first of them goes through one
object, so that nothing else asks how many there are.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from config.run_folder import RunFolder
from utils import UserError

if TYPE_CHECKING:  # one process takes its folder before torch is imported
    from torch import Tensor, nn

    from model.data_loader import Batch

T = TypeVar("T")


class Processes:
    """A single process, which has nobody to ask.

    Attributes:
        index: which one this is.
        count: how many there are.
        sharers: how many of them are on this machine.
        restarted: whether they were started again after one of them had failed.
    """

    index, count, sharers = 0, 1, 1
    restarted = False

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.index == 0

    def folder(self, path: Path) -> RunFolder:
        """The experiment folder, as this process may use it."""
        return RunFolder(path) if self.first else Onlooker(path)

    def description(self) -> dict[str, Any]:
        """What environment.json says of them."""
        return {"count": self.count}

    # --- who does what when ---

    def in_turn(self) -> AbstractContextManager[None]:
        """A block through which the first process goes before the others."""
        return contextlib.nullcontext()

    def failing_together(self) -> AbstractContextManager[None]:
        """A block whose end by an exception, in any process, ends all of them by the same one."""
        return contextlib.nullcontext()

    # --- what they tell each other ---

    def highest(self, *numbers: int) -> tuple[int, ...]:
        """The highest of each number, over the processes."""
        return numbers

    def total(self, number: float) -> float:
        """The sum of a number over the processes."""
        return number

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first process makes, given to all; something that JSON can hold."""
        return make()

    def gather(self, tensors: dict[str, "Tensor"]) -> list[dict[str, "Tensor"]]:
        """The tensors of every process, on the CPU, in the first one; nothing in the others."""
        return [{name: tensor.cpu() for name, tensor in tensors.items()}]

    def check_alike(self, what: Mapping[str, Any]) -> None:
        """Makes sure that all of them do the same.

        Raises:
            UserError: naming what differs.
        """

    # --- the net ---

    def prepare(self, net: "nn.Module") -> "nn.Module":
        """The net, with layers that learn from whole batches wherever its images are."""
        return net

    def spread(self, net: "nn.Module") -> Callable[["Batch", bool], "Tensor"]:
        """The net as training calls it: with a batch, and whether the optimizer's step follows."""
        return lambda batch, _: net(batch.images)

    def fed(self, net: "nn.Module", batches: Iterable["Batch"]) -> Iterator[tuple["Tensor", int]]:
        """Images that the net's layers learn statistics from, and how many there are of them in all processes."""
        return ((batch.images, batch.total) for batch in batches)


ALONE: Final = Processes()


class Onlooker(RunFolder):
    """The experiment folder of all processes but the first: they read it, and leave it as it is."""

    def lock(self) -> None:
        """Held by the first process."""

    def write_all(self, files: Mapping[str, bytes]) -> None:
        """Written by the first process."""

    def set_state(self, state: str, **fields: Any) -> None:
        """Set by the first process."""

    def sweep(self, prefix: str) -> None:
        """Swept by the first process."""

    def move_results_aside(self) -> Path | None:
        """Moved by the first process."""
        return None


def join() -> AbstractContextManager[Processes]:
    """Meets the other processes of this training, if torchrun, or whatever sets the same variables, started several.

    Raises:
        UserError: when the variables do not fit together.
    """
    if "RANK" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1":
        return contextlib.nullcontext(ALONE)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # below that it tells people about its own settings
    from training.distributed import Together

    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT")
    given = {name: os.environ.get(name, "0" if name.startswith("TORCH") else "") for name in names}
    if wrong := [name for name, value in given.items() if not value.isdigit()]:
        raise UserError(f"{', '.join(wrong)}: not set as torchrun sets it; several processes are started by torchrun")
    return Together(*(int(value) for value in given.values()))
