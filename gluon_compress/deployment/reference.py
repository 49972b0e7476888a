"""How far a runtime may depart from a net: by a tolerance, or by the net's rounding."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Mapping

import mxnet as mx
import numpy as np

from gluon_compress.deployment.formats import Format
from gluon_compress.graph import block_of
from gluon_compress.graph.symbols import put_together, take_apart

ROUNDINGS = 2  # of the net's own: a runtime adds in another order
MOST = 1e-3  # whatever a net's own rounding is


@dataclass(frozen=True)
class Right:
    """What a graph gives for some images, in float32 and exactly.

    Where a net's BatchNorm takes the difference of large numbers, as after a brief
    training, its own float32 output is off by more than a runtime may be. No file can
    be nearer to that than rounding lets it: there it is held against float64, and may
    be off by twice what the net itself is, up to ``MOST``.

    Parameters
    ----------
    symbol : Symbol
        Of one output, or of several that stand side by side on the last axis.
    params : mapping
    images : ndarray
        Inputs ``(N, 3, H, W)``, float32.
    """

    symbol: mx.sym.Symbol
    params: Mapping[str, mx.nd.NDArray]
    images: np.ndarray

    @cached_property
    def outputs(self) -> np.ndarray:
        """What the graph gives in float32, as its users have it."""
        return self._run("float32")

    @cached_property
    def exact(self) -> np.ndarray:
        """What the graph gives in float64."""
        return self._run("float64")

    def allowed(self, how: Format) -> float:
        """Return what a format may be off by where it is held against ``exact``."""
        if how.precision == "int8":
            return how.tolerance
        rounding = difference(self.outputs, self.exact, how)
        return max(how.tolerance, min(ROUNDINGS * rounding, MOST))

    def departure(self, found: np.ndarray, how: Format) -> tuple[float, float]:
        """Return how far a format's output is off, and what it may be off by.

        Parameters
        ----------
        found : ndarray
            Of the shape of ``outputs``, or of as many values.
        how : Format
        """
        found = np.asarray(found).reshape(self.outputs.shape)
        off = difference(found, self.outputs, how)
        if off <= how.tolerance or how.precision == "int8":
            return off, how.tolerance
        allowed = self.allowed(how)
        if allowed == how.tolerance:
            return off, allowed
        return difference(found, self.exact, how), allowed

    def _run(self, dtype: str) -> np.ndarray:
        params = {name: value.astype(dtype) for name, value in self.params.items()}
        block = block_of(_of_any_type(self.symbol), params)
        found = block(mx.nd.array(self.images, dtype=dtype))
        found = found if isinstance(found, (list, tuple)) else [found]
        return np.concatenate([output.asnumpy() for output in found], axis=-1)


def _of_any_type(symbol: mx.sym.Symbol) -> mx.sym.Symbol:
    """Return a graph whose variables do not state a type."""
    nodes, heads = take_apart(symbol)
    for node in nodes:
        if node["op"] == "null":
            attrs = node["attrs"].items()
            node["attrs"] = {k: value for k, value in attrs if k != "__dtype__"}
    return put_together(nodes, heads)


def difference(found: np.ndarray, expected: np.ndarray, how: Format) -> float:
    """Return how far an output is off, relative to the right one's scale.

    Parameters
    ----------
    found, expected : ndarray
    how : Format
        In float32 it is the largest difference over the largest value. What is rounded
        to 8 bits is off everywhere: it is the root mean square over that of the values.
    """
    with np.errstate(invalid="ignore"):  # infinity less infinity, or through it
        found = np.asarray(found, np.float64) - expected
        if how.precision == "int8":
            return float(np.sqrt((found**2).mean() / max((expected**2).mean(), 1e-30)))
        return float(np.abs(found).max() / max(np.abs(expected).max(), 1e-30))
