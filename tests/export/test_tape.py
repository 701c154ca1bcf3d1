import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from export.tape import Tape


def test_calls_become_a_graph_that_computes():
    op = Tape("test")
    op.Sub(op.Mul("x", np.float32(3)), np.float32(3), output="y")
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n"]) for name in "xy"]
    graph = helper.make_graph(op.nodes, "graph", ends[:1], ends[1:], op.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    onnx.checker.check_model(model, full_check=True)
    (found,) = ReferenceEvaluator(model).run(None, {"x": np.array([1, 5], np.float32)})
    assert found.tolist() == [0, 12]


def test_equal_constants_are_kept_once_and_kinds_apart():
    op = Tape("test")
    op.Add(np.int64(1), np.int64(1))
    op.Add(np.float32(1), np.array([1], np.float32))
    assert len(op.initializers) == 3
    names = [*(one.name for one in op.initializers), *(node.output[0] for node in op.nodes)]
    assert len(set(names)) == 5
    assert all(name.startswith("test/") for name in names)


def test_python_asks_for_nothing_that_becomes_a_node():
    op = Tape("test")
    with pytest.raises(AttributeError):
        _ = op.__deepcopy__
    with pytest.raises(AttributeError):
        _ = op.shape
    assert op.nodes == []
