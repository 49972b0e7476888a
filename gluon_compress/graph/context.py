"""Views of one operator, for the functions in its row of the operator table."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Callable, Mapping, Sequence

import numpy as np

from gluon_compress.graph.channels import ChannelIds, Tensor, along, varying


@dataclass(frozen=True)
class OpContext:
    """One operator of the graph, for its channel rule.

    Parameters
    ----------
    type, name : str
        The operator, and the node's name.
    attrs : mapping
        As stored in the symbol: text to text.
    shapes, out_shapes : sequence of tuple
        Shapes of the inputs and of the outputs.
    ids : callable
        ``ids(k)`` returns the channel ids of input ``k``.
    carry : callable
        ``carry(k, axis, ids)`` states that input ``k``, a parameter, has these channels
        along an axis. Several rows of ids are for as many equal blocks of its rows
        (grouped convolution).
    channels : ChannelIds
        Assigns, unites and freezes ids.
    """

    type: str
    name: str
    attrs: Mapping[str, str]
    shapes: Sequence[tuple]
    out_shapes: Sequence[tuple]
    ids: Callable[[int], np.ndarray]
    carry: Callable[[int, int, np.ndarray], None]
    channels: ChannelIds

    def attr(self, key: str, default: Any = None) -> Any:
        """Return an attribute as a Python value; "None" counts as absent."""
        return attribute(self.attrs, key, default)

    def freeze(self, ids: np.ndarray, why: str) -> None:
        """Freeze channels, with this operator as the reason."""
        self.channels.freeze(ids, f"{self.type} {self.name!r} {why}")

    def balance(self, blocks: np.ndarray) -> None:
        """Require that blocks of channels, one a row, keep equally many."""
        if len(blocks) > 1:
            reason = f"{self.type} {self.name!r} needs as many channels in each block"
            self.channels.balance(blocks, reason)

    def tie(self, ids: np.ndarray, axes: Sequence[int]) -> np.ndarray:
        """Unite positions along axes; return the first ids."""
        first = ids
        for axis in axes:
            first = np.take(first, [0], axis)
        self.channels.unite(ids, first)
        return first

    def channel(self, k: int, axis: int) -> np.ndarray:
        """Return input ``k``'s ids along one axis, after tying all other axes."""
        ids, length = self.ids(k), self.shapes[k][axis]
        other_axes = [a for a in varying(ids) if a != axis]
        if other_axes and ids.shape[axis] == 1:
            self.freeze(ids, "needs all positions of its input")
            return self.channels.fixed("", 1).repeat(length)
        return along(self.tie(ids, other_axes), axis, length)


@dataclass(frozen=True)
class SlimContext:
    """One operator of a net that loses channels, for its rewrite.

    Parameters
    ----------
    attrs : mapping
        As stored in the symbol: text to text.
    inputs, outputs : sequence of Tensor
        Before slimming.
    keep_mask : ndarray
        See ``Graph.keep_mask``.
    shapes, out_shapes : sequence of tuple
        Shapes of inputs and outputs after slimming.
    """

    attrs: Mapping[str, str]
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    keep_mask: np.ndarray
    shapes: Sequence[tuple]
    out_shapes: Sequence[tuple]

    def attr(self, key: str, default: Any = None) -> Any:
        """Return an attribute as a Python value; "None" counts as absent."""
        return attribute(self.attrs, key, default)

    def moved(self, axis: int, position: int | None) -> int | None:
        """Return the position after slimming of one along an axis of input 0."""
        tensor = self.inputs[0]
        if position is None or tensor.axis != axis:
            return position
        length = tensor.shape[axis]
        position = position + length if position < 0 else min(position, length)
        return int(self.keep_mask[tensor.positions[:position]].sum())


@dataclass(frozen=True)
class ZeroContext:
    """One operator whose output must be zero in removed channels.

    Parameters
    ----------
    attrs : mapping
        As stored in the symbol: text to text.
    count : int
        Number of inputs.
    removable : sequence of int
        Inputs with removable channels.
    zeroed : sequence of int
        Those of them that are already zero in removed channels.
    """

    attrs: Mapping[str, str]
    count: int
    removable: Sequence[int]
    zeroed: Sequence[int] = ()


def attribute(attrs: Mapping[str, str], key: str, default: Any = None) -> Any:
    """Return a symbol's attribute as a Python value; "None" counts as absent."""
    text = attrs.get(key)
    value = None if text is None else _value_of(text)
    return default if value is None else value


@lru_cache(maxsize=4096)
def _value_of(text: str) -> Any:
    """Return the value of an attribute: text if it is no Python literal."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def numbers(attrs: Mapping[str, str], key: str) -> tuple:
    """Return an attribute of several numbers; MXNet stores a single one as a number."""
    value = attribute(attrs, key, ())
    return (value,) if isinstance(value, int) else tuple(value)


def axis_of(op: OpContext, key: str, default: int, k: int = 0) -> int:
    """Return an axis attribute, counted from the front."""
    return op.attr(key, default) % len(op.shapes[k])


def size_of(shape: Sequence[int]) -> int:
    """Return the number of elements of a tensor."""
    size = 1
    for n in shape:
        size *= int(n)
    return size


def unknown(op: OpContext) -> list:
    """Freeze everything an operator without a rule touches."""
    return _frozen(op, f"no rule for operator {op.type} ({op.name})")


def unknown_form(op: OpContext) -> list:
    """Freeze what an operator touches if its rule does not cover its attributes."""
    return _frozen(op, f"no rule for this form of operator {op.type} ({op.name})")


def _frozen(op: OpContext, reason: str) -> list:
    for k in range(len(op.shapes)):
        op.channels.freeze(op.ids(k), reason)
    return [op.channels.fixed(reason, len(out)) for out in op.out_shapes]
