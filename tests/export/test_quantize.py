import itertools

import numpy as np
import onnx
import pytest

from export.contract import LOGITS, Contract
from export.graph import whole_model
from export.preprocessing import PIXELS
from export.quantize import LAYERS, attempts
from export.session import open_session
from export.tape import Tape
from tests.export.models import contract, net


def batches(given: Contract, count=3):
    """Noise about a colour of its own for each image."""
    random, shape = np.random.default_rng(0), (8, given.channels, given.im_sz, given.im_sz)
    images = [random.uniform(-2, 2, (*shape[:2], 1, 1)) + random.normal(size=shape) for _ in range(count)]
    return lambda: iter([one.astype(np.float32) for one in images])


@pytest.fixture(scope="module")
def made():
    """A net with a squeeze-and-excitation gate, and every attempt at it."""
    given = contract()
    op, random = Tape("net"), np.random.default_rng(0)

    def weights(*shape):
        return random.normal(size=shape).astype(np.float32) / np.sqrt(np.prod(shape[1:])).astype(np.float32)

    features = op.Relu(
        op.Conv(PIXELS, weights(16, 3, 3, 3), np.zeros(16, np.float32), pads=[1, 1, 1, 1], output="first")
    )
    pooled = op.GlobalAveragePool(features)
    gate = op.Sigmoid(
        op.Conv(op.Relu(op.Conv(pooled, weights(4, 16, 1, 1), output="squeeze")), weights(16, 4, 1, 1), output="excite")
    )
    middle = op.Relu(op.Conv(op.Mul(features, gate), weights(16, 16, 3, 3), np.zeros(16, np.float32), output="middle"))
    op.Gemm(op.Flatten(op.GlobalAveragePool(middle)), weights(16, 3), np.zeros(3, np.float32), output=LOGITS)
    found = net(given)
    del found.graph.node[:], found.graph.initializer[:]
    found.graph.node.extend(op.nodes)
    found.graph.initializer.extend(op.initializers)
    onnx.checker.check_model(found, full_check=True)
    return given, found, list(attempts(found, batches(given)))


def quantised_layers(model):
    """The layers whose weights come from 8-bit numbers."""
    dequantised = {output for node in model.graph.node if node.op_type == "DequantizeLinear" for output in node.output}
    return {node.name for node in model.graph.node if node.op_type in LAYERS and node.input[1] in dequantised}


def test_more_is_kept_in_float_from_attempt_to_attempt(made):
    _, _, found = made
    assert [attempt.calibration for attempt in found] == ["percentile", "entropy", "percentile", "percentile"]
    every = {"first", "squeeze", "excite", "middle", LOGITS}
    for attempt in found:
        assert quantised_layers(attempt.net) == every - set(attempt.kept_float)
    assert found[0].kept_float == found[1].kept_float == ()
    for attempt in found[2:]:
        assert {"first", "squeeze", "excite", LOGITS} <= set(attempt.kept_float)


def test_weights_have_a_scale_for_each_channel_and_activations_are_unsigned(made):
    _, _, found = made
    model = found[0].net
    kinds = {array.name: array for array in model.graph.initializer}
    (conv,) = [node for node in model.graph.node if node.name == "middle"]
    (weight,) = [node for node in model.graph.node if node.output[0] == conv.input[1]]
    assert kinds[weight.input[0]].data_type == onnx.TensorProto.INT8
    assert list(kinds[weight.input[1]].dims) == [16]
    activations = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert activations
    assert {kinds[node.input[2]].data_type for node in activations} == {onnx.TensorProto.UINT8}


def test_the_whole_model_takes_images_and_stays_near_float32(made):
    given, plain, found = made
    random = np.random.default_rng(1)
    images = (random.uniform(40, 200, (8, 1, 1, 3)) + random.uniform(-40, 40, (8, 20, 24, 3))).astype(np.uint8)
    results = [
        open_session(whole_model(model, given).SerializeToString(), "model", 1).run([LOGITS], {"images": images})[0]
        for model in (plain, *(attempt.net for attempt in found))
    ]
    extent = np.ptp(results[0])
    errors = [np.abs(result - results[0]).max() / extent for result in results[1:]]
    assert max(errors) < 0.2
    assert errors[-1] <= max(errors[:2])


def test_one_batch_of_calibration_images_is_asked_for_at_a_time():
    given = contract()
    asked = []

    def counted():
        for index, pixels in enumerate(batches(given, 5)()):
            asked.append(index)
            yield pixels

    (_,) = itertools.islice(attempts(net(given), counted), 1)
    assert asked == [0, 1, 2, 3, 4]
