"""Prepares nets for inference: folds BatchNorm into layers, and fuses layers."""

from __future__ import annotations

from collections import Counter
from typing import Any, Callable, Mapping, Sequence, Tuple

import mxnet as mx
import numpy as np
from mxnet.gluon import SymbolBlock

from gluon_compress.binarization.binarisers import baked_inputs
from gluon_compress.deployment.fusing import fuse
from gluon_compress.deployment.quantised import has_jumps
from gluon_compress.deployment.reference_outputs import ReferenceOutputs, noise
from gluon_compress.graph import adapter_of, block_of, pair_of
from gluon_compress.graph.annotations import BINARY, FAKE_QUANT, bake_weights, strip
from gluon_compress.graph.context import attribute, numbers
from gluon_compress.graph.operators import operator_of
from gluon_compress.graph.symbols import put_together, take_apart
from gluon_compress.quantization.image_range import without_range_quantisers

Pair = Tuple[mx.sym.Symbol, Mapping[str, mx.nd.NDArray]]


def fold(
    symbol: mx.sym.Symbol,
    params: Mapping[str, mx.nd.NDArray],
    shape: Sequence[int] | None = None,
) -> tuple[mx.sym.Symbol, dict[str, mx.nd.NDArray]]:
    """Return a net for inference with BatchNorm folded into the layers before it.

    A layer's weight ``w`` and bias ``b`` become ``w * s`` and ``b * s + beta - mean *
    s`` with ``s = gamma / sqrt(var + eps)`` (Jacob et al. 2018, section 3.2).
    BatchNorm stays where this would not be exact: after anything else, after a layer or
    weight that something else reads, along another axis, in float16. Annotated weights
    are first replaced by the values that layers read.

    Parameters
    ----------
    symbol : Symbol
    params : mapping
        Values of all parameters and running statistics; not changed.
    shape : sequence of int, optional
        Shape of the input. With it, the folded net is run on noise and compared with
        the given one; if they differ, all BatchNorms stay.

    Returns
    -------
    tuple
        Symbol and parameters.

    Raises
    ------
    ValueError
        If even the net with all BatchNorms differs from the given one.
    """
    baked = _baked(symbol, params)
    folded = _folded(*baked)
    if shape is None:
        return folded
    candidates = {"folding": lambda: folded, "baking of weights": lambda: baked}

    def compared(pair: Pair) -> Pair:
        return without_quantisers(*pair) if quantised else pair

    def run(pair: Pair, images: np.ndarray) -> list[np.ndarray]:
        return ReferenceOutputs(*compared(pair), images).float32

    quantised = has_jumps(symbol)
    before = _baked(symbol, params) if quantised else (symbol, params)
    return _first_equal(compared(before), candidates, run, shape)


def without_quantisers(symbol: mx.sym.Symbol, params: Mapping) -> Pair:
    """Return a pair without quantisers of maps, and without binary ones.

    Where a value lies between two levels, any other order of additions moves it by a
    whole step. So rewritten graphs are compared without.
    """
    nodes, heads = strip(*take_apart(symbol), [FAKE_QUANT, BINARY])
    nodes, heads = without_range_quantisers(nodes, heads)
    plain = put_together(nodes, heads)
    used = set(plain.list_inputs())
    return plain, {name: value for name, value in params.items() if name in used}


