"""Turns a tensor into few bytes, and back: affine integers, packed, and compressed.

A value is ``minimum + step * integer``. Both numbers come from the tensor itself (Jacob
et al. 2018, equation 1, with the range of each image). Integers of 4 bits are packed
two to a byte, the first in the high half; those of 16 bits are little-endian.

The coding ``deflate`` is the standard library's zlib: Huffman codes and repetitions,
on any device that has Python, and in every other language. It needs no model that both
sides would have to share.
"""

from __future__ import annotations

import zlib
from typing import Tuple

import numpy as np
from typing_extensions import Literal

from gluon_compress.validation import wrong

BITS = (4, 8, 16)
CODINGS = ("none", "deflate")
Bits = Literal[4, 8, 16]
Coding = Literal["none", "deflate"]
LEVEL = 6  # of zlib
LEAST_STEP = 1e-12  # of a tensor of one value
_SLACK = 64  # bytes by which zlib may enlarge what it cannot compress, and 1/1000


def quantised(tensor: np.ndarray, bits: int) -> Tuple[np.ndarray, float, float]:
    """Return the integers of a tensor, its minimum, and the step between two integers.

    Parameters
    ----------
    tensor : ndarray
        Float32, finite.
    bits : int

    Returns
    -------
    (ndarray, float, float)
        Whole numbers from 0 to ``2**bits - 1``; the other two are float32 numbers.

    Raises
    ------
    ValueError
        If a value is not finite, or the range is too large for float32.
    """
    tensor = np.asarray(tensor, np.float32)
    minimum, maximum = tensor.min() + np.float32(0), tensor.max()  # 0, not -0
    with np.errstate(over="ignore", invalid="ignore"):
        step = (maximum - minimum) / np.float32(2**bits - 1)
    if not np.isfinite(step):
        raise ValueError("the tensor holds values that cannot be sent: NaN or infinity")
    step = max(step, np.float32(LEAST_STEP))
    integers = np.clip(np.rint((tensor - minimum) / step), 0, 2**bits - 1)
    kind = np.uint16 if bits == 16 else np.uint8
    return integers.astype(kind), float(minimum), float(step)


def values(integers: np.ndarray, minimum: float, step: float) -> np.ndarray:
    """Return ``minimum + step * integers``, float32."""
    return integers.astype(np.float32) * np.float32(step) + np.float32(minimum)


def packed_bytes(count: int, bits: int) -> int:
    """Return how many bytes so many integers take, packed."""
    return -(-count * bits // 8)


def most_bytes(count: int, bits: int, coding: str) -> int:
    """Return how many bytes a payload of so many integers has at most."""
    plain = packed_bytes(count, bits)
    return plain if coding == "none" else plain + plain // 1000 + _SLACK


def encode(integers: np.ndarray, bits: int, coding: str) -> bytes:
    """Return the payload of integers."""
    flat = integers.reshape(-1)
    if bits == 4:
        flat = np.append(flat, np.zeros(len(flat) % 2, np.uint8))
        flat = flat[::2] << 4 | flat[1::2]
    plain = flat.astype("<u2" if bits == 16 else np.uint8).tobytes()
    return plain if coding == "none" else zlib.compress(plain, LEVEL)


def decode(payload: bytes, count: int, bits: int, coding: str) -> np.ndarray:
    """Return the integers of a payload ``(count,)``.

    No more memory is taken than for so many integers, whatever the payload says.

    Raises
    ------
    ValueError
        If it has another length, or is not what ``encode`` writes.
    """
    expected, most = packed_bytes(count, bits), most_bytes(count, bits, coding)
    if coding == "none":
        if len(payload) != expected:
            raise wrong("payload", f"of {len(payload)} bytes", f"{expected} bytes")
    elif len(payload) > most:
        raise wrong("payload", f"of {len(payload)} bytes", f"at most {most} bytes")
    else:
        payload = _inflated(payload, expected)
    if bits != 4:
        return np.frombuffer(payload, "<u2" if bits == 16 else np.uint8)
    both = np.frombuffer(payload, np.uint8)
    integers = np.stack([both >> 4, both & 15], axis=1).reshape(-1)
    if integers[count:].any():
        raise ValueError("payload ends in half a byte that is not 0")
    return integers[:count]


def _inflated(payload: bytes, expected: int) -> bytes:
    stream = zlib.decompressobj()
    try:
        plain = stream.decompress(payload, expected + 1)
    except zlib.error as error:
        raise ValueError(f"payload is not of the coding deflate: {error}") from None
    if not stream.eof or stream.unused_data or len(plain) != expected:
        raise ValueError(
            f"payload does not decompress to {expected} bytes, or has more behind them"
        )
    return plain
