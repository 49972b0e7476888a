"""Fits the weights of a pruned net to what the full net computes, by least squares.

When channels are removed, the layers that read them lose terms of their sums. The
remaining inputs are correlated with the lost ones, so other weights for them repair
much of the damage, without labels and without training (He, Zhang, Sun 2017, section
3.1; used by AMC, He et al. 2018, section 3.3).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace
from typing import (
    Any,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
    Tuple,
)

import mxnet as mx
import numpy as np

from gluon_compress.graph import Graph, block_of, pair_of, rebuild
from gluon_compress.graph.context import attribute
from gluon_compress.graph.linear import LinearForm, as_matrix
from gluon_compress.graph.operators import operator_of
from gluon_compress.graph.symbols import put_together, take_apart
from gluon_compress.plan import Plan
from gluon_compress.prune.slimming import slim, traced
from gluon_compress.prune.taylor_importance import arrays_for
from gluon_compress.validation import Count, Positive, Settings


class ReconstructionSettings(Settings):
    """How the weights of a pruned net are fitted to the full net.

    Parameters
    ----------
    batches : int
        Training batches to fit on.
    points : int
        Places of a layer's output that are sampled in each image.
    ridge : float
        Strength of the pull towards the present weights, as a share of the mean
        variance of a layer's inputs.
    """

    batches: Count = 16
    points: Count = 20
    ridge: Positive = 1e-3


DEFAULT = ReconstructionSettings()
Entry = Tuple[int, int]  # a node and one of its outputs


def reconstruct(
    net: Any,
    plan: Plan,
    batches: Iterable,
    *,
    points: int = DEFAULT.points,
    ridge: float = DEFAULT.ridge,
    shape: Any = None,
    graph: Graph | None = None,
    seed: int = 0,
) -> Any:
    """Return the slim net with weights that repeat what the full net computes.

    Layer by layer, in the order of the net, weights and bias become those with the
    least squared error against the outputs of the full net's layer on the same images,
    given the inputs that the slim net really has there: errors of earlier layers are
    compensated too (the asymmetric form of Zhang et al. 2016, section 3.3). A layer
    without bias gets the constant through the running mean of the BatchNorm behind it.

    Parameters
    ----------
    net : HybridBlock or (symbol, params)
        The full net, not changed.
    plan : Plan
    batches : iterable
        Arrays of images, or tuples whose first elements are the net's inputs. They are
        all held in memory, with maps of a net's middle that are up to twice as large.
    points : int
        Places of a layer's output that are sampled in each image. Images times points
        should be several times a layer's features, its kept input channels times
        kernel size.
    ridge : float
        Above 0: how strongly the fit is pulled towards the present weights, as a share
        of the mean variance of a layer's inputs.
    shape, graph
        As for ``slim``.
    seed : int
        Of the sampled places.

    Returns
    -------
    HybridBlock
        As ``slim`` returns it. Convolutions (of one group, several, or depthwise) and
        dense layers are fitted; layers before the first cut stay as they are, and so
        do layers whose weight is shared or masked, and deconvolutions.

    Raises
    ------
    ValueError
        If there is no batch, an output is not finite, a number is not allowed, or as
        for ``slim``.
    """
    _check_settings(points, ridge)
    graph = traced(net, plan, shape, graph)
    small = slim(net, plan, graph=graph)
    symbol, params = pair_of(small)
    nodes, heads = take_apart(symbol)
    layers = _layers_to_fit(graph, plan, nodes)
    images = _inputs(small, batches, list(graph.inputs))
    samples = _samples(graph, plan, layers, images, points, seed)
    walk = _Walk(nodes, images)
    for layer in layers:
        data = nodes[layer.number]["inputs"][:1]
        reached = walk.up_to(layer.number, data, params)
        present = layer.product(params)
        moments = _Moments()
        for (inputs,), (places, target) in zip(reached, samples.pop(layer.name)):
            columns = layer.columns(inputs, places)
            moments.add(columns, target - present(columns))
        params = {**params, **layer.fitted(params, moments, ridge)}
    return rebuild(small, graph, put_together(nodes, heads), params)


class WeightFitter:
    """Reconstructs the weights of a masked net for one plan after another, quickly.

    The full net runs on the images once, and the covariances of each layer's inputs are
    kept. A plan then costs the solution of one system of equations a layer. Layers are
    fitted to the inputs that they have in the full net (the symmetric form, as in AMC),
    so ``reconstruct`` is better for the plan that is used in the end.

    Parameters
    ----------
    net : HybridBlock or (symbol, params)
        The full net, not changed.
    batches : iterable
    points, ridge, shape, graph, seed
        As for ``reconstruct``.

    Notes
    -----
    A layer of F features, input channels times kernel size, takes 8 F² bytes. Layers of
    more than ``LARGEST`` features are not fitted.
    """

    LARGEST = 4608

    def __init__(
        self,
        net: Any,
        batches: Iterable,
        *,
        points: int = DEFAULT.points,
        ridge: float = DEFAULT.ridge,
        shape: Any = None,
        graph: Graph | None = None,
        seed: int = 0,
    ) -> None:
        _check_settings(points, ridge)
        self.graph, self.ridge = traced(net, None, shape, graph), ridge
        nodes = self.graph.nodes
        self._layers = [
            layer
            for layer in _linear_layers(self.graph, nodes)
            if self._features(layer) <= self.LARGEST
            and any(t.axis == 1 for t in self.graph.axes.get(layer.weight, ()))
        ]
        self._moments = {layer.name: _Moments() for layer in self._layers}
        params = {**self.graph.params, **self.graph.annotated.params}
        annotated = self.graph.annotated.nodes
        numbers = {node["name"]: i for i, node in enumerate(annotated)}
        images = _inputs(net, batches, list(self.graph.inputs))
        walk = _Walk(annotated, images)
        for layer in self._layers:
            number = numbers[layer.name]
            heads = [annotated[number]["inputs"][0], [number, 0, 0]]
            reached = walk.up_to(number, heads, params)
            for batch, (inputs, output) in zip(images, reached):
                count = layer.form.rows(output).shape[1]
                key = _key(self.graph, layer, batch, seed)
                places = _places(count, points, len(inputs), key)
                columns = layer.columns(inputs, places)
                self._moments[layer.name].add(columns, columns[..., :0])

    def _features(self, layer: _Layer) -> int:
        weight = self.graph.params[layer.weight]
        return int(np.prod(weight.shape[1:]))

    def values(self, plan: Plan) -> dict[str, np.ndarray]:
        """Return the weights and constants of all fitted layers, for a masked net."""
        keep_mask = self.graph.keep_mask(plan.keep)
        values: dict[str, np.ndarray] = {}
        for layer in self._layers:
            weight = self.graph.params[layer.weight].asnumpy()
            kept = self._kept(layer, weight, keep_mask)
            matrix = as_matrix(weight, layer.attrs).astype(np.float64)
            fitted, constant = self._moments[layer.name].without(
                kept, matrix, self.ridge, constant=layer.constant is not None
            )
            values[layer.weight] = fitted.reshape(weight.shape)
            if layer.constant is not None:
                old = self.graph.params[layer.constant].asnumpy()
                values[layer.constant] = old + layer.sign * constant.reshape(-1)
        return values

    def _kept(
        self, layer: _Layer, weight: np.ndarray, keep_mask: np.ndarray
    ) -> np.ndarray:
        """Return which features stay, ``(groups, features)``."""
        positions = self.graph.blocks.get(layer.weight)
        if positions is None:
            (tensor,) = (t for t in self.graph.axes[layer.weight] if t.axis == 1)
            positions = np.tile(tensor.positions, (layer.groups, 1))
        kernel = int(np.prod(weight.shape[2:]))
        return np.repeat(keep_mask[positions], kernel, axis=1)


def _check_settings(points: int, ridge: float) -> None:
    if points < 1 or not ridge > 0:
        raise ValueError(
            f"points is {points!r}, ridge {ridge!r}; allowed: from 1, and above 0"
        )


@dataclass(frozen=True)
class _Layer:
    """A layer of the slim net that is fitted.

    Parameters
    ----------
    number : int
        Among the nodes of the slim symbol.
    name : str
    attrs : mapping
        Of its slim node.
    form : LinearForm
    weight : str
        Name of the parameter.
    bias : str or None
    constant : str or None
        The parameter that takes a constant: the bias, or a running mean.
    sign : int
        1 for a bias, -1 for a running mean, which is subtracted.
    """

    number: int
    name: str
    attrs: Mapping[str, str]
    form: LinearForm
    weight: str
    bias: str | None
    constant: str | None
    sign: int

    @property
    def groups(self) -> int:
        """Groups of the convolution; 1 for other layers."""
        return int(self.attrs.get("num_group", "1"))

    def columns(self, data: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Return what is multiplied with the weight, ``(groups, rows, features)``."""
        return self.form.columns(self.attrs, data, places).astype(np.float64)

    def product(self, params: Mapping) -> Callable[[np.ndarray], np.ndarray]:
        """Return what the layer makes of columns: ``(groups, rows, outputs)``."""
        matrix = as_matrix(params[self.weight].asnumpy(), self.attrs)
        bias = np.zeros(matrix.shape[:2])
        if self.bias is not None:
            bias = params[self.bias].asnumpy().reshape(bias.shape)
        return lambda columns: columns @ matrix.transpose(0, 2, 1) + bias[:, None]

    def fitted(
        self, params: Mapping, moments: _Moments, ridge: float
    ) -> dict[str, mx.nd.NDArray]:
        """Return new values of the weight and of the parameter for the constant."""
        change, constant = moments.solution(ridge, constant=self.constant is not None)
        old = params[self.weight].asnumpy()
        values = {self.weight: old + change.transpose(0, 2, 1).reshape(old.shape)}
        if self.constant is not None:
            old = params[self.constant].asnumpy()
            values[self.constant] = old + self.sign * constant.reshape(-1)
        return {
            name: mx.nd.array(v, ctx=params[name].ctx, dtype=params[name].dtype)
            for name, v in values.items()
        }


