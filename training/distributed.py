"""The processes that torchrun starts to train one experiment together, each with a part of every batch.

Gradients are summed over them while they are computed (DistributedDataParallel), so that all hold the same weights.
What one of them meets ends all: it is told through the store at which they met, and the first one writes it down.
"""

import contextlib
import gc
import json
import platform
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

import torch
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed import GradBucket, PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from config.run_folder import RunFolder
from model.data_loader import Batch
from training.one_end import POLL_SECONDS, CutOffError, OneEnd
from training.processes import Processes
from training.synchronised_norm import SynchronisedBatchNorm, synchronise
from utils import UserError, log

T = TypeVar("T")

TIMEOUT: Final = timedelta(minutes=30)  # of one exchange; a process that is gone is noticed at once


class Together(Processes):
    """Several processes; a context in which they are connected.

    Args:
        index: which one this is.
        count: how many there are.
        local: which one of this machine.
        sharers: how many of them are on this machine.
        restarts: how often they were started again.
    """

    def __init__(self, index: int, count: int, local: int, sharers: int, restarts: int) -> None:
        self.index, self.count, self.sharers = index, count, sharers
        self.restarted = restarts > 0
        self.backend = "gloo"
        self._local = local
        self._turns = 0

    def __enter__(self) -> "Together":
        log.disabled = not self.first
        try:
            store, _, _ = next(rendezvous("env://", self.index, self.count, timeout=TIMEOUT))
            self.restarted |= store.add("starts", int(self.first)) > 1
            store = PrefixStore(_meet(store, self.index, self.count), store)
            self._store = PrefixStore("dossier", store)
            self._end = OneEnd(self._store, self.index, self.count)
            group = PrefixStore("group", store)
            self._choose_gpu()
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if self.backend == "nccl" else "gloo",
                store=group,
                rank=self.index,
                world_size=self.count,
                timeout=TIMEOUT,
            )
        except (ValueError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"the {self.count} processes of this training cannot meet: {reason}") from error
        self._end.watch()
        return self

    def _choose_gpu(self) -> None:
        """Takes a GPU, if there is one; where each process has its own, they exchange gradients through nccl."""
        if gpus := torch.cuda.device_count():
            torch.cuda.set_device(self._local % gpus)
            if self.sharers <= gpus and dist.is_nccl_available():
                self.backend = "nccl"

    def __exit__(self, _: object, error: BaseException | None, __: TracebackType | None) -> None:
        try:
            if error is None:
                self.highest(0)  # nobody leaves before all are through
                self._end.over()
                dist.destroy_process_group()
        except RuntimeError as cut_off:
            error = cut_off
        if not isinstance(error, Exception | KeyboardInterrupt):
            return
        shared = self._end.shared(error)
        if not self._end.is_mine:
            shared.args = ()  # said by that one
        if shared is not error:
            raise shared from error

    def folder(self, path: Path) -> RunFolder:
        """Also where the state is written when this process has to be ended."""
        self._end.folder = super().folder(path)
        return self._end.folder

    def description(self) -> dict[str, Any]:
        """What environment.json says of them."""
        return super().description() | {"on_this_machine": self.sharers, "backend": self.backend}

    # --- who does what when ---

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        self._turns += 1
        turn = f"turn {self._turns}"
        while not self.first and not self._store.check([turn]):
            if self._end.told() is not None:
                raise CutOffError
            time.sleep(POLL_SECONDS)
        yield
        if self.first:
            self._store.set(turn, "done")

    def in_turn(self) -> AbstractContextManager[None]:
        """The others wait until the first is through."""
        return self._turn()

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except (Exception, KeyboardInterrupt) as error:
            shared = self._end.shared(error)
            if shared is error:
                raise
            if self._end.record is not None:
                details = "process {process}:\n{details}".format(**self._end.record)
                log.error("%s", details, extra={"file_only": True})
            raise shared from error

    def failing_together(self) -> AbstractContextManager[None]:
        """An exception is told to the others, or replaced by the one that another process told of."""
        return self._failing()

    # --- what they tell each other ---

    def highest(self, *numbers: int) -> tuple[int, ...]:
        """One exchange for all numbers."""
        values = torch.tensor(numbers)
        dist.all_reduce(values, dist.ReduceOp.MAX)
        self._end.alive()
        return tuple(values.tolist())

    def total(self, number: float) -> float:
        """One exchange."""
        value = torch.tensor(number, dtype=torch.float64)
        dist.all_reduce(value)
        return value.item()

    def from_first(self, make: Callable[[], T]) -> T:
        """As JSON, which gives back every number exactly."""
        data = json.dumps(make()).encode() if self.first else b""
        (size,) = self.highest(len(data))
        buffer = _as_tensor(data, size)
        dist.broadcast(buffer, 0)
        value: T = json.loads(buffer.numpy().tobytes())
        return value

    def gather(self, tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """Tensors may be longer in one process than in another, or missing."""
        data = safetensors_bytes({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
        (size,) = self.highest(len(data))
        parts = [torch.empty(size, dtype=torch.uint8) for _ in range(self.count)] if self.first else None
        sizes = [torch.empty(1, dtype=torch.int64) for _ in range(self.count)] if self.first else None
        dist.gather(torch.tensor([len(data)]), sizes)
        dist.gather(_as_tensor(data, size), parts)
        return [
            from_safetensors(part[: int(length)].numpy().tobytes())
            for part, length in zip(parts or (), sizes or (), strict=True)
        ]

    def check_alike(self, what: Mapping[str, Any]) -> None:
        """Compares with the first process."""
        first = self.from_first(lambda: dict(what))
        if different := [name for name, value in what.items() if json.loads(json.dumps(value)) != first[name]]:
            raise UserError(
                f"process {self.index} on {platform.node()} would train something else than the first process: "
                f"{', '.join(different)} differ; all need the same data, experiment folder and versions"
            )

    # --- the net ---

    def prepare(self, net: nn.Module) -> nn.Module:
        """Makes BatchNorm learn from whole batches, and says how many processes there are."""
        apart = synchronise(net)
        log.info("%d processes (%s); each takes its part of every batch", self.count, self.backend)
        if apart:
            log.warning("%s: learn their statistics from one process's part of each batch", ", ".join(apart))
        return net

    def spread(self, net: nn.Module) -> Callable[[Batch, bool], Tensor]:
        """The net, summing gradients over the processes."""
        return Spread(net)

    def fed(self, net: nn.Module, batches: Iterable[Batch]) -> Iterator[tuple[Tensor, int]]:
        """Each process feeds its part."""
        for batch in batches:
            _tell_layers(net, batch)
            yield batch.images, batch.total


def _meet(store: Store, index: int, count: int) -> str:
    """A name that the processes of this start alone know, for torchrun may start them again with the same store.

    The first makes it up and answers those that repeat it; what processes of an earlier start left is answered by none.
    """
    own = secrets.token_hex(8)
    deadline = time.monotonic() + TIMEOUT.total_seconds()

    def found(key: str) -> str:
        if time.monotonic() > deadline:
            raise RuntimeError(f"not all of them were there within {TIMEOUT}")
        time.sleep(POLL_SECONDS)
        return str(store.get(key).decode()) if store.check([key]) else ""

    if index == 0:
        store.set("start", own)
        for other in range(1, count):
            while not (call := found(f"call {other}")).startswith(own):
                pass
            store.set(f"answer {other}", call)
        return own
    call = ""
    while not call or found(f"answer {index}") != call:
        start = found("start")
        call = start and f"{start} {own}"
        store.set(f"call {index}", call)
    return start


class Spread:
    """A net whose gradients are summed over the processes while they are computed."""

    def __init__(self, net: nn.Module) -> None:
        self._net = net
        self._spread: DistributedDataParallel | None = None
        self._trained: list[bool] = []

    def __call__(self, batch: Batch, last: bool) -> Tensor:
        """The logits of a batch; gradients are summed where it is the last before the optimizer's step."""
        net = self._over_what_trains()
        _tell_layers(self._net, batch)
        with contextlib.nullcontext() if last else net.no_sync():
            logits: Tensor = net(batch.images)
        return logits

    def _over_what_trains(self) -> DistributedDataParallel:
        """Made anew when other layers are frozen, so that nothing is sent for them."""
        trained = [parameter.requires_grad for parameter in self._net.parameters()]
        if self._spread is None or trained != self._trained:
            self._spread = None
            gc.collect()  # its hooks would still wait for gradients
            self._spread = DistributedDataParallel(self._net, find_unused_parameters=True)
            self._spread.register_comm_hook(None, _add_up)
            self._trained = trained
        return self._spread


def _add_up(_: object, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """The sum of the processes' gradients: each part of a batch is weighed by its images already."""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda done: done.value()[0])


def _tell_layers(net: nn.Module, batch: Batch) -> None:
    """Tells the layers that learn statistics whether a batch lies whole in each process."""
    for layer in net.modules():
        if isinstance(layer, SynchronisedBatchNorm):
            layer.whole = len(batch.images) == batch.total


def _as_tensor(data: bytes, size: int) -> Tensor:
    """Bytes as a uint8 tensor of so many, the rest being zeros."""
    return torch.frombuffer(bytearray(data.ljust(size, b"\0")), dtype=torch.uint8)
