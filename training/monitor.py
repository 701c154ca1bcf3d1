"""What happens inside the net while it trains: gradients, updates, activations, dead units, and words when one is off.

Every `interval` steps `train_epoch` says before_step, `update` says before_update and after_update; forward hooks are
in place between the first two alone, so that all other steps cost nothing. What is found goes into the checkpoint.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from config.parts import Monitor as Settings
from model.groups import owner
from training.checkpoint import Progress
from utils import log

# Of what there are histograms, and the power of ten at which they begin; what is smaller goes into the first bin.
KINDS: Final = {"weights": -6, "gradients": -8, "activations": -4}
DECADES: Final = 8  # that a histogram spans; what is larger goes into the last bin
BINS: Final = 32
SAMPLE: Final = 4096  # values of a tensor that a histogram counts, spread over all of it
COLUMNS: Final = 128  # of a histogram over time; when they are full, neighbours are joined

CHECKS: Final = 3  # looks in a row at which something must be off before it is said
DEAD: Final = 0.5  # of a layer's units
STILL, WILD = 1e-6, 1e-1  # an update, as a part of the weights, is to lie between
VANISHED: Final = 1e-8  # of the head's gradient, in each weight's mean square
EXPLODED: Final = 100.0  # times the median gradient so far
JUDGED: Final = 0.1  # of its highest rate: below that a schedule holds a group still on purpose

Array = NDArray[np.float32]


class Monitor:
    """Takes down what happens inside a net at some steps.

    Args:
        net: in which hooks are placed at those steps.
        groups: parameter names by layer group, in order of use.
        optimizer: whose updates are measured.
        settings: how often, and what; None: never.

    Attributes:
        layers: names of the modules with a weight of two or more dimensions, in order of use.
        rows: what was found, by name, a row for each look: "step", "epoch" (,), "gradient" (G,) and "update" (G,) by
            layer group, "total" (,), "layer_gradient", "mean", "std" and "dead" (L,) by layer; nan where there is none.
        columns: histograms (L, 3, BINS) over time, each of `per_column` looks.
    """

    def __init__(
        self, net: nn.Module, groups: Sequence[Sequence[str]], optimizer: Optimizer, settings: Settings | None
    ) -> None:
        """Nothing is placed before the first step."""
        self.interval = settings.interval if settings else 0
        self._what = frozenset(settings.what) if settings else frozenset()
        self._net, self._optimizer = net, optimizer
        self._groups = [[net.get_parameter(name) for name in names] for names in groups]
        weights = [(name, net.get_parameter(name)) for names in groups for name in names]
        self._weights = {owner(name): weight for name, weight in weights if weight.ndim > 1 and "weight" in name}
        self.layers = list(self._weights)
        self.rows: dict[str, list[Any]] = {}
        self.columns: list[Tensor] = []
        self.per_column = 1
        self._last_column = 0  # looks in it
        self._streaks: dict[str, int] = {}
        self._said: list[str] = []
        self._look: _Look | None = None

    def before_step(self, state: Progress) -> None:
        """Before the first forward pass of a step."""
        if self.interval and state.step % self.interval == 0:
            self._look = _Look(state, self._net if self._what & {"activations", "histograms"} else None, self._weights)

    def before_update(self) -> None:
        """When the gradients are whole, not scaled any more, and not clipped yet."""
        look = self._look
        if look is None:
            return
        look.unhook()
        gradients = [[p.grad for p in group if p.grad is not None] for group in self._groups]
        if not torch.isfinite(_norm([gradient for group in gradients for gradient in group])):
            self._look = None  # fp16 leaves such a step out; otherwise the training ends
            return
        layers = [weight.grad for weight in self._weights.values()]
        look.note("gradient", [_norm(tensors) for tensors in gradients])
        look.note("layer_gradient", [_mean_square(gradient) for gradient in layers])
        if "histograms" in self._what:
            look.count(self._weights)
        if "updates" in self._what:
            look.before = [[p.detach().clone() for p in group if p.grad is not None] for group in self._groups]

    def after_update(self) -> None:
        """After the optimizer's step; says what is off."""
        if self._look is None:
            return
        look, self._look = self._look, None
        if look.before:
            look.note("update", [_moved(*group) for group in zip(self._groups, look.before, strict=True)])
        row = look.row(self.layers)
        for name, values in row.items():
            self.rows.setdefault(name, []).append(values)
        if look.histogram is not None:
            self._add_column(look.histogram)
        self._warn()

    # --- histograms over time ---

    def _add_column(self, histogram: Tensor) -> None:
        if self.columns and self._last_column < self.per_column:
            self.columns[-1] = self.columns[-1] + histogram
            self._last_column += 1
            return
        if len(self.columns) == COLUMNS:
            self.columns = [left + right for left, right in zip(self.columns[::2], self.columns[1::2], strict=True)]
            self.per_column *= 2
        self.columns.append(histogram)
        self._last_column = 1

    # --- words ---

    def _warn(self) -> None:
        """Says once of each thing that it was off at CHECKS looks in a row."""
        off = dict(self._faults())
        self._streaks = {key: self._streaks.get(key, 0) + 1 for key in off}
        for key, message in off.items():
            if self._streaks[key] >= CHECKS and key not in self._said:
                self._said.append(key)
                log.warning("step %d: %s", int(self.rows["step"][-1]), message)

    def _faults(self) -> Iterable[tuple[str, str]]:
        """What is off now: a key for each thing, and words that name it and what helps."""
        totals = [float(total) for total in self.rows["total"]]
        usual = float(np.median(totals))
        if totals[-1] > EXPLODED * usual > 0:
            yield (
                "exploding",
                (
                    f"gradients explode: their norm is {totals[-1]:.2g}, {totals[-1] / usual:.0f} times the usual; "
                    "lower learning_rate, or set gradient_clip to 1"
                ),
            )
        yield from self._layer_faults()
        if "update" in self.rows:
            yield from self._group_faults()

    def _layer_faults(self) -> Iterable[tuple[str, str]]:
        """Dead units and vanished gradients in layers that train; of layers above a dead one nothing can be told."""
        gradients = self.rows["layer_gradient"][-1]
        dead = self.rows["dead"][-1] if "dead" in self.rows else np.zeros_like(gradients)
        head = next((float(value) for value in gradients[::-1] if value > 0), 0.0)
        for layer, share, gradient in zip(self.layers, dead, gradients, strict=True):
            if share > DEAD and not np.isnan(gradient):
                yield (
                    f"dead {layer}",
                    f"layer {layer}: {share:.0%} of its units are 0 for every image (they are dead); lower "
                    "learning_rate, or look at how its weights and biases start",
                )
            if share == 1:
                return
            if 0 < gradient < VANISHED * head:
                yield (
                    "vanishing",
                    f"layer {layer}: gradients vanish, a weight's is {gradient / head:.0e} of the last layer's; use "
                    "ReLU, BatchNorm or residual connections, or fewer layers",
                )

    def _group_faults(self) -> Iterable[tuple[str, str]]:
        rates = {group["group"]: (group["lr"], group["max_lr"]) for group in self._optimizer.param_groups}
        for number, update in enumerate(self.rows["update"][-1]):
            rate, highest = rates[number]
            if update > WILD:
                yield (
                    f"wild {number}",
                    (
                        f"layer group {number} moves too much: {update:.0%} of its weights in a step, at learning rate "
                        f"{rate:.2g}; lower its learning_rate"
                    ),
                )
            if update < STILL and rate >= JUDGED * highest > 0:
                yield (
                    f"still {number}",
                    (
                        f"layer group {number} hardly moves: {update:.0e} of its weights in a step, at learning rate "
                        f"{rate:.2g}; raise its learning_rate, or set it to 0 to freeze the group"
                    ),
                )

    # --- what is kept ---

    def arrays(self) -> dict[str, Any]:
        """The rows as arrays (R, …), and the histograms (T, L, 3, BINS) with the names of the layers."""
        arrays: dict[str, Any] = {name: np.stack(values) for name, values in self.rows.items()}
        if self.columns:
            arrays |= {"histograms": torch.stack(self.columns).numpy(), "looks_per_column": self.per_column}
        return arrays | {"layers": self.layers}

    def state_dict(self) -> dict[str, Any]:
        """All that was found, and what has been said."""
        return {
            "rows": {name: torch.from_numpy(np.stack(values)) for name, values in self.rows.items()},
            "columns": list(self.columns),
            "per_column": self.per_column,
            "last_column": self._last_column,
            "streaks": dict(self._streaks),
            "said": list(self._said),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over a saved state."""
        self.rows = {name: list(values.numpy()) for name, values in state["rows"].items()}
        self.columns, self.per_column = list(state["columns"]), state["per_column"]
        self._last_column = state["last_column"]
        self._streaks, self._said = dict(state["streaks"]), list(state["said"])


# --- one look --------------------------------------------------------------------------------------------------------


class _Output(NamedTuple):
    """A layer's activation: mean, standard deviation, the part of its units that is dead, some of its values."""

    mean: Tensor
    std: Tensor
    dead: Tensor
    sample: Tensor


class _Look:
    """One step that is watched.

    Args:
        state: where the run stands.
        net: whose activations are wanted; None: not wanted.
        weights: of the layers, by name.
    """

    def __init__(self, state: Progress, net: nn.Module | None, weights: Mapping[str, nn.Parameter]) -> None:
        self.step, self.epoch = state.step, state.epoch + 1
        self._found: dict[str, list[Tensor]] = {}
        self.before: list[list[Tensor]] = []
        self.histogram: Tensor | None = None
        self._outputs: dict[str, _Output] = {}  # by layer
        self._layer, self._channels, self._output, self._nonlinear = "", 0, None, False
        self._hooks: list[RemovableHandle] = []
        for name, module in net.named_modules() if net is not None else ():
            if name in weights:
                self._hooks.append(module.register_forward_hook(lambda *call, name=name: self._enter(name, *call)))
            elif _is_activation(module):
                self._hooks.append(module.register_forward_hook(lambda *call: self._replace(call[-1])))

    def _enter(self, layer: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """A layer was called; its activation is its output, or that of the nonlinearity called before the next one."""
        self._finish(inputs[0] if inputs else None)
        self._layer, self._output, self._nonlinear = layer, output, False
        self._channels = -1 if isinstance(module, nn.Linear) else 1

    def _replace(self, output: Any) -> None:
        if self._layer:
            self._output, self._nonlinear = output, True

    def _finish(self, following: Any) -> None:
        """Measures the activation of the layer before; `following` is what the next one takes."""
        output = self._output[0] if isinstance(self._output, tuple) else self._output
        if isinstance(output, Tensor) and output.is_floating_point() and output.numel():
            output = output.detach()
            variance, mean = torch.var_mean(output.float(), correction=0)
            units = output.shape[self._channels] if output.ndim > 1 else 0
            seen = output if self._nonlinear else following  # a ReLU that is no module shows in the next layer's input
            known = isinstance(seen, Tensor) and seen.ndim > 1 and seen.shape[self._channels] == units
            dead = _dead(seen.detach(), self._channels) if known else torch.tensor(torch.nan)
            self._outputs[self._layer] = _Output(mean, variance.sqrt(), dead, _sampled(output))
        self._output = None

    def unhook(self) -> None:
        """When the forward passes are over."""
        self._finish(None)
        for hook in self._hooks:
            hook.remove()

    def note(self, name: str, values: list[Tensor]) -> None:
        """Keeps scalars where they are; one transfer fetches them all in the end."""
        self._found[name] = values

    def count(self, weights: Mapping[str, nn.Parameter]) -> None:
        """Counts the histograms (L, 3, BINS)."""
        rows = []
        for layer, weight in weights.items():
            samples = {
                "weights": _sampled(weight.detach()),
                "gradients": None if weight.grad is None else _sampled(weight.grad),
                "activations": self._outputs[layer].sample if layer in self._outputs else None,
            }
            rows += [_histogram(samples[kind], first).cpu() for kind, first in KINDS.items()]
        self.histogram = torch.stack(rows).view(len(weights), len(KINDS), BINS)

    def row(self, layers: Sequence[str]) -> dict[str, Any]:
        """What was found, on the CPU; units and shapes as in Monitor.rows."""
        nothing = torch.tensor(torch.nan)
        for index, name in enumerate(("mean", "std", "dead") if self._outputs else ()):
            self.note(name, [self._outputs[layer][index] if layer in self._outputs else nothing for layer in layers])
        values = [value for values in self._found.values() for value in values]
        device = max((value.device for value in values), key=lambda device: device.type == "cuda")
        fetched = torch.stack([value.to(device).float() for value in values]).cpu()
        parts = torch.split(fetched, [len(values) for values in self._found.values()])
        found = {name: part.numpy() for name, part in zip(self._found, parts, strict=True)}
        total = np.sqrt(np.nansum(np.square(found["gradient"], dtype=np.float64))).astype(np.float32)
        return {"step": np.int64(self.step), "epoch": np.int64(self.epoch), "total": total} | found


def _is_activation(module: nn.Module) -> bool:
    """Whether a module is a nonlinearity of torch or timm: a leaf from a file of activations."""
    return "activation" in type(module).__module__ and not list(module.children())


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    """The norm of all values together; nan of none."""
    if not tensors:
        return torch.tensor(torch.nan)
    norm: Tensor = torch.stack(torch._foreach_norm(list(tensors))).float().square().sum().sqrt()
    return norm


def _mean_square(gradient: Tensor | None) -> Tensor:
    """The root of the mean square; nan where there is no gradient."""
    if gradient is None:
        return torch.tensor(torch.nan)
    return gradient.float().square().mean().sqrt()


def _dead(output: Tensor, channels: int) -> Tensor:
    """The part of the units whose output is 0 for every image and place."""
    return (output.movedim(channels, 0).flatten(1).abs().amax(dim=1) == 0).float().mean()


def _moved(group: Sequence[nn.Parameter], before: list[Tensor]) -> Tensor:
    """The norm of a group's update over the norm of its weights; nan where it does not train."""
    if not before:
        return torch.tensor(torch.nan)
    after = [parameter.detach() for parameter in group if parameter.grad is not None]
    return _norm(torch._foreach_sub(after, before)) / _norm(before).clamp(min=1e-12)


def _sampled(tensor: Tensor) -> Tensor:
    """At most SAMPLE of a tensor's values, spread over all of it in no rhythm of its shape, float32."""
    if tensor.numel() <= SAMPLE:
        return tensor.flatten().float()
    images = max(1, min(len(tensor), 64 * SAMPLE * len(tensor) // tensor.numel()))  # so that less is copied
    flat = tensor[:images].flatten()
    places = torch.arange(SAMPLE, device=tensor.device) * 2_654_435_761 % flat.numel()  # Knuth's multiplier
    return flat[places].float()


def _histogram(values: Tensor | None, first: int) -> Tensor:
    """(BINS,) int32: how many values have which magnitude, from the power of ten `first` on."""
    if values is None:
        return torch.zeros(BINS, dtype=torch.int32)
    places = ((values.abs().log10() - first) * (BINS / DECADES)).nan_to_num(posinf=BINS).clamp(0, BINS - 1)
    return torch.bincount(places.long(), minlength=BINS).int()
