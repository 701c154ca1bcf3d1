"""What every trial of a search starts from: given weights, or those of the best experiment in a folder."""

import math
from collections.abc import Iterable
from pathlib import Path

from config import run_folder
from config.load import is_weights_path
from search.collect import experiment_folders
from search.read import greater, read_run
from utils import UserError, printable


def starting_weights(asked: str, metric: str) -> str:
    """What `pretrain` is to be in each trial.

    Args:
        asked: a weights file, an experiment folder, or a folder with experiments in it.
        metric: what the best of these is best at.

    Raises:
        UserError: there is no such file or folder, or no finished experiment in it, or they cannot be compared.
    """
    path = Path(asked).expanduser()
    if not path.exists():
        raise UserError(f"search.weights: {printable(asked)}: no such file or folder")
    weights = run_folder.weights_name("best")
    if path.is_file() or (path / weights).is_file():
        return _as_path(path)
    runs = [read_run(folder, path) for folder in experiment_folders(path) if (folder / weights).is_file()]
    runs = [run for run in runs if run.state == "finished" and math.isfinite(run.score(metric))]
    runs = [run for run in runs if not run.params.get("overfit")]  # which knows a few images by heart
    if not runs:
        raise UserError(f"search.weights: {printable(asked)}: holds no finished experiment with weights and {metric}")
    if len({run.fingerprint for run in runs}) > 1:
        raise UserError(
            f"search.weights: {printable(asked)}: its experiments were trained on different data; name one of them"
        )
    sign = 1 if greater(metric) else -1
    return _as_path(max(runs, key=lambda run: sign * run.score(metric)).path)


def missing(pretrain: Iterable[object]) -> list[str]:
    """What is wrong with the weights that trials would start from: a line for each file or folder that is not there."""
    paths = sorted({str(name) for name in pretrain if is_weights_path(name)})
    return [f"pretrain: {printable(name)}: no such file or folder" for name in paths if not _is_there(name)]


def _is_there(name: str) -> bool:
    try:
        return Path(name).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long, a home of nobody, a zero byte
        return False


def _as_path(path: Path) -> str:
    """Written so that nothing takes it for the name of published weights."""
    return str(path) if "/" in str(path) else f"./{path}"
