"""One operator of a graph, as the rule for its channels sees it."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any, Callable, Mapping, Sequence

import numpy as np

from gluon_compress.graph.channels import Atoms, along, varying

# Operators that make new channels, and which of their inputs is the weight.
PRODUCERS = {
    "Convolution": 1,
    "Convolution_v1": 1,
    "Deconvolution": 1,
    "Embedding": 1,
    "FullyConnected": 1,
    "_contrib_DeformableConvolution": 2,
    "_contrib_ModulatedDeformableConvolution": 3,
}


@dataclass(frozen=True)
class Step:
    """One operator of the graph, as its rule sees it.

    Parameters
    ----------
    op, name : str
    attrs : mapping
        As stored in the symbol: text to text.
    shapes, out_shapes : sequence of tuple
        Of the inputs and of the outputs.
    ids : callable
        ``ids(k)`` returns the atoms of input ``k``.
    carry : callable
        ``carry(k, axis, atoms)`` says that input ``k``, a parameter, has these
        channels along an axis; atoms of several rows say so of as many equal blocks
        of its rows (grouped convolution).
    atoms : Atoms
    """

    op: str
    name: str
    attrs: Mapping[str, str]
    shapes: Sequence[tuple]
    out_shapes: Sequence[tuple]
    ids: Callable[[int], np.ndarray]
    carry: Callable[[int, int, np.ndarray], None]
    atoms: Atoms

    def attr(self, key: str, default: Any = None) -> Any:
        """Return an attribute as a Python value; "None" counts as absent."""
        return attribute(self.attrs, key, default)

    def freeze(self, atoms: np.ndarray, why: str) -> None:
        """Freeze channels for what this operator does with them."""
        self.atoms.freeze(atoms, f"{self.op} {self.name!r} {why}")

    def alike(self, blocks: np.ndarray) -> None:
        """Let blocks of channels, one a row, always keep the same number."""
        if len(blocks) > 1:
            reason = f"{self.op} {self.name!r} needs as many channels in each block"
            self.atoms.balance(blocks, reason)

    def tie(self, ids: np.ndarray, axes: Sequence[int]) -> np.ndarray:
        """Let positions along axes share their fate; return the first ones' atoms."""
        first = ids
        for axis in axes:
            first = np.take(first, [0], axis)
        self.atoms.unite(ids, first)
        return first

    def channel(self, k: int, axis: int) -> np.ndarray:
        """Return input ``k``'s atoms along one axis; what varies elsewhere is tied."""
        atoms, length = self.ids(k), self.shapes[k][axis]
        others = [a for a in varying(atoms) if a != axis]
        if others and atoms.shape[axis] == 1:
            self.freeze(atoms, "needs all positions of its input")
            return self.atoms.fixed("", 1).repeat(length)
        return along(self.tie(atoms, others), axis, length)


def attribute(attrs: Mapping[str, str], key: str, default: Any = None) -> Any:
    """Return a symbol's attribute as a Python value; "None" counts as absent."""
    text = attrs.get(key, "None")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    return default if value is None else value


def numbers(attrs: Mapping[str, str], key: str) -> tuple:
    """Return an attribute of several numbers; MXNet stores a single one bare."""
    value = attribute(attrs, key, ())
    return (value,) if isinstance(value, int) else tuple(value)


def axis_of(step: Step, key: str, default: int, k: int = 0) -> int:
    """Return an axis attribute, counted from the front."""
    return step.attr(key, default) % len(step.shapes[k])


# Says of a slim net's convolution how its groups were pruned, see ``whole_groups``.
GROUPED = "__channel_groups__"


def tied_groups(attrs: Mapping[str, str]) -> bool:
    """Tell whether a convolution has groups, or had before the net was slimmed."""
    return attribute(attrs, "num_group", 1) > 1 or GROUPED in attrs


def whole_groups(attrs: Mapping[str, str], in_channels: int) -> bool:
    """Tell whether a grouped convolution loses whole groups or channels of each.

    Many thin groups (depthwise is the extreme) are removed whole; of few wide ones
    each loses as many channels as the others. Either way all keep the same number.
    A slim net stays with what was true of the net it came from, so that plans for the
    one and for the other can be composed.
    """
    groups = attribute(attrs, "num_group", 1)
    if GROUPED in attrs:
        return attrs[GROUPED] == "whole"
    return groups > 1 and groups >= in_channels // groups


SUMS = ("sum", "sum_axis", "nansum")


def reduced_axes(attrs: Mapping[str, str], ndim: int) -> list[int]:
    """Return the axes that a reduction removes, counted from the front."""
    axes = [axis % ndim for axis in numbers(attrs, "axis")] or list(range(ndim))
    if attribute(attrs, "exclude", False):
        return [axis for axis in range(ndim) if axis not in axes]
    return axes


def unknown(step: Step) -> list:
    """No rule: everything it touches stays, and the reason names it."""
    return _kept(step, f"no rule for operator {step.op} ({step.name})")


def unknown_form(step: Step) -> list:
    """A rule that does not hold for these attributes: as if there were none."""
    return _kept(step, f"no rule for this form of operator {step.op} ({step.name})")


def _kept(step: Step, reason: str) -> list:
    for k in range(len(step.shapes)):
        step.atoms.freeze(step.ids(k), reason)
    return [step.atoms.fixed(reason, len(out)) for out in step.out_shapes]
