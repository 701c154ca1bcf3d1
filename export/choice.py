"""Which model answers: an .onnx file, an experiment's own export, or PyTorch. Imports torch for the last alone."""

import os
from importlib.util import find_spec
from pathlib import Path

from config import run_folder
from config.run_folder import RunFolder
from export.contract import fitted
from export.predictor import Predictor
from utils import UserError, log, printable, read_json


def choose(model: Path, trust_code: bool, weights: str | None = None) -> Predictor:
    """The model of a path.

    Args:
        model: an .onnx file that export_model.py wrote, or an experiment folder: its export/model.onnx where that is
            of the weights asked for, else PyTorch.
        trust_code: run the experiment's own net.py where PyTorch needs it.
        weights: of an experiment: best, last or averaged; None: best.

    Raises:
        UserError: there is no such model, it is damaged, it would run code that is not trusted, or weights are asked
            for of a file, which has its own.
    """
    if os.path.isfile(model) and model.name != run_folder.PARAMS:  # noqa: PTH113 (Path's raises for a long name)
        if weights is not None:
            raise UserError(f"--weights {weights}: {printable(str(model))} has its own; give the experiment instead")
        return Predictor.load(model)
    weights = weights or "best"
    if not os.path.exists(model):  # noqa: PTH110
        raise UserError(f"{printable(str(model))}: no such file or folder; give an experiment or an .onnx file")
    folder = RunFolder(model)
    name = f"{run_folder.EXPORT}/{run_folder.MODEL_ONNX}"
    if folder.intact(name) and find_spec("onnxruntime") is not None:
        exported = Predictor.load(folder.file(name))
        if exported.contract.weights_sha256 == folder.digests().get(run_folder.weights_name(weights)):
            if exported.contract.fitted != fitted(folder, weights):
                log.warning("%s/%s: is older than the calibration of these weights; export it anew", folder, name)
            return exported
        log.warning("%s/%s: is not of the %s weights; PyTorch answers", folder, name, weights)
    return _pytorch(folder, trust_code, weights)


def _pytorch(folder: RunFolder, trust_code: bool, weights: str) -> Predictor:
    resolved = folder.file(run_folder.PARAMS_RESOLVED)
    if not trust_code and resolved.is_file() and read_json(resolved).get("arch") == run_folder.NET:
        code = f"{run_folder.CODE}/{run_folder.NET}"
        raise UserError(
            f"{folder}: its net is the code in {code}, which would run; read it and give --trust_code, "
            "or export the experiment to ONNX, which runs no code"
        )
    from export.reference import contract_of, reference
    from training.trained import load_trained

    trained = load_trained(folder, weights)
    contract = contract_of(trained)
    return Predictor(contract, reference(trained, trained.net(), contract))
