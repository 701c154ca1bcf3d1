import numpy as np
import onnxruntime
import pytest
import torch
from onnx import helper
from PIL import Image

from config.schema import Params
from export.contract import INPUT
from export.preprocessing import FLOAT, PIXELS, UINT8, preprocessing
from images.augment import normalise
from images.view import View
from tests.export.models import contract

WAYS = [
    {"resize": "crop"},
    {"resize": "crop", "channels": 1, "crop_fraction": 1.0},
    {"resize": "crop", "im_sz": 9, "crop_fraction": 0.3},
    {"resize": "letterbox", "background": [10, 200, 30]},
    {"resize": "letterbox", "background": [10, 200, 30], "channels": 1},
    {"resize": "squash", "im_sz": 21},
    {"resize": "squash", "channels": 1},
]
SIZES = [(1, 1), (1, 40), (40, 1), (16, 16), (18, 18), (17, 31), (200, 3), (3, 200), (61, 47), (120, 90), (333, 500)]


def graph(given):
    op, side = preprocessing(given), given.im_sz
    made = helper.make_graph(
        op.nodes,
        "preprocessing",
        [helper.make_tensor_value_info(INPUT, UINT8, ["batch", "height", "width", 3])],
        [helper.make_tensor_value_info(PIXELS, FLOAT, ["batch", given.channels, side, side])],
        op.initializers,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda images: session.run([PIXELS], {INPUT: images})[0]


def evaluation(given, images):
    """What a net is fed in evaluation."""
    names = ("im_sz", "channels", "resize", "crop_fraction", "background")
    params = Params(arch="conv", **{name: getattr(given, name) for name in names})
    if given.channels == 1:
        images = [np.array(Image.fromarray(image).convert("L"))[..., None] for image in images]
    kept = np.stack([View.of(params, training=False).apply(image) for image in images])
    return normalise(torch.from_numpy(kept).permute(0, 3, 1, 2), given.mean, given.std).numpy()


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_gives_the_very_pixels_of_evaluation(way):
    given, random = contract(**way), np.random.default_rng(0)
    run = graph(given)
    sizes = SIZES + [tuple(size) for size in random.integers(1, 260, (20, 2))]
    for index, size in enumerate(sizes):
        images = random.integers(0, 256, (1 + index % 3, *size, 3)).astype(np.uint8)
        if index % 2:  # edges, at which rounding shows most
            images = (images > 127).astype(np.uint8) * 255
        np.testing.assert_allclose(run(images), evaluation(given, images), rtol=0, atol=2e-6, err_msg=str(size))
