"""MODEL.md: what a person must know of a model before using it. No torch."""

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tabulate import tabulate

from config import run_folder
from config.run_folder import RunFolder
from config.schema import Params
from export.contract import Contract
from model.metric import counts, metrics
from reports.intervals import wilson
from utils import UserError, printable, read_json

UNCHANGED = ("about", "n_clas", "bs_test", "threads", "precision", "memory_format", "layer_groups", "normalize")
WORST = 3  # classes that are named


def model_card(
    folder: RunFolder, contract: Contract, environment: Mapping[str, Any], files: Mapping[str, Mapping[str, Any]]
) -> str:
    """The card as Markdown.

    Args:
        folder: the experiment.
        contract: of the exported files.
        environment: what environment.json holds.
        files: what export.json says of each file.
    """
    parts = [
        f"# {_text(contract.name)}",
        _what(contract),
        "## How to run it",
        _how(contract, files),
        "## Data",
        _data(environment),
        "## Training",
        _training(contract, environment),
        "## How good it is",
        _metrics(folder, contract),
        "## Known limits",
        _limits(folder, contract),
        "## Files",
        _files(files),
    ]
    return "\n\n".join(parts) + "\n"


def _text(text: str) -> str:
    """Text of a person or a file system, so that Markdown and HTML show it as it is."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>#|&" else c for c in printable(text))


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    return tabulate(rows, header, tablefmt="pipe", disable_numparse=True)


def _what(contract: Contract) -> str:
    params = contract.provenance["params"]
    kind = "any number of" if contract.multi_label else "one of"
    ways = {
        "crop": f"the short side is resized to {round(contract.im_sz / contract.crop_fraction)} pixels and the middle "
        f"{contract.im_sz} x {contract.im_sz} is looked at",
        "letterbox": f"the whole image is fitted into {contract.im_sz} x {contract.im_sz}",
        "squash": f"the image is resized to {contract.im_sz} x {contract.im_sz}, whatever its proportions",
    }
    return (
        f"An image classifier ({_text(params['arch'])}, the {contract.weights} weights of its training) that tells "
        f"{kind} {len(contract.classes)} classes: {', '.join(map(_text, contract.classes))}.\n\n"
        f"Input: uint8 RGB images of any size, upright; {ways[contract.resize]}"
        f"{', in grey' if contract.channels == 1 else ''}. Resizing and normalisation are part of the model. "
        f"Output: {'a probability of each' if contract.multi_label else 'probabilities that sum to 1'}, and logits."
    )


def _how(contract: Contract, files: Mapping[str, Any]) -> str:
    if not any(name.endswith(".onnx") for name in files):
        return f"`python predict.py --model FOLDER photo.jpg`, where FOLDER is the experiment {_text(contract.name)}."
    return (
        "```python\n"
        "import numpy as np, onnxruntime, PIL.Image\n"
        'image = np.array(PIL.Image.open("photo.jpg").convert("RGB"))[None]  # uint8 (1, height, width, 3)\n'
        'probabilities = onnxruntime.InferenceSession("model.onnx").run(["probabilities"], {"images": image})[0]\n'
        "```\n\n"
        "The classes are in this order in the model's metadata, under `dossier`. "
        "`python predict.py --model model.onnx photo.jpg` does it all, and turns photos upright."
    )


def _data(environment: Mapping[str, Any]) -> str:
    data = environment["data"]
    counts = ", ".join(f"{count:,} {name}" for name, count in data["images"].items())
    left_out = f" {len(data['left_out'])} unreadable images were left out." if data["left_out"] else ""
    return f"{counts} images.{left_out} Fingerprint of the files: `{data['fingerprint']}`."


def _training(contract: Contract, environment: Mapping[str, Any]) -> str:
    params, defaults = contract.provenance["params"], Params(arch="conv").model_dump(mode="json")
    changed = {
        key: value
        for key, value in params.items()
        if key not in UNCHANGED and (key == "arch" or value != defaults[key])
    }
    rows = [(f"`{key}`", _text(_shown(value))) for key, value in changed.items()]
    weights = environment["weights"]
    if weights is None:
        start = "It started from random weights."
    else:
        start = (
            f"It started from {_text(weights['source'])} (licence: {_text(weights['licence'])}; "
            f"sha256 `{weights['sha256']}`); that licence may bind what is made from these weights."
        )
    commit = f" Project commit `{environment['commit']}`." if environment["commit"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    table = _table(("key", "value"), rows)
    return f"{start}{commit} {_text(versions)}.\n\nParameters that are not the default:\n\n{table}"


def _shown(value: Any) -> str:
    """A parameter's value as params.json would hold it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _metrics(folder: RunFolder, contract: Contract) -> str:
    for split in ("test", "valid"):
        if found := _evaluated(folder, contract, split):
            ends = found["intervals"]
            rows: list[Sequence[str]] = [
                (name, f"{found[name]:.4f}", "{:.4f} to {:.4f}".format(*ends[name]))
                for name in ends
                if found[name] is not None and None not in ends[name]
            ]
            images = f"On the {split} split, {found['num_images']:,} images"
            honest = "" if split == "test" else "; it was chosen on these images, so that they flatter it"
            honest += "" if found["trained_on_this_data"] else ", of other data than it was trained with"
            return f"{images}{honest}:\n\n{_table(('metric', 'value', '95% interval'), rows)}"
    found = _json(folder, run_folder.metrics_name("valid", contract.weights)) or {}
    images = found.get("num_images", 0)
    rows = [
        (name, f"{value:.4f}", _share_interval(name, value, images))
        for name, value in found.items()
        if isinstance(value, float)
    ]
    return (
        f"On the valid split, {images:,} images; it was chosen on these images, so that they "
        f"flatter it. evaluate.py has not been run on the test split.\n\n"
        f"{_table(('metric', 'value', '95% interval'), rows)}"
    )


