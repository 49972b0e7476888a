"""Compression algorithms: what a row of a recipe's ``"compression"`` does.

``algorithm`` is the interface; ``prune`` and ``delete`` remove channels,
``quantize`` rounds weights and maps, ``sparsify`` sets weights to zero, ``binarize``
leaves them two values, ``split`` puts in a bottleneck to cut the net at. To add one,
write an ``Algorithm`` and add a row to ``ALGORITHMS`` in ``registry``. ``compress`` is
for training loops of one's own.
"""

from gluon_compress.compression.algorithm import (
    PLAN,
    Algorithm,
    Attached,
    DryRunContext,
    LoopContext,
    StageContext,
    StageOutput,
)
from gluon_compress.compression.binarize import Binarize, BinarizeSettings
from gluon_compress.compression.controller import Controller, compress
from gluon_compress.compression.delete import Delete, DeleteSettings
from gluon_compress.compression.prune import Prune, PruneSettings
from gluon_compress.compression.quantize import Quantize, QuantizeSettings
from gluon_compress.compression.registry import ALGORITHMS
from gluon_compress.compression.sparsify import Sparsify, SparsifySettings
from gluon_compress.compression.split import Split, SplitSettings

__all__ = [
    "ALGORITHMS",
    "PLAN",
    "Algorithm",
    "Attached",
    "Binarize",
    "BinarizeSettings",
    "Controller",
    "Delete",
    "DeleteSettings",
    "DryRunContext",
    "LoopContext",
    "Prune",
    "PruneSettings",
    "Quantize",
    "QuantizeSettings",
    "Sparsify",
    "SparsifySettings",
    "Split",
    "SplitSettings",
    "StageContext",
    "StageOutput",
    "compress",
]
