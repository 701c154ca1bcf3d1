"""Small ONNX models for tests, made without torch's exporter, which takes seconds."""

from typing import Any

import numpy as np
from onnx import helper

from export.contract import LOGITS, Contract
from export.graph import whole_model
from export.preprocessing import PIXELS
from export.tape import Tape


def contract(**changes: Any) -> Contract:
    channels = changes.get("channels", 3)
    given = {
        "name": "tiny",
        "classes": ["apple", "bee", "cloud"],
        "multi_label": False,
        "im_sz": 16,
        "channels": channels,
        "resize": "crop",
        "crop_fraction": 0.875,
        "background": [255, 255, 255],
        "max_megapixels": 1.0,
        "mean": [0.5, 0.4, 0.3][:channels],
        "std": [0.2, 0.3, 0.25][:channels],
        "weights": "best",
        "weights_sha256": "0" * 64,
        "provenance": {"params": {"arch": "conv"}},
    }
    return Contract(**given | changes)


def net(given: Contract, seed: int = 0) -> Any:
    """A convolution, ReLU, average and a linear layer as graph.net_model gives a net."""
    random, op = np.random.default_rng(seed), Tape("net")
    weights = random.normal(size=(8, given.channels, 3, 3)).astype(np.float32)
    features = op.Relu(op.Conv(PIXELS, weights, np.zeros(8, np.float32), pads=[1, 1, 1, 1]))
    pooled = op.Flatten(op.GlobalAveragePool(features))
    head = random.normal(size=(8, len(given.classes))).astype(np.float32)
    op.Gemm(pooled, head, np.zeros(len(given.classes), np.float32), output=LOGITS)
    side = given.im_sz
    graph = helper.make_graph(
        op.nodes,
        "net",
        [helper.make_tensor_value_info(PIXELS, 1, ["batch", given.channels, side, side])],
        [helper.make_tensor_value_info(LOGITS, 1, ["batch", len(given.classes)])],
        op.initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def model(given: Contract) -> bytes:
    found: bytes = whole_model(net(given), given).SerializeToString()
    return found