def _evaluated(folder: RunFolder, contract: Contract, split: str) -> Any:
    """What evaluate.py measured of these weights on a split; None where it has not, or earlier ones."""
    found = _json(folder, f"{run_folder.REPORT}/{split}_{contract.weights}/{run_folder.METRICS}")
    now = _json(folder, run_folder.metrics_name("valid", contract.weights))
    return found if found and now and found["epoch"] == now["epoch"] else None


def _share_interval(name: str, value: float, images: int) -> str:
    """Wilson's interval, of the metrics that are a share of the images."""
    if name not in metrics or not metrics[name].proportion:
        return ""
    return "{:.4f} to {:.4f}".format(*wilson(round(value * images), images))


def _json(folder: RunFolder, name: str) -> Any:
    """An artefact that may not be there; a damaged one counts as that."""
    try:
        return read_json(folder.file(name)) if folder.intact(name) else None
    except UserError:
        return None


def _limits(folder: RunFolder, contract: Contract) -> str:
    lines = [
        "- It knows no class but those above, and says one of them of every image."
        if not contract.multi_label
        else "- It knows no class but those above.",
        f"- The probabilities are {_calibrated(folder, contract)}.",
    ]
    lines += _robustness(folder, contract)
    if worst := _worst_classes(folder, contract):
        lines.insert(0, f"- The classes it knows least well: {worst}.")
    return "\n".join(lines)


def _robustness(folder: RunFolder, contract: Contract) -> list[str]:
    """What corrupted images cost, if a report measured it."""
    for split in ("test", "valid"):
        found = _json(folder, f"{run_folder.REPORT}/{split}_{contract.weights}/{run_folder.ROBUSTNESS}")
        if found and _evaluated(folder, contract, split) and None not in (found["clean"], found["corrupted"]):
            worst = sorted(found["area"], key=lambda kind: found["area"][kind] or 0.0)[:WORST]
            return [
                f"- On corrupted {split} images its {_text(found['metric'])} falls from {found['clean']:.4f} to "
                f"{found['corrupted']:.4f} on average, most under {', '.join(map(_text, worst))}."
            ]
    return []


def _calibrated(folder: RunFolder, contract: Contract) -> str:
    told = _cooled(folder, contract)
    if contract.threshold is not None:
        told += (
            f"; from a probability of {contract.threshold:.4f} on, answers were right "
            f"in {contract.accuracy_target:g} of the cases or more"
        )
    return told


def _cooled(folder: RunFolder, contract: Contract) -> str:
    """What was done to the logits."""
    if contract.temperature == 1:
        return "as the net gives them; no temperature is applied"
    told = f"those of the logits divided by {contract.temperature:.4g}, a temperature fitted on the valid images"
    found = _json(folder, run_folder.calibration_name(contract.weights))
    if not found or found["temperature"] != contract.temperature:
        return told
    before, after = (found["valid"][when]["ece"] for when in ("before", "after"))
    return f"{told} (expected calibration error there: {before:.4f} before, {after:.4f} after)"


def _worst_classes(folder: RunFolder, contract: Contract) -> str:
    """The classes with the smallest recall in the latest predictions, in words."""
    names = {
        split: f"{run_folder.REPORT}/{split}_{contract.weights}/{run_folder.PREDICTIONS}"
        for split in ("test", "valid")
        if _evaluated(folder, contract, split)
    }
    if contract.weights == "best":
        names["valid split"] = run_folder.PREDICTIONS_VALID
    for split, name in names.items():
        if folder.intact(name):
            with np.load(io.BytesIO(folder.read(name))) as found:
                logits, labels = found["logits"], found["labels"]
            right, _, actual = counts(logits, labels)
            recalls = sorted((right[i] / actual[i], i) for i in np.flatnonzero(actual))[:WORST]
            told = [f"{_text(contract.classes[i])} ({share:.0%} of {int(actual[i])} found)" for share, i in recalls]
            return f"{', '.join(told)}; {split.split()[0]} split"
    return ""


def _files(files: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        (f"`{name}`", f"{about['bytes'] / 1e6:.2f} MB", about["about"], f"`{about['sha256'][:16]}…`")
        for name, about in files.items()
    ]
    return _table(("file", "size", "what it is", "sha256"), rows)