def fused(
    net: Any, ctx: Sequence[mx.Context] | None = None, *, shape: Any = None
) -> SymbolBlock:
    """Return a net for inference only: BatchNorm folded and, on CPUs, layers fused.

    Parameters
    ----------
    net : HybridBlock or (symbol, params)
        Not changed; the values are copied.
    ctx : sequence of Context, optional
        Default: the CPU.
    shape : sequence of int, optional
        Shape of the input, unless the net states it. With either, the result is run on
        noise and compared with the net; if they differ, all BatchNorms stay.

    Raises
    ------
    ValueError
        If even the net with all BatchNorms differs from the given one.
    """
    devices = list(ctx or [mx.cpu()])
    shape = adapter_of(net).shape(net) if shape is None else shape
    symbol, params = pair_of(net)
    baked: Pair
    if shape is not None and has_jumps(symbol):
        baked, shape = fold(symbol, params, shape), None
    else:
        baked = _baked(symbol, params)
    on_cpu = all(device.device_type == "cpu" for device in devices)

    def block(symbol: mx.sym.Symbol, params: Mapping) -> SymbolBlock:
        if on_cpu:
            symbol = fuse(symbol)
        result = block_of(symbol, params)
        result.collect_params().reset_ctx(devices)
        result.hybridize(static_alloc=True, static_shape=True)
        return result

    def run(result: SymbolBlock, images: np.ndarray) -> list[np.ndarray]:
        outputs = result(mx.nd.array(images, ctx=devices[0]))
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        return [output.asnumpy() for output in outputs]

    candidates = {
        "folding": lambda: block(*_folded(*baked)),
        "fusing of layers": lambda: block(*baked),
    }
    if shape is None:
        return candidates["folding"]()
    return _first_equal((symbol, params), candidates, run, shape)


def _first_equal(
    pair: Pair, candidates: Mapping[str, Callable], run: Callable, shape: Sequence[int]
) -> Any:
    """Return the first candidate that computes on noise what a pair does."""
    reference = ReferenceOutputs(*pair, noise(shape))
    for build in candidates.values():
        candidate = build()
        outputs = run(candidate, reference.images)
        difference, allowed = reference.departure_of_rewritten(outputs)
        if difference <= allowed:
            return candidate
    raise ValueError(
        f"{list(candidates)[-1]} changes the net's outputs by {difference:.2g} of "
        f"their scale; allowed: {allowed:.2g}"
    )


def _baked(symbol: mx.sym.Symbol, params: Mapping) -> Pair:
    """Return a pair whose weights have no annotations."""
    nodes, heads, values = bake_weights(*take_apart(symbol), params)
    nodes, heads = baked_inputs(nodes, heads, values)
    baked = put_together(nodes, heads)
    used = set(baked.list_inputs())
    return baked, {name: value for name, value in values.items() if name in used}


def _folded(symbol: mx.sym.Symbol, params: Mapping) -> tuple[mx.sym.Symbol, dict]:
    """Return a pair with every BatchNorm folded that can be."""
    nodes, heads = take_apart(symbol)
    folder = _Folder(nodes, heads, params)
    new_heads = [[folder.new_numbers[h[0]], *h[1:]] for h in heads]
    folded = put_together(folder.nodes, new_heads)
    used = set(folded.list_inputs())
    values = folder.values.items()
    return folded, {name: value for name, value in values if name in used}


