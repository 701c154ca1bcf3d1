"""Writes docs/params.md: every key of params.json and every name it can hold, read off the code itself.

python -m training.reference
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import include
from config.parts import EarlyStopping, Monitor, Normalization, ProgressiveResizing, Pruner, RateRange, Search
from config.schema import Params
from config.wording import allowed
from images.augment import AUGMENTATIONS
from model.loss import LOSSES, MULTI_LABEL
from model.mambavision import SIZES
from model.metric import metrics
from model.net import ARCHS
from model.schedule import SCHEDULES
from utils import to_json, write_atomic

PAGE: Final = include.ROOT / "docs" / "params.md"

SECTIONS: Final = {  # by the first key of each
    "arch": "The net", "im_sz": "The images", "num_epochs": "The training", "metrics": "The measures",
    "cuda": "The machine", "hyper_search": "The search",
}  # fmt: skip
INSIDE: Final[dict[str, tuple[type[BaseModel], ...]]] = {
    "learning_rate": (RateRange,), "normalize": (Normalization,), "early_stopping": (EarlyStopping,),
    "progressive_resizing": (ProgressiveResizing,), "monitor": (Monitor,), "search": (Search,),
    "search.pruner": (Pruner,),
}  # fmt: skip
SHORTER: Final = (  # bounds that are there against accidents say nothing to a reader
    (r"text of 1 to \d+ characters", "text"),
    (r" to 1000000\b", ""),
    (r"0, 1, false(,| or) true", "0 or 1"),
    (r"an object \(.*?\)", "an object"),
    (r"a list of 0 to \d+ ", "a list "),
)


def reference() -> str:
    """The page, in Markdown."""
    return "\n".join([*_keys(), *_names()])


def _keys() -> Iterator[str]:
    yield "# params.json"
    yield ""
    yield "<!-- Written by `python -m training.reference`: change the code, not this file. -->"
    yield ""
    yield "One JSON object. Only `arch` must be there; every other key has a default. Flags are 0 or 1. A mistake is"
    yield "told in one line with the nearest right name, all mistakes at once."
    yield 'For completion in your editor, point it at [params.schema.json](../params.schema.json): `"$schema": "…"` in'
    yield "the file, or a setting of the editor's."
    yield from _table_head("About the run", "key", "value", "default", "meaning")
    for key in Params.model_fields:
        if key in SECTIONS:
            yield from _table_head(SECTIONS[key], "key", "value", "default", "meaning")
        yield from _key_rows(key, Params, key)


def _key_rows(dotted: str, model: type[BaseModel], key: str) -> Iterator[str]:
    yield _key_row(dotted, model, key)
    for part in INSIDE.get(dotted, ()):
        for inner in part.model_fields:
            yield from _key_rows(f"{dotted}.{inner}", part, inner)


def _key_row(dotted: str, model: type[BaseModel], key: str) -> str:
    field = model.model_fields[key]
    words = allowed(tuple(dotted.split(".")), None)
    for pattern, short in SHORTER:
        words = re.sub(pattern, short, words)
    default = "" if field.default is PydanticUndefined else f"`{_json(field.default)}`"
    return _row(f"`{dotted}`", words, default, str(field.description))


def _names() -> Iterator[str]:
    yield from _table_head("Nets of our own (`arch`)", "name", "what")
    yield from (_row(f"`{name}`", _purpose(net)) for name, net in ARCHS.items())
    yield ""
    yield f"Besides: {', '.join(f'`{name}`' for name in SIZES)} ([nets.md](nets.md)),"
    yield "every classification model of torchvision, every model of timm when it is installed (`timm:NAME`"
    yield 'where both have it), and `"net.py"`: the `build_net(params, num_classes)` of the file beside params.json.'

    yield from _table_head("Losses (`loss`, `loss_arguments`)", "name", "arguments", "what")
    for name, loss in LOSSES.items():
        data = "" if name in MULTI_LABEL else " One class per image."
        yield _row(f"`{name}`", _arguments(loss, skip=("logits", "targets", "weights")), _purpose(loss) + data)
    yield ""
    yield 'Each also takes `class_weights`: `"balanced"`, or a list with one number per class.'

    yield from _table_head("Metrics (`metrics`, `best_metric`, `early_stopping.monitor_metric`)", "name", "data")
    for name, metric in metrics.items():
        kinds = "one class per image, or several" if metric.multi_label else "one class per image"
        yield _row(f"`{name}`", kinds)
    yield ""
    yield "For all of them greater is better. precision, recall and f1 are means over the classes (macro), auroc and"
    yield "average_precision are of each class against the rest. For multi-label data, accuracy counts an image as"
    yield "right when all its classes are."

    yield from _table_head("Schedules (`scheduler`, `scheduler_arguments`)", "name", "arguments", "what")
    for name, schedule in SCHEDULES.items():
        yield _row(f"`{name}`", _arguments(schedule, skip=("progress",)), _purpose(schedule))
    yield ""
    yield "`pct_start` and `div_factor` are keys of params.json. Parts are of the whole training. Besides: any of"
    yield "[torch.optim.lr_scheduler](https://docs.pytorch.org/docs/stable/optim.html) by its name, with its arguments."

    yield from _table_head("Optimizers (`optimizer`, `optimizer_arguments`)")
    yield "Any of [torch.optim](https://docs.pytorch.org/docs/stable/optim.html) by its name, with its arguments;"
    yield "`learning_rate` and `wd` have keys of their own. LBFGS and SparseAdam are refused, and Muon"
    yield "where a parameter is no matrix."

    yield from _table_head("Augmentations (`augment`)", "name", "arguments", "what")
    for name, operation in AUGMENTATIONS.items():
        fields = {key: field.default for key, field in operation.model_fields.items()}
        yield _row(f"`{name}`", _listed(fields), _purpose(operation))
    yield ""
    yield 'A name alone, or `{"name": "rotation", "degrees": 5}`. `p` is the probability that an image is touched.'
    yield "They run on the training device, a batch at a time, in the order named, but the geometric ones are"
    yield "composed, come first and sample each image once, and `random_erasing` comes last. `padding_mode`, the same"
    yield 'for all that name it, is `"reflection"`, `"border"` or `"fill"` (with `background`); null: fill with'
    yield "`letterbox`, else reflection. Besides: any transform of torchvision.transforms.v2, as"
    yield '`{"name": "v2.GaussianNoise", "sigma": 0.1}`; these run image by image.'
    yield ""


def _table_head(title: str, *columns: str) -> Iterator[str]:
    yield ""
    yield f"## {title}"
    yield ""
    if columns:
        yield _row(*columns)
        yield "|---" * len(columns) + "|"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _purpose(thing: object) -> str:
    return (inspect.getdoc(thing) or "").partition("\n\n")[0].replace("\n", " ")


def _arguments(function: Callable[..., Any], skip: tuple[str, ...]) -> str:
    parameters = inspect.signature(function).parameters
    return _listed({name: parameter.default for name, parameter in parameters.items() if name not in skip})


def _listed(defaults: Mapping[str, Any]) -> str:
    return ", ".join(f"`{name}` {_json(value)}" for name, value in defaults.items())


def _json(value: object) -> str:
    """A default as one writes it in params.json."""
    value = int(value) if isinstance(value, bool) else value
    return re.sub(r"\s+", " ", to_json(value).decode()).strip().replace("[ ", "[").replace(" ]", "]")


if __name__ == "__main__":
    write_atomic(PAGE, reference().encode())
