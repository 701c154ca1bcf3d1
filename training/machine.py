"""The choices that the machine at hand decides: device, precision, memory format, threads."""

import contextlib
import os
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

import torch

from config.schema import Params
from training.depthwise import keep_depthwise_in_float32
from training.threads import Watch
from utils import UserError, log


@dataclass(frozen=True)
class Machine:
    """What changes the bits of a result: chosen once at the start of a run, stored, and kept when it is continued.

    Attributes:
        device: "cuda" or "cpu".
        precision: fp32, bf16 or fp16 of the net's activations; weights and losses are fp32.
        memory_format: contiguous or channels_last.
        threads: of torch's operators.
        version: of torch.
        processes: that share each batch.
        processor: the GPU, or the CPU's instructions.
    """

    device: str
    precision: str
    memory_format: str
    threads: int
    version: str
    processes: int = 1
    processor: str = ""

    def autocast(self) -> AbstractContextManager[object]:
        """The context in which the net computes."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device, torch.bfloat16 if self.precision == "bf16" else torch.float16)

    def scaler(self) -> torch.amp.GradScaler:
        """The gradient scaler fp16 needs; disabled otherwise."""
        return torch.amp.GradScaler(self.device, enabled=self.precision == "fp16")

    def take(self, net: torch.nn.Module) -> torch.nn.Module:
        """Moves a net to the device, in the memory format; what is slow in the precision there stays in float32."""
        if (self.device, self.precision) == ("cpu", "bf16"):
            keep_depthwise_in_float32(net)
        last = self.memory_format == "channels_last"
        memory_format = torch.channels_last if last else torch.contiguous_format
        return net.to(self.device).to(memory_format=memory_format)


def choose_machine(
    params: Params, before: dict[str, Any] | None, exact: bool, processes: int = 1, watch: Watch | None = None
) -> Machine:
    """Decides what params leave to "auto", and sets torch's threads.

    Args:
        params: cuda, precision, memory_format and threads are read.
        before: the choices of the run that is continued, or None.
        exact: refuse to continue with other choices.
        processes: that share each batch.
        watch: has been looking at the cores for a while; None: one begins now.

    Raises:
        UserError: under `exact`, naming what would differ.
    """
    cuda = params.cuda and torch.cuda.is_available()
    if params.cuda and not cuda:
        log.info("cuda: 1, but no GPU is visible; training on the CPU")
    device = "cuda" if cuda else "cpu"
    if params.threads:
        torch.set_num_threads(params.threads)
    elif before and before["device"] == device:
        torch.set_num_threads(min(before["threads"], torch.get_num_threads()))
    elif not cuda:
        threads, others = (watch or Watch()).idle_threads()
        if threads < torch.get_num_threads():
            log.info("%d of %d threads, as other programs keep %.1f cores busy (threads: N sets how many)",
                     threads, torch.get_num_threads(), others)  # fmt: skip
        torch.set_num_threads(threads)
    same_device = before is not None and before["device"] == device
    precision = params.precision if params.precision != "auto" else _precision(device)
    memory_format = "channels_last" if params.memory_format == "auto" else params.memory_format
    if same_device and before is not None:
        precision, memory_format = before["precision"], before["memory_format"]
    threads, version = torch.get_num_threads(), str(torch.__version__)
    machine = Machine(device, precision, memory_format, threads, version, processes, _processor(device))
    if before is not None:
        _compare(machine, {"processes": 1, "processor": machine.processor} | before, exact)
    return machine


def reasons(params: Params, machine: Machine) -> dict[str, str]:
    """Why a run that begins computes as it does: what params ask for, else what was found here."""
    cuda = machine.device == "cuda"
    depthwise = "depthwise convolutions stay in fp32, in which their gradients are computed faster (bench/precision.py)"
    precision = {
        "bf16": "the GPU computes in bf16" if cuda else f"the processor has bf16 instructions; {depthwise}",
        "fp16": "the GPU computes in fp16, not in bf16",
        "fp32": "the processor has no bf16 instructions",
    }
    threads = "OMP_NUM_THREADS" if "OMP_NUM_THREADS" in os.environ else "the cores that were idle when it started"
    found = {
        "device": "a GPU is visible" if cuda else "no GPU is visible",
        "precision": precision[machine.precision],
        "memory_format": "convolutions are faster so (bench/precision.py)",
        "threads": threads,
    }
    asked = {
        "device": not params.cuda,
        "precision": params.precision != "auto",
        "memory_format": params.memory_format != "auto",
        "threads": params.threads > 0,
    }
    return {name: "as params.json asks" if asked[name] else reason for name, reason in found.items()}


def _compare(machine: Machine, before: dict[str, Any], exact: bool) -> None:
    changed = [f"{k} {before.get(k)} -> {v}" for k, v in asdict(machine).items() if before.get(k) != v]
    if not changed:
        return
    difference = f"continued with other arithmetic than before ({', '.join(changed)})"
    if exact:
        raise UserError(f"--exact: the run would be {difference}; continue it where it was started")
    log.warning("%s: the result may differ in the last digits", difference)


def _processor(device: str) -> str:
    if device == "cuda":
        return str(torch.cuda.get_device_name())
    return torch.backends.cpu.get_cpu_capability() + ", bf16" * has_bf16_instructions()


def _precision(device: str) -> str:
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if has_bf16_instructions() else "fp32"


def has_bf16_instructions() -> bool:
    """Whether this processor multiplies bf16 numbers in hardware (AMX or AVX512-BF16)."""
    names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(bool(getattr(torch.cpu, name)()) for name in names if hasattr(torch.cpu, name))
