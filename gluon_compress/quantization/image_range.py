"""A quantiser of a map that takes its range from each image, for what is sent.

A value becomes ``low + step * round((x - low) / step)`` with ``low`` the smallest value
of the image's map, and ``step`` its range over ``2**bits - 1`` (Jacob et al. 2018,
equation 1). Rounding, and the range, count as constants for the gradient: that is the
straight-through estimator.

Unlike the quantisers of ``quantisers`` it maps zero to nearly zero only, and looks at
the whole map. So it is a part of the net, not an annotation; its nodes have a mark by
which it is found again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, Sequence

import mxnet as mx

from gluon_compress.graph.symbols import reachable
from gluon_compress.quantization.quantisers import half_even

MARK = "__image_range_bits__"
LEAST_STEP = 1e-12  # of a map of one value


@dataclass(frozen=True)
class RangeQuantiser:
    """A quantiser by the range of each image, in a symbol.

    Parameters
    ----------
    source : (int, int)
        The tensor that is quantised: number of the node, and of its output.
    end : int
        Number of the node that gives the quantised tensor.
    bits : int
    """

    source: tuple[int, int]
    end: int
    bits: int


def quantised_by_range(x: mx.sym.Symbol, bits: int, name: str) -> mx.sym.Symbol:
    """Return a map ``(B, ...)`` of four axes, quantised by the range of each image.

    Parameters
    ----------
    x : Symbol
    bits : int
        At most 16: float32 rounds no more than that.
    name : str
        Beginning of the names of its nodes.
    """
    sym = mx.sym
    with mx.AttrScope(**{MARK: str(bits)}), mx.name.Prefix(f"{name}_"):
        high = _largest(x, "high")
        low = sym.negative(_largest(sym.negative(x), "low"))
        step = sym.broadcast_sub(high, low, name="range") / (2.0**bits - 1)
        step = sym._internal._MaximumScalar(step, scalar=LEAST_STEP)
        low, step = sym.BlockGrad(low), sym.BlockGrad(step)
        levels = half_even(sym.broadcast_div(sym.broadcast_sub(x, low), step))
        values = sym.broadcast_mul(levels, step, name="values")
        return sym.broadcast_add(values, low, name="sent")


def _largest(x: mx.sym.Symbol, name: str) -> mx.sym.Symbol:
    """Return the largest value of each image, ``(B, 1, 1, 1)``.

    As a pooling, which every exchange format has: ONNX changed its reductions.
    """
    flat = mx.sym.reshape(x, shape=(0, 1, 1, -1), name=f"{name}_flat")
    return mx.sym.Pooling(
        flat, kernel=(1, 1), global_pool=True, pool_type="max", name=name
    )


def range_quantisers(nodes: Sequence[Mapping]) -> list[RangeQuantiser]:
    """Return the quantisers of a symbol, in the order of its nodes."""
    marked = [i for i, node in enumerate(nodes) if MARK in node["attrs"]]
    read = {e[0] for i in marked for e in nodes[i]["inputs"]}
    found = []
    for end in marked:
        if end in read:
            continue
        inside, number = {end}, end
        for number in range(end, -1, -1):
            if number in inside:
                inputs = nodes[number]["inputs"]
                inside.update(e[0] for e in inputs if MARK in nodes[e[0]]["attrs"])
        outside = {
            (e[0], e[1])
            for i in inside
            for e in nodes[i]["inputs"]
            if e[0] not in inside
        }
        if len(outside) == 1:
            bits = int(nodes[end]["attrs"][MARK])
            found.append(RangeQuantiser(outside.pop(), end, bits))
    return found


def without_range_quantisers(
    nodes: Sequence[dict], heads: Sequence
) -> tuple[list[dict], list]:
    """Return a symbol in which nothing is rounded by the range of an image."""
    sources = {q.end: q.source for q in range_quantisers(nodes)}

    def moved(entries: Sequence) -> list:
        return [[*sources.get(e[0], e[:2]), *e[2:]] for e in entries]

    plain = [{**node, "inputs": moved(node["inputs"])} for node in nodes]
    plain, heads, _ = reachable(plain, moved(heads))
    return plain, heads
