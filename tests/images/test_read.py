"""Opening image files: what is read rightly, and what is refused by name."""

import io
import multiprocessing
import os
import pickle
import statistics
import struct
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, TiffImagePlugin

import include
from images.read import ImageError, read_header, read_image
from tests.conftest import write_image
from tests.images import raw_files
from tests.images.raw_files import LFS_POINTER, POSTSCRIPT, SVG, WEB_PAGE, animation, bomb, chunk, encoded, png, tiff

WHITE = np.array([255, 255, 255])
# Upright pixels from stored ones, by the definition of the EXIF tag: where row 0 and column 0 of the stored image are.
TURNS = {
    1: lambda stored: stored,  # top, left
    2: lambda stored: stored[:, ::-1],  # top, right
    3: lambda stored: stored[::-1, ::-1],  # bottom, right
    4: lambda stored: stored[::-1],  # bottom, left
    5: lambda stored: stored.swapaxes(0, 1),  # left, top
    6: lambda stored: stored.swapaxes(0, 1)[:, ::-1],  # right, top
    7: lambda stored: stored.swapaxes(0, 1)[::-1, ::-1],  # right, bottom
    8: lambda stored: stored.swapaxes(0, 1)[::-1],  # left, bottom
}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "image.jpg"


@pytest.fixture(scope="module")
def picture():
    random = np.random.default_rng(0)
    return random.integers(0, 256, (9, 14, 3)).astype(np.uint8)


def smooth(height, width):
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).normal(0, 8, (height, width, 3))
    return np.clip(np.stack([x / 2, y / 2, (x + y) / 4], -1) + noise, 0, 255).astype(np.uint8)


def agrees(path, **options):
    """The pixels, whose size is what the header says."""
    header, pixels = read_header(path), read_image(path, **options)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (header.height, header.width, options.get("channels", 3))
    assert pixels.flags.writeable
    assert pixels.flags.c_contiguous
    return pixels


def reason(path, read=read_image, **options):
    with pytest.raises(ImageError) as caught:
        read(path, **options)
    assert caught.value.path == path
    assert str(caught.value).endswith(caught.value.reason)
    assert str(caught.value).isprintable()
    return caught.value.reason


# --- read rightly ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_lossless_formats_whatever_they_are_called(tmp_path, picture, kind, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(encoded(picture, kind, **({"lossless": True} if kind == "WEBP" else {})))
    assert (agrees(path) == picture).all()
    assert read_header(path).format == kind


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpeg_as_pillow_decodes_it(file, picture, mode):
    file.write_bytes(encoded(Image.fromarray(picture).convert(mode), "JPEG"))
    with Image.open(file) as image:
        assert (agrees(file) == np.array(image.convert("RGB"))).all()
        assert (agrees(file, channels=1)[:, :, 0] == np.array(image.convert("L"))).all()


