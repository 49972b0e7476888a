"""The algorithms that recipes and ``compress`` may name."""

from __future__ import annotations

from typing import Any, Dict, Sequence

from gluon_compress.compression.algorithm import Algorithm
from gluon_compress.compression.binarize import Binarize
from gluon_compress.compression.delete import Delete
from gluon_compress.compression.prune import Prune
from gluon_compress.compression.quantize import Quantize
from gluon_compress.compression.sparsify import Sparsify
from gluon_compress.compression.split import Split
from gluon_compress.validation import not_allowed

ALGORITHMS: Dict[str, Algorithm] = {
    "prune": Prune(),
    "delete": Delete(),
    "quantize": Quantize(),
    "sparsify": Sparsify(),
    "binarize": Binarize(),
    "split": Split(),
}


def row_settings() -> Dict[str, type]:
    """Return the settings of each algorithm by its name."""
    return {name: algorithm.Settings for name, algorithm in ALGORITHMS.items()}


def check_order(rows: Sequence[Any]) -> None:
    """Refuse rows of algorithms in an order that cannot work, as a validator does."""
    for i, row in enumerate(rows):
        for following in rows[i + 1 :]:
            if following.algorithm in ALGORITHMS[row.algorithm].predecessors(row):
                raise not_allowed(
                    row.algorithm,
                    f"rows of {following.algorithm!r} before it, not after",
                    f"compression[{i}].algorithm",
                )
