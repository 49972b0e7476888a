"""Split computing: one net on two machines, cut where one tensor crosses.

``cuts`` finds the tensors that a net can be cut at. ``halves`` opens both halves of a
net and says what goes from one to the other; ``saving`` writes them. ``bottleneck``
puts an encoder and a decoder in place of a part of a net, and ``distilling`` trains
them on feature maps.

Names load their modules when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gluon_compress.splitting.cuts import CutPoint, CutPoints, Halves, split
    from gluon_compress.splitting.halves import (
        Head,
        Message,
        Tail,
        open_head,
        open_tail,
        save_halves,
    )

__all__ = [
    "CutPoint",
    "CutPoints",
    "Halves",
    "Head",
    "Message",
    "Tail",
    "open_head",
    "open_tail",
    "save_halves",
    "split",
]

_MODULES = {
    **dict.fromkeys(("CutPoint", "CutPoints", "Halves", "split"), "cuts"),
    **dict.fromkeys(
        ("Head", "Message", "Tail", "open_head", "open_tail", "save_halves"), "halves"
    ),
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    globals()[name] = value = getattr(module, name)
    return value
