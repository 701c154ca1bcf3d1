"""Where each output pixel comes from: augmentations as 3x3 matrices, multiplied into one and sampled once.

Coordinates run from -1 to 1 over an image's own width (x, to the right) and height (y, downwards), edge to edge. The
matrix of an operation takes a point of its output to the point of its input that is shown there, so operations a, b, c
in this order give A @ B @ C. What lies outside an image is asked of the image itself, never of the canvas around it:
"reflection" mirrors it at its edges, "border" repeats its outermost pixels, "fill" is the background colour.
"""

from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import override

from images.operation import Angles, Draw, Fraction, Geometric, Numbers, PaddingMode, Ratios, Shares, Slants

# --- matrices --------------------------------------------------------------------------------------------------------


def identity(count: int) -> Numbers:
    """(count, 3, 3): every point stays."""
    return np.tile(np.eye(3), (count, 1, 1))


def scaling(x: Numbers, y: Numbers, shift_x: Numbers | float = 0.0, shift_y: Numbers | float = 0.0) -> Numbers:
    """(B, 3, 3): x and y times their factor, then shifted."""
    result = identity(len(x))
    result[:, 0, 0], result[:, 1, 1] = x, y
    result[:, 0, 2], result[:, 1, 2] = shift_x, shift_y
    return result


def linear(a: Numbers, b: Numbers, c: Numbers, d: Numbers, frame: Numbers) -> Numbers:
    """(B, 3, 3): the map (a b; c d) of pixel distances about the centre of a (B, 2) height, width frame."""
    height, width = frame.T
    result = identity(len(frame))
    result[:, 0, 0], result[:, 0, 1] = a, b * height / width
    result[:, 1, 0], result[:, 1, 1] = c * width / height, d
    return result


def random_box(
    draw: Draw, frame: Numbers, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Numbers, Numbers, NDArray[np.bool_]]:
    """Draws a box of random area and shape in each image, ten times at most until it fits, as torchvision does.

    Args:
        draw: random numbers of B images.
        frame: (B, 2) height and width in pixels.
        scale: range of the box's share of the area.
        ratio: range of its width / height, drawn uniformly in the logarithm.

    Returns:
        (B, 2) height and width, (B, 2) top and left, in pixels, and (B,) whether one was found; where not, the box is
        the largest central one that has a ratio in range.
    """
    height, width = frame.T
    size = np.stack([np.minimum(height, width / ratio[0]), np.minimum(width, height * ratio[1])], axis=1)
    corner = (frame - size) / 2
    found = np.zeros(len(frame), dtype=bool)
    for attempt in range(10):
        area = height * width * draw.uniform(f"area {attempt}", *scale)
        shape = np.exp(draw.uniform(f"ratio {attempt}", np.log(ratio[0]), np.log(ratio[1])))
        drawn = np.sqrt(np.stack([area / shape, area * shape], axis=1))
        new = ~found & (drawn <= frame).all(axis=1)
        size[new] = drawn[new]
        found |= new
        if found.all():
            break
    place = np.stack([draw.uniform("top"), draw.uniform("left")], axis=1) * (frame - size)
    corner[found] = place[found]
    return size, corner, found


# --- operations ------------------------------------------------------------------------------------------------------


class RandomResizedCrop(Geometric):
    """Shows a random box of the image at full size. C. Szegedy et al., "Going deeper with convolutions", 2015.

    Args:
        scale: range of the box's share of the image's area.
        ratio: range of the box's width / height.
    """

    crops: ClassVar[bool] = True
    scale: Shares = (0.08, 1.0)
    ratio: Ratios = (3 / 4, 4 / 3)

    @override
    def matrices(self, draw: Draw, frame: Numbers) -> Numbers:
        size, corner, _ = random_box(draw, frame, self.scale, self.ratio)
        shift = (2 * corner + size) / frame - 1
        return scaling(*(size / frame).T[::-1], *shift.T[::-1])


class HorizontalFlip(Geometric):
    """Mirrors left and right, with probability p."""

    p: Fraction = 0.5

    @override
    def matrices(self, draw: Draw, frame: Numbers) -> Numbers:
        return scaling(np.full(len(draw), -1.0), np.ones(len(draw)))


class AlternatingFlip(HorizontalFlip):
    """Mirrors each image in every other epoch; p is the share mirrored in the first. KellerJordan/cifar10-airbench."""

    @override
    def chosen(self, draw: Draw) -> NDArray[np.bool_]:
        return super().chosen(draw.at_first()) ^ (draw.epoch % 2 == 1)


class VerticalFlip(Geometric):
    """Mirrors top and bottom, with probability p."""

    p: Fraction = 0.5

    @override
    def matrices(self, draw: Draw, frame: Numbers) -> Numbers:
        return scaling(np.ones(len(draw)), np.full(len(draw), -1.0))


