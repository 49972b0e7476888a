"""Detectors on two machines: a device that sends, and a server that computes.

The device sends the small tensor of a split net's head, or whole images; ``frames``
says how, byte by byte. ``Server`` computes for many devices at once, ``Client`` is the
device's side, and ``paying`` says when that is faster than computing on the device.

Names load their modules when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gluon_compress.serving.client import Answer, Client
    from gluon_compress.serving.limits import Limits
    from gluon_compress.serving.paying import (
        Setting,
        Way,
        break_even,
        fastest,
        ranges,
        seconds,
    )
    from gluon_compress.serving.running import serve
    from gluon_compress.serving.security import client_tls, read_token, server_tls
    from gluon_compress.serving.served import open_served
    from gluon_compress.serving.server import Server
    from gluon_compress.serving.session import ServerAway

_MODULES = {
    "Answer": "client",
    "Client": "client",
    "Limits": "limits",
    "Server": "server",
    "ServerAway": "session",
    "Setting": "paying",
    "Way": "paying",
    "break_even": "paying",
    "client_tls": "security",
    "fastest": "paying",
    "open_served": "served",
    "ranges": "paying",
    "read_token": "security",
    "seconds": "paying",
    "serve": "running",
    "server_tls": "security",
}

__all__ = [
    "Answer",
    "Client",
    "Limits",
    "Server",
    "ServerAway",
    "Setting",
    "Way",
    "break_even",
    "client_tls",
    "fastest",
    "open_served",
    "ranges",
    "read_token",
    "seconds",
    "serve",
    "server_tls",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    globals()[name] = value = getattr(module, name)
    return value
