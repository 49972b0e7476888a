"""Rules on which inputs must be zero for an output to be zero in removed channels.

A mask can be put before an operator only if that maps zero to zero. Operators with an
infinite slope at zero (sqrt, norm) are excluded, because a mask before them would make
gradients infinite.
"""

from __future__ import annotations

from typing import Callable, Mapping

from gluon_compress.graph.context import ZeroContext, attribute

KeepsZero = Callable[[ZeroContext], "list[int] | None"]


def never(zero: ZeroContext) -> None:
    """No inputs make the output zero: it needs a mask after the operator."""


def first_input(zero: ZeroContext) -> list[int] | None:
    """The first input must be zero."""
    return [0] if 0 in zero.removable else None


def all_inputs(zero: ZeroContext) -> list[int] | None:
    """All inputs must be zero, as in a sum."""
    return list(zero.removable) if len(zero.removable) == zero.count else None


def any_input(zero: ZeroContext) -> list[int] | None:
    """One input must be zero, as in a product; preferably one that already is."""
    return list(zero.zeroed or zero.removable)[:1] or None


def each_input(zero: ZeroContext) -> list[int]:
    """Every input must be zero in its own channels, as in a concatenation."""
    return list(zero.removable)


def first_input_if(condition: Callable[[Mapping], bool]) -> KeepsZero:
    """Return ``first_input`` for operators whose attributes meet a condition."""
    return lambda zero: first_input(zero) if condition(zero.attrs) else None


def first_input_if_scalar(test: Callable[[float], bool]) -> KeepsZero:
    """Return ``first_input`` for operators with a scalar that passes a test."""
    return first_input_if(lambda attrs: test(float(attribute(attrs, "scalar", 0))))


def activation_keeps_zero(attrs: Mapping) -> bool:
    """Return whether an activation maps zero to zero."""
    return attrs["act_type"] in ("relu", "tanh", "softsign")


def clip_keeps_zero(attrs: Mapping) -> bool:
    """Return whether zero is within the limits."""
    return float(attrs["a_min"]) <= 0 <= float(attrs["a_max"])


def pad_keeps_zero(attrs: Mapping) -> bool:
    """Return whether a map is padded with zeros or with its own values."""
    return float(attrs.get("constant_value", 0)) == 0
