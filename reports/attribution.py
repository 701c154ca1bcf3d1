"""Where a net looks: for an image and a class, how much each place speaks for the class."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from reports.feature_maps import FeatureMap, find, undisturbed
from training.evaluation import Autocast
from utils import UserError, select

Array = np.ndarray[Any, Any]

AT_ONCE: Final = 32  # images in a batch
PATCHES: Final = 8  # patches beside each other that occlusion covers an image with


@dataclass(frozen=True)
class Attribution:
    """Maps of some images.

    Attributes:
        method: a key of METHODS.
        layer: name of the module whose map was read; "" when none was.
        cells: how many places a side the map tells apart.
        maps: (B, S, S) float32, from 0 (says nothing for the class) to 1.
    """

    method: str
    layer: str
    cells: int
    maps: Array


def grad_cam(net: nn.Module, images: Tensor, classes: Tensor, where: FeatureMap) -> Tensor:
    """Feature maps weighted by their mean gradient, what is negative left out (Selvaraju et al., arXiv 1610.02391).

    Args:
        net: in evaluation mode, with gradients.
        images: (B, C, S, S).
        classes: (B,) int64, whose logits are explained.
        where: the feature map.

    Returns:
        (B, side, side) ≥ 0.
    """
    features, logits = _features(net, images.clone().requires_grad_(), where)
    answers = logits.gather(1, classes[:, None]).sum()
    (gradient,) = torch.autograd.grad(answers, features)
    cells, slopes = where.grid(features.detach()).float(), where.grid(gradient).float()
    weights = slopes.mean(dim=(2, 3), keepdim=True)
    return (weights * cells).sum(dim=1).clamp(min=0)


def eigen_cam(net: nn.Module, images: Tensor, classes: Tensor, where: FeatureMap) -> Tensor:
    """The first principal component of the features, whatever the class (Muhammad and Yeasin, arXiv 2008.00299).

    Arguments and result as of `grad_cam`. The component's sign is the one that makes its largest value positive.
    """
    with torch.no_grad():
        features, _ = _features(net, images, where)
        cells = where.grid(features).float().flatten(2).transpose(1, 2)  # (B, side * side, C)
        cells = cells - cells.mean(dim=1, keepdim=True)
        direction = torch.linalg.svd(cells, full_matrices=False).Vh[:, 0]  # (B, C)
        component = torch.einsum("bnc,bc->bn", cells, direction)
        largest = component.gather(1, component.abs().argmax(dim=1, keepdim=True))
        return (component * largest.sign()).clamp(min=0).reshape(-1, where.side, where.side)


def occlusion(net: nn.Module, images: Tensor, classes: Tensor, where: FeatureMap | None = None) -> Tensor:
    """How much the class's logit falls when a patch is covered (Zeiler and Fergus, arXiv 1311.2901).

    The patch has the colour of the training images' mean, an eighth of the image's side, and moves by half of itself.
    Nothing inside the net is looked at: (PATCHES * 2 - 1)² further runs for each image.

    Arguments and result as of `grad_cam`; `where` is not used, and the result is (B, S, S).
    """
    side = images.shape[-1]
    patch = max(1, round(side / PATCHES))
    starts = sorted({*range(0, side - patch, max(1, patch // 2)), side - patch})
    places = [(top, left) for top in starts for left in starts]
    maps = []
    with torch.no_grad():
        for image, target in zip(images, classes.tolist(), strict=True):
            before = net(image[None]).float()[0, target]
            falls, cover = torch.zeros(2, side, side, device=image.device)
            for start in range(0, len(places), AT_ONCE):
                part = places[start : start + AT_ONCE]
                covered = image.repeat(len(part), 1, 1, 1)
                for one, (top, left) in zip(covered, part, strict=True):
                    one[:, top : top + patch, left : left + patch] = 0
                for fall, (top, left) in zip(before - net(covered).float()[:, target], part, strict=True):
                    falls[top : top + patch, left : left + patch] += fall
                    cover[top : top + patch, left : left + patch] += 1
            maps.append((falls / cover).clamp(min=0))
    return torch.stack(maps)


# To add a method: a function above and a row here.
METHODS: Final[dict[str, Callable[..., Tensor]]] = {
    "grad_cam": grad_cam,
    "eigen_cam": eigen_cam,
    "occlusion": occlusion,
}
NEEDS_NO_MAP: Final = ("occlusion",)
AUTO: Final = "auto"  # grad_cam where the net has a feature map, else occlusion


def attribute(
    net: nn.Module,
    images: Tensor,
    classes: Tensor,
    method: str = AUTO,
    autocast: Autocast = contextlib.nullcontext,
) -> Attribution:
    """Explains the logit of one class for each image.

    The net is run in evaluation mode; its mode, parameters, gradients and hooks are afterwards what they were.

    Args:
        net: maps (B, C, S, S) to logits (B, classes).
        images: (B, C, S, S) float32 on the net's device, as the net takes them.
        classes: (B,) int64, the class to explain for each.
        method: "auto", or a key of METHODS.
        autocast: the precision to compute in.

    Raises:
        UserError: there is no such method, or the net has no feature map for it.
    """
    if method != AUTO:
        select(method, METHODS, "method of attribution")
    with undisturbed(net), autocast():
        where = None if method in NEEDS_NO_MAP else find(net, images[:2])
        if where is None and method not in (AUTO, *NEEDS_NO_MAP):
            raise UserError(f"{method}: this net has no feature map; use one of {', '.join((AUTO, *NEEDS_NO_MAP))}")
        chosen = method if method != AUTO else "occlusion" if where is None else "grad_cam"
        parts = [
            METHODS[chosen](net, images[start : start + AT_ONCE], classes[start : start + AT_ONCE], where)
            for start in range(0, len(images), AT_ONCE)
        ]
    maps = torch.cat([part.float() for part in parts])
    enlarged = functional.interpolate(_scaled(maps)[:, None], images.shape[-2:], mode="bilinear")[:, 0]
    layer, cells = (where.module, where.side) if where else ("", PATCHES)
    return Attribution(chosen, layer, cells, _scaled(enlarged).cpu().numpy())


def _features(net: nn.Module, images: Tensor, where: FeatureMap) -> tuple[Tensor, Tensor]:
    """What the module gives at that call, still part of the graph, and the logits."""
    outputs: list[Tensor] = []
    handle = net.get_submodule(where.module).register_forward_hook(lambda _m, _i, output: outputs.append(output))
    try:
        logits = net(images)
    finally:
        handle.remove()
    return outputs[where.call], logits


def _scaled(maps: Tensor) -> Tensor:
    """Each map (B, H, W) from 0 to 1; a map without differences is 0."""
    maps = torch.nan_to_num(maps) - torch.nan_to_num(maps).amin(dim=(1, 2), keepdim=True)
    return maps / maps.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)
