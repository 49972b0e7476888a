"""Where a mask must sit: which tensors have to be zero in the channels that are dead.

Removing a channel is the same as a zero wherever channels are mixed (convolutions,
dense layers, sums). From each such place the demand for zeros goes back through
operators that turn zero into zero, and ends at the first one that does not, usually
a BatchNorm: there the mask belongs.
"""

from __future__ import annotations

from typing import Callable, Mapping

from gluon_compress.graph import RULES, Graph
from gluon_compress.graph.context import (
    PRODUCERS,
    SUMS,
    attribute,
    reduced_axes,
    whole_groups,
)

# An embedding reads indices: there is nothing to be zero.
MIXERS = {*PRODUCERS, *SUMS} - {"Embedding"}


def _always(attrs: Mapping) -> bool:
    return True


def _number(key: str, test: Callable[[float], bool]) -> Callable[[Mapping], bool]:
    """Return the test of one number among the attributes."""
    return lambda attrs: test(float(attribute(attrs, key, 0)))


def _activation(attrs: Mapping) -> bool:
    return attrs["act_type"] in ("relu", "tanh", "softsign")


def _clip(attrs: Mapping) -> bool:
    return float(attrs["a_min"]) <= 0 <= float(attrs["a_max"])


def _pad(attrs: Mapping) -> bool:
    return float(attrs.get("constant_value", 0)) == 0


_PLAIN = (
    "relu tanh softsign erf expm1 log1p square abs sign floor ceil round rint trunc",
    "fix negative sin arctan arcsinh sinh smooth_l1 LeakyReLU Cast amp_cast _copy",
    "identity BlockGrad make_loss Dropout zeros_like _mul_scalar _div_scalar",
    "_contrib_div_sqrt_dim Pooling Pooling_v1 Crop UpSampling ROIPooling",
    "_contrib_AdaptiveAvgPooling2D _contrib_BilinearResize2D _contrib_ROIAlign",
    "sum sum_axis nansum mean max max_axis min min_axis prod Reshape reshape Flatten",
    "flatten expand_dims squeeze SliceChannel _split_v2 slice slice_axis slice_like",
    "SwapAxis transpose broadcast_axis broadcast_axes broadcast_to depth_to_space",
    "space_to_depth repeat reverse tile",
)
# What turns zero into zero, input by input; operators whose slope at zero is infinite
# (sqrt, norm) are not here, because a mask before them would make gradients infinite.
KEEPS_ZERO: dict[str, Callable[[Mapping], bool]] = {
    **{op: _always for line in _PLAIN for op in line.split()},
    "Activation": _activation,
    "Pad": _pad,
    "clip": _clip,
    "_maximum_scalar": _number("scalar", lambda s: s <= 0),
    "_minimum_scalar": _number("scalar", lambda s: s >= 0),
    "_minus_scalar": _number("scalar", lambda s: s == 0),
    "_plus_scalar": _number("scalar", lambda s: s == 0),
    "_power_scalar": _number("scalar", lambda s: s >= 1),
}
SUM_LIKE = {
    *("elemwise_add", "elemwise_sub", "_Plus", "_plus", "_Minus", "_minus"),
    *("_grad_add", "add_n", "ElementWiseSum", "_maximum", "_minimum"),
    *("broadcast_add", "broadcast_plus", "broadcast_sub", "broadcast_minus"),
    *("broadcast_maximum", "broadcast_minimum"),
}
PRODUCTS = ("elemwise_mul", "_Mul", "_mul", "broadcast_mul")
SIDE_BY_SIDE = ("Concat", "concat", "stack")

Place = tuple  # (node, output)


class Demand:
    """The tensors to multiply with a mask, and the edges that must read the product."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.masked: set[Place] = set()
        self.edges: set[tuple[int, int]] = set()
        self._zero: set[Place] = set()
        for i, node in enumerate(graph.nodes):
            if self._mixes(i, node):
                self._ask(i, 0)

    def _mixes(self, i: int, node: dict) -> bool:
        if node["op"] not in MIXERS:
            return False
        source = self._tensor(node["inputs"][0])
        if source.axis is None:
            return False
        if node["op"] in SUMS:
            return source.axis in reduced_axes(node["attrs"], len(source.shape))
        channels = source.shape[1]
        return not (source.axis == 1 and whole_groups(node["attrs"], channels))

    def _tensor(self, entry):
        return self.graph.tensor(entry)

    def _ask(self, i: int, k: int) -> None:
        """Make input ``k`` of a node zero where its channels are dead."""
        waiting = [(i, k)]
        while waiting:
            i, k = waiting.pop()
            entry = self.graph.nodes[i]["inputs"][k]
            place = (entry[0], entry[1])
            if self._tensor(entry).axis is None:
                continue
            self.edges.add((i, k))
            if place not in self._zero:
                self._zero.add(place)
                sources = self._sources(place)
                if sources is None:
                    self.masked.add(place)
                else:
                    waiting += [(place[0], source) for source in sources]

    def _sources(self, place: Place) -> list[int] | None:
        """Return the inputs that make an output zero, None if no inputs do."""
        node = self.graph.nodes[place[0]]
        op, inputs = node["op"], node["inputs"]
        able = [k for k, e in enumerate(inputs) if self._tensor(e).axis is not None]
        if op in SIDE_BY_SIDE:
            return able
        if op in SUM_LIKE:
            return able if len(able) == len(inputs) else None
        if op in PRODUCTS:
            ready = [k for k in able if tuple(inputs[k][:2]) in self._zero]
            return (ready or able)[:1] or None
        if op in KEEPS_ZERO and op in RULES and KEEPS_ZERO[op](node["attrs"]):
            return [0] if 0 in able else None
        return None
