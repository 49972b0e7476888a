"""The outputs that runtimes are compared with, and the difference allowed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Mapping, Sequence, Tuple

import mxnet as mx
import numpy as np
from mxnet.ndarray.ndarray import _DTYPE_NP_TO_MX

from gluon_compress.deployment.formats import FORMATS, INT8_TOLERANCE, Format
from gluon_compress.deployment.quantised import has_jumps
from gluon_compress.graph import block_of
from gluon_compress.graph.symbols import put_together, take_apart
from gluon_compress.quantization.quantisers import in_float64

Pair = Tuple[mx.sym.Symbol, Mapping[str, mx.nd.NDArray]]
ROUNDINGS = 2  # times the net's own rounding error: a runtime sums in another order
MAX_ROUNDING = 1e-3  # the largest difference allowed for rounding
QUANTISED = 0.05  # of a quantised net, as a root mean square of the scale
REWRITTEN = (
    1e-3  # what a rewritten graph may differ by; a wrong one differs by 0.01 or more
)


@dataclass(frozen=True)
class ReferenceOutputs:
    """The outputs of a graph for some images, in float32 and in float64.

    Some nets lose precision in float32 itself, for example after very short training,
    where BatchNorm subtracts large numbers. No runtime can be closer to such a net than
    its own rounding error. Its files are compared with float64, and twice the net's own
    error is allowed, up to ``MAX_ROUNDING``.

    Parameters
    ----------
    symbol : Symbol
    params : mapping
    images : ndarray or mapping
        Inputs ``(N, 3, H, W)``, float32; arrays by name if there are several.
    joined : bool
        Whether files have one output: this graph's, concatenated along the last axis.
    """

    symbol: mx.sym.Symbol
    params: Mapping[str, mx.nd.NDArray]
    images: Any
    joined: bool = False

    @cached_property
    def float32(self) -> list[np.ndarray]:
        """The outputs in float32, as users get them."""
        return self._run("float32")

    @cached_property
    def float64(self) -> list[np.ndarray]:
        """The outputs in float64."""
        return self._run("float64")

    def allowed(self, file_format: Format) -> float:
        """Return the difference from float64 that a format is allowed."""
        if file_format.precision == "int8":
            return file_format.tolerance
        rounding = difference(self.float32, self.float64, file_format)
        return max(file_format.tolerance, min(ROUNDINGS * rounding, MAX_ROUNDING))

    def departure(
        self, outputs: Sequence[np.ndarray], file_format: Format
    ) -> tuple[float, float]:
        """Return the difference of a format's outputs, and the difference allowed.

        Parameters
        ----------
        outputs : sequence of ndarray
            As many values as in ``float32``, in any shape.
        file_format : Format
        """
        outputs = [
            np.asarray(output).reshape(expected.shape)
            for output, expected in zip(outputs, self.float32)
        ]
        if has_jumps(self.symbol):
            # Where a value lies between two levels, any rounding error decides.
            off = difference(outputs, self.float32, FORMATS["int8"])
            return off, QUANTISED if file_format.exact else INT8_TOLERANCE
        off = difference(outputs, self.float32, file_format)
        if off <= file_format.tolerance or file_format.precision == "int8":
            return off, file_format.tolerance
        allowed = self.allowed(file_format)
        if allowed == file_format.tolerance:
            return off, allowed
        return difference(outputs, self.float64, file_format), allowed

    def departure_of_rewritten(
        self, outputs: Sequence[np.ndarray]
    ) -> tuple[float, float]:
        """Return the difference of a rewritten graph's outputs, and that allowed.

        A rewritten graph adds the same numbers in another order. Of a net with a large
        rounding error of its own, more is allowed, so that no training is lost to it.

        Parameters
        ----------
        outputs : sequence of ndarray
            As in ``float32``.
        """
        row = FORMATS["mxnet"]
        off = difference(outputs, self.float32, row)
        if off <= REWRITTEN:
            return off, REWRITTEN
        rounding = difference(self.float32, self.float64, row)
        allowed = max(REWRITTEN, ROUNDINGS * rounding)
        return difference(outputs, self.float64, row), allowed

    def _run(self, dtype: str) -> list[np.ndarray]:
        params = {
            name: value.as_in_context(mx.cpu()).astype(dtype)
            for name, value in self.params.items()
        }
        block = block_of(_of_type(self.symbol, dtype), params)
        inputs = [self.images]
        if isinstance(self.images, Mapping):
            names = [n for n in self.symbol.list_inputs() if n not in params]
            inputs = [self.images[name] for name in names]
        outputs = block(*(mx.nd.array(array, dtype=dtype) for array in inputs))
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        arrays = [output.asnumpy() for output in outputs]
        return [np.concatenate(arrays, axis=-1)] if self.joined else arrays


def check_same(pair: Pair, other: Pair, shape: Sequence[int], change: str) -> None:
    """Refuse a pair of symbol and parameters that computes something else than another.

    Both run on noise.

    Parameters
    ----------
    pair, other : tuple
        Symbol and parameters with the input ``data``: before and after a change.
    shape : sequence of int
        Shape of the input.
    change : str
        What was done, for the message.

    Raises
    ------
    ValueError
        If the outputs differ by more than float32 explains.
    """
    reference = ReferenceOutputs(*pair, noise(shape))
    outputs = ReferenceOutputs(*other, reference.images).float32
    difference, allowed = reference.departure_of_rewritten(outputs)
    if not difference <= allowed:
        raise ValueError(
            f"{change} changes the net's outputs by {difference:.2g} of their scale; "
            f"allowed: {allowed:.2g}"
        )


def noise(shape: Sequence[int]) -> np.ndarray:
    """Return the same normal numbers, float32, for every call with a shape."""
    return np.random.RandomState(0).standard_normal(shape).astype(np.float32)


def _of_type(symbol: mx.sym.Symbol, dtype: str) -> mx.sym.Symbol:
    """Return the graph for values of a type."""
    nodes, heads = take_apart(symbol)
    if dtype == "float64":
        nodes = in_float64(nodes)
    for node in nodes:
        if "__dtype__" in node["attrs"]:
            code = str(_DTYPE_NP_TO_MX[np.dtype(dtype).type])
            node["attrs"] = {**node["attrs"], "__dtype__": code}
    return put_together(nodes, heads)


def difference(
    outputs: Sequence[np.ndarray], expected: Sequence[np.ndarray], file_format: Format
) -> float:
    """Return the difference of the worst output, relative to the expected one's scale.

    In float32 it is the largest difference over the largest value. In int8, where every
    value is rounded, root mean squares replace the largest values.
    """
    pairs = zip(outputs, expected)
    return max(_relative(o, e, file_format.precision) for o, e in pairs)


def _relative(output: np.ndarray, expected: np.ndarray, precision: str) -> float:
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        off = np.asarray(output, np.float64) - expected
        if precision == "int8":
            return float(np.sqrt((off**2).mean() / max((expected**2).mean(), 1e-30)))
        return float(np.abs(off).max() / max(np.abs(expected).max(), 1e-30))
