"""The way of a pixel as an ONNX graph: from decoded images of any size to what the net is fed. No torch.

It gives the very pixels that evaluation sees (images/view.py). torch resizes uint8 images in whole numbers: weights of
15 bits, rows before columns, each rounded to 8 bits. Here the same weights are split into bytes, so that two products
of uint8 matrices give the same sums exactly.
"""

from typing import Any, Final

import numpy as np

from export.contract import INPUT, Contract
from export.tape import Tape, Value

PIXELS: Final = "pixels"  # what the net is fed: float32 (batch, channels, im_sz, im_sz)
BLOCK: Final = 8  # outputs that share a window of inputs: 4 times faster than one matrix for all (375x500 to 256x341)
MOST_BITS: Final = 22  # of torch's weights
LUMA: Final = (19595, 38470, 7471)  # ITU-R 601-2 in 1/65536, as Pillow has it
FLOAT, UINT8, INT32, INT64, DOUBLE = 1, 2, 6, 7, 11  # onnx.TensorProto's types


def preprocessing(contract: Contract) -> Tape:
    """The nodes from the input to `PIXELS`."""
    op = Tape("preprocessing")
    shape = op.Shape(INPUT)
    height, width = op.Gather(shape, np.int64(1)), op.Gather(shape, np.int64(2))
    images = INPUT if contract.channels == 3 else _grey(op, INPUT)
    shorter = op.Min(height, width)
    if contract.resize == "crop":
        limit = op.Mul(shorter, np.int64(2))
        strip = op.Min(height, limit), op.Min(width, limit)
        images = _centre(op, images, (1, 2), (height, width), strip)
        height, width = strip
    low, narrow = _resized(op, contract, height, width)
    columns = _resample(op, op.Transpose(images, perm=[2, 0, 1, 3]), narrow)  # (w, N, H, C)
    resized = _resample(op, op.Transpose(columns, perm=[2, 1, 0, 3]), low)  # (h, N, w, C)
    if contract.resize == "crop":
        side = np.int64(contract.im_sz)
        resized = _centre(op, resized, (0, 2), (low, narrow), (side, side))
    square = op.Transpose(resized, perm=[1, 3, 0, 2])  # (N, C, h, w)
    if contract.resize == "letterbox":
        square = _boxed(op, contract, square, low, narrow)
    shift, scale = (
        np.float32(255) * np.array(numbers, np.float32).reshape(1, -1, 1, 1)
        for numbers in (contract.mean, contract.std)
    )
    op.Div(op.Sub(op.Cast(square, to=FLOAT), shift), scale, output=PIXELS)
    return op


def _resized(op: Tape, contract: Contract, height: str, width: str) -> tuple[Value, Value]:
    """The size to resize to, as View._resized has it."""
    side = np.int64(contract.im_sz)
    if contract.resize == "squash":
        return side, side
    if contract.resize == "crop":
        enlarged, short = np.int64(round(contract.im_sz / contract.crop_fraction)), op.Min(height, width)
        return op.Div(op.Mul(height, enlarged), short), op.Div(op.Mul(width, enlarged), short)
    long = op.Max(height, width)
    rows, columns = (op.Max(_half_even(op, op.Mul(length, side), long), np.int64(1)) for length in (height, width))
    return rows, columns


def _half_even(op: Tape, numerator: str, denominator: Value) -> str:
    """round(numerator / denominator) of whole numbers as Python rounds: halves to the even neighbour."""
    odd = op.Mod(op.Div(numerator, denominator), np.int64(2))
    raised = op.Add(op.Sub(op.Add(op.Mul(numerator, np.int64(2)), denominator), np.int64(1)), odd)
    return op.Div(raised, op.Mul(denominator, np.int64(2)))


def _centre(op: Tape, images: str, axes: tuple[int, int], have: tuple[Value, Value], want: tuple[Value, Value]) -> str:
    """The middle of images along two axes."""
    starts = [_half_even(op, op.Sub(whole, part), np.int64(2)) for whole, part in zip(have, want, strict=True)]
    ends = [op.Add(start, part) for start, part in zip(starts, want, strict=True)]
    first, last = (op.Concat(*(op.Reshape(n, _vector(-1)) for n in numbers), axis=0) for numbers in (starts, ends))
    return op.Slice(images, first, last, _vector(*axes))


def _vector(*numbers: int) -> np.ndarray[Any, Any]:
    return np.array(numbers, np.int64)


def _grey(op: Tape, images: str) -> str:
    """(N, H, W, 3) to (N, H, W, 1)."""
    high, low = (np.array(bytes_, np.uint8).reshape(3, 1) for bytes_ in np.divmod(LUMA, 256))
    return _rounded(op, op.MatMulInteger(images, high), op.MatMulInteger(images, low), np.int32(2**16))


def _rounded(op: Tape, high: str, low: str, one: Value) -> str:
    """uint8 of (256 high + low) / one, from int32."""
    total = op.Add(op.Add(op.Mul(high, np.int32(256)), low), op.Div(one, np.int32(2)))
    return op.Cast(op.Min(op.Div(total, one), np.int32(255)), to=UINT8)


