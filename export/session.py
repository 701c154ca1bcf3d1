"""Running an ONNX model with onnxruntime. No torch."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from export.contract import INPUT, LOGITS, PROBABILITIES
from images.read import Pixels
from utils import UserError, optional_import, printable

Outputs = tuple[NDArray[np.float32], NDArray[np.float32]]
Run = Callable[[Pixels], Outputs]

ERRORS_ONLY: Final = 3


def open_session(model: bytes, where: str, threads: int = 0) -> Any:
    """An onnxruntime session on the CPU.

    Args:
        model: the file's bytes.
        where: what to call it in an error.
        threads: that compute one call; 0: as many as there are cores.

    Raises:
        UserError: it is no ONNX model, or onnxruntime is not installed.
    """
    ort = optional_import("onnxruntime", "onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads leave the cores free
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base
        raise UserError(f"{where}: is not an ONNX model that onnxruntime can run ({_first(error)})") from error


def run_of(session: Any) -> Run:
    """A session as a function from uint8 images (N, H, W, 3) to probabilities and logits (N, C) float32.

    It raises UserError where onnxruntime cannot compute them, such as for lack of memory.
    """

    def run(images: Pixels) -> Outputs:
        try:
            probabilities, logits = session.run([PROBABILITIES, LOGITS], {INPUT: images})
        except Exception as error:
            raise UserError(f"onnxruntime cannot compute images of shape {images.shape} ({_first(error)})") from error
        return probabilities, logits

    return run


def _first(error: Exception) -> str:
    return printable(str(error).strip().partition("\n")[0][:200])
