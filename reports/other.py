"""What another experiment gave for the same question, to compare with: read from its report folder."""

import io
from dataclasses import dataclass

import numpy as np

from config import run_folder
from config.load import load_params
from config.run_folder import RunFolder
from config.schema import Params
from utils import UserError


@dataclass(frozen=True)
class Other:
    """Another experiment's outputs.

    Args:
        folder: that experiment.
        params: in force in its training.
        logits: (N, C) float32.
        labels: as those of a Subject.
        paths: N, relative to the data folder.
        classes: C names.
        fingerprint: sha256 of the images.
    """

    folder: RunFolder
    params: Params
    logits: np.ndarray
    labels: np.ndarray
    paths: tuple[str, ...]
    classes: tuple[str, ...]
    fingerprint: str

    def check(self, classes: tuple[str, ...], paths: tuple[str, ...], fingerprint: str) -> None:
        """Refuses to be compared on other classes or images.

        Raises:
            UserError: saying what differs.
        """
        cannot = f"--against {self.folder}: cannot be compared image by image"
        if classes != self.classes:
            raise UserError(f"{cannot}: its {len(self.classes)} classes are not these {len(classes)}")
        if paths != self.paths:
            shared = len({*paths} & {*self.paths})
            raise UserError(f"{cannot}: it saw {len(self.paths)} images, here are {len(paths)}; {shared} are in both")
        if fingerprint != self.fingerprint:
            raise UserError(f"{cannot}: the images have the same names, but are not the same files")


def read_other(folder: RunFolder, report: str) -> Other:
    """The outputs that an experiment's report folder holds.

    Args:
        folder: the other experiment.
        report: the folder of the question in it.

    Raises:
        UserError: there are none, or they are damaged.
    """
    if not folder.file(f"{report}/{run_folder.PREDICTIONS}").is_file():
        raise UserError(
            f"--against {folder}: has no {report}/{run_folder.PREDICTIONS}; "
            f"run evaluate.py on it first, with the same --split, --weights, --tta and --calibrate"
        )
    metrics = folder.read_json(f"{report}/{run_folder.METRICS}")
    if "fingerprint" not in metrics:
        raise UserError(f"--against {folder}: its report does not say which images it saw; run evaluate.py on it again")
    folder.read(run_folder.PARAMS_RESOLVED)
    with np.load(io.BytesIO(folder.read(f"{report}/{run_folder.PREDICTIONS}"))) as stored:
        return Other(
            folder,
            load_params(folder.file(run_folder.PARAMS_RESOLVED)),
            stored["logits"],
            stored["labels"],
            tuple(stored["paths"].tolist()),
            tuple(stored["classes"].tolist()),
            metrics["fingerprint"],
        )
