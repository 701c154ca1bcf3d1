"""A net with its preprocessing as a torch.export program, for PyTorch without this project."""

import io
from typing import Final

import torch
from torch import Tensor, nn

from export.contract import Contract
from export.graph import quiet, reason
from export.preprocessing import LUMA, MOST_BITS
from export.session import Outputs, Run
from images.read import Pixels
from utils import TrainingFault

LARGEST: Final = 2**15  # side of an image, in pixels
EXAMPLE: Final = (2, 61, 47, 3)


class Program(nn.Module):
    """uint8 images (N, H, W, 3) of any size to probabilities and logits (N, C), as evaluation computes them."""

    shift: Tensor
    scale: Tensor
    powers: Tensor
    luma: Tensor
    colour: Tensor

    def __init__(self, net: nn.Module, contract: Contract) -> None:
        super().__init__()
        self.net, self.contract = net, contract
        for name, numbers in (("shift", contract.mean), ("scale", contract.std)):
            self.register_buffer(name, 255 * torch.tensor(numbers).view(1, -1, 1, 1))
        red, green, blue = contract.background
        grey = (red * LUMA[0] + green * LUMA[1] + blue * LUMA[2] + 0x8000) >> 16
        colour = [red, green, blue] if contract.channels == 3 else [grey]
        self.register_buffer("powers", 2.0 ** torch.arange(1, MOST_BITS + 1, dtype=torch.float64))
        self.register_buffer("luma", torch.tensor(LUMA, dtype=torch.int32).view(1, 3, 1, 1))
        self.register_buffer("colour", torch.tensor(colour, dtype=torch.float64).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities and logits of images."""
        pixels = images.permute(0, 3, 1, 2)  # (N, 3, H, W)
        if self.contract.channels == 1:
            grey = (pixels.int() * self.luma).sum(1, keepdim=True, dtype=torch.int32) + 0x8000
            pixels = (grey // 2**16).to(torch.uint8)
        logits = self.net((self._square(pixels).float() - self.shift) / self.scale)
        cooled = logits / self.contract.temperature
        return cooled.sigmoid() if self.contract.multi_label else cooled.softmax(1), logits

    def _square(self, images: Tensor) -> Tensor:
        """(N, C, H, W) uint8 to (N, C, S, S) float64 of whole numbers: what images/view.py does to one image."""
        height, width = (torch.scalar_tensor(length, dtype=torch.int64) for length in images.shape[2:])
        strips, resized = self._sizes(height, width)
        ways = [
            self._weights(length, strip, want)
            for length, strip, want in zip(images.shape[2:], strips, resized, strict=True)
        ]
        (rows, row_one, inside_rows), (columns, column_one, inside_columns) = ways
        narrow = _rounded(images.double() @ columns.T, column_one)  # (N, C, H, S)
        square = _rounded(rows @ narrow, row_one)
        return torch.where(inside_rows[:, None] & inside_columns, square, self.colour)

    def _sizes(self, height: Tensor, width: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Height and width of the part that is looked at, and what it is resized to."""
        side, way = self.contract.im_sz, self.contract.resize
        if way == "squash":
            return (height, width), (torch.full_like(height, side), torch.full_like(width, side))
        if way == "crop":
            limit = 2 * torch.minimum(height, width)
            height, width = torch.minimum(height, limit), torch.minimum(width, limit)
            enlarged, short = round(side / self.contract.crop_fraction), torch.minimum(height, width)
            return (height, width), (enlarged * height // short, enlarged * width // short)
        long = torch.maximum(height, width)
        return (height, width), (
            _half_even(height * side, long).clamp(min=1),
            _half_even(width * side, long).clamp(min=1),
        )

    def _weights(self, length: int, strip: Tensor, want: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """How one axis is resized, as torch does it: in whole numbers, antialiased and bilinear.

        Args:
            length: of the image; a size that torch.export traces, so that no shape but this one depends on it.
            strip: how much of its middle is looked at.
            want: what that is resized to.

        Returns:
            Weights (S, length) of the inputs of each output; what 1 is in them; which outputs show the image (S,).
        """
        side, way = self.contract.im_sz, self.contract.resize
        most = 2 * round(side / self.contract.crop_fraction) if way == "crop" else side
        outputs = torch.minimum(torch.arange(most), want - 1).double()
        scale = strip.double() / want
        stretch = scale.clamp(min=1)
        inputs = (torch.arange(length) - _half_even(length - strip, 2)).double()
        distance = ((inputs + 0.5) - ((outputs + 0.5) * scale)[:, None]).abs() / stretch  # (most, length)
        triangle = (1 - distance).clamp(min=0) * ((inputs >= 0) & (inputs < strip))
        weights = triangle / triangle.sum(1, keepdim=True)
        tops = (weights.amax() * self.powers + 0.5).floor()
        one = 2.0 ** (tops < 2**15).sum()
        first = _half_even(want - side, 2) if way == "crop" else -((side - want) // 2)
        kept = torch.arange(side) + first
        whole = (weights * one + 0.5).floor()
        return whole[kept.clamp(min=0).minimum(want - 1)], one, (kept >= 0) & (kept < want)


def _rounded(sums: Tensor, one: Tensor) -> Tensor:
    return ((sums + one / 2) / one).floor().clamp(max=255)


def _half_even(numerator: Tensor, denominator: Tensor | int) -> Tensor:
    """round(numerator / denominator) of whole numbers."""
    return (2 * numerator + denominator - 1 + numerator // denominator % 2) // (2 * denominator)


def program_bytes(net: nn.Module, contract: Contract) -> bytes:
    """The .pt2 file; what it says of itself is in its extra file "dossier", and nothing of the files it was made from.

    Raises:
        TrainingFault: torch cannot express the net.
    """
    dims = [torch.export.Dim(name, min=1, max=LARGEST) for name in ("batch", "height", "width")]
    buffer = io.BytesIO()
    try:
        with quiet(), torch.no_grad():
            example = torch.zeros(EXAMPLE, dtype=torch.uint8)
            shapes = (dict(enumerate(dims)),)
            exported = torch.export.export(Program(net.eval(), contract).eval(), (example,), dynamic_shapes=shapes)
            for module in exported.graph_module.modules():
                for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
                    node.meta.pop("stack_trace", None)
            torch.export.save(exported, buffer, extra_files=contract.to_metadata())
    except Exception as error:  # torch.export raises nearly anything
        raise TrainingFault(f"{contract.name}: torch.export cannot express this net ({reason(error)})") from error
    return buffer.getvalue()


def open_program(data: bytes) -> Run:
    """The program of a .pt2 file's bytes."""
    with quiet():
        module = torch.export.load(io.BytesIO(data)).module()

    def run(images: Pixels) -> Outputs:
        with torch.no_grad():
            probabilities, logits = module(torch.from_numpy(images))
        return probabilities.numpy(), logits.numpy()

    return run
