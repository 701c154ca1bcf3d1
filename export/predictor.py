"""Classes of images from an exported model, in this process: `Predictor.load(path).predict(images)`. No torch."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from export.contract import INPUT, LOGITS, PROBABILITIES, Contract
from export.session import Run, open_session, run_of
from images.read import ImageError, Pixels, read_image
from utils import UserError, printable

BATCH: Final = 32
PIXELS_AT_ONCE: Final = 2**24  # of one call; a call's memory grows with them
BUDGET: Final = 2**28  # bytes of decoded images that wait


@dataclass(frozen=True)
class Prediction:
    """What the model says of one image.

    Attributes:
        classes: C names.
        probabilities: (C,) float32; of multi-label models each on its own, else they sum to 1.
        logits: (C,) float32.
        sure: whether the best class reaches the threshold of `evaluate.py --accuracy_target`; None without one.
    """

    classes: tuple[str, ...]
    probabilities: NDArray[np.float32]
    logits: NDArray[np.float32]
    sure: bool | None = None

    def top(self, count: int = 1) -> list[tuple[str, float]]:
        """The most probable classes and their probabilities, best first."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.classes[index], float(self.probabilities[index])) for index in order]


class Predictor:
    """A model in memory; any number of threads may use it at the same time.

    Args:
        contract: what the model says of itself.
        run: uint8 (N, H, W, 3) to probabilities and logits (N, C) float32; safe to call from several threads.
    """

    def __init__(self, contract: Contract, run: Run) -> None:
        self.contract = contract
        self.classes = tuple(contract.classes)
        self._run = run

    @classmethod
    def load(cls, path: Path | str, threads: int = 0) -> "Predictor":
        """Loads an .onnx file that export_model.py wrote.

        Args:
            path: the file.
            threads: that compute one call; 0: as many as there are cores.

        Raises:
            UserError: the file is missing, damaged, or another program's.
        """
        where = printable(str(path))
        try:
            model = Path(path).read_bytes()
        except OSError as error:
            raise UserError(f"{where}: cannot be read ({error.strerror})") from error
        session = open_session(model, where, threads)
        contract = Contract.from_metadata(session.get_modelmeta().custom_metadata_map, where)
        _check_ends(session, contract, where)
        return cls(contract, run_of(session))

    def predict(self, images: Sequence[Path | str | NDArray[Any]], batch_size: int = BATCH) -> list[Prediction]:
        """Classifies images.

        Args:
            images: files, or uint8 arrays (H, W, 3), (H, W, 1) or (H, W), upright, in 0 … 255.
            batch_size: images of equal size that are computed together, at most.

        Raises:
            ImageError: a file cannot be read as an image.
            UserError: an array is of another kind.
        """
        decoded = [self.read(image) if isinstance(image, Path | str) else _checked(image) for image in images]
        return self._answers(decoded, batch_size)

    def stream(
        self, paths: Iterable[Path], batch_size: int = BATCH, workers: int = 2
    ) -> Iterator[tuple[Path, Prediction | ImageError]]:
        """Classifies files one after another, reading ahead in threads; a bad file gives its error in its place.

        Args:
            paths: the files, which are looked at as they are needed.
            batch_size: as in `predict`.
            workers: threads that decode.
        """
        source, pending, largest = iter(paths), deque[tuple[Path, Future[Pixels | ImageError]]](), 0
        window: list[tuple[Path, Pixels | ImageError]] = []
        with ThreadPoolExecutor(workers) as pool:
            while True:
                room = min(2 * batch_size, BUDGET // largest) if largest else workers
                for path in islice(source, max(0, max(workers, room) - len(pending))):  # less room after a large one
                    pending.append((path, pool.submit(self._try, path)))
                if not pending:
                    break
                path, future = pending.popleft()
                window.append((path, image := future.result()))
                largest = max(largest, 0 if isinstance(image, ImageError) else image.nbytes)
                if len(window) >= min(batch_size, BUDGET // max(1, largest)):
                    yield from self._in_order(window, batch_size)
                    window.clear()
        yield from self._in_order(window, batch_size)

    def read(self, path: Path | str) -> Pixels:
        """A file as the model takes it: uint8 (H, W, 3).

        Raises:
            ImageError: it cannot be read as an image.
        """
        contract = self.contract
        pixels = read_image(Path(path), contract.channels, contract.background, contract.max_megapixels)
        return np.repeat(pixels, 3, axis=2) if contract.channels == 1 else pixels

    def _try(self, path: Path) -> Pixels | ImageError:
        try:
            return self.read(path)
        except ImageError as error:
            return error

    def _in_order(
        self, window: Sequence[tuple[Path, Pixels | ImageError]], batch_size: int
    ) -> Iterator[tuple[Path, Prediction | ImageError]]:
        answers = iter(self._answers([image for _, image in window if not isinstance(image, ImageError)], batch_size))
        for path, image in window:
            yield path, image if isinstance(image, ImageError) else next(answers)

    def _answers(self, images: Sequence[Pixels], batch_size: int) -> list[Prediction]:
        """In the order of the images; those of equal size are computed together."""
        groups, threshold = dict[tuple[int, ...], list[int]](), self.contract.threshold
        for index, image in enumerate(images):
            groups.setdefault(image.shape, []).append(index)
        answers: dict[int, Prediction] = {}
        for shape, members in groups.items():
            together = max(1, min(batch_size, PIXELS_AT_ONCE // (shape[0] * shape[1])))
            for start in range(0, len(members), together):
                part = members[start : start + together]
                outputs = self._run(np.stack([images[index] for index in part]))
                for index, probabilities, logits in zip(part, *outputs, strict=True):
                    sure = None if threshold is None else bool(probabilities.max() >= threshold)
                    answers[index] = Prediction(self.classes, probabilities, logits, sure)
        return [answers[index] for index in range(len(images))]


def _check_ends(session: Any, contract: Contract, where: str) -> None:
    inputs = {end.name: (end.type, end.shape[3:]) for end in session.get_inputs()}
    outputs = {end.name: end.shape[1:] for end in session.get_outputs()}
    count = len(contract.classes)
    if inputs != {INPUT: ("tensor(uint8)", [3])} or outputs != {PROBABILITIES: [count], LOGITS: [count]}:
        raise UserError(f"{where}: its inputs and outputs are not those that it says it has; export it anew")


def _checked(image: NDArray[Any]) -> Pixels:
    """An array as the model takes it."""
    if image.dtype != np.uint8:
        raise UserError(f"an image must be uint8 in 0 … 255, got {image.dtype}; do not scale or normalise it yourself")
    shaped = image[..., None] if image.ndim == 2 else image
    if shaped.ndim != 3 or shaped.shape[2] not in (1, 3) or 0 in shaped.shape:
        raise UserError(
            f"an image must be (height, width, 3), (height, width, 1) or (height, width), got {image.shape}"
        )
    return np.repeat(shaped, 3, axis=2) if shaped.shape[2] == 1 else shaped
