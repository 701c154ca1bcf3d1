"""Data sources: each gives images with their classes and, where it has them, splits; SOURCES at the end names them.

A prepared folder is built beside its final place and renamed there when it is whole. Inside that temporary folder the
images are written plainly: nobody reads them before the rename, one sync in front of it makes them all durable, and a
flush per file would cost 70,000 images half an hour instead of half a minute.
"""

import contextlib
import fcntl
import gzip
import hashlib
import http.client
import inspect
import io
import math
import os
import shutil
import socket
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np

import include
from images.archive import DISK_FAULTS, extract
from images.items import Division, Item, class_folders, divide
from images.shards import pack
from images.table import table_images
from images.walk import is_hidden
from utils import TEMPORARY_PREFIX, TrainingFault, UserError, log, printable, progress, select, to_json, write_atomic

PROVENANCE: Final = "source.json"
SCRATCH: Final = f"{TEMPORARY_PREFIX}prepare-"
LONGEST_NAME: Final = 255  # bytes, on nearly every file system
STALLED: Final = 60  # seconds without a byte, after which a download is given up

FASHION_MNIST_CLASSES: Final = (
    "0_t_shirt_top", "1_trouser", "2_pullover", "3_dress", "4_coat",
    "5_sandal", "6_shirt", "7_sneaker", "8_bag", "9_ankle_boot",
)  # fmt: skip

IMAGENETTE_CLASSES: Final = {
    "n01440764": "tench", "n02102040": "english_springer", "n02979186": "cassette_player", "n03000684": "chain_saw",
    "n03028079": "church", "n03394916": "french_horn", "n03417042": "garbage_truck", "n03425413": "gas_pump",
    "n03445777": "golf_ball", "n03888257": "parachute",
}  # fmt: skip


# --- the sources: (given, scratch, own options) -> items -----------------------------------------------------------
# given is the unpacked archive, or None; scratch is a folder for downloads.


def digits(given: Path | None, scratch: Path) -> Iterator[Item]:
    """scikit-learn's 1,797 handwritten digits, 8x8 grey; nothing to download."""
    if given is not None:
        yield from class_folders(given)
        return
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = np.rint(data.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8), from 0..16
    for index, (image, label) in enumerate(zip(pixels, data.target, strict=True)):
        yield Item(None, str(label), f"{index:04d}.png", image)


