"""The temperature and the confidence threshold of an experiment's weights: fitted on valid, kept beside the weights."""

import contextlib
import io
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from config import run_folder
from config.run_folder import RunFolder
from reports.calibration import decisions, fit_temperature, measures
from reports.intervals import Interval
from reports.threshold import Accepted, accept, choose_threshold
from training.evaluation import Predictions
from utils import UserError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Calibration:
    """What was fitted on the validation split, as it is kept in calibration_<weights>.json.

    Args:
        temperature: what the logits are divided by.
        temperature_interval: 95% interval of it; nan where it could not be fitted and is 1.
        accuracy_target: what the threshold promises; None without one.
        threshold: the calibrated confidence from which on the promise holds; None where none was asked for or found.
        images: of the validation split.
        data_fingerprint: sha256 of the train and valid images of the training; None if valid holds other images.
        weights_sha256: of the weights file.
        valid: measures of valid before and after the temperature, and what the threshold does there.
    """

    temperature: float
    temperature_interval: Interval
    accuracy_target: float | None
    threshold: float | None
    images: int
    data_fingerprint: str | None
    weights_sha256: str
    valid: dict[str, Any]


def calibrate(
    folder: RunFolder,
    weights: str,
    tta: str | None,
    target: float | None,
    same_data: bool,
    valid: Callable[[], Predictions],
) -> Calibration:
    """Fits on the validation split, and keeps what was found in the experiment folder.

    Args:
        folder: a trained experiment.
        weights: best, last or averaged.
        tta: which views are added, if any.
        target: the accuracy that the confident answers shall have; None: what an earlier calibration promised, if any.
        same_data: whether valid holds the images of the training.
        valid: gives the outputs for valid; asked only where the training did not keep them.

    Raises:
        UserError: the target has no meaning for such data.
    """
    name = run_folder.calibration_name(weights, tta)
    kept = weights == "best" and tta is None
    outputs = _kept_outputs(folder) if kept else valid()
    logits, labels = outputs.logits, outputs.labels
    target = _earlier_target(folder, name) if target is None else target
    if target is not None and labels.ndim == 2:
        raise UserError("--accuracy_target is for one class per image; this data has several")
    fitted = fit_temperature(logits, labels)
    after = logits.astype(np.float64) / fitted.value
    about: dict[str, Any] = {"before": measures(logits, labels), "after": measures(after, labels)}
    threshold = None
    if target is not None:
        threshold = choose_threshold(*decisions(after, labels), target)
        about["accepted"] = None if threshold is None else accept(*decisions(after, labels), threshold).as_dict()
    environment = folder.read_json(run_folder.ENVIRONMENT)
    found = Calibration(
        temperature=fitted.value,
        temperature_interval=fitted.interval,
        accuracy_target=target,
        threshold=threshold,
        images=fitted.images,
        data_fingerprint=environment["data"]["fingerprint"] if kept or same_data else None,
        weights_sha256=folder.digests()[run_folder.weights_name(weights)],
        valid=about,
    )
    folder.write_json(name, asdict(found) | {"weights": weights, "tta": tta, "fitted_on": "valid"})
    return found


def _kept_outputs(folder: RunFolder) -> Predictions:
    """What the best weights gave for valid when they were trained."""
    with np.load(io.BytesIO(folder.read(run_folder.PREDICTIONS_VALID))) as stored:
        return Predictions(stored["logits"], stored["labels"])


def _earlier_target(folder: RunFolder, name: str) -> float | None:
    with contextlib.suppress(UserError, KeyError, TypeError, ValueError):
        found = folder.read_json(name)["accuracy_target"]
        return None if found is None else float(found)
    return None


# --- in words --------------------------------------------------------------------------------------------------------


def told(found: Calibration, logits: Array, labels: Array, split: str) -> list[str]:
    """What the temperature and the threshold do to a split, a line each.

    Args:
        found: the calibration.
        logits: (N, C) of the split, divided by the temperature.
        labels: its labels.
        split: its name.
    """
    before, after = measures(logits * found.temperature, labels), measures(logits, labels)
    low, high = found.temperature_interval
    if np.isnan(low):
        lines = [
            f"no temperature is best for {found.images:,} valid images that are all right or all wrong: it stays 1"
        ]
    else:
        on = f"(95% interval {low:.4f} to {high:.4f}), fitted on {found.images:,} valid images"
        change = ", ".join(f"{name} {before[name]:.4f} becomes {after[name]:.4f}" for name in ("ece", "nll", "brier"))
        lines = [f"temperature {found.temperature:.4f} {on}: {split} {change}"]
    if found.threshold is not None:
        lines.append(promised(found, accept(*decisions(logits, labels), found.threshold), split))
    elif found.accuracy_target is not None:
        lines.append(
            f"no threshold: however few of the {found.images:,} valid images are answered, they do not show "
            f"an accuracy of {found.accuracy_target:g} with 95% confidence"
        )
    return lines


def promised(found: Calibration, here: Accepted, split: str) -> str:
    """What the threshold promises, and what it does on a split."""
    as_dict = here.as_dict()
    shares = [
        f"{as_dict[name]:.4f} ({as_dict[f'{name}_interval'][0]:.4f} to {as_dict[f'{name}_interval'][1]:.4f})"
        for name in ("coverage", "accuracy")
    ]
    return (
        f"threshold {found.threshold:.4f}: by valid, answers that sure are right in {found.accuracy_target:g} or more, "
        f"with 95% confidence; of {split} it answers {shares[0]}, and of those {shares[1]} are right"
    )
