"""Reading a weights file, and fitting what it holds to a net: every key must match, but for the classifier's."""

import pickle
from collections import OrderedDict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file
from torch import nn

from utils import UserError, printable

State = dict[str, torch.Tensor]

MOST_LISTED: Final = 5
WRAPPERS: Final = ({"module"}, {"_orig_mod"})  # what DistributedDataParallel and torch.compile put before each name


def read_state(path: Path) -> State:
    """The state dict of a .safetensors file, or of a .pt or .pth file without anything that could run code.

    Floating-point numbers become float32, and a state dict within "state_dict" or "model" is found.

    Raises:
        UserError: naming the file, when it is missing, damaged, or holds anything else.
    """
    if not path.is_file():
        raise UserError(f"{printable(str(path))}: no such file")
    try:
        return _cleaned(_read(path))
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{printable(str(path))}: holds more than tensors, or is damaged; only a state dict is loaded, as "
            "torch.save(net.state_dict(), …) writes it"
        ) from error
    except Exception as error:  # a damaged file can raise anything
        raise UserError(f"{printable(str(path))}: is not a readable weights file ({first_line(error)})") from error


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    content = torch.load(path, map_location="cpu", weights_only=True)
    nested = [content[key] for key in ("state_dict", "model") if isinstance(content, Mapping) and key in content]
    return nested[0] if nested and isinstance(nested[0], Mapping) else content


def _cleaned(content: Any) -> State:
    if not isinstance(content, Mapping) or not content:
        raise ValueError("it holds no state dict")
    state: State = {}
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise ValueError(f"{name} is not a tensor")
        if value.is_floating_point():
            value = value.float()
            if not bool(value.isfinite().all()):
                raise ValueError(f"{name} has values that are not finite")
        state[name] = value
    return state


def unwrapped(state: State) -> State:
    """The state without the names of wrappers around the whole net."""
    while {name.partition(".")[0] for name in state} in WRAPPERS:
        state = {name.partition(".")[2]: value for name, value in state.items()}
    return state


def inside(name: str, modules: Collection[str]) -> bool:
    """Whether a name in a state dict is that of one of the modules, or of anything in them."""
    return any(name.startswith(f"{module}.") for module in modules)


def same_body(net: nn.Module, state: State, head: Collection[str]) -> bool:
    """Whether a state has the names and shapes of the net's own, the head's left aside."""
    shapes = [{k: v.shape for k, v in s.items() if not inside(k, head)} for s in (net.state_dict(), state)]
    return shapes[0] == shapes[1]


def fit(net: nn.Module, state: State, head: Collection[str], where: str) -> bool:
    """Loads a state into a net; the head keeps its random values when the state's differs in any name or shape.

    Args:
        net: changed in place.
        state: all that the net needs, and nothing else, the head apart.
        head: modules that are new when the classes are.
        where: the file and what it is meant for, to begin an error message with.

    Returns:
        Whether the head was loaded too.

    Raises:
        UserError: listing the first names that are missing, unexpected, or of another shape.
    """
    own = net.state_dict()  # it also carries the versions of modules, which some of them ask for when they load
    shapes = [{k: v.shape for k, v in s.items() if inside(k, head)} for s in (own, state)]
    has_head = shapes[0] == shapes[1]
    if not has_head:
        state = {k: v for k, v in state.items() if not inside(k, head)}
    free = {k for k in own if k.endswith("num_batches_tracked") or (inside(k, head) and not has_head)}
    problems = [f"{k} is missing" for k in own if k not in state and k not in free]
    problems += [f"{k} is unexpected" for k in state if k not in own]
    problems += [
        f"{k} has shape {tuple(v.shape)} and should have {tuple(own[k].shape)}"
        for k, v in state.items()
        if k in own and v.shape != own[k].shape
    ]
    if problems:
        more = f" … ({len(problems)} in all)" if len(problems) > MOST_LISTED else ""
        raise UserError(f"{where}: {printable('; '.join(problems[:MOST_LISTED]))}{more}")
    own.update(state)
    net.load_state_dict(own)
    return has_head


def load(net: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Loads a whole state of the net itself, such as a file of tensors holds.

    A plain mapping lacks the versions of modules, which torchvision's MNASNet asks for; they are the net's own.

    Raises:
        RuntimeError: the state is not one of this net.
    """
    versioned = OrderedDict(state)
    versioned._metadata = net.state_dict()._metadata  # type: ignore[attr-defined]
    net.load_state_dict(versioned)


def first_line(error: BaseException) -> str:
    """What an error of a library says, short enough for one line of ours."""
    return printable(str(error).strip().partition("\n")[0][:200]) or type(error).__name__
