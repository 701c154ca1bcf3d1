"""A net as one ONNX graph: preprocessing, the net itself, probabilities, and what it says of itself."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from export.contract import INPUT, LOGITS, PROBABILITIES, Contract
from export.preprocessing import FLOAT, PIXELS, UINT8, preprocessing
from export.tape import Tape
from model.weights_file import first_line
from utils import TrainingFault, optional_import

MOST_BYTES: Final = 2**31 - 2**20  # a protobuf file holds 2 GB
EXAMPLE: Final = 2  # images in the batch that the net is traced with; 1 would be taken for a constant


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps what torch's exporter says of its own insides from the person."""
    noisy = [logging.getLogger(name) for name in ("torch", "torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in noisy]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in noisy:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(noisy, before, strict=True):
                logger.setLevel(level)


def net_model(net: nn.Module, contract: Contract) -> Any:
    """The net alone as an onnx.ModelProto: `PIXELS` float32 (batch, C, S, S) to `LOGITS` (batch, classes).

    Its nodes do not say which lines of which files they are from, as torch's do: these hold private paths and sources.

    Raises:
        TrainingFault: torch cannot express it.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        optional_import(package, package)
    example = torch.zeros(EXAMPLE, contract.channels, contract.im_sz, contract.im_sz)
    try:
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                net.eval(),
                (example,),
                input_names=[PIXELS],
                output_names=[LOGITS],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # the exporter raises nearly anything
        raise TrainingFault(f"{contract.name}: torch cannot export this net to ONNX ({reason(error)})") from error
    if program is None:
        raise TrainingFault(f"{contract.name}: torch gave no ONNX program")
    optional_import("onnx_ir.passes.common", "onnxscript").ClearMetadataAndDocStringPass()(program.model)
    model = program.model_proto
    if (size := model.ByteSize()) > MOST_BYTES:
        raise TrainingFault(f"{contract.name}: {size / 2**30:.1f} GB do not fit into one ONNX file, which holds 2")
    return model


def reason(error: BaseException) -> str:
    """The first cause, which says more than the exporter's last word."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {first_line(error)}"


def whole_model(net: Any, contract: Contract) -> Any:
    """The graph that people use: uint8 images of any size to probabilities and logits.

    Args:
        net: as net_model gives it, or quantised.
        contract: goes into the metadata.
    """
    onnx = optional_import("onnx", "onnx")
    helper, before, after = onnx.helper, preprocessing(contract), _probabilities(contract)
    outputs = [(name, FLOAT, ["batch", len(contract.classes)]) for name in (PROBABILITIES, LOGITS)]
    graph = helper.make_graph(
        [*before.nodes, *net.graph.node, *after.nodes],
        "classifier",
        [helper.make_tensor_value_info(INPUT, UINT8, ["batch", "height", "width", 3])],
        [helper.make_tensor_value_info(*output) for output in outputs],
        [*before.initializers, *net.graph.initializer, *after.initializers],
    )
    model = helper.make_model(
        graph,
        opset_imports=net.opset_import,
        functions=net.functions,
        ir_version=net.ir_version,
        producer_name="dossier",
    )
    helper.set_model_props(model, contract.to_metadata())
    onnx.checker.check_model(model, full_check=True)
    return model


def _probabilities(contract: Contract) -> Tape:
    op = Tape("probabilities")
    cooled = LOGITS if contract.temperature == 1 else op.Div(LOGITS, np.float32(contract.temperature))
    if contract.multi_label:
        op.Sigmoid(cooled, output=PROBABILITIES)
    else:
        op.Softmax(cooled, axis=1, output=PROBABILITIES)
    return op