class Warp(Geometric):
    """A geometric operation that may look past the image's edges.

    Args:
        padding_mode: what is seen there (see the file's head); None: "fill" if params.resize is "letterbox", else
            "reflection". An image is sampled once, so all operations of a run have one padding mode.
        p: probability that an image is touched at all.
    """

    padding_mode: PaddingMode | None = None


class RandomCrop(Warp):
    """Pads the image and crops it to its size again: a shift by whole pixels, the same odds for each.

    Args:
        padding: largest shift in pixels, to each side.
    """

    padding: Annotated[int, Field(strict=True, ge=0, le=1024)] = 4

    @override
    def matrices(self, draw: Draw, frame: Numbers) -> Numbers:
        range_ = (-self.padding, self.padding + 1)
        shift = np.floor(np.stack([draw.uniform("x", *range_), draw.uniform("y", *range_)])) * 2 / frame.T[::-1]
        return scaling(np.ones(len(draw)), np.ones(len(draw)), *shift)


class Zoom(Warp):
    """Magnifies about the centre.

    Args:
        scale: range of the factor; below 1 shrinks.
    """

    scale: Ratios = (1.0, 1.25)

    @override
    def matrices(self, draw: Draw, frame: Numbers) -> Numbers:
        factor = 1 / draw.uniform("scale", *self.scale)
        return scaling(factor, factor)


class Rotation(Warp):
    """Turns the image about its centre.

    Args:
        degrees: range of the angle, counter-clockwise; one number v means -v to v.
    """

    degrees: Angles = (-10.0, 10.0)

    @override
    def matrices(self, draw: Draw, frame: Numbers) -> Numbers:
        angle = np.radians(draw.uniform("degrees", *self.degrees))
        return linear(np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle), frame)


class Affine(Warp):
    """Turns, shifts, magnifies and shears at once, about the centre.

    Args:
        degrees: range of the angle, clockwise; one number v means -v to v.
        translate: largest shift to either side, as shares of the width and of the height.
        scale: range of the magnification.
        shear: range of the shear along x in degrees (one number v means -v to v), or four numbers, for x and y.
    """

    degrees: Angles = (-10.0, 10.0)
    translate: tuple[Fraction, Fraction] = (0.0, 0.0)
    scale: Ratios = (1.0, 1.0)
    shear: Slants = (0.0, 0.0)

    @override
    def matrices(self, draw: Draw, frame: Numbers) -> Numbers:
        angle = np.radians(draw.uniform("degrees", *self.degrees))
        x, y = (np.radians(draw.uniform(f"shear {axis}", *span)) for axis, span in self._shear().items())
        scale = draw.uniform("scale", *self.scale)
        # forwards: shear along x, then along y, then turn; torchvision.transforms.functional._get_inverse_affine_matrix
        cos, sin = scale * np.cos(angle - y) / np.cos(y), scale * np.sin(angle - y) / np.cos(y)
        b, d = -cos * np.tan(x) - scale * np.sin(angle), -sin * np.tan(x) + scale * np.cos(angle)
        forward = linear(cos, b, sin, d, frame)
        for axis, most in enumerate(self.translate):
            forward[:, axis, 2] = draw.uniform(f"translate {axis}", -2 * most, 2 * most)
        return np.linalg.inv(forward).astype(np.float64)

    def _shear(self) -> dict[str, tuple[float, ...]]:
        return {"x": self.shear[:2], "y": self.shear[2:] or (0.0, 0.0)}


class Perspective(Warp):
    """Moves each corner of the image inwards at random and shows it from that angle.

    Args:
        distortion_scale: largest move, as a share of half the width and half the height.
    """

    p: Fraction = 0.5
    distortion_scale: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.5

    @override
    def matrices(self, draw: Draw, frame: Numbers) -> Numbers:
        corners = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
        equations, values = np.zeros((len(draw), 8, 8)), np.zeros((len(draw), 8))
        for row, corner in enumerate(corners):
            x, y = (side * (1 - draw.uniform(f"{axis} {row}", 0, self.distortion_scale))
                    for axis, side in zip("xy", corner, strict=True))  # fmt: skip
            for axis, side in enumerate(corner):
                # side = (h0 x + h1 y + h2) / (h6 x + h7 y + 1), and the same with h3, h4, h5 for the other axis
                equations[:, 2 * row + axis, 3 * axis : 3 * axis + 3] = np.stack([x, y, np.ones_like(x)], axis=1)
                equations[:, 2 * row + axis, 6:] = -side * np.stack([x, y], axis=1)
                values[:, 2 * row + axis] = side
        solution = np.linalg.solve(equations, values[:, :, None])[:, :, 0]
        return np.concatenate([solution, np.ones((len(draw), 1))], axis=1).reshape(-1, 3, 3)
