"""Concatenations in training, whose gradient MXNet's kernels cannot always cut."""

from __future__ import annotations

from typing import Mapping

import mxnet as mx

from gluon_compress.graph.symbols import (
    output_shapes,
    put_together,
    replaced,
    take_apart,
)

BLOCK = 16  # channels that kernels of a CPU keep together, at most


def with_plain_gradients(
    symbol: mx.sym.Symbol, shapes: Mapping[str, tuple]
) -> mx.sym.Symbol:
    """Return a symbol whose gradients reach concatenations of maps uncut.

    The gradient of a map may come in blocks of channels. If a part of a concatenation
    begins within a block, MXNet 1.9.1 ends with "could not construct a sub-memory". A
    slice that cuts nothing off lays the gradient out plainly.

    Parameters
    ----------
    symbol : Symbol
        For training; what is returned computes the same, and is the same where no
        concatenation needs that.
    shapes : mapping
        Of inputs, and of other variables if known.
    """
    nodes, heads = take_apart(symbol)
    joined = [
        i
        for i, node in enumerate(nodes)
        if node["op"] == "Concat" and node["attrs"].get("dim", "1") == "1"
    ]
    if not joined:
        return symbol
    found, changed = output_shapes(nodes, heads, shapes), False
    for number in reversed(joined):
        node = nodes[number]
        parts = [found[entry[0]][entry[1]] for entry in node["inputs"]]
        if len(parts[0]) != 4 or all(part[1] % BLOCK == 0 for part in parts[:-1]):
            continue
        inputs = {f"part{i}": entry for i, entry in enumerate(node["inputs"])}
        whole = mx.sym.concat(*map(mx.sym.var, inputs), dim=1, name=node["name"])
        name = f"{node['name']}_plain"
        form = mx.sym.slice_axis(whole, axis=1, begin=0, end=None, name=name)
        nodes, heads = replaced(nodes, heads, number, form, inputs)
        changed = True
    return put_together(nodes, heads) if changed else symbol
