import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest

import include
from export.contract import KEY
from export.predictor import Predictor
from export.session import open_session, run_of
from images.read import ImageError
from tests.conftest import write_image
from tests.export.models import contract, model
from utils import UserError


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("predictor") / "model.onnx"
    path.write_bytes(model(contract()))
    return path


@pytest.fixture(scope="module")
def predictor(file):
    return Predictor.load(file, threads=1)


def pictures(count, sizes=((20, 24), (31, 17), (20, 24))):
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (*sizes[i % len(sizes)], 3)).astype(np.uint8) for i in range(count)]


def chances(answers):
    return np.stack([answer.probabilities for answer in answers])


def test_probabilities_sum_to_one_and_top_is_sorted(predictor):
    (answer,) = predictor.predict(pictures(1))
    assert answer.probabilities.sum() == pytest.approx(1, abs=1e-6)
    best = answer.top(2)
    assert [name for name, _ in best] == [answer.classes[i] for i in np.argsort(-answer.logits)[:2]]
    assert best[0][1] >= best[1][1]
    assert len(answer.top(99)) == 3
    assert predictor.classes == ("apple", "bee", "cloud")


def test_batches_of_mixed_sizes_give_what_each_image_gives_alone(predictor):
    images = pictures(11)
    alone = [predictor.predict([image])[0] for image in images]
    for size in (1, 3, 32):
        np.testing.assert_allclose(chances(predictor.predict(images, size)), chances(alone), atol=1e-6)


def test_files_arrays_and_streams_agree(predictor, tmp_path):
    images = pictures(7)
    paths = [write_image(tmp_path / f"{i}.png", image) for i, image in enumerate(images)]
    expected = chances(predictor.predict(images))
    np.testing.assert_allclose(chances(predictor.predict([paths[0], str(paths[1]), *images[2:]])), expected, atol=1e-6)
    for size, workers in ((1, 1), (2, 3), (32, 2)):
        streamed = list(predictor.stream(iter(paths), size, workers))
        assert [path for path, _ in streamed] == paths
        np.testing.assert_allclose(chances([answer for _, answer in streamed]), expected, atol=1e-6)
    assert list(predictor.stream([])) == []


def test_images_may_become_larger_on_the_way(predictor, tmp_path, monkeypatch):
    """There is less room for those read ahead, while more are waiting already."""
    monkeypatch.setattr("export.predictor.BUDGET", 6 * 64 * 64 * 3)
    images = pictures(20, ((8, 8),)) + pictures(5, ((64, 64),)) + pictures(3, ((8, 8),))
    paths = [write_image(tmp_path / f"{i:02}.png", image) for i, image in enumerate(images)]
    streamed = list(predictor.stream(paths))
    assert [path for path, _ in streamed] == paths
    expected = chances(predictor.predict(images))
    np.testing.assert_allclose(chances([answer for _, answer in streamed]), expected, atol=1e-6)


def test_a_bad_file_has_its_error_in_its_place(predictor, tmp_path):
    good = [write_image(tmp_path / f"{i}.png", image) for i, image in enumerate(pictures(4))]
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    large = write_image(tmp_path / "large.png", size=(1100, 1000))  # above max_megapixels
    answers = dict(predictor.stream([good[0], bad, *good[1:], large, tmp_path / "missing.png"], batch_size=2))
    assert {path.name for path, answer in answers.items() if isinstance(answer, ImageError)} == {
        "bad.png",
        "large.png",
        "missing.png",
    }
    with pytest.raises(ImageError, match=r"bad\.png: is not an image"):
        predictor.predict([good[0], bad])


def test_grey_models_take_colour_and_grey():
    given = contract(channels=1)
    grey = pictures(1)[0][..., 0]
    predictor = Predictor(given, run_of(open_session(model(given), "grey", 1)))
    same = predictor.predict([grey, grey[..., None], np.repeat(grey[..., None], 3, axis=2)])
    assert np.ptp(chances(same), axis=0).max() < 1e-6


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "must be uint8 in 0 … 255, got float32"),
        (np.zeros((4, 4, 4), np.uint8), r"must be \(height, width, 3\).*got \(4, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), r"got \(0, 4, 3\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"got \(1, 4, 4, 3\)"),
    ],
)
def test_other_arrays_are_refused(predictor, image, message):
    with pytest.raises(UserError, match=message):
        predictor.predict([image])


def test_many_threads_get_what_one_gets(predictor):
    images = pictures(12)
    expected = chances(predictor.predict(images))
    gate = threading.Barrier(4)

    def ask(_):
        gate.wait()
        return [chances(predictor.predict(images)) for _ in range(5)]

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(ask, range(4)):
            for one in found:
                np.testing.assert_array_equal(one, expected)


def changed(change):
    proto = onnx.load_from_string(model(contract()))
    change(proto)
    return proto.SerializeToString()


def metadata(value):
    def change(proto):
        (entry,) = [entry for entry in proto.metadata_props if entry.key == KEY]
        entry.value = value(entry.value)

    return changed(change)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: b"", "is not an ONNX model that onnxruntime can run"),
        (lambda: b"\x89PNG of something", "is not an ONNX model that onnxruntime can run"),
        (lambda: model(contract())[:-2000], "is not an ONNX model that onnxruntime can run"),
        (lambda: changed(lambda p: p.ClearField("metadata_props")), "was not written by export_model.py"),
        (lambda: metadata(lambda text: text[:-5]), "what it says of itself cannot be used"),
        (lambda: metadata(lambda text: text.replace('"format": 1', '"format": 2')), "format: Input should be 1"),
        (lambda: metadata(lambda text: text.replace('"bee", ', "")), "inputs and outputs are not those"),
        (lambda: metadata(lambda text: text.replace("0.875", "7.5")), "crop_fraction"),
    ],
)
def test_foreign_and_damaged_files_are_told_in_one_line(tmp_path, content, message):
    path = tmp_path / "other.onnx"
    path.write_bytes(content())
    with pytest.raises(UserError, match=message) as caught:
        Predictor.load(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(UserError, match=r"gone\.onnx: cannot be read \(No such file"):
        Predictor.load(tmp_path / "gone.onnx")


def test_neither_torch_nor_pandas_is_imported(file):
    code = (
        f"import sys; from export.predictor import Predictor; import numpy as np\n"
        f"Predictor.load({str(file)!r}).predict([np.zeros((9, 9, 3), np.uint8)])\n"
        "sys.exit(' '.join({'torch', 'pandas', 'sklearn', 'onnx'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=include.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_onnxruntime_cannot_compute_is_told_in_one_line():
    run = run_of(open_session(model(contract()), "tiny", 1))
    with pytest.raises(UserError, match=r"^onnxruntime cannot compute images of shape \(1, 4, 4, 2\) \(.+\)$"):
        run(np.zeros((1, 4, 4, 2), np.uint8))