def test_grey_is_luminance(file, picture):
    file.write_bytes(encoded(picture, "PNG"))
    luma = picture @ np.array([0.299, 0.587, 0.114])
    assert np.abs(agrees(file, channels=1)[:, :, 0] - luma).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_orientation(file, picture, kind, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(kind, {})
    file.write_bytes(encoded(picture, kind, exif=exif, **options))
    pixels, expected = agrees(file), TURNS[orientation](picture)
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= (6 if kind == "JPEG" else 0)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(
    ("enough", "part"),
    [((76, 100), 4), ((77, 100), 2), ((76, 101), 2), ((10, 10), 8), ((153, 200), 1), ((400, 10), 1)],
)
def test_a_jpeg_is_decoded_as_small_as_is_enough(file, enough, part, orientation):
    rough = np.random.default_rng(0).integers(50, 200, (6, 8, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(rough).resize((400, 304), Image.Resampling.BILINEAR))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file.write_bytes(encoded(smooth, "JPEG", exif=exif, quality=95, subsampling=0))
    whole = read_image(file)
    small = read_image(file, enough=enough if orientation == 1 else enough[::-1])
    height, width = whole.shape[0] // part, whole.shape[1] // part
    assert small.shape == (height, width, 3)
    means = whole.reshape(height, part, width, part, 3).mean((1, 3))
    assert np.abs(small - means).max() <= (2 if part > 1 else 0)


def test_other_formats_are_decoded_whole(file, picture):
    file.write_bytes(encoded(picture, "PNG"))
    assert (read_image(file, enough=(1, 1)) == picture).all()


def exif_bytes(orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif.tobytes().removeprefix(b"Exif\0\0")


def test_orientation_after_the_pixels(file, picture):
    rows = picture.tobytes()
    file.write_bytes(png(14, 9, 8, 2, rows, after=chunk(b"eXIf", exif_bytes(3))))
    assert (agrees(file) == TURNS[3](picture)).all()
    assert (read_image(file, enough=(1, 1)) == TURNS[3](picture)).all()
    file.write_bytes(png(14, 9, 8, 2, rows, after=chunk(b"eXIf", exif_bytes(6))))
    assert (read_image(file) == TURNS[6](picture)).all()
    assert (read_header(file).height, read_header(file).width) == (9, 14)  # the store refuses what differs from this


@pytest.mark.filterwarnings("ignore:::PIL")
@pytest.mark.parametrize("exif", [b"", b"II*\0", b"Exif\0\0garbage", b"MM\0*\xff\xff\xff\xff", exif_bytes(99)])
def test_damaged_exif_does_no_harm(file, picture, exif):
    file.write_bytes(png(14, 9, 8, 2, picture.tobytes(), before=chunk(b"eXIf", exif)))
    assert (agrees(file) == picture).all()


@pytest.mark.parametrize("clear", [None, 0x1234])
def test_sixteen_bit_grey_is_scaled(file, clear):
    values = np.array([[0, 1, 128, 129, 256, 257, 0x1234, 32768, 65406, 65407, 65535]], ">u2")
    before = b"" if clear is None else chunk(b"tRNS", struct.pack(">H", clear))
    file.write_bytes(png(values.size, 1, 16, 0, values.tobytes(), before))
    expected = np.rint(values / 257)
    expected[values == clear] = 9
    assert (agrees(file, background=(9, 9, 9), channels=1)[:, :, 0] == expected).all()
    assert (agrees(file, background=(9, 9, 9)) == expected[..., None]).all()


def test_every_sixteen_bit_value(file):
    values = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    for content in (png(256, 256, 16, 0, values.astype(">u2").tobytes()), tiff(values, 16), encoded(values, "PPM")):
        file.write_bytes(content)
        assert (agrees(file, channels=1)[:, :, 0] == np.rint(values / 257)).all()
    assert 127 <= agrees(file).mean() <= 128


@pytest.mark.parametrize("clear", [None, (0x1234, 0x5678, 0x9ABC)])
def test_sixteen_bit_colour(file, clear):
    values = np.array([[[0x1234, 0x5678, 0x9ABC], [65535, 0, 257], [0, 255, 256]]], ">u2")
    before = b"" if clear is None else chunk(b"tRNS", struct.pack(">HHH", *clear))
    file.write_bytes(png(3, 1, 16, 2, values.tobytes(), before))
    expected = values >> 8
    if clear is not None:
        expected[0, 0] = WHITE
    assert (agrees(file) == expected).all()


@pytest.mark.parametrize("depth", [8, 16])
def test_grey_with_alpha(file, depth):
    values = np.array([[[0, 255], [0, 0], [255, 0], [100, 128]]], np.uint8).astype(">u2" if depth == 16 else "u1")
    file.write_bytes(png(4, 1, depth, 4, (values * (257 if depth == 16 else 1)).astype(values.dtype).tobytes()))
    expected = values[..., 0] * (values[..., 1] / 255) + 200 * (1 - values[..., 1] / 255)
    assert np.abs(agrees(file, background=(200, 200, 200), channels=1)[:, :, 0] - expected).max() <= 1


def test_transparency_is_laid_over_the_background(file):
    random = np.random.default_rng(0)
    layers = random.integers(0, 256, (8, 9, 4)).astype(np.uint8)
    background = np.array([10, 200, 30])
    alpha = layers[:, :, 3:] / 255
    expected = layers[:, :, :3] * alpha + background * (1 - alpha)
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})):
        file.write_bytes(encoded(layers, kind, **options))
        assert np.abs(agrees(file, background=tuple(background)) - expected).max() <= 1


def palette_image():
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    return image


