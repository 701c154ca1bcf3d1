"""Smooth random pictures, and batches of them in the shape that augmentation is given."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> Tensor:
    """uint8 (height, width, channels), smooth enough that two ways of interpolating it nearly agree."""
    coarse = torch.rand(1, channels, 5, 5, generator=torch.Generator().manual_seed(seed))
    fine = interpolate(coarse, (height, width), mode="bicubic", align_corners=False)[0]
    return (fine.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()


def canvas_of(pictures: list[Tensor], poison: int = 0, margin: int = 0) -> tuple[Tensor, Tensor]:
    """uint8 (B, H, W, C) and sizes (B, 2): each picture at the top left, the rest filled with one value."""
    sizes = torch.tensor([picture.shape[:2] for picture in pictures])
    height, width = (sizes.amax(dim=0) + margin).tolist()
    canvas = torch.full((len(pictures), height, width, pictures[0].shape[2]), poison, dtype=torch.uint8)
    for place, one in enumerate(pictures):
        canvas[place, : one.shape[0], : one.shape[1]] = one
    return canvas, sizes


def as_chw(images: Tensor) -> Tensor:
    """(…, H, W, C) uint8 to (…, C, H, W) float32 in 0 … 255."""
    return images.movedim(-1, -3).float()


def sizes_of(*sizes: tuple[int, int]) -> np.ndarray:
    return np.array(sizes, dtype=np.float64)