def fashion_mnist(given: Path | None, scratch: Path) -> Iterator[Item]:
    """Fashion-MNIST, 28x28 grey: 60,000 train and 10,000 test. Archive: the four raw idx files, or class folders."""
    if given is None:
        from torchvision.datasets import FashionMNIST

        files = "the four files train- and t10k-images-idx3-ubyte.gz and -labels-idx1-ubyte.gz"
        _download("Fashion-MNIST", files, lambda: FashionMNIST(scratch, download=True))
        given = scratch
    if not any(given.rglob("*-ubyte*")):
        yield from class_folders(given)
        return
    for split, stem in (("train", "train"), ("test", "t10k")):
        pixels, labels = (_read_idx(given, f"{stem}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
        right = pixels.shape == (*labels.shape[:1], 28, 28) and labels.ndim == 1 and len(labels) > 0
        if not right or labels.max() >= len(FASHION_MNIST_CLASSES):
            raise UserError(f"{_shown(given)}: the {stem} images and labels are not those of Fashion-MNIST")
        for index, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            yield Item(split, FASHION_MNIST_CLASSES[label], f"{index:05d}.png", image)


def cifar10(given: Path | None, scratch: Path) -> Iterator[Item]:
    """CIFAR-10, 32x32 colour: 50,000 train and 10,000 test. Archive: cifar-10-python.tar.gz, or class folders."""
    if given is not None and not any(given.rglob("cifar-10-batches-py")):
        yield from class_folders(given)
        return
    from torchvision.datasets import CIFAR10

    if given is None:
        _download("CIFAR-10", CIFAR10.filename, lambda: CIFAR10(scratch, download=True))
        given = scratch
    batches = next(given.rglob(CIFAR10.base_folder))
    for split in ("train", "test"):
        try:
            with warnings.catch_warnings(action="ignore"):  # NumPy's, on how the old files spell a dtype
                # These files are pickles: torchvision opens one only after its md5 is the published one.
                data = CIFAR10(batches.parent, train=split == "train")
        except RuntimeError as error:
            raise UserError(f"{_shown(given)}: is not the published {CIFAR10.filename}") from error
        for index, (image, label) in enumerate(zip(data.data, data.targets, strict=True)):
            yield Item(split, data.classes[label], f"{index:05d}.png", image)


def imagenette(given: Path | None, scratch: Path) -> Iterator[Item]:
    """Imagenette, short side 160: its official validation images are the test split. Archive: class folders."""
    if given is None:
        from torchvision.datasets import Imagenette

        _download("Imagenette", "imagenette2-160.tgz", lambda: Imagenette(scratch, size="160px", download=True))
        given = scratch
    items = list(class_folders(given))
    # What is published for Imagenette is measured on its validation images; choices need other images than those.
    renamed = {} if any(item.split == "test" for item in items) else {"valid": "test"}
    for item in items:
        split = renamed.get(item.split or "", item.split)
        yield item._replace(split=split, label=IMAGENETTE_CLASSES.get(item.label, item.label))


def csv(
    given: Path | None,
    scratch: Path,
    *,
    csv: str | None = None,
    images_dir: str | None = None,
    image_column: str = "image",
    label_column: str = "label",
    label_rule: str = "as_is",
) -> Iterator[Item]:
    """Images that a CSV file describes. Archive: the images, and the CSV file too unless it lies elsewhere."""
    table = _given_path(given, csv) if csv else _only_csv(given)
    images = _given_path(given, images_dir) if images_dir else given or table.parent
    for label, name, path in table_images(table, images, image_column, label_column, label_rule):
        yield Item(None, label, name, path)


def folder(given: Path | None, scratch: Path, *, images_dir: str | None = None) -> Iterator[Item]:
    """Class folders, in split folders or not. Archive: the same."""
    if given is None and images_dir is None:
        raise UserError("--source folder needs --images_dir FOLDER or --archive FILE")
    return class_folders(_given_path(given, images_dir) if images_dir else given or Path())


# --- what they share -------------------------------------------------------------------------------------------------


def _given_path(given: Path | None, text: str) -> Path:
    """A path as the person gave it, or inside the unpacked archive."""
    inside = None if given is None or Path(text).is_absolute() else given / text
    if inside is not None and inside.exists():
        return inside
    if not Path(text).exists():
        raise UserError(f"{printable(text)}: no such file or folder{' here or in the archive' if given else ''}")
    return Path(text)


def _shown(path: Path) -> str:
    return printable(path.name or str(path))


def _only_csv(given: Path | None) -> Path:
    tables = [] if given is None else [p for p in given.rglob("*.[cC][sS][vV]") if not is_hidden(p.name)]
    if len(tables) != 1:
        raise UserError("--source csv needs --csv FILE" + (f"; the archive holds {len(tables)}" if given else ""))
    return tables[0]


def _read_idx(folder: Path, name: str) -> np.ndarray:
    """A file in the MNIST family's format: two zero bytes, type 8 (uint8), the rank, the shape, the values."""
    if not (paths := sorted(p for p in folder.rglob(f"{name}*") if p.is_file())):
        raise UserError(f"{_shown(folder)}: {name} or {name}.gz is missing")
    try:
        with gzip.open(paths[0]) if paths[0].suffix == ".gz" else paths[0].open("rb") as file:
            data = file.read(2**28)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{paths[0].name}: damaged ({error})") from error
    rank = data[3] if data[:3] == b"\0\0\x08" and len(data) >= 4 else 0
    shape = np.frombuffer(data, ">u4", min(rank, len(data) // 4 - 1), 4).tolist() if rank else []
    if not shape or math.prod(shape) != len(data) - 4 - 4 * rank:
        raise UserError(f"{paths[0].name}: damaged: not an idx file of unsigned bytes")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _download(what: str, files: str, fetch: Callable[[], object]) -> None:
    log.info("downloading %s", what)
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALLED)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # torchvision prints its failures
            fetch()
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.errno in DISK_FAULTS:
            raise
        why = " ".join(str(error).split())
        raise UserError(
            f"{what} could not be downloaded ({why}); get {files} elsewhere and give that, packed or not, as --archive"
        ) from error
    finally:
        socket.setdefaulttimeout(patience)


# --- from items to a folder ------------------------------------------------------------------------------------------


def prepare(
    source: str,
    out: Path,
    division: Division | None = None,
    archive: Path | None = None,
    sha256: str | None = None,
    overwrite: bool = False,
    images_per_tar: int | None = None,
    **options: str,
) -> dict[str, int]:
    """Makes <out>/{train,valid,test}/<class>/<image> of a named source: all of it, or nothing.

    Args:
        source: a name in SOURCES.
        out: the folder to make; an existing one is moved aside when `overwrite` is given.
        division: how missing splits are made.
        archive: the source's files where there is no internet: an archive, or a folder that holds them.
        sha256: what the archive must hash to.
        overwrite: whether an existing folder is moved aside.
        images_per_tar: put the images of each split into tar files of so many.
        options: the source's own.

    Returns:
        images per split.

    Raises:
        UserError: for anything a person can put right.
        TrainingFault: when the disk is full or fails.
    """
    make, division = select(source, SOURCES, "source"), division or Division()
    for name in options:
        if name not in inspect.signature(make).parameters:
            raise UserError(f"--{name} is not an option of --source {source}")
    if images_per_tar is not None and images_per_tar < 1:
        raise UserError(f"--images_per_tar {images_per_tar}: must be 1 or more")
    shown = printable(str(out))
    if os.path.lexists(out) and not overwrite:
        raise UserError(f"{shown}: exists already; choose another --out, or pass --overwrite to move it aside")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with _scratch(out.parent) as scratch:
            given, digest = _unpacked(archive, sha256, scratch)
            found = list(make(given, scratch / "download", **options))
            if len(labels := {item.label for item in found}) < 2:
                raise UserError(
                    f"{source}: all images are of the class {printable(*labels)}; a classifier needs 2 or more"
                )
            items, fractions = divide(found, division)
            counts = _write(items, scratch)
            if images_per_tar is not None:
                for split in counts:
                    pack(scratch / "data" / split, images_per_tar)
            given_as = {"source": source, "archive": archive and archive.name, "sha256": digest, "options": options}
            made = {"taken_from_train": fractions, "seed": division.seed or 0, "images": counts}
            made["images_per_tar"] = images_per_tar
            write_atomic(scratch / "data" / PROVENANCE, to_json(given_as | made))
            os.sync()
            _put_in_place(scratch / "data", out, overwrite)
    except OSError as error:
        what = printable(f"{error.filename or out}: {error.strerror or error}")
        if error.errno not in DISK_FAULTS:
            raise UserError(f"{shown}: not prepared: {what}") from error
        free = shutil.disk_usage(out.parent).free / 2**20
        raise TrainingFault(f"{shown}: not prepared: {what}; {free:.1f} MB free") from error
    return counts


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A temporary folder that holds a lock; those in the same place whose process was killed are removed."""
    for left in folder.glob(f"{SCRATCH}*/lock"):
        with contextlib.suppress(OSError), left.open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left.parent)
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=folder) as name, Path(name, "lock").open("ab") as lock:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield Path(os.path.abspath(name))  # noqa: PTH100 (as items name their files; links stay as they are)


def _unpacked(archive: Path | None, sha256: str | None, scratch: Path) -> tuple[Path | None, str | None]:
    if archive is None or archive.is_dir():
        if sha256 is not None:
            raise UserError("--sha256 is the hash of an archive: give --archive FILE")
        return archive, None
    target = scratch / "archive" / archive.name  # so that messages about the folder name the archive
    return target, extract(archive, target, sha256)


def _write(items: list[Item], scratch: Path) -> dict[str, int]:
    from PIL import Image

    data, places = scratch / "data", set()
    for item in progress(items, "writing", unit=" images"):
        place = data / (item.split or "") / item.label
        if place not in places:
            place.mkdir(parents=True)
            places.add(place)
        path = place / _file_name(item)
        if path.exists():
            raise UserError(f"{printable(item.name)}: two images of {printable(item.label)} get this name; rename one")
        if isinstance(item.content, np.ndarray):
            Image.fromarray(item.content).save(path)
        elif item.content.is_relative_to(scratch):
            item.content.rename(path)
        else:
            shutil.copyfile(item.content, path)
    counts = Counter(item.split for item in items)
    return {split: counts[split] for split in include.SPLITS if counts[split]}


def _file_name(item: Item) -> str:
    """The image's name without folders; one that would be too long keeps its end, after a hash of the whole."""
    name = item.name.replace("/", "_")
    if len(whole := os.fsencode(name)) <= LONGEST_NAME:
        return name
    return f"{hashlib.sha256(whole).hexdigest()[:16]}_{name[-50:]}"


def _put_in_place(data: Path, out: Path, overwrite: bool) -> None:
    if overwrite and os.path.lexists(out):
        stamp = time.strftime(f"{out.name}-before-%Y%m%d-%H%M%S")
        taken = sum(path.name.startswith(stamp) for path in out.parent.iterdir())
        aside = out.with_name(f"{stamp}-{taken}" if taken else stamp)
        out.rename(aside)
        log.info("%s moved to %s", printable(str(out)), printable(str(aside)))
    data.rename(out)


SOURCES: Final[dict[str, Callable[..., Iterable[Item]]]] = {
    "digits": digits,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "imagenette": imagenette,
    "csv": csv,
    "folder": folder,
}
