"""Nets in edge runtimes: files of every format, checked, and predictors that run them.

``deploy`` puts a folder together, ``Predictor`` runs it. To add a runtime, see
``runtimes``; to add a file format, see ``formats``. A family of nets states how images
come in and results come out; nothing here knows more of it than that.

Names load their modules when they are first used: ``RUNTIMES`` and ``FORMATS`` are
there without MXNet.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gluon_compress.deployment.deploying import deploy
    from gluon_compress.deployment.folding import fold, fused
    from gluon_compress.deployment.formats import FORMATS
    from gluon_compress.deployment.latency.in_turn import latencies_in_turn
    from gluon_compress.deployment.predictor import Predictor
    from gluon_compress.deployment.runtimes import RUNTIMES

__all__ = [
    "FORMATS",
    "RUNTIMES",
    "Predictor",
    "deploy",
    "fold",
    "fused",
    "latencies_in_turn",
]

_MODULES = {
    "FORMATS": "formats",
    "RUNTIMES": "runtimes",
    "Predictor": "predictor",
    "deploy": "deploying",
    "fold": "folding",
    "fused": "folding",
    "latencies_in_turn": "latency.in_turn",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    globals()[name] = value = getattr(module, name)
    return value
