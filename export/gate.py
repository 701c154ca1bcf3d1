"""Is int8 good enough, and is it worth it? Judged on the same images, with the interval of the difference. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from numpy.typing import NDArray

from model.metric import predictions, rightly
from reports.comparison import Difference, over_images

MOST_LOST: Final = 0.010  # of the accuracy
MOST_LOST_SURELY: Final = 0.015  # the upper end of the loss's 95% interval
LARGEST_SHARE: Final = 0.35  # of the float32 file's bytes


@dataclass(frozen=True)
class Verdict:
    """int8 against float32 on the same images.

    Attributes:
        float32: accuracy.
        int8: accuracy; of multi-label models the share of images with every class right, in both.
        difference: of the two, with its interval.
        agreement: share of images on which both say the same.
        size: int8's bytes as a share of float32's.
    """

    float32: float
    int8: float
    difference: Difference
    agreement: float
    size: float

    @property
    def reasons(self) -> list[str]:
        """What speaks against int8; empty when it is good enough."""
        lost, most = -self.difference.value, -self.difference.interval.low
        found = []
        if lost > MOST_LOST:
            found.append(f"it loses {100 * lost:.2f} points of accuracy, more than {100 * MOST_LOST:g}")
        if not most <= MOST_LOST_SURELY:
            images = f"on these {self.difference.pairs} images it may lose up to {100 * most:.2f} points"
            few = "" if lost > MOST_LOST else "; more images would tell"
            found.append(f"{images} (95% interval), more than {100 * MOST_LOST_SURELY:g}{few}")
        if self.size > LARGEST_SHARE:
            found.append(f"it takes {self.size:.2f} of float32's bytes, more than {LARGEST_SHARE:g}")
        return found

    def __str__(self) -> str:
        low, high = self.difference.interval
        return (
            f"accuracy {self.float32:.4f} -> {self.int8:.4f} on {self.difference.pairs} images "
            f"(difference {self.difference.value:+.4f}, 95% interval {low:+.4f} to {high:+.4f}), "
            f"agreement {self.agreement:.1%}, {self.size:.2f} of the size"
        )

    def as_json(self) -> dict[str, Any]:
        """For export.json."""
        return {
            "accuracy_float32": self.float32,
            "accuracy_int8": self.int8,
            "difference": self.difference.value,
            "difference_interval": list(self.difference.interval),
            "agreement": self.agreement,
            "images": self.difference.pairs,
            "share_of_size": self.size,
            "good_enough": not self.reasons,
            "reasons": self.reasons,
        }


def judge(float32: NDArray[Any], int8: NDArray[Any], labels: NDArray[Any], size: float) -> Verdict:
    """Compares the logits (N, C) of both on the same images.

    Args:
        float32: logits.
        int8: logits.
        labels: (N,) class indices, or (N, C) of 0 and 1.
        size: int8's bytes as a share of float32's.
    """
    right = [rightly(logits, labels) for logits in (float32, int8)]
    decided = [predictions(logits, labels.ndim == 2) for logits in (float32, int8)]
    agreement = float((decided[0] == decided[1]).reshape(len(labels), -1).all(axis=1).mean())
    return Verdict(float(right[0].mean()), float(right[1].mean()), over_images(*right), agreement, size)


def recommend(verdict: Verdict, times: Mapping[str, Mapping[str, float]]) -> tuple[str, str]:
    """Which file to use, float32 or int8, and why.

    Args:
        verdict: of int8.
        times: milliseconds by batch ("1", "8", …), and in it by kind.
    """
    if verdict.reasons:
        return "float32", f"int8 is not good enough: {'; '.join(verdict.reasons)}"
    gains = {batch: found["float32"] / found["int8"] for batch, found in times.items()}
    told = ", ".join(f"{gain:.1f} times as fast at batch {batch}" for batch, gain in gains.items())
    if min(gains.values()) < 1:
        return "float32", f"int8 is as good, but not faster on this processor ({told})"
    return "int8", f"as good, {told}, {verdict.size:.2f} of the size"