def _resample(op: Tape, images: str, want: Value) -> str:
    """Resizes the first axis of (length, …) uint8, antialiased and bilinear; every `BLOCK` outputs share a window."""
    shape = op.Shape(images)
    have = op.Gather(shape, np.int64(0))
    scale = op.Div(op.Cast(have, to=DOUBLE), op.Cast(want, to=DOUBLE))
    stretch = op.Max(scale, np.float64(1))  # half the width of the triangle that weighs the inputs
    blocks = op.Div(op.Add(want, np.int64(BLOCK - 1)), np.int64(BLOCK))
    firsts = op.Mul(op.Range(np.int64(0), blocks, np.int64(1)), np.int64(BLOCK))  # (B,)
    outputs = op.Add(op.Unsqueeze(firsts, _vector(1)), np.arange(BLOCK, dtype=np.int64))  # (B, BLOCK)
    centres = _middle(op, op.Min(outputs, op.Sub(want, np.int64(1))), scale)
    reach = op.Add(op.Mul(scale, np.float64(BLOCK - 1)), op.Mul(stretch, np.float64(2)))
    span = op.Min(op.Add(op.Cast(reach, to=INT64), np.int64(2)), have)
    begin = op.Cast(op.Max(op.Sub(_middle(op, firsts, scale), stretch), np.float64(0)), to=INT64)
    begin = op.Unsqueeze(op.Min(begin, op.Sub(have, span)), _vector(1))
    inputs = op.Add(begin, op.Range(np.int64(0), span, np.int64(1)))  # (B, span)
    places = op.Unsqueeze(_middle(op, inputs, np.float64(1)), _vector(1))  # (B, 1, span)
    distance = op.Div(op.Abs(op.Sub(places, op.Unsqueeze(centres, _vector(2)))), stretch)  # (B, BLOCK, span)
    triangle = op.Max(op.Sub(np.float64(1), distance), np.float64(0))
    weights = op.Div(triangle, op.ReduceSum(triangle, _vector(2), keepdims=1))
    one = _one(op, weights)
    whole = op.Cast(op.Add(op.Mul(weights, one), np.float64(0.5)), to=INT32)
    high, low = (op.Cast(half(whole, np.int32(256)), to=UINT8) for half in (op.Div, op.Mod))
    windows = op.Gather(op.Flatten(images, axis=1), inputs, axis=0)  # (B, span, …)
    large, small = (op.MatMulInteger(part, windows) for part in (high, low))  # (B, BLOCK, …) int32
    resized = _rounded(op, large, small, op.Cast(one, to=INT32))
    rest = op.Slice(shape, _vector(1), _vector(4))
    return op.Slice(
        op.Reshape(resized, op.Concat(_vector(-1), rest, axis=0)), _vector(0), op.Reshape(want, _vector(-1))
    )


def _middle(op: Tape, indices: str, scale: Value) -> str:
    """Where the middle of each pixel lies, in pixels of another scale."""
    return op.Mul(op.Add(op.Cast(indices, to=DOUBLE), np.float64(0.5)), scale)


def _one(op: Tape, weights: str) -> str:
    """What a weight of 1 becomes in whole numbers: the largest power of two that leaves all weights below 2**15."""
    powers = 2.0 ** np.arange(1, MOST_BITS + 1)
    tops = op.Floor(op.Add(op.Mul(op.ReduceMax(weights, keepdims=0), powers), np.float64(0.5)))
    bits = op.ReduceSum(op.Cast(op.Less(tops, np.float64(2**15)), to=DOUBLE), keepdims=0)
    return op.Pow(np.float64(2), bits)


def _boxed(op: Tape, contract: Contract, images: str, height: Value, width: Value) -> str:
    """(N, C, h, w) in the middle of a square of the background's colour."""
    before, after = [], []
    for length in (height, width):
        free = op.Sub(np.int64(contract.im_sz), length)
        before.append(op.Div(free, np.int64(2)))
        after.append(op.Sub(free, before[-1]))
    pads = op.Concat(*(op.Reshape(n, _vector(-1)) for n in (*before, *after)), axis=0)
    inside = op.Expand(np.ones((1, 1, 1, 1), np.uint8), op.Concat(
        _vector(1, 1), *(op.Reshape(n, _vector(-1)) for n in (height, width)), axis=0))  # fmt: skip
    axes, nothing = _vector(2, 3), np.uint8(0)
    image, mask = (op.Pad(part, pads, nothing, axes) for part in (images, inside))
    red, green, blue = contract.background
    grey = (red * LUMA[0] + green * LUMA[1] + blue * LUMA[2] + 0x8000) >> 16
    colour = np.array([red, green, blue] if contract.channels == 3 else [grey], np.uint8)
    return op.Where(op.Cast(mask, to=9), image, colour.reshape(1, -1, 1, 1))