@pytest.mark.parametrize(("kind", "transparency", "expected"), [
    ("PNG", None, [(255, 0, 0), (0, 255, 0), (0, 0, 255)]),
    ("PNG", 1, [(255, 0, 0), (255, 255, 255), (0, 0, 255)]),
    ("PNG", bytes([255, 0, 51]), [(255, 0, 0), (255, 255, 255), (204, 204, 255)]),
    ("GIF", None, [(255, 0, 0), (0, 255, 0), (0, 0, 255)]),
    ("GIF", 2, [(255, 0, 0), (0, 255, 0), (255, 255, 255)]),
])  # fmt: skip
def test_palettes(file, kind, transparency, expected):
    file.write_bytes(encoded(palette_image(), kind, **({} if transparency is None else {"transparency": transparency})))
    assert read_header(file).mode == "P"
    assert agrees(file)[0].tolist() == [list(colour) for colour in expected]


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk(file, kind):
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[:8, :, 0], inks[8:, :, 3], inks[:, 8:, 1] = 200, 100, 60
    file.write_bytes(encoded(Image.fromarray(inks, "CMYK"), kind, **({"quality": 100} if kind == "JPEG" else {})))
    assert read_header(file).mode == "CMYK"
    light = 255 - inks.astype(float)
    assert np.abs(agrees(file) - light[:, :, :3] * light[:, :, 3:] / 255).max() <= 5


def test_one_bit(file):
    file.write_bytes(encoded(Image.fromarray(np.array([[True, False, True]])), "PNG"))
    assert agrees(file, channels=1).ravel().tolist() == [255, 0, 255]


def test_a_greymap_with_its_own_maximum(file):
    file.write_bytes(b"P5\n3 1\n1000\n" + np.array([0, 500, 1000], ">u2").tobytes())
    assert agrees(file, channels=1).ravel().tolist() == [0, 128, 255]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_the_first_frame_counts(file, kind):
    file.write_bytes(animation(kind, (250, 120, 0)))
    pixels = agrees(file)
    assert pixels.shape == (10, 12, 3)
    assert (pixels == (250, 120, 0)).all()


def test_damage_after_the_first_frame_does_no_harm(file):
    whole = animation("GIF", (250, 120, 0), others=5)
    file.write_bytes(whole[: len(whole) - 40])
    assert (agrees(file) == (250, 120, 0)).all()


def test_what_decodes_is_read(file):
    data = bytearray(encoded(smooth(64, 64), "JPEG"))
    data[-200] ^= 4  # among the pixels
    file.write_bytes(data)
    assert agrees(file).shape == (64, 64, 3)


@pytest.mark.parametrize(
    "name", ["ünï-" + "ж" * 115 + ".jpg", "a\nb.jpg", "<img onerror=alert(1)>.jpg", "=1+1.jpg", "\udcff\udcfe.jpg"]
)
def test_any_name(tmp_path, picture, name):
    path = tmp_path / name
    path.write_bytes(encoded(picture, "PNG"))
    assert (agrees(path) == picture).all()
    path.write_bytes(b"x")
    assert "is not an image" in reason(path)


# --- refused ---------------------------------------------------------------------------------------------------------


def cut(kind, share):
    whole = encoded(smooth(120, 100), kind)
    return whole[: int(share * len(whole))]


