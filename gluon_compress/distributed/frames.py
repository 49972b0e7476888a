"""Messages between ranks and their hub: JSON and bytes over a TCP connection.

Nothing that is received can run: a message is one JSON value and the bytes of arrays.
"""

from __future__ import annotations

import json
import socket
import struct
from contextlib import suppress
from typing import Any, NamedTuple

_SIZES = struct.Struct(">IQ")  # of the JSON, and of the bytes behind it
MOST_JSON, MOST_BYTES = 1 << 26, 1 << 36
MOST_GREETING = 4096  # of one whose token is not known yet

# A host that vanishes is noticed within about 8 seconds, also while nothing is sent.
_KEEPALIVE = {"TCP_KEEPIDLE": 3, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 5}
_UNANSWERED = {"TCP_USER_TIMEOUT": 8000}  # milliseconds


class Packet(NamedTuple):
    """What is sent at once.

    Parameters
    ----------
    value : any
        JSON.
    payload : bytes
    """

    value: Any
    payload: bytes = b""


def send(connection: socket.socket, value: Any, payload: bytes = b"") -> None:
    """Send a message; raises OSError if the other side is gone."""
    text = json.dumps(value).encode()
    head = _SIZES.pack(len(text), len(payload)) + text
    if len(payload) < 1 << 16:
        connection.sendall(head + payload)
    else:
        connection.sendall(head)
        connection.sendall(payload)


def receive(
    connection: socket.socket, most: int = MOST_JSON, most_bytes: int = MOST_BYTES
) -> Packet | None:
    """Return the next message, None if the other side has closed or breaks off.

    Raises
    ------
    ValueError
        If what arrives is no message of this protocol.
    """
    head = _exactly(connection, _SIZES.size)
    if head is None:
        return None
    length, size = _SIZES.unpack(head)
    if length > most or size > most_bytes:
        raise ValueError(f"a message of {length} and {size} bytes; allowed: {most}")
    text, payload = _exactly(connection, length), _exactly(connection, size)
    if text is None or payload is None:
        return None
    return Packet(json.loads(text), payload)


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    """Return so many bytes, None if the connection ends before."""
    content = bytearray(size)
    view = memoryview(content)
    while len(view):
        try:
            count = connection.recv_into(view)
        except OSError:
            return None
        if count == 0:
            return None
        view = view[count:]
    return bytes(content)


def configure(connection: socket.socket) -> None:
    """Let a connection send at once, and end when the other host is gone."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in {**_KEEPALIVE, **_UNANSWERED}.items():
        if hasattr(socket, name):  # of Linux
            number = getattr(socket, name)
            connection.setsockopt(socket.IPPROTO_TCP, number, value)


def close(connection: socket.socket) -> None:
    """Close a connection that another thread may be reading."""
    with suppress(OSError):  # it has ended already
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
