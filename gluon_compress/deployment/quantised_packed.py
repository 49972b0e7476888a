"""Stores nets for MXNet with weights in few bits, and without their zeros."""

from __future__ import annotations

from pathlib import Path
from typing import Mapping

import mxnet as mx

from gluon_compress.deployment.fusing import fusible
from gluon_compress.graph.operators import operator_of
from gluon_compress.graph.symbol_files import as_ndarray, read_symbol
from gluon_compress.graph.symbols import take_apart, text_of
from gluon_compress.quantization.packing import (
    is_smaller,
    pack,
    read_packed,
    write_packed,
)
from gluon_compress.quantization.placement import LAYERS, weight_of


def save(
    symbol: mx.sym.Symbol,
    params: Mapping[str, mx.nd.NDArray],
    prefix: Path,
    ending: str = ".bin",
) -> None:
    """Write ``PREFIX-symbol.json`` and ``PREFIX.bin``, as ``packing`` has it.

    Parameters
    ----------
    symbol : Symbol
        Folded; its weights are baked, its maps may have quantisers.
    params : mapping
    prefix : Path
    ending : str
        ``.bin``, or ``.bin.gz`` for a compressed file.

    Raises
    ------
    ValueError
        If no weight takes fewer bytes than in float32.
    """
    axes = {}
    nodes, _ = take_apart(symbol)
    for node in nodes:
        if node["op"] in LAYERS:
            name = nodes[weight_of(node)[0]]["name"]
            axes[name] = operator_of(node["op"]).weight_axis
    values = {name: value.asnumpy() for name, value in params.items()}
    axes = {name: axis for name, axis in axes.items() if name in values}
    stored = pack(values, axes)
    if not any(is_smaller(stored[name]) for name in axes):
        raise ValueError(
            "format 'packed' makes nothing smaller of this net; allowed: a net that is "
            "quantised, sparse or binarised"
        )
    write_packed(f"{prefix}{ending}", stored)
    text = text_of(fusible(symbol))
    Path(f"{prefix}-symbol.json").write_text(text, encoding="utf-8")


def load(
    symbol_file: Path, values_file: Path
) -> tuple[mx.sym.Symbol, dict[str, mx.nd.NDArray]]:
    """Return what ``save`` wrote, with float32 weights."""
    symbol, values = read_symbol(symbol_file), read_packed(values_file)
    return symbol, {name: as_ndarray(value) for name, value in values.items()}
