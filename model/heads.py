"""The last layers of a net: dropout before a backbone's own classifier, or a head of two layers on pooled features."""

import torch
from torch import nn
from torch.nn import functional

from model.groups import width

CONCAT_POOL_WIDTH = 512  # fast.ai's create_head


class DropoutLinear(nn.Linear):
    """A linear classifier that drops inputs while training; its state dict is that of the nn.Linear it replaces.

    Args:
        linear: the layer whose weight and bias it takes over.
        ps: probability of dropping an input.
    """

    def __init__(self, linear: nn.Linear, ps: float) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.ps = ps

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, in_features) -> logits (B, out_features)."""
        return functional.linear(functional.dropout(features, self.ps, self.training), self.weight, self.bias)

    def extra_repr(self) -> str:
        """Sizes and dropout, for print(net)."""
        return f"{super().extra_repr()}, ps={self.ps}"


class ConcatPool(nn.Module):
    """Average and maximum over each feature map, side by side."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, F, H, W) -> (B, 2F)."""
        return torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1)


class Headed(nn.Sequential):
    """A body's layers and then "head", all of which counts as the head when layers are grouped."""

    head_prefix = "head"


class ChannelsFirst(nn.Module):
    """The usual order of axes, for a backbone that keeps channels last."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, H, W, F) -> (B, F, H, W)."""
        return features.permute(0, 3, 1, 2)


def concat_pool(features: int, num_classes: int, ps: float) -> nn.Sequential:
    """The head of fast.ai's create_head: (B, features, H, W) -> logits (B, num_classes), dropout ps / 2 and ps."""
    return nn.Sequential(
        ConcatPool(),
        nn.BatchNorm1d(2 * features),
        nn.Dropout(ps / 2),
        nn.Linear(2 * features, CONCAT_POOL_WIDTH, bias=False),
        nn.ReLU(inplace=True),
        nn.BatchNorm1d(CONCAT_POOL_WIDTH),
        nn.Dropout(ps),
        nn.Linear(CONCAT_POOL_WIDTH, num_classes, bias=False),
    )


def classifier(net: nn.Module, num_classes: int) -> str:
    """Name of the layer that gives one output per class: of those with as many outputs, the last defined ("" if none).

    Args:
        net: a net without auxiliary heads.
        num_classes: number of outputs.
    """
    widths = {name: width(module) for name, module in net.named_modules()}
    return next((name for name, outputs in reversed(widths.items()) if outputs == num_classes), "")


def tame(layer: nn.Module) -> None:
    """Draws a linear classifier anew, as torch does, when its first weights would make large logits of unit features.

    EfficientNet and MNASNet draw them by the number of outputs, which suits a thousand classes: with ten, the loss of
    efficientnet_b0 would start at several times the logarithm of ten.
    """
    if isinstance(layer, nn.Linear) and not layer.weight.is_meta and layer.weight.detach().square().sum(1).mean() > 1:
        layer.reset_parameters()


def set_dropout(net: nn.Module, head: str, ps: float) -> None:
    """Makes `ps` the dropout before the classifier: in the head's own dropout layers, else in the classifier itself.

    Args:
        net: changed in place.
        head: name of the classifier.
        ps: probability of dropping an input.
    """
    parent_name, _, name = head.rpartition(".")
    parent = net.get_submodule(parent_name)
    own = [module for module in parent.children() if isinstance(module, nn.Dropout)]
    for module in own:
        module.p = ps
    last = parent.get_submodule(name)
    if not own and isinstance(last, nn.Linear):
        setattr(parent, name, DropoutLinear(last, ps))
