"""Small pictures as PNG files in memory, for the report. Knows nothing of sources; needs no imaging library."""

import struct
import zlib

import torch
from torch import Tensor

_SIDE = 96  # pixels on the longer side that a tiny picture is blown up to, so that one can see it


def as_bytes(image: Tensor) -> Tensor:
    """A float image as uint8: [0, 1] is black to white; any other range is stretched from its smallest to its largest value."""
    if image.dtype == torch.uint8:
        return image
    low, high = float(image.min()), float(image.max())
    if low < 0 or high > 1:
        image = (image - low) / max(high - low, 1e-12)
    return (image * 255).round().to(torch.uint8)


def png(image: Tensor) -> bytes:
    """The picture as a PNG file, each pixel repeated until the longer side has about 96.

    Three and more channels give colours (the first three count), fewer give grey (the first counts).

    Shapes: uint8 or float [C, H, W] -> bytes.
    """
    pixels = as_bytes(image)
    pixels = (pixels[:3] if len(pixels) >= 3 else pixels[:1]).permute(1, 2, 0)
    factor = max(1, round(_SIDE / max(pixels.shape[:2])))
    pixels = pixels.repeat_interleave(factor, 0).repeat_interleave(factor, 1).contiguous()
    height, width, channels = pixels.shape
    lines = b"".join(b"\0" + bytes(line.flatten().tolist()) for line in pixels)  # 0: no filter on this line
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in parts)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
