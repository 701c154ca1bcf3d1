"""A trained experiment as everything after the training takes it up: files checked, the net as it was trained."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from config import run_folder
from config.load import load_params
from config.run_folder import RunFolder
from config.schema import Params
from images.folder import DataFolder, fingerprint
from model import weights_file
from model.net import build_net
from model.weights_file import first_line
from training.environment import warn_of_changed_sources
from utils import UserError, log, printable


@dataclass(frozen=True)
class Trained:
    """What a training left.

    Attributes:
        folder: the experiment.
        weights: best, last or averaged.
        params: every value in force.
        environment: what environment.json holds.
        state: the weights, by name.
    """

    folder: RunFolder
    weights: str
    params: Params
    environment: dict[str, Any]
    state: dict[str, Tensor]

    @property
    def classes(self) -> list[str]:
        """Names, in the order of the logits."""
        return list(self.environment["data"]["classes"])

    @property
    def multi_label(self) -> bool:
        """Whether an image may be of several classes."""
        return bool(self.environment["data"]["multi_label"])

    def net(self) -> nn.Module:
        """The net with its weights, on the CPU, built from the code that was kept of it.

        Raises:
            UserError: the weights do not fit it.
        """
        warn_of_changed_sources(self.folder)
        params = self.params.model_copy(update={"pretrain": False})
        net = build_net(params, len(self.classes), self.folder.file(run_folder.CODE)).net
        try:
            weights_file.load(net, self.state)
        except RuntimeError as error:
            name = run_folder.weights_name(self.weights)
            problem = f"does not fit the net of {run_folder.PARAMS_RESOLVED}: {first_line(error)}"
            raise UserError(f"{self.folder}/{name}: {problem}") from error
        return net

    def check_data(self, data: DataFolder) -> bool:
        """Refuses other classes; says whether train and valid are the files of the training."""
        root, trained = printable(str(data.root)), self.environment["data"]
        if list(data.classes) != self.classes and sorted(data.classes) == sorted(self.classes):
            raise UserError(
                f"{root}: its classes are in another order than those {self.folder} was trained for "
                f"({printable(', '.join(data.classes))} instead of {printable(', '.join(self.classes))})"
            )
        if list(data.classes) != self.classes:
            missing, unknown = (
                printable(", ".join(sorted(names))) or "none"
                for names in (set(self.classes) - set(data.classes), set(data.classes) - set(self.classes))
            )
            raise UserError(
                f"{root}: its classes are not those {self.folder} was trained for "
                f"(missing: {missing}; unknown: {unknown})"
            )
        splits = {name: split for name, split in data.splits.items() if name in ("train", "valid")}
        same = fingerprint(dataclasses.replace(data, splits=splits)) == trained["fingerprint"]
        if not same:
            were = printable(str(trained["folder"]))
            log.warning("%s: train and valid are not the files %s was trained with (%s)", root, self.folder, were)
        return bool(same)


def load_trained(folder: RunFolder, weights: str) -> Trained:
    """The parameters in force, the environment and the weights of a training, each checked against the manifest.

    Args:
        folder: the experiment.
        weights: best, last or averaged.

    Raises:
        UserError: it was not trained, or a file is damaged.
    """
    if not folder.file(run_folder.PARAMS_RESOLVED).is_file():
        raise UserError(f"{folder}: holds no trained model; run train.py --model_dir {folder} first")
    folder.read(run_folder.PARAMS_RESOLVED)
    params, name = load_params(folder.file(run_folder.PARAMS_RESOLVED)), run_folder.weights_name(weights)
    if params.arch == run_folder.NET:
        folder.read(f"{run_folder.CODE}/{run_folder.NET}")
    if not folder.file(name).is_file():
        raise UserError(f"{folder}/{name}: is not there; training writes it at its end (weights: best, last, averaged)")
    try:
        state = load_safetensors(folder.read(name))
    except SafetensorError as error:
        raise UserError(f"{folder}/{name}: is no safetensors file ({first_line(error)})") from error
    return Trained(folder, weights, params, folder.read_json(run_folder.ENVIRONMENT), state)
