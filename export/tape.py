"""Writing an ONNX graph down node by node, as calls. No torch."""

from collections.abc import Callable
from typing import Any

import numpy as np

from utils import optional_import

Value = str | np.generic | np.ndarray[Any, Any]


class Tape:
    """A growing list of nodes: `tape.Add(x, y)` writes one and gives its output's name.

    Args:
        prefix: of the names it makes, so that graphs can be joined.

    Attributes:
        nodes: in order.
        initializers: the constants; numpy values among the inputs become these.
    """

    def __init__(self, prefix: str) -> None:
        self._onnx = optional_import("onnx", "onnx")
        self._prefix, self._names = prefix, dict[tuple[Any, ...], str]()
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []

    def __getattr__(self, operator: str) -> Callable[..., str]:
        if not operator[0].isupper():  # what Python itself asks for is no operator
            raise AttributeError(operator)

        def write(*inputs: Value, output: str | None = None, **attributes: Any) -> str:
            output = output or f"{self._prefix}/{operator}_{len(self.nodes)}"
            names = [value if isinstance(value, str) else self._constant(np.asarray(value)) for value in inputs]
            self.nodes.append(self._onnx.helper.make_node(operator, names, [output], name=output, **attributes))
            return output

        return write

    def _constant(self, value: np.ndarray[Any, Any]) -> str:
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._names:
            self._names[key] = f"{self._prefix}/constant_{len(self._names)}"
            self.initializers.append(self._onnx.numpy_helper.from_array(value, self._names[key]))
        return self._names[key]
