"""int8: the net's weights and activations as 8-bit numbers, by onnxruntime's static quantisation (QDQ). No torch."""

import contextlib
import io
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from export.preprocessing import PIXELS
from utils import optional_import, write_atomic

Batches = Callable[[], Iterator[NDArray[np.float32]]]

PERCENTILE: Final = 99.99
LAYERS: Final = ("Conv", "Gemm", "MatMul")
SHARES: Final = (0.1, 0.3)  # of the layers that stay float32, once all of them in int8 are not good enough


class Attempt(NamedTuple):
    """A quantised net, and how it was made.

    Attributes:
        net: an onnx.ModelProto with the ends of the net's own.
        calibration: percentile or entropy: how the range of each activation was chosen.
        kept_float: names of the layers that stayed float32.
    """

    net: Any
    calibration: str
    kept_float: tuple[str, ...]


def attempts(net: Any, batches: Batches) -> Iterator[Attempt]:
    """Quantised nets, each made with more care than the one before; the first that is good enough is the best.

    Args:
        net: as graph.net_model gives it.
        batches: gives the calibration images anew, as the net is fed them: float32 (B, C, S, S). One batch's
            activations are in memory at a time.
    """
    onnx = optional_import("onnx", "onnx")
    inferred = onnx.shape_inference.infer_shapes(net)
    layers = [node.name for node in net.graph.node if node.op_type in LAYERS]
    first = None
    for method in ("percentile", "entropy"):
        ranges = _ranges(inferred, batches, method)
        attempt = Attempt(_quantised(inferred, ranges, ()), method, ())
        first = first or (ranges, attempt)
        yield attempt
    if first is None:
        return
    ranges, attempt = first
    order = _worst_first(inferred, attempt.net, next(batches()), layers)
    for share in SHARES:
        kept = {layers[0], layers[-1], *_gates(net), *order[: round(share * len(layers))]}
        names = tuple(name for name in layers if name in kept)
        yield Attempt(_quantised(inferred, ranges, names), attempt.calibration, names)


def _ranges(net: Any, batches: Batches, method: str) -> Any:
    """The range of each activation, gathered batch by batch."""
    quantization = optional_import("onnxruntime.quantization", "onnxruntime")
    options = {"percentile": PERCENTILE, "symmetric": False} if method == "percentile" else {}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):  # it prints as it goes
        path = Path(folder, "net.onnx")
        write_atomic(path, net.SerializeToString())
        calibrator = quantization.create_calibrator(
            path,
            augmented_model_path=str(Path(folder, "augmented.onnx")),
            calibrate_method=getattr(quantization.CalibrationMethod, method.capitalize()),
            extra_options=options,
        )
        for pixels in batches():
            calibrator.collect_data(_reader(pixels))
        return calibrator.compute_data()


def _reader(*batches: NDArray[np.float32]) -> Any:
    """Batches as onnxruntime's tools read them."""
    reader = optional_import("onnxruntime.quantization", "onnxruntime").CalibrationDataReader
    waiting = iter(batches)

    class Reader(reader):  # type: ignore[misc,valid-type]
        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            pixels = next(waiting, None)
            return None if pixels is None else {PIXELS: pixels}

    return Reader()


def _quantised(net: Any, ranges: Any, kept_float: tuple[str, ...]) -> Any:
    """Activations as unsigned, weights as signed 8-bit numbers with a scale for each channel."""
    onnx = optional_import("onnx", "onnx")
    quantization = optional_import("onnxruntime.quantization", "onnxruntime")
    registry = optional_import("onnxruntime.quantization.registry", "onnxruntime")
    copy = onnx.ModelProto()
    copy.CopyFrom(net)
    quantizer = quantization.QDQQuantizer(
        copy,
        True,  # a scale for each channel
        False,  # the full range
        quantization.QuantType.QInt8,
        quantization.QuantType.QUInt8,
        ranges,
        [],
        list(kept_float),
        list(registry.QDQRegistry),
        {"MatMulConstBOnly": True},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    return quantizer.model.model


def _gates(net: Any) -> set[str]:
    """The layers behind a global average that is multiplied into the features again (squeeze and excitation)."""
    makers = {output: node for node in net.graph.node for output in node.output}
    found: set[str] = set()
    for node in net.graph.node:
        if node.op_type != "Mul":
            continue
        for start in node.input:
            behind, walked = [start], list[Any]()
            while behind and len(walked) < 12:
                maker = makers.get(behind.pop())
                if maker is not None:
                    walked.append(maker)
                    pooled = maker.op_type in ("GlobalAveragePool", "ReduceMean")
                    behind.extend([] if pooled else maker.input[:1])
                    if pooled:
                        found.update(one.name for one in walked if one.op_type in LAYERS)
    return found


def _worst_first(net: Any, quantised: Any, pixels: NDArray[np.float32], layers: list[str]) -> list[str]:
    """The layers by the signal to noise ratio of what goes in and comes out of them, in int8 against float32."""
    debug = optional_import("onnxruntime.quantization.qdq_loss_debug", "onnxruntime")
    values = []
    with tempfile.TemporaryDirectory() as folder:
        for name, model in (("float", net), ("int8", quantised)):
            plain, augmented = Path(folder, f"{name}.onnx"), Path(folder, f"{name}_augmented.onnx")
            write_atomic(plain, model.SerializeToString())
            debug.modify_model_output_intermediate_tensors(plain, augmented)
            values.append(debug.collect_activations(str(augmented), _reader(pixels)))
    matched = debug.create_activation_matching(values[1], values[0])
    ratios = {name: float(one["qdq_err"]) for name, one in debug.compute_activation_error(matched).items()}
    ends = {node.name: (node.input[0], node.output[0]) for node in net.graph.node if node.name in layers}
    return sorted(layers, key=lambda name: min(ratios.get(end, np.inf) for end in ends[name]))