REFUSED = {
    "empty": (b"", "is empty"),
    "web page": (WEB_PAGE, "is a web page, not an image"),
    "drawing": (SVG, "is a web page, not an image"),
    "Git LFS pointer": (LFS_POINTER, "is a Git LFS pointer, not the image; fetch it with git lfs pull"),
    "text": (b"hello", "is not an image of a known format (JPEG, PNG, "),
    "PostScript, for which Pillow would start another program": (POSTSCRIPT, "is not an image of a known format"),
    "icon": (encoded(Image.new("RGB", (16, 16)), "ICO"), "is not an image of a known format"),
    "JPEG 2000": (encoded(Image.new("RGB", (16, 16)), "JPEG2000"), "is not an image of a known format"),
    "JPEG of one byte": (b"\xff", "is not an image of a known format"),
    "JPEG cut in its header": (cut("JPEG", 0.05), "(Truncated File Read)"),
    "JPEG cut in the middle": (cut("JPEG", 0.5), "cannot be decoded (image file is truncated"),
    "JPEG without its last byte": (cut("JPEG", 0.9999), "cannot be decoded (image file is truncated"),
    "PNG cut in the middle": (cut("PNG", 0.5), "cannot be decoded ("),
    "GIF cut in the middle": (cut("GIF", 0.5), "cannot be decoded ("),
    "WEBP cut in the middle": (cut("WEBP", 0.5), "cannot be decoded ("),
    "TIFF cut in the middle": (cut("TIFF", 0.5), "cannot be decoded ("),
    "BMP cut in the middle": (cut("BMP", 0.5), "cannot be decoded ("),
    "PPM cut in the middle": (cut("PPM", 0.5), "cannot be decoded ("),
    "TIFF without tags": (tiff(np.zeros((9, 9), np.uint16), 16)[:8] + bytes(40), "is not an image of a known format"),
    "PNG without pixels": (encoded(smooth(9, 9), "PNG").replace(b"IDAT", b"tEXt"), "beginning is damaged"),
    "floating point": (tiff(np.full((9, 9), 0.5, np.float32), 32, sample_format=3), "has pixels of mode F, whose"),
    "32-bit integers": (tiff(np.full((9, 9), 200, np.uint32), 32), "has pixels of mode I, whose range is not known"),
    "signed 16-bit integers": (tiff(np.full((9, 9), -5, np.int16), 16, sample_format=2), "has pixels of mode I, whose"),
    "16 bits, white is zero": (tiff(np.zeros((9, 9), np.uint16), 16, photometric=0), "has pixels of mode I;16, whose"),
    "12 bits": (tiff(np.zeros((9, 8), np.uint8), 12), "has pixels of mode I;16, whose range is not known; convert"),
    "LAB": (encoded(Image.new("LAB", (9, 9)), "TIFF"), "has pixels of mode LAB, whose range is not known"),
    "9 megapixels": (encoded(Image.new("1", (3000, 3000)), "PNG"), "has 9.0 megapixels, more than max_megapixels 5"),
    "400 megapixels in its header": (png(20_000, 20_000, 8, 0, b"\0" * 20_000), "has 400.0 megapixels, more than"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:::PIL")
@pytest.mark.parametrize("what", REFUSED)
def test_refused_with_its_reason(file, what):
    content, expected = REFUSED[what]
    file.write_bytes(content)
    found = reason(file, max_megapixels=5)
    assert found.startswith(expected) or expected in found
    if "cannot be decoded" not in expected:
        assert reason(file, read_header, max_megapixels=5) == found


def test_a_truncated_file_is_found_by_decoding_alone(file):
    file.write_bytes(REFUSED["JPEG cut in the middle"][0])
    assert (read_header(file).height, read_header(file).width) == (120, 100)


def test_the_limit_is_ours_alone(file):
    file.write_bytes(REFUSED["400 megapixels in its header"][0])  # more than Pillow's own limit
    assert read_header(file, max_megapixels=500).width == 20_000
    assert "cannot be decoded" in reason(file, max_megapixels=500) or "memory" in reason(file, max_megapixels=500)


MEASURE = """
import sys, time
from pathlib import Path
from images.read import ImageError, read_header, read_image
from utils import peak_memory_mb
before, start = peak_memory_mb(), time.perf_counter()
for read in (read_header, read_image):
    try:
        read(Path(sys.argv[1]))
    except ImageError as error:
        print(error)
print(peak_memory_mb() - before, time.perf_counter() - start)
"""


def test_a_bomb_costs_nothing(file):
    file.write_bytes(bomb())
    assert file.stat().st_size < 50_000
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(file)], cwd=include.ROOT, capture_output=True, text=True, check=True
    )
    first, second, measured = done.stdout.splitlines()
    assert first == second == f"{file}: has 144.0 megapixels, more than max_megapixels 50"
    megabytes, seconds = map(float, measured.split())
    assert megabytes < 20
    assert seconds < 30  # decoding it would take far more memory, and does


def test_too_little_memory(file, picture, monkeypatch):
    file.write_bytes(encoded(picture, "PNG"))

    def none_left(image):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "load", none_left)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", none_left)
    assert reason(file) == "does not fit into memory"


@pytest.mark.parametrize(("make", "expected"), [
    (lambda path: None, "cannot be read (No such file or directory)"),
    (lambda path: path.mkdir(), "is not a regular file"),
    (os.mkfifo, "is not a regular file"),
    (lambda path: path.symlink_to("/dev/zero"), "is not a regular file"),
    (lambda path: path.symlink_to("absent.jpg"), "is a link to a file that is not there"),
    (lambda path: path.symlink_to(path.name), "cannot be read (Too many levels of symbolic links)"),
], ids=["missing", "folder", "pipe", "device", "dangling link", "link to itself"])  # fmt: skip
def test_what_is_no_file(file, make, expected):
    make(file)
    assert reason(file, read_header) == reason(file) == expected


def test_a_file_that_may_not_be_read(file, picture, monkeypatch):
    file.write_bytes(encoded(picture, "PNG"))

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)
    assert reason(file) == "cannot be read (Permission denied)"


