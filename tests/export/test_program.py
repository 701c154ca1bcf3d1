import io
import json

import numpy as np
import pytest
import torch
from torch import nn

from export.contract import KEY
from export.program import Program, open_program, program_bytes
from tests.export.models import contract
from tests.export.test_preprocessing import SIZES, WAYS, evaluation


class Pixels(nn.Module):
    """Keeps what a net is fed."""

    def forward(self, images):
        self.seen = images
        return images.mean((2, 3))


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_feeds_the_very_pixels_of_evaluation(way):
    given, random, net = contract(**way), np.random.default_rng(0), Pixels()
    program = Program(net, given)
    for size in SIZES + [tuple(size) for size in random.integers(1, 260, (10, 2))]:
        images = random.integers(0, 256, (2, *size, 3)).astype(np.uint8)
        program(torch.from_numpy(images))
        np.testing.assert_allclose(net.seen.numpy(), evaluation(given, images), rtol=0, atol=2e-6, err_msg=str(size))


@pytest.mark.slow
@pytest.mark.parametrize("way", [WAYS[4]], ids=str)
def test_the_saved_program_takes_any_size_and_says_what_it_is(way):
    given = contract(**way, temperature=2.0)
    net = nn.Sequential(nn.Conv2d(given.channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    data = program_bytes(net, given)
    run, random = open_program(data), np.random.default_rng(1)
    for size in SIZES:
        images = random.integers(0, 256, (int(random.integers(1, 4)), *size, 3)).astype(np.uint8)
        with torch.no_grad():
            logits = net(torch.from_numpy(evaluation(given, images)))
        probabilities, found = run(images)
        np.testing.assert_allclose(found, logits.numpy(), atol=1e-6)
        np.testing.assert_allclose(probabilities, (logits / 2).softmax(1).numpy(), atol=1e-6)
    extra = {KEY: ""}
    torch.export.load(io.BytesIO(data), extra_files=extra)
    assert json.loads(extra[KEY])["classes"] == given.classes
