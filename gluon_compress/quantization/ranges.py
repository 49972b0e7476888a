"""Measures the ranges of maps on data."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterable, Mapping, Sequence

import mxnet as mx
import numpy as np

from gluon_compress.graph import Graph, block_of
from gluon_compress.graph.symbols import put_together
from gluon_compress.quantization.settings import ActivationSettings
from gluon_compress.validation import first_line, wrong

BINS = 2048  # of a histogram
SAMPLED = 1 << 16  # values of a map that a percentile sees of each batch
Range = tuple  # (low, high)


class Observer:
    """Runs a net and gives the tensors that some nodes make.

    Parameters
    ----------
    graph : Graph
        Of the net, with values.
    nodes : sequence of int
        Numbers of nodes in ``graph.nodes``.
    """

    def __init__(self, graph: Graph, nodes: Sequence[int]) -> None:
        self.nodes = tuple(nodes)
        annotated = graph.annotated
        number_of = {p: i for i, p in enumerate(annotated.plain) if p >= 0}
        entries = [[number_of[i], 0, 0] for i in self.nodes]
        symbol = put_together(annotated.nodes, entries)
        self._run = runner(graph, symbol, {**graph.params, **annotated.params})

    def __call__(self, batch: Sequence) -> list[mx.nd.NDArray]:
        """Return the tensors for a batch, in the order of the nodes."""
        return self._run(batch)


def runner(graph: Graph, symbol: mx.sym.Symbol, values: Mapping) -> Callable:
    """Return a function from a batch to the outputs of a part of a net.

    Parameters
    ----------
    graph : Graph
        Of the net, whose inputs a batch begins with.
    symbol : Symbol
        The part. It may read only some of the inputs.
    values : mapping
        Parameters of the part, and others.
    """
    names = set(symbol.list_inputs())
    places = [i for i, name in enumerate(graph.inputs) if name in names]
    used = {n: v for n, v in values.items() if n in names}
    block = block_of(symbol, used, list(graph.inputs))

    def run(batch: Sequence) -> list[mx.nd.NDArray]:
        arrays = _inputs(graph, batch)
        try:
            outputs = block(*(arrays[i] for i in places))
            mx.nd.waitall()
        except mx.MXNetError as error:
            raise ValueError(
                f"the net does not take a batch of shape {arrays[0].shape}: "
                f"{first_line(error)}"
            ) from None
        return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]

    return run


def _inputs(graph: Graph, batch: Any) -> list[mx.nd.NDArray]:
    """Return the arrays of a batch that a net reads."""
    shapes = graph.inputs
    arrays = list(batch)[: len(shapes)] if isinstance(batch, (tuple, list)) else []
    if len(arrays) < len(shapes):
        raise wrong("a batch", type(batch).__name__, f"a tuple of {len(shapes)} arrays")
    result = []
    for array, (name, shape) in zip(arrays, shapes.items()):
        allowed = f"an array (N, {', '.join(map(str, shape[1:]))})"
        if not isinstance(array, mx.nd.NDArray):
            try:
                array = mx.nd.array(array)
            except (TypeError, ValueError):
                raise wrong(f"batch: {name}", array, allowed) from None
        if len(array.shape) != len(shape) or array.shape[1:2] != shape[1:2]:
            raise wrong(f"batch: the shape of {name}", array.shape, allowed)
        result.append(array.as_in_context(mx.cpu()))
    return result


def measure_ranges(
    graph: Graph,
    tensors: Sequence[Sequence[int]],
    batches: Iterable,
    settings: ActivationSettings,
    bits: Sequence[int],
) -> list[Range]:
    """Return the range of each set of tensors.

    Parameters
    ----------
    graph : Graph
        Of the net in float32.
    tensors : sequence of sequence of int
        Numbers of nodes whose outputs share a range.
    batches : iterable
        Tuples of arrays, the first of which is the net's input.
    settings : ActivationSettings
    bits : sequence of int
        Of each set.

    Returns
    -------
    list of (float, float)

    Raises
    ------
    ValueError
        If there is no batch, a value is not finite, or a tensor is constant.
    """
    nodes = [i for members in tensors for i in members]
    observer = Observer(graph, nodes)
    set_of = {i: number for number, members in enumerate(tensors) for i in members}
    collectors = [COLLECTORS[settings.init](settings, b) for b in bits]
    count = 0
    for batch in batches:
        count += 1
        for i, output in zip(nodes, observer(batch)):
            values = output.asnumpy()
            if not np.isfinite(values).all():
                raise ValueError(
                    f"batch {count}: {graph.grouping.names[i]!r} gives NaN or "
                    "infinity; allowed: finite numbers to measure ranges on"
                )
            collectors[set_of[i]].add(values)
    if not count:
        raise ValueError("batches: there is none; ranges need at least one")
    result = []
    for members, collector in zip(tensors, collectors):
        low, high = collector.extremes
        if low == high:
            raise ValueError(
                f"{graph.grouping.names[members[0]]!r} is {low + 0.0:g} everywhere in "
                f"{count} batches; allowed: a range. Name its readers in 'ignored', "
                "or use other data"
            )
        result.append(collector.range())
    return result


class _MinMax:
    """The least and the largest of all values."""

    def __init__(self, settings: ActivationSettings, bits: int) -> None:
        self.settings, self.bits = settings, bits
        self.extremes = (np.inf, -np.inf)

    def add(self, values: np.ndarray) -> None:
        """Take a tensor ``(B, ...)`` into account."""
        low, high = self.extremes
        self.extremes = (
            min(low, float(values.min())),
            max(high, float(values.max())),
        )

    def range(self) -> Range:
        """Return the range."""
        return self.extremes


class _Mean(_MinMax):
    """The mean of the samples' minima, and of their maxima."""

    def __init__(self, settings: ActivationSettings, bits: int) -> None:
        super().__init__(settings, bits)
        self._lows: list = []
        self._highs: list = []

    def add(self, values: np.ndarray) -> None:
        super().add(values)
        flat = values.reshape(len(values), -1)
        self._lows.append(flat.min(axis=1))
        self._highs.append(flat.max(axis=1))

    def range(self) -> Range:
        low = np.concatenate(self._lows).astype(np.float64).mean()
        high = np.concatenate(self._highs).astype(np.float64).mean()
        return float(low), float(high)