def test_an_error_travels_between_processes(file):
    with multiprocessing.get_context("fork").Pool(1) as pool, pytest.raises(ImageError) as caught:
        pool.apply(read_image, (file,))
    assert caught.value.path == file
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301
    assert (again.path, again.reason, str(again)) == (file, caught.value.reason, str(caught.value))


# --- any bytes at all ------------------------------------------------------------------------------------------------

SEEDS = [
    encoded(smooth(16, 24), "JPEG"),
    encoded(smooth(16, 24), "PNG"),
    encoded(smooth(16, 24), "TIFF"),
    encoded(smooth(16, 24), "WEBP"),
    encoded(smooth(16, 24), "BMP"),
    encoded(smooth(16, 24), "PPM"),
    encoded(palette_image(), "GIF", transparency=1),
    animation("GIF", (1, 2, 3)),
    animation("PNG", (1, 2, 3)),
    png(16, 4, 16, 0, bytes(range(128)), chunk(b"tRNS", b"\0\1") + chunk(b"eXIf", exif_bytes(6))),
    tiff(np.zeros((9, 9), np.uint16), 16),
    encoded(smooth(16, 24), "JPEG", exif=b"Exif\0\0" + exif_bytes(8)),
]


@pytest.mark.filterwarnings("ignore:::PIL")
@settings(max_examples=400, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_bytes_are_an_image_or_refused(tmp_path_factory, data):
    content = bytearray(data.draw(st.sampled_from(SEEDS)))
    for place, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=6)
    ):
        content[place] = value
    del content[data.draw(st.integers(len(content) // 4, 2 * len(content))) :]
    path = tmp_path_factory.getbasetemp() / "any.jpg"
    path.write_bytes(content)
    try:
        header = read_header(path, max_megapixels=0.1)
    except ImageError:
        header = None
    for channels in (1, 3):
        try:
            pixels = read_image(path, channels, max_megapixels=0.1)
        except ImageError:
            continue
        else:
            assert pixels.dtype == np.uint8
            assert header is not None
            assert sorted(pixels.shape[:2]) == sorted((header.height, header.width))


# --- what it costs, and what it leaves behind ------------------------------------------------------------------------


def test_threads_leave_the_warnings_filters_alone(file, picture):
    file.write_bytes(encoded(picture, "PNG"))
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        assert all((pixels == picture).all() for pixels in pool.map(read_image, [file] * 400))
    assert list(warnings.filters) == before


def test_pillow_is_quiet(file):
    entries = TiffImagePlugin.ImageFileDirectory_v2()
    entries[270] = "x" * 40
    buffer = io.BytesIO()
    Image.fromarray(smooth(9, 9)).save(buffer, "TIFF", tiffinfo=entries)
    data = buffer.getvalue().replace(struct.pack("<HHI", 270, 2, 41), struct.pack("<HHI", 270, 2, 10**6))
    file.write_bytes(data)
    with pytest.warns(UserWarning, match="Tag data larger than file"):
        read_header(file)
    program = f"from images.read import *; print(read_image(Path({str(file)!r})).shape)"
    done = subprocess.run([sys.executable, "-c", program], cwd=include.ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("(9, 9, 3)\n", "")


def plainly(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def seconds(read, path):
    """Of the processor, whatever else it does."""
    start = time.process_time()
    for _ in range(10):
        read(path)
    return time.process_time() - start


def test_costs_what_pillow_costs(file):
    write_image(file, smooth(375, 500), quality=90)  # measured 0.96 to 0.99; 1.04 to 1.07 at 160 x 160
    ratios = [seconds(read_image, file) / seconds(plainly, file) for _ in range(9)]
    assert statistics.median(ratios) < 1.3
    assert seconds(read_header, file) < seconds(read_image, file) / 2


def test_the_refused_are_many():
    assert len(REFUSED) >= 25
    assert raw_files.bomb(80)


def test_the_first_image_imports_nothing(tmp_path):
    """What is imported before a search forks its trainings, none of them has to import."""
    for suffix in ("png", "jpg", "webp", "tif", "gif", "bmp"):
        write_image(tmp_path / f"x.{suffix}")
    code = (
        "import pathlib, sys; from images.read import read_header; before = set(sys.modules);"
        "[read_header(path, 50.0) for path in pathlib.Path(sys.argv[1]).iterdir()];"
        "print(*(name for name in set(sys.modules) - before if name.endswith('ImagePlugin')))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=include.ROOT, capture_output=True, text=True)
    assert done.stdout.split() in ([], ["PIL.MpoImagePlugin"]), done.stderr
