"""The frames that device and server exchange over TCP, byte by byte.

Numbers are big-endian. Every frame of every version starts with the same 8 bytes::

    0  2  "GC"
    2  1  version of the protocol
    3  1  kind of the frame
    4  4  length of the body in bytes, unsigned

The bodies of this version are listed in ``docs/split_serving.md`` and built by the
functions here. Whatever comes from the other side is checked here: a wrong frame is a
``FrameError`` of one line, before memory is taken for its body.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import math
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Mapping, Sequence, Tuple

import numpy as np

from gluon_compress.printable import printable
from gluon_compress.validation import shortened

MAGIC, VERSION = b"GC", 1
HEADER = struct.Struct(">2sBBI")
NONCE = 16  # bytes
DIGEST = 32  # bytes of a sha256
LONGEST_TEXT = 1200  # bytes of UTF-8 in a frame that says why
LONGEST_LINE = 300  # characters of it that are shown
LONGEST_INFO = 1 << 16
LONGEST_PING = 1 << 13
LARGEST_RESULT = 4 << 20
MOST_PIXELS = 1 << 26
MOST_AXES = 8  # of a tensor

_HELLO = struct.Struct(f">BBf{DIGEST}s{DIGEST}s")
_WELCOME = struct.Struct(f">BB{DIGEST}sIHH")
_REFUSED = struct.Struct(">B")
_TENSOR = struct.Struct(">IIddIIB")
_IMAGE = struct.Struct(">II")
_RESULT = struct.Struct(">IffBI")
_FAILED = struct.Struct(">IB")


class FrameError(ValueError):
    """The other side sent what is no frame, or not one that may come now."""


class Kind(IntEnum):
    """Kinds of frames."""

    CHALLENGE = 1
    HELLO = 2
    WELCOME = 3
    REFUSED = 4
    PING = 5
    PONG = 6
    GOODBYE = 7
    TENSOR = 16
    IMAGE = 17
    RESULT = 32
    FAILED = 33


class Mode(IntEnum):
    """What a server computes, and what it is sent."""

    SPLIT = 1  # the tail of a net; tensors
    WHOLE = 2  # a whole net; images


class Refusal(IntEnum):
    """Whether it makes sense to connect again."""

    FINAL = 1
    TEMPORARY = 2


class Failure(IntEnum):
    """Why a request got no result."""

    BUSY = 1  # the queue is full: send it again later
    LATE = 2  # its deadline had passed, so it was not computed
    BAD = 3  # the net cannot take it
    INTERNAL = 4  # the server's own fault


@dataclass(frozen=True)
class Hello:
    """What a device says of itself.

    Parameters
    ----------
    mode : Mode
    bits : int
        Of each number of the tensor; 0 for images.
    pair : bytes
        The sha256 that both halves share; zeros for images.
    threshold : float
        Lowest score to be sent back.
    """

    mode: Mode
    bits: int = 0
    pair: bytes = bytes(DIGEST)
    threshold: float = 0.0

    def packed(self, nonce: bytes, token: str | None) -> bytes:
        """Return the body, with the proof that the token is known."""
        plain = _HELLO.pack(
            self.mode, self.bits, self.threshold, self.pair, bytes(DIGEST)
        )
        proof = bytes(DIGEST) if token is None else _proof(plain, nonce, token)
        return plain[:-DIGEST] + proof


def read_hello(body: bytes, nonce: bytes, token: str | None) -> tuple[Hello, bool]:
    """Return what a device says, and whether it has proved that it knows the token."""
    mode, bits, threshold, pair, proof = _HELLO.unpack(body)
    if mode not in tuple(Mode) or not 0 <= threshold <= 1 or bits > 32:
        raise FrameError("a hello with mode, bits or threshold out of range")
    expected = bytes(DIGEST)
    if token is not None:
        expected = _proof(body[:-DIGEST] + bytes(DIGEST), nonce, token)
    known = hmac.compare_digest(proof, expected)
    return Hello(Mode(mode), bits, pair, threshold), known


def _proof(plain: bytes, nonce: bytes, token: str) -> bytes:
    """Return what only a side that knows the token can compute for this nonce."""
    return hmac.new(token.encode(), nonce + plain, hashlib.sha256).digest()


@dataclass(frozen=True)
class Welcome:
    """What a server says of itself.

    Parameters
    ----------
    mode : Mode
    bits : int
    pair : bytes
    largest : int
        Bytes that the body of a request can have.
    window : int
        Requests that one connection can have unanswered.
    idle : int
        Seconds after which a silent connection is closed.
    classes : tuple of str
        Names by class id.
    """

    mode: Mode
    bits: int
    pair: bytes
    largest: int
    window: int
    idle: int
    classes: Tuple[str, ...] = ()

    def packed(self) -> bytes:
        """Return the body."""
        numbers = (self.mode, self.bits, self.pair, self.largest)
        info = json.dumps({"classes": self.classes}).encode()
        return _WELCOME.pack(*numbers, self.window, self.idle) + info


def read_welcome(body: bytes) -> Welcome:
    """Return what a server says of itself."""
    mode, bits, pair, largest, window, idle = _WELCOME.unpack_from(body)
    try:
        classes = json.loads(body[_WELCOME.size :].decode())["classes"]
        if not all(isinstance(name, str) for name in classes):
            raise TypeError
        # Limits of zero would let a client wait for ever.
        if min(largest, window, idle) < 1:
            raise ValueError
        names = tuple(classes)
        return Welcome(Mode(mode), bits, pair, largest, window, idle, names)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise FrameError("a welcome that cannot be read") from None


# ---------------------------------------------------------------- requests


@dataclass(frozen=True)
class SentTensor:
    """The tensor of one image, with the fields of ``splitting.halves.Message``."""

    payload: bytes
    minimum: float
    step: float
    height: int
    width: int
    tensor: Tuple[int, ...]


def pack_tensor(number: int, milliseconds: int, message: SentTensor) -> bytes:
    """Return the body of a request with a tensor.

    Parameters
    ----------
    number : int
        Identifies the request on this connection.
    milliseconds : int
        Time that the server has for it; 0: any.
    message : SentTensor
        Or ``splitting.halves.Message``.
    """
    scale = (message.minimum, message.step, message.height, message.width)
    head = _TENSOR.pack(number, milliseconds, *scale, len(message.tensor))
    shape = struct.pack(f">{len(message.tensor)}I", *message.tensor)
    return head + shape + message.payload


def read_tensor(body: bytes) -> tuple[int, int, SentTensor]:
    """Return number, milliseconds and tensor of a request.

    Raises
    ------
    RequestError
        If a field is out of range. Whether shape and payload fit the net, the net says.
    """
    number, milliseconds, low, step, height, width, axes = _TENSOR.unpack_from(body)
    start = _TENSOR.size + 4 * axes
    if not 0 < axes <= MOST_AXES or len(body) < start:
        raise RequestError(number, f"a tensor of {axes} axes in {len(body)} bytes")
    shape = struct.unpack_from(f">{axes}I", body, _TENSOR.size)
    if not (math.isfinite(low) and math.isfinite(step) and step >= 0):
        raise RequestError(number, "a tensor whose minimum or step is no finite number")
    if not (0 < height * width <= MOST_PIXELS and min(shape) > 0):
        size = f"{width} x {height} pixels, shape {list(shape)}"
        raise RequestError(number, f"a tensor of an image of {size}")
    message = SentTensor(body[start:], low, step, height, width, shape)
    return number, milliseconds, message


class RequestError(ValueError):
    """A request that cannot be right; the connection is fine."""

    def __init__(self, number: int, line: str) -> None:
        super().__init__(line)
        self.number = number


def pack_image(number: int, milliseconds: int, image: bytes) -> bytes:
    """Return the body of a request with an encoded image."""
    return _IMAGE.pack(number, milliseconds) + image


def read_image(body: bytes) -> tuple[int, int, bytes]:
    """Return number, milliseconds and encoded image of a request."""
    number, milliseconds = _IMAGE.unpack_from(body)
    return number, milliseconds, body[_IMAGE.size :]


# ---------------------------------------------------------------- answers


@dataclass(frozen=True)
class Result:
    """An answer: what was found in one image.

    Parameters
    ----------
    number : int
        Of the request.
    waited, computed : float
        Seconds that the request waited on the server, and that its batch took.
    detections : tuple of ndarray
        Ids ``(N,)``, scores ``(N,)`` and, of a detector, corner boxes ``(N, 4)``.
    """

    number: int
    waited: float
    computed: float
    detections: Tuple[np.ndarray, ...]


def pack_result(result: Result) -> bytes:
    """Return the body of an answer; scores and boxes are sent as float32."""
    ids, scores, *boxes = result.detections
    rows = [np.asarray(ids).reshape(-1).astype(">i4").tobytes()]
    rows.append(np.asarray(scores).reshape(-1).astype(">f4").tobytes())
    rows += [np.asarray(part).reshape(-1, 4).astype(">f4").tobytes() for part in boxes]
    times = (result.waited, result.computed)
    head = _RESULT.pack(result.number, *times, 4 * len(boxes), np.size(ids))
    return b"".join([head, *rows])


def read_result(body: bytes) -> Result:
    """Return an answer."""
    number, waited, computed, columns, rows = _RESULT.unpack_from(body)
    if columns not in (0, 4) or len(body) != _RESULT.size + 4 * rows * (2 + columns):
        raise FrameError(f"a result of {len(body)} bytes for {rows} rows")
    if not (math.isfinite(waited) and math.isfinite(computed)):
        raise FrameError("a result whose times are no finite numbers")
    start = _RESULT.size
    ids = np.frombuffer(body, ">i4", rows, start).astype(int)
    scores = np.frombuffer(body, ">f4", rows, start + 4 * rows).astype(np.float32)
    parts: list = [ids, scores]
    if columns:
        boxes = np.frombuffer(body, ">f4", 4 * rows, start + 8 * rows)
        parts.append(boxes.astype(np.float32).reshape(rows, 4))
    return Result(number, waited, computed, tuple(parts))


def pack_failed(number: int, failure: Failure, line: str) -> bytes:
    """Return the body that says why a request got no result."""
    return _FAILED.pack(number, failure) + _text(line)


def read_failed(body: bytes) -> tuple[int, Failure, str]:
    """Return number, kind and line of a failure."""
    number, failure = _FAILED.unpack_from(body)
    if failure not in tuple(Failure):
        raise FrameError(f"a failure of the unknown kind {failure}")
    return number, Failure(failure), _line(body[_FAILED.size :])


def pack_refused(refusal: Refusal, line: str) -> bytes:
    """Return the body that says why a connection is refused."""
    return _REFUSED.pack(refusal) + _text(line)


def read_refused(body: bytes) -> tuple[bool, str]:
    """Return whether a refusal is final, and its line."""
    (refusal,) = _REFUSED.unpack_from(body)
    return refusal != Refusal.TEMPORARY, _line(body[_REFUSED.size :])


def _text(line: str) -> bytes:
    return shortened(line, LONGEST_LINE).encode("utf-8", "replace")


def _line(text: bytes) -> str:
    line = " ".join(text.decode("utf-8", "replace").split())
    return shortened(printable(line), LONGEST_LINE)


# ---------------------------------------------------------------- on the wire

# Bytes that a body must have, and how many it can have. Requests: see ``read_frame``.
SIZES: Mapping[Kind, Tuple[int, int]] = {
    Kind.CHALLENGE: (NONCE, NONCE),
    Kind.HELLO: (_HELLO.size, _HELLO.size),
    Kind.WELCOME: (_WELCOME.size, LONGEST_INFO),
    Kind.REFUSED: (_REFUSED.size, LONGEST_TEXT),
    Kind.PING: (8, LONGEST_PING),
    Kind.PONG: (8, 8),
    Kind.GOODBYE: (0, 0),
    Kind.TENSOR: (_TENSOR.size, 1 << 30),
    Kind.IMAGE: (_IMAGE.size, 1 << 30),
    Kind.RESULT: (_RESULT.size, LARGEST_RESULT),
    Kind.FAILED: (_FAILED.size, LONGEST_TEXT),
}


def frame(kind: Kind, body: bytes = b"") -> bytes:
    """Return a frame as it is sent."""
    return HEADER.pack(MAGIC, VERSION, kind, len(body)) + body


def overhead(mode: Mode, axes: int = 3) -> int:
    """Return how many bytes a request has besides its payload."""
    if mode is Mode.WHOLE:
        return HEADER.size + _IMAGE.size
    return HEADER.size + _TENSOR.size + 4 * axes


def read_header(
    header: bytes, allowed: Sequence[Kind], largest: int = LARGEST_RESULT
) -> tuple[Kind, int]:
    """Return kind and length of the body that follows.

    Parameters
    ----------
    header : bytes
        The first 8 bytes of a frame.
    allowed : sequence of Kind
        That may come now.
    largest : int
        Bytes that a body can have; those of most kinds can have fewer.

    Raises
    ------
    FrameError
        If it is no header, of another version, of a kind that may not come, or too
        long.
    """
    magic, version, kind, length = HEADER.unpack(header)
    if magic != MAGIC:
        raise FrameError(f"no frame: it starts with {_guessed(header)}")
    if version != VERSION:
        raise FrameError(
            f"version {version} of the protocol; this side speaks {VERSION}"
        )
    if kind not in allowed:
        name = Kind(kind).name.lower() if kind in tuple(Kind) else str(kind)
        names = ", ".join(each.name.lower() for each in allowed)
        raise FrameError(f"a frame of kind {name}; allowed now: {names}")
    least, most = SIZES[Kind(kind)]
    if not least <= length <= min(most, largest):
        name = Kind(kind).name.lower()
        raise FrameError(
            f"a frame of kind {name} with {length} bytes; allowed: {least} to "
            f"{min(most, largest)}"
        )
    return Kind(kind), length


def _guessed(header: bytes) -> str:
    """Say what speaks, if it is known."""
    if header[:2] in (b"\x16\x03", b"\x15\x03"):
        return f"{header!r}, as TLS does; one side has TLS, the other has not"
    if header.split(b" ")[0] in (b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS"):
        return f"{header!r}, an HTTP request"
    return repr(header)


async def read_frame(
    reader: asyncio.StreamReader,
    allowed: Sequence[Kind],
    largest: int = LARGEST_RESULT,
) -> tuple[Kind, bytes]:
    """Return kind and body of the next frame; see ``read_header``."""
    header = await reader.readexactly(HEADER.size)
    kind, length = read_header(header, allowed, largest)
    return kind, await reader.readexactly(length)