class _Percentile(_MinMax):
    """The range that leaves out equally many of the least and the largest values."""

    def __init__(self, settings: ActivationSettings, bits: int) -> None:
        super().__init__(settings, bits)
        self._parts: list = []

    def add(self, values: np.ndarray) -> None:
        super().add(values)
        flat = values.reshape(-1)
        step = -(-flat.size // SAMPLED)
        self._parts.append(flat[::step].copy())

    def range(self) -> Range:
        values, share = np.concatenate(self._parts), self.settings.percentile
        low, high = np.percentile(values, [100 - share, share])
        # All but few values of a map may be zero.
        return (float(low), float(high)) if low < high else self.extremes


class _Entropy(_Percentile):
    """The range whose quantised histogram is nearest to that of all values."""

    def range(self) -> Range:
        values = np.concatenate(self._parts)
        low, high = self.extremes
        most = max(-low, high)
        histogram, _ = np.histogram(np.abs(values), BINS, range=(0, most))
        signed = low < 0
        levels = 2 ** (self.bits - 1) if signed else 2**self.bits
        best = most * _best_bins(histogram, levels) / BINS
        return max(low, -best), min(high, best)


def _best_bins(histogram: np.ndarray, levels: int) -> int:
    """Return how many bins to keep, by the Kullback-Leibler divergence.

    Bins beyond are added to the last one; the kept ones are averaged over ``levels``
    equal parts (Migacz 2017). Empty bins stay empty.
    """
    counts = histogram.astype(np.float64)
    counts[0] = counts[1]  # zeros are a level in any case
    best, least = len(counts), np.inf
    for kept in range(max(levels, 16), len(counts) + 1, max(levels // 8, 8)):
        clipped = counts[:kept].copy()
        inside = clipped.copy()
        clipped[-1] += counts[kept:].sum()
        parts = np.arange(kept) * levels // kept
        filled = inside > 0
        sums = np.bincount(parts, inside, levels)
        sizes = np.bincount(parts, filled, levels)
        means = sums / np.maximum(sizes, 1)
        quantised = np.where(filled, means[parts], 0)
        divergence = _divergence(clipped, quantised)
        if divergence < least:
            best, least = kept, divergence
    return best


def _divergence(p: np.ndarray, q: np.ndarray) -> float:
    if p.sum() == 0 or q.sum() == 0:
        return np.inf
    p, q = p / p.sum() + 1e-7, q / q.sum() + 1e-7
    return float((p * np.log(p / q)).sum())


COLLECTORS: Dict[str, Callable[[ActivationSettings, int], Any]] = {
    "min-max": _MinMax,
    "mean": _Mean,
    "percentile": _Percentile,
    "entropy": _Entropy,
}