class _Folder:
    """Writes the nodes of a graph with BatchNorms folded.

    Attributes
    ----------
    nodes : list of dict
        The new nodes.
    values : dict
        Parameters of the new nodes, and some that none of them reads.
    new_numbers : dict
        From the numbers of the given nodes.
    """

    def __init__(self, nodes: Sequence[dict], heads: Sequence, params: Mapping) -> None:
        self.nodes: list[dict] = []
        self.values = dict(params)
        self.new_numbers: dict[int, int] = {}
        entries = [*heads, *(e for node in nodes for e in node["inputs"])]
        # A name may belong to several variables; they have one value.
        self.readers = Counter(_identity(nodes, e[0]) for e in entries)
        self.names = {node["name"] for node in nodes if node["op"] == "null"}
        moments = {e[0] for e in entries if e[1] > 0}  # second outputs are read
        last = {head[0] for head in heads}
        origins: dict[int, int] = {}  # given numbers of new nodes
        for i, node in enumerate(nodes):
            inputs = [[self.new_numbers[e[0]], *e[1:]] for e in node["inputs"]]
            node = {**node, "inputs": inputs}
            if i not in moments and self._folds(node, origins):
                node = self._layer(node, keep_name=i in last)
            self.nodes.append(node)
            self.new_numbers[i] = len(self.nodes) - 1
            origins[len(self.nodes) - 1] = i

    def _folds(self, node: dict, origins: Mapping[int, int]) -> bool:
        """Return whether a node is a BatchNorm that can be folded."""
        if not operator_of(node["op"]).running_statistics:
            return False
        source, output = node["inputs"][0][:2]
        layer = self.nodes[source]
        row = operator_of(layer["op"])
        if not row.foldable or output or self.readers[origins[source]] != 1:
            return False
        parameters = [*node["inputs"][1:], *layer["inputs"][1:]]
        if not all(self._has_value(entry) for entry in parameters):
            return False
        weight = self._value(layer["inputs"][1])
        if self.readers[self._name(layer["inputs"][1])] != 1:
            return False
        if any(self._value(entry).dtype == np.float16 for entry in parameters):
            return False
        if attribute(node["attrs"], "output_mean_var", False):
            return False
        axis = attribute(node["attrs"], "axis", 1)
        channels = weight.shape[row.weight_axis]
        return _makes_channels(layer, axis) and all(
            self._value(entry).size == channels for entry in node["inputs"][1:]
        )

    def _layer(self, norm: dict, *, keep_name: bool) -> dict:
        """Return the layer before a BatchNorm with that folded; set its values."""
        layer = self.nodes[norm["inputs"][0][0]]
        weight_name = self._name(layer["inputs"][1])
        weight = self.values[weight_name]
        gamma, beta, mean, var = (_exact(self._value(e)) for e in norm["inputs"][1:])
        if attribute(norm["attrs"], "fix_gamma", True):
            gamma = np.ones_like(gamma)
        scale = gamma / np.sqrt(var + attribute(norm["attrs"], "eps", 1e-3))
        shift = beta - mean * scale
        if len(layer["inputs"]) > 2:
            shift += scale * _exact(self._value(layer["inputs"][2]))
        along = [1] * weight.ndim
        along[operator_of(layer["op"]).weight_axis] = -1
        bias_name = self._bias_name(layer)
        for name, value in (
            (weight_name, _exact(weight) * scale.reshape(along)),
            (bias_name, shift),
        ):
            self.values[name] = mx.nd.array(value, weight.context, weight.dtype)
        self.nodes.append({"op": "null", "name": bias_name, "attrs": {}, "inputs": []})
        bias = [len(self.nodes) - 1, 0, 0]
        return {
            **layer,
            "name": norm["name"] if keep_name else layer["name"],
            "attrs": {**layer["attrs"], "no_bias": "False"},
            "inputs": [*layer["inputs"][:2], bias],
        }

    def _bias_name(self, layer: dict) -> str:
        """Return the name of a layer's new bias, which no other variable has."""
        if len(layer["inputs"]) > 2:
            name = self._name(layer["inputs"][2])
            if self.readers[name] == 1:
                return name
        name = f"{layer['name']}_bias"
        while name in self.names:
            name += "_folded"
        self.names.add(name)
        self.readers[name] = 1
        return name

    def _name(self, entry: Sequence) -> str:
        return self.nodes[entry[0]]["name"]

    def _has_value(self, entry: Sequence) -> bool:
        return self.nodes[entry[0]]["op"] == "null" and self._name(entry) in self.values

    def _value(self, entry: Sequence) -> mx.nd.NDArray:
        return self.values[self._name(entry)]


def _identity(nodes: Sequence[dict], i: int) -> int | str:
    """Return a node's number, or the name of a variable."""
    return nodes[i]["name"] if nodes[i]["op"] == "null" else i


def _makes_channels(layer: dict, axis: int) -> bool:
    """Return whether the channels of a layer's weight lie along an axis of its output.

    Those of a grouped deconvolution would be scaled by blocks.
    """
    attrs = layer["attrs"]
    if layer["op"] == "FullyConnected":  # (B, N), or (B, ..., N) of an unknown length
        flat = attribute(attrs, "flatten", True)
        return axis == -1 or (flat and axis == 1)
    if attribute(attrs, "layout", None) not in (None, "NCHW", "NCW", "NCDHW"):
        return False
    grouped = attribute(attrs, "num_group", 1) > 1
    if grouped and operator_of(layer["op"]).weight_axis != 0:
        return False
    return axis % (len(numbers(attrs, "kernel")) + 2) == 1


def _exact(value: mx.nd.NDArray) -> np.ndarray:
    return value.asnumpy().astype(np.float64)
