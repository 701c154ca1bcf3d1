"""From a canvas of images of different sizes to square images, through one matrix per image."""

from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from images.geometry import identity, scaling
from images.operation import Numbers, PaddingMode

Resize = Literal["crop", "letterbox", "squash"]

# What rounding may add to a coordinate, on a canvas that spans 2: a 500th of a pixel on one of 4,096.
_ROUNDING: Final = 2.0**-20
_HORIZON: Final = 1e-4  # least depth of a point seen in perspective


def view_matrices(sizes: Numbers, im_sz: int, resize: Resize, crop_fraction: float) -> Numbers:
    """What images show without augmentation: the same as in evaluation (images/view).

    An image is resized, to whole pixels, and its middle is looked at through a square window. crop: the short side
    becomes im_sz / crop_fraction; letterbox: the long side becomes im_sz; squash: both do.

    Args:
        sizes: (B, 2) height and width in pixels.
        im_sz: side of the window in pixels.
        resize: one of these three.
        crop_fraction: share of the short side that "crop" keeps.

    Returns:
        (B, 3, 3), coordinates in the window to coordinates in the image.
    """
    if resize == "squash":
        return identity(len(sizes))
    if resize == "crop":
        resized = np.floor(round(im_sz / crop_fraction) * sizes / sizes.min(axis=1, keepdims=True))
        before = np.rint((resized - im_sz) / 2)  # pixels above and to the left of the window
    else:
        resized = np.maximum(np.rint(im_sz * sizes / sizes.max(axis=1, keepdims=True)), 1)
        before = -np.floor((im_sz - resized) / 2)
    shift = (2 * before + im_sz) / resized - 1
    return scaling(*(im_sz / resized).T[::-1], *shift.T[::-1])


def sample(
    canvas: Tensor, sizes: Numbers, matrices: Numbers, im_sz: int, padding_mode: PaddingMode, background: Tensor
) -> Tensor:
    """Bilinear sampling of each image through its matrix, on the canvas's device.

    Args:
        canvas: uint8 (B, H, W, C); each image at the top left, what is beside it is never seen.
        sizes: (B, 2) height and width of the images in pixels.
        matrices: (B, 3, 3), output to image coordinates; see images/geometry.
        im_sz: side of the output in pixels.
        padding_mode: what lies outside an image.
        background: (C,) colour of "fill", in 0 … 255.

    Returns:
        float32 (B, C, im_sz, im_sz) in 0 … 255.
    """
    # From here on coordinates are counted from the canvas's top left corner, 2 to its whole width and height.
    extent = 2 * sizes[:, ::-1] / (canvas.shape[2], canvas.shape[1])  # (B, 2) x, y of each image's bottom right
    on_canvas = scaling(*extent.T / 2, *extent.T / 2) @ matrices
    x, y, depth = (_plane(on_canvas[:, row], im_sz, canvas.device) for row in range(3))
    if on_canvas[:, 2, :2].any():
        depth = depth.clamp(min=_HORIZON)
        x, y = x / depth, y / depth
    far_x, far_y = torch.from_numpy(extent.T.copy()).to(canvas.device, torch.float32)[..., None, None]
    grid = torch.empty(len(canvas), im_sz, im_sz, 2, device=canvas.device)
    grid[..., 0] = _inside(x, far_x, 1 / canvas.shape[2], padding_mode) - 1
    grid[..., 1] = _inside(y, far_y, 1 / canvas.shape[1], padding_mode) - 1
    images = canvas.permute(0, 3, 1, 2).contiguous().float()  # (B, C, H, W)
    sampled = grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)  # (B, C, S, S)
    if padding_mode == "fill":
        outside = (x < 0) | (x > far_x) | (y < 0) | (y > far_y)  # (B, S, S)
        sampled = torch.where(outside[:, None], background.view(1, -1, 1, 1), sampled)
    return sampled


def _plane(row: Numbers, im_sz: int, device: torch.device) -> Tensor:
    """A row of the matrices at the centre of each output pixel: (B, S, S), or 1 for an S on which it never depends."""
    a, b, c = torch.from_numpy(row.T.copy()).to(device, torch.float32)[..., None, None]
    value: Tensor = c
    centres = (torch.arange(im_sz, device=device) * 2 + 1) / im_sz - 1
    if row[:, 0].any():
        value = value + a * centres
    if row[:, 1].any():
        value = value + b * centres[:, None]
    return value


def _inside(places: Tensor, far: Tensor, half_pixel: float, padding_mode: PaddingMode) -> Tensor:
    """Coordinates brought between the centres of an image's first and last pixel, which reaches from 0 to `far`."""
    if padding_mode == "reflection":
        places = far - (far - places.remainder(2 * far)).abs()
    return places.clamp(min=torch.full_like(far, half_pixel), max=far - half_pixel - _ROUNDING)