@dataclass
class _Moments:
    """Sums over rows of inputs and of what is to be explained, for each group."""

    rows: int = 0
    sums: list = field(default_factory=list)

    def add(self, columns: np.ndarray, missing: np.ndarray) -> None:
        """Add rows ``(groups, rows, features)`` and ``(groups, rows, outputs)``."""
        if not (np.isfinite(columns).all() and np.isfinite(missing).all()):
            raise ValueError("an output of the net is not finite")
        t = columns.transpose(0, 2, 1)
        new = [columns.sum(axis=1), missing.sum(axis=1), t @ columns, t @ missing]
        self.sums = [a + b for a, b in zip(self.sums, new)] if self.sums else new
        self.rows += columns.shape[1]

    def solution(self, ridge: float, *, constant: bool) -> tuple:
        """Return the weights ``(groups, features, outputs)`` and constants.

        The constants, ``(groups, outputs)``, are zero if none is allowed.
        """
        mean_x, mean_y, squares, products = (total / self.rows for total in self.sums)
        if constant:
            squares = squares - mean_x[:, :, None] * mean_x[:, None, :]
            products = products - mean_x[:, :, None] * mean_y[:, None, :]
        features = squares.shape[1]
        scale = np.trace(squares, axis1=1, axis2=2) / features
        pull = ridge * np.maximum(scale, 1e-12)[:, None, None] * np.eye(features)
        weights = np.linalg.solve(squares + pull, products)
        if not constant:
            return weights, np.zeros_like(mean_y)
        return weights, mean_y - np.einsum("gf,gfo->go", mean_x, weights)

    def without(
        self, kept: np.ndarray, matrix: np.ndarray, ridge: float, *, constant: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the matrix that computes most nearly the same from some features.

        Parameters
        ----------
        kept : ndarray
            Which features stay, ``(groups, features)``.
        matrix : ndarray
            ``(groups, outputs, features)``
        ridge : float
        constant : bool
            Whether a constant may be added.

        Returns
        -------
        tuple
            A matrix of the same shape, zero where features are gone, and the constants
            ``(groups, outputs)``.
        """
        mean, squares = self.sums[0] / self.rows, self.sums[2] / self.rows
        result = matrix * kept[:, None]
        constants = np.zeros(matrix.shape[:2])
        for g, stays in enumerate(kept):
            gone = ~stays
            if stays.any() and gone.any():
                square = squares[g]
                if constant:
                    square = square - np.outer(mean[g], mean[g])
                inner = square[np.ix_(stays, stays)]
                scale = max(np.trace(inner) / len(inner), 1e-12)
                products = square[np.ix_(stays, gone)] @ matrix[g][:, gone].T
                pull = ridge * scale * np.eye(len(inner))
                result[g][:, stays] += np.linalg.solve(inner + pull, products).T
            if constant:
                constants[g] = (matrix[g] - result[g]) @ mean[g]
        return result, constants


@dataclass(frozen=True)
class _Batch:
    """The inputs of a net, by name."""

    number: int
    arrays: Mapping[str, mx.nd.NDArray]


def _inputs(net: Any, batches: Iterable, names: Sequence[str]) -> list[_Batch]:
    """Return every batch on the device of a net."""
    result = []
    for number, batch in enumerate(batches):
        arrays = batch if isinstance(batch, (tuple, list)) else [batch]
        if len(arrays) < len(names):
            raise ValueError(
                f"a batch has {len(arrays)} arrays; the net has the inputs {names}"
            )
        arrays = arrays_for(net, arrays[: len(names)])
        result.append(_Batch(number, dict(zip(names, arrays))))
    if not result:
        raise ValueError("reconstruction needs data: there is no batch")
    return result


def _runner(nodes: Sequence[dict], heads: Sequence, params: Mapping) -> Callable:
    """Return a function from a batch to some outputs of a net, as arrays."""
    if not heads:
        return lambda batch: []
    symbol = put_together(nodes, heads)
    used = symbol.list_inputs()
    block = block_of(symbol, {n: v for n, v in params.items() if n in set(used)})
    block.hybridize(static_alloc=True)
    inputs = [name for name in used if name not in params]

    def run(batch: _Batch) -> list[mx.nd.NDArray]:
        outputs = block(*(batch.arrays[name] for name in inputs))
        return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]

    return run


class _Walk:
    """Runs a net up to one layer after another, and not from its beginning each time.

    Where little is alive, all that later layers need is kept for every batch, and the
    way to the next layer begins there.

    Parameters
    ----------
    nodes : sequence of dict
        Of a symbol.
    batches : sequence of _Batch
    """

    MOST = 2  # numbers that are kept for each number of the inputs

    def __init__(self, nodes: Sequence[dict], batches: Sequence[_Batch]) -> None:
        self.nodes, self.batches = nodes, batches
        self._kept: list[dict[Entry, mx.nd.NDArray]] = [{} for _ in batches]

    def up_to(
        self, number: int, heads: Sequence[Sequence[int]], params: Mapping
    ) -> Iterator[list[np.ndarray]]:
        """Yield some outputs for each batch; all batches have to be taken.

        Parameters
        ----------
        number : int
            Of a node, later ones each time.
        heads : sequence of entries
            Outputs of this node or of those before it.
        params : mapping
            Values that may differ from those of the last time, but for nodes behind
            that time's.
        """
        begin = set(self._kept[0])
        alive = self._alive(number)
        wanted = [(head[0], head[1]) for head in heads]
        new = [e for e in dict.fromkeys([*wanted, *alive]) if e not in begin]
        run = _runner(*self._way(begin, new), params)
        keeps = False
        for k, batch in enumerate(self.batches):
            known = {self._name(e): value for e, value in self._kept[k].items()}
            outputs = run(replace(batch, arrays={**batch.arrays, **known}))
            values = {**self._kept[k], **dict(zip(new, outputs))}
            if k == 0:
                size = sum(values[entry].size for entry in alive)
                keeps = size <= self.MOST * sum(a.size for a in batch.arrays.values())
            if keeps:
                self._kept[k] = {entry: values[entry] for entry in alive}
            yield [values[entry].asnumpy() for entry in wanted]

    def _alive(self, number: int) -> list[Entry]:
        """Return what a node and later ones read of those before it."""
        read = (e for node in self.nodes[number:] for e in node["inputs"])
        entries = dict.fromkeys((e[0], e[1]) for e in read if e[0] < number)
        return [e for e in entries if self.nodes[e[0]]["op"] != "null"]

    def _name(self, entry: Entry) -> str:
        return f"{self.nodes[entry[0]]['name']}_{entry[1]}_kept"

    def _way(
        self, begin: Collection[Entry], heads: Sequence[Entry]
    ) -> tuple[list[dict], list[list[int]]]:
        """Return nodes and heads of a symbol in which some entries are variables."""
        place = {entry: k for k, entry in enumerate(begin)}

        def moved(entry: Sequence[int]) -> list[int]:
            at = place.get((entry[0], entry[1]))
            return [entry[0] + len(place), *entry[1:]] if at is None else [at, 0, 0]

        variables = [
            {"op": "null", "name": self._name(e), "attrs": {}, "inputs": []}
            for e in place
        ]
        rest = [{**n, "inputs": [moved(e) for e in n["inputs"]]} for n in self.nodes]
        return [*variables, *rest], [moved([*head, 0]) for head in heads]


def _layers_to_fit(graph: Graph, plan: Plan, nodes: Sequence[dict]) -> list[_Layer]:
    """Return the layers of the slim net whose inputs a plan changes, in order."""
    keep_mask = graph.keep_mask(plan.keep)
    changed: dict[str, bool] = {}
    for node in graph.nodes:
        sources = [graph.nodes[entry[0]]["name"] for entry in node["inputs"]]
        changed[node["name"]] = any(changed[source] for source in sources)
        if operator_of(node["op"]).linear is not None:
            data = graph.tensor(node["inputs"][0])
            changed[node["name"]] |= data.kept_shape(keep_mask) != data.shape
    return [layer for layer in _linear_layers(graph, nodes) if changed[layer.name]]


def _linear_layers(graph: Graph, nodes: Sequence[dict]) -> list[_Layer]:
    """Return the layers whose weights can be fitted, in order.

    Parameters
    ----------
    graph : Graph
    nodes : sequence of dict
        Of the symbol that the layers are numbered in: the graph's, or a slim one.
    """
    numbers = {node["name"]: i for i, node in enumerate(nodes)}
    readers, layers = _readers(graph), []
    annotated = {a.target for a in graph.annotated.annotations}
    for i, node in enumerate(graph.nodes):
        form = operator_of(node["op"]).linear
        if form is None:
            continue
        weight = node["inputs"][1][0]
        channels_first = str(attribute(node["attrs"], "layout", "NC")).startswith("NC")
        variables = all(graph.nodes[e[0]]["op"] == "null" for e in node["inputs"][1:])
        own = len(readers[weight]) == 1 and graph.nodes[weight]["name"] not in annotated
        if channels_first and variables and own:
            number = numbers[node["name"]]
            bias = _bias(graph, node)
            layers.append(
                _Layer(
                    number,
                    node["name"],
                    nodes[number]["attrs"],
                    form,
                    graph.nodes[weight]["name"],
                    bias,
                    *_constant(graph, i, bias, readers),
                )
            )
    return layers


def _readers(graph: Graph) -> dict[int, list[tuple[int, int]]]:
    """Return for each node the inputs of others that read it."""
    readers: dict[int, list] = {}
    for i, node in enumerate(graph.nodes):
        for k, entry in enumerate(node["inputs"]):
            readers.setdefault(entry[0], []).append((i, k))
    return readers


def _bias(graph: Graph, node: dict) -> str | None:
    """Return the name of a layer's bias."""
    return (
        graph.nodes[node["inputs"][2][0]]["name"] if len(node["inputs"]) > 2 else None
    )


def _constant(
    graph: Graph, i: int, bias: str | None, readers: Mapping[int, Sequence]
) -> tuple[str | None, int]:
    """Return the parameter that can take a constant of a layer's output, and a sign."""
    if bias is not None and len(readers[graph.nodes[i]["inputs"][2][0]]) == 1:
        return bias, 1
    heads = {head[0] for head in graph.heads}
    if len(readers.get(i, ())) == 1 and i not in heads:
        norm = graph.nodes[readers[i][0][0]]
        if operator_of(norm["op"]).running_statistics:
            mean = norm["inputs"][3][0]
            if len(readers[mean]) == 1:
                return graph.nodes[mean]["name"], -1
    return None, 1


def _samples(
    graph: Graph,
    plan: Plan,
    layers: Sequence[_Layer],
    inputs: Sequence[_Batch],
    points: int,
    seed: int,
) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """Return sampled outputs of the full net's layers, for the channels that are kept.

    For each layer and batch: flat places ``(images, points)``, and the outputs there
    ``(groups, rows, outputs)``, with the groups of the slim layer.
    """
    if not layers:
        return {}
    annotated, keep_mask = graph.annotated, graph.keep_mask(plan.keep)
    numbers = {node["name"]: i for i, node in enumerate(annotated.nodes)}
    tensors = {node["name"]: t[0] for node, t in zip(graph.nodes, graph.tensors)}
    heads = [[numbers[layer.name], 0, 0] for layer in layers]
    run = _runner(annotated.nodes, heads, {**graph.params, **annotated.params})
    samples: dict[str, list] = {layer.name: [] for layer in layers}
    for batch in inputs:
        for layer, output in zip(layers, run(batch)):
            rows = layer.form.rows(output.asnumpy())
            key = _key(graph, layer, batch, seed)
            places = _places(rows.shape[1], points, len(rows), key)
            rows = rows[np.arange(len(rows))[:, None], places]
            tensor = tensors[layer.name]
            if tensor.axis is not None:
                rows = rows[..., keep_mask[tensor.positions]]
            rows = rows.reshape(places.size, layer.groups, -1).transpose(1, 0, 2)
            samples[layer.name].append((places, rows))
    return samples


def _key(graph: Graph, layer: _Layer, batch: _Batch, seed: int) -> str:
    """Return what the places of a layer and a batch are drawn by.

    Names of nodes differ from process to process; those of the grouping do not.
    """
    names = (node["name"] for node in graph.nodes)
    name = dict(zip(names, graph.grouping.names))[layer.name]
    return f"{seed}:{name}:{batch.number}"


def _places(count: int, points: int, images: int, key: str) -> np.ndarray:
    """Return flat places ``(images, points)`` of an output, drawn by a key."""
    if count <= points:
        return np.tile(np.arange(count), (images, 1))
    random = np.random.RandomState(zlib.crc32(key.encode()))
    return random.randint(count, size=(images, points))
