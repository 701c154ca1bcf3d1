"""Bad and odd images, each through train.py: read rightly, left out and counted, or named on one line."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from config.schema import Params
from images.stream import Source
from model.data_loader import fetch_dataloader
from tests.conftest import write_image
from tests.faults.dirty import Trainer, cut, small_data
from tests.images.raw_files import (
    LFS_POINTER,
    POSTSCRIPT,
    SVG,
    WEB_PAGE,
    animation,
    bomb,
    chunk,
    encoded,
    png,
    tiff,
)
from tests.images.test_read import TURNS, exif_bytes, smooth

exercised: set[str] = set()


@pytest.fixture
def data(tmp_path):
    return small_data(tmp_path / "data")


@pytest.fixture
def trained(tmp_path, monkeypatch, capsys):
    return Trainer(tmp_path / "run", monkeypatch, capsys)


# --- files that are no usable image ----------------------------------------------------------------------------------


BAD_BYTES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "web page": (WEB_PAGE, "is a web page, not an image"),
    "svg": (SVG, "is a web page, not an image"),
    "lfs": (LFS_POINTER, "is a Git LFS pointer, not the image; fetch it with git lfs pull"),
    "text": (b"Not found\n", "is not an image of a known format"),
    "postscript": (POSTSCRIPT, "is not an image of a known format"),
    "icon": (encoded(Image.new("RGB", (16, 16)), "ICO"), "is not an image of a known format"),
    "first byte": (b"\xff", "is not an image of a known format"),
    "cut header": (cut("JPEG", 0.1), "cannot be decoded (Truncated File Read)"),
    "half jpeg": (cut("JPEG", 0.7), "cannot be decoded (image file is truncated"),
    "jpeg without its end": (cut("JPEG", 0.9999), "cannot be decoded (image file is truncated"),
    "half png": (cut("PNG", 0.5), "cannot be decoded ("),
    "half gif": (cut("GIF", 0.5), "cannot be decoded ("),
    "half webp": (cut("WEBP", 0.5), "cannot be decoded ("),
    "half tiff": (cut("TIFF", 0.5), "cannot be decoded ("),
    "half bmp": (cut("BMP", 0.5), "cannot be decoded ("),
    "bomb": (bomb(), "has 144.0 megapixels, more than max_megapixels 50"),
    "huge header": (png(30_000, 30_000, 8, 2, bytes(30_000)), "has 900.0 megapixels, more than max_megapixels 50"),
    "float": (tiff(np.ones((9, 9), np.float32), 32, sample_format=3), "has pixels of mode F, whose range is not known"),
    "32 bits": (tiff(np.ones((9, 9), np.uint32), 32), "has pixels of mode I, whose range is not known"),
    "12 bits": (tiff(np.ones((9, 8), np.uint8), 12), "has pixels of mode I;16, whose range is not known"),
    "white is zero": (tiff(np.ones((9, 9), np.uint16), 16, photometric=0), "has pixels of mode I;16, whose range"),
    "lab": (encoded(Image.new("LAB", (9, 9)), "TIFF"), "has pixels of mode LAB, whose range is not known"),
}
BAD_FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "dangling link": (lambda path: path.symlink_to("gone.jpg"), "is a link to a file that is not there"),
    "link to itself": (lambda path: path.symlink_to(path.name), "cannot be read (Too many levels of symbolic links)"),
    "pipe": (os.mkfifo, "is not a regular file"),
    "endless device": (lambda path: path.symlink_to("/dev/zero"), "is not a regular file"),
}
BAD = BAD_FILES | {
    name: (lambda path, content=content: path.write_bytes(content), reason)
    for name, (content, reason) in BAD_BYTES.items()
}


FOUND_BY_DECODING = 6  # JPEG twice, PNG, GIF, WEBP and BMP


@pytest.mark.filterwarnings("ignore:::PIL")
@pytest.mark.parametrize("what", BAD)
def test_a_bad_file_is_named(data, trained, what):
    plant, reason = BAD[what]
    plant(data / "train/bee/bad.jpg")
    ended = trained(data)
    first = ended.err.splitlines()[0]
    assert ended.code == 2
    assert first.startswith(f"{data}/train/bee/bad.jpg: {reason}")
    assert len(ended.err.splitlines()) <= 2
    exercised.add(what)


@pytest.mark.filterwarnings("ignore:::PIL")
@pytest.mark.parametrize("cache", ["memory", "disk", "none"])
def test_bad_files_are_left_out_and_counted(data, trained, cache):
    for number, (plant, _) in enumerate(BAD.values()):
        plant(data / "train/bee" / f"bad{number:02}.jpg")
    (data / "valid/ant/bad.png").write_bytes(cut("PNG", 0.5))
    ended = trained(data, skip_bad=1, cache=cache)
    assert ended.code == 0, ended.err
    for number, (_, reason) in enumerate(BAD.values()):
        mentions = [line for line in ended.out.splitlines() if f"train/bee/bad{number:02}.jpg" in line]
        assert len(mentions) == 1
        assert reason in mentions[0]
    left_out = ended.about["left_out"]
    assert len(left_out) == len(BAD) + 1
    for number, (_, reason) in enumerate(BAD.values()):
        assert left_out[f"train/bee/bad{number:02}.jpg"].startswith(reason)
    assert ended.about["images"] == {"train": 8 + FOUND_BY_DECODING, "valid": 4 + 1}
    by_header = len(BAD) - FOUND_BY_DECODING
    assert f"{data}: {by_header} images have no readable header and are left out" in ended.out
    assert f"train: {FOUND_BY_DECODING} unreadable images are left out" in ended.out
    assert "valid: 1 unreadable images are left out" in ended.out


@pytest.mark.filterwarnings("ignore:::PIL")
@pytest.mark.parametrize(("cache", "workers"), [("memory", 0), ("disk", 0), ("none", 0), ("none", 2)])
def test_no_image_stands_in_for_another(data, cache, workers):
    """Every image has a colour of its own, and bad files stand between them."""
    colours = {}
    for index in range(24):
        label = ("ant", "bee")[index % 2]
        path = f"train/{label}/{index:03}.png"
        colours[path] = (10 * index, 255 - 10 * index, index)
        write_image(data / path, colours[path], size=(8, 8))
        plant, _ = list(BAD.values())[index]
        plant(data / "train" / label / f"{index:03}-bad.jpg")
    for path in data.glob("train/*/?.png"):
        path.unlink()
    params = Params(arch="conv", im_sz=8, batch_size=5, cache=cache, num_workers=workers, skip_bad=True,
                    resize="squash", normalize={"mean": [0, 0, 0], "std": [1, 1, 1]})  # fmt: skip
    loader = fetch_dataloader(["train_evaluation"], data, params)["train_evaluation"]
    assert sorted(loader.split.paths) == sorted(colours)
    seen = 0
    for batch in loader:
        for image, label, index in zip(batch.images, batch.labels, batch.indices, strict=True):
            path = loader.split.paths[index]
            assert (image * 255).round().amax((1, 2)).tolist() == list(colours[path])
            assert loader.classes[label] == path.split("/")[1]
            seen += 1
    assert seen == 24


# --- odd images that are read rightly --------------------------------------------------------------------------------

SIDE = 8


def odd_images() -> dict[str, tuple[bytes, np.ndarray, int]]:
    """Files by name: their bytes, the pixels (8, 8, 3) they stand for, and how far the decoded ones may be off."""
    random = np.random.default_rng(0)
    colour = random.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    grey, alpha = colour[:, :, 0], colour[:, :, 1]
    deep = random.integers(0, 2**16, (SIDE, SIDE)).astype(np.uint16)
    deep_colour = random.integers(0, 2**16, (SIDE, SIDE, 3)).astype(np.uint16)
    over_white = 255 - (255 - colour.astype(float)) * alpha[:, :, None] / 255
    inks = np.repeat(np.repeat(random.integers(0, 256, (1, 1, 4)), SIDE, 0), SIDE, 1).astype(np.uint8)
    light = 255.0 - inks
    printed = light[:, :, :3] * light[:, :, 3:] / 255
    palette = Image.fromarray(colour).quantize(16)
    in_palette = np.array(palette.convert("RGB"))
    index = np.array(palette)
    clear = np.where(index[:, :, None] == 3, 255, in_palette)

    def three(values: np.ndarray) -> np.ndarray:
        return np.repeat(np.rint(values)[:, :, None], 3, 2)

    images = {
        "16-bit grey": (png(SIDE, SIDE, 16, 0, deep.astype(">u2").tobytes()), three(deep / 257), 0),
        "16-bit grey tiff": (tiff(deep, 16), three(deep / 257), 0),
        "16-bit greymap": (encoded(deep, "PPM"), three(deep / 257), 0),
        "16-bit colour": (png(SIDE, SIDE, 16, 2, deep_colour.astype(">u2").tobytes()), deep_colour >> 8, 0),
        "grey": (encoded(grey, "PNG"), three(grey), 0),
        "one bit": (encoded(Image.fromarray(grey > 127), "PNG"), three(np.where(grey > 127, 255, 0)), 0),
        "grey with alpha": (
            encoded(Image.fromarray(np.stack([grey, alpha], 2)), "PNG"),
            three(255 - (255.0 - grey) * alpha / 255),
            1,
        ),
        "colour with alpha": (encoded(np.dstack([colour, alpha]), "PNG"), over_white, 1),
        "webp with alpha": (encoded(np.dstack([colour, alpha]), "WEBP", lossless=True, exact=True), over_white, 1),
        "cmyk jpeg": (encoded(Image.fromarray(inks, "CMYK"), "JPEG", quality=100), printed, 4),
        "cmyk tiff": (encoded(Image.fromarray(inks, "CMYK"), "TIFF"), printed, 1),
        "palette": (encoded(palette, "PNG"), in_palette, 0),
        "palette with a clear colour": (encoded(palette, "PNG", transparency=3), clear, 0),
        "gif with a clear colour": (encoded(palette, "GIF", transparency=3), clear, 0),
        "png called jpg": (encoded(colour, "PNG"), colour, 0),
        "damaged exif": (png(SIDE, SIDE, 8, 2, colour.tobytes(), chunk(b"eXIf", b"II*\0garbage")), colour, 0),
        **{
            f"orientation {tag}": (
                png(SIDE, SIDE, 8, 2, colour.tobytes(), chunk(b"eXIf", exif_bytes(tag))),
                turn(colour),
                0,
            )
            for tag, turn in TURNS.items()
        },
    }
    frame = np.broadcast_to(np.array([250, 120, 0]), (10, 12, 3))
    for kind in ("GIF", "PNG", "WEBP"):
        images[f"animated {kind}"] = (animation(kind, (250, 120, 0)), frame[:8, :8], 0)
    return images


@pytest.mark.filterwarnings("ignore:::PIL")
def test_odd_images_are_read_rightly(data, trained):
    images = odd_images()
    for name, (content, _, _) in images.items():
        (data / "train/ant" / f"{name}.jpg").write_bytes(content)
    ended = trained(data)
    assert ended.code == 0, ended.err
    assert ended.about["images"]["train"] == 8 + len(images)
    params = Params(arch="conv", im_sz=SIDE, resize="squash", normalize={"mean": [0, 0, 0], "std": [1, 1, 1]})
    loader = fetch_dataloader(["train_evaluation"], data, params)["train_evaluation"]
    pixels = {}
    for batch in loader:
        for image, index in zip(batch.images, batch.indices, strict=True):
            pixels[loader.split.paths[index]] = (image * 255).round().permute(1, 2, 0).numpy()
    for name, (_, expected, tolerance) in images.items():
        difference = np.abs(pixels[f"train/ant/{name}.jpg"] - expected).max()
        assert difference <= tolerance, f"{name}: off by {difference}"
        exercised.add(name)


def test_an_image_turned_by_its_exif_is_upright_in_training_and_evaluation(data, trained):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for split in ("train", "valid"):
        for kind in ("JPEG", "TIFF", "PNG", "WEBP"):
            (data / split / "ant" / f"{kind}.jpg").write_bytes(encoded(smooth(12, 40), kind, exif=exif))
    for cache in ("memory", "none"):
        assert trained(data, cache=cache).code == 0


# --- files that change while a training starts -----------------------------------------------------------------------

CHANGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "removed": (lambda path: path.unlink(), "cannot be read (No such file or directory)"),
    "emptied": (lambda path: path.write_bytes(b""), "is empty"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-30]), "cannot be decoded ("),
    "turned": (lambda path: write_image(path, size=(8, 30)), "its size is not what its header says"),
    "swapped for a bomb": (lambda path: path.write_bytes(bomb()), "has 144.0 megapixels, more than max_megapixels 50"),
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("cache", ["memory", "none"])
@pytest.mark.parametrize("skip_bad", [0, 1])
def test_a_file_that_changes_between_header_and_decoding(data, trained, monkeypatch, what, cache, skip_bad):
    change, expected = CHANGES[what]
    path = data / "train/bee/1.png"
    decode = Source.image

    def changed_before(source, index):
        if source.split.paths[index] == "train/bee/1.png" and path.exists() and path.stat().st_size:
            change(path)
        return decode(source, index)

    monkeypatch.setattr(Source, "image", changed_before)
    ended = trained(data, cache=cache, skip_bad=skip_bad)
    if skip_bad:
        assert ended.code == 0, ended.err
        assert expected in ended.about["left_out"]["train/bee/1.png"]
    else:
        assert ended.code == 2
        assert ended.err.startswith(f"{path}: ")
        assert expected in ended.err
        assert len(ended.err.splitlines()) == 1
    exercised.add(f"{what} {cache} {skip_bad}")


@pytest.mark.filterwarnings("ignore:::PIL")
def test_a_worker_names_the_file_too(data, trained):
    (data / "train/bee/1.png").write_bytes(cut("PNG", 0.5))
    ended = trained(data, cache="none", num_workers=1)
    assert ended.code == 2
    assert ended.err.startswith(f"{data}/train/bee/1.png: cannot be decoded (")
    assert len(ended.err.splitlines()) == 1
    exercised.add("worker")


def test_enough_was_exercised(request, say):
    here = [item for item in request.session.items if item.path == request.path]
    if len(here) < 50:
        pytest.skip("only some of the cases were chosen")
    say(f"bad and odd images: {len(exercised)} cases")
    assert len(exercised) >= 65
