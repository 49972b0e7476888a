"""Compression algorithms: what a row of a recipe's ``"compression"`` does.

``algorithm`` is the interface; ``prune`` and ``delete`` remove channels. To add one,
write an ``Algorithm`` and add a row to ``ALGORITHMS``.
"""

from typing import Dict

from gluon_compress.compression.algorithm import (
    PLAN,
    Algorithm,
    DryRunContext,
    StageContext,
    StageOutput,
)
from gluon_compress.compression.delete import Delete, DeleteSettings
from gluon_compress.compression.prune import Prune, PruneSettings

ALGORITHMS: Dict[str, Algorithm] = {"prune": Prune(), "delete": Delete()}

__all__ = [
    "ALGORITHMS",
    "PLAN",
    "Algorithm",
    "Delete",
    "DeleteSettings",
    "DryRunContext",
    "Prune",
    "PruneSettings",
    "StageContext",
    "StageOutput",
]
