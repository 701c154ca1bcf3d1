import numpy as np
import onnx
import pytest
import torch
from torch import nn

from export import graph
from export.contract import LOGITS, PROBABILITIES
from export.session import open_session
from tests.export.models import contract, net
from utils import TrainingFault

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 20, 24, 3)).astype(np.uint8)


class Undecided(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3)) if images.sum() > 0 else -images.mean((2, 3))


@pytest.mark.slow
def test_what_torch_cannot_express_is_told_in_one_line():
    with pytest.raises(TrainingFault, match="tiny: torch cannot export this net to ONNX") as caught:
        graph.net_model(Undecided(), contract())
    assert "\n" not in str(caught.value)
    assert "data-dependent" in str(caught.value)


@pytest.mark.slow
def test_a_net_too_large_for_one_file_is_told(monkeypatch):
    monkeypatch.setattr(graph, "MOST_BYTES", 100)
    with pytest.raises(TrainingFault, match="do not fit into one ONNX file"):
        graph.net_model(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)), contract())


@pytest.mark.parametrize("multi_label", [False, True])
def test_probabilities_are_those_of_cooled_logits(multi_label):
    given = contract(temperature=2.5, multi_label=multi_label)
    model = graph.whole_model(net(given), given)
    session = open_session(model.SerializeToString(), "model", 1)
    probabilities, logits = (torch.from_numpy(one) for one in session.run([PROBABILITIES, LOGITS], {"images": IMAGES}))
    expected = (logits / 2.5).sigmoid() if multi_label else (logits / 2.5).softmax(1)
    torch.testing.assert_close(probabilities, expected, atol=1e-6, rtol=0)


def test_dimensions_have_names_and_the_checker_agrees():
    given = contract()
    model = graph.whole_model(net(given), given)
    onnx.checker.check_model(model, full_check=True)
    shape = [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    assert shape == ["batch", "height", "width", 3]
    assert not any(one.external_data for one in model.graph.initializer)
    assert model.producer_name == "dossier"
