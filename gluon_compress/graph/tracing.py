"""From a net to its graph, and from a symbol to a net again."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, Callable, Mapping, Sequence

import mxnet as mx
import numpy as np
from mxnet import autograd
from mxnet.gluon import Constant, HybridBlock, SymbolBlock

from gluon_compress.graph import symbols
from gluon_compress.graph.context import attribute
from gluon_compress.graph.groups import ChannelGroup, Groups, Tensor, find_groups

SHAPE = (1, 3, 224, 224)


@dataclass(frozen=True)
class Setting:
    """How a parameter is trained; ``constant`` ones are not counted as parameters."""

    grad_req: str = "write"
    lr_mult: float = 1.0
    wd_mult: float = 1.0
    constant: bool = False


@dataclass(frozen=True)
class Graph:
    """A net as nodes, values and channel groups; nothing in it is ever changed.

    Parameters
    ----------
    nodes, heads
        The symbol without masks, see ``nodes.take_apart``.
    params : dict
        Name to NDArray, copies; None where a parameter has no value yet.
    settings : dict
        Name to Setting.
    inputs : dict
        Name to shape.
    found : Groups
    """

    nodes: list[dict]
    heads: list
    params: dict[str, mx.nd.NDArray | None]
    settings: dict[str, Setting]
    inputs: dict[str, tuple]
    found: Groups

    @property
    def groups(self) -> list[ChannelGroup]:
        """The channel groups, in the order of their first producers."""
        return self.found.groups

    @property
    def tensors(self) -> list[list[Tensor]]:
        """Per node, its outputs."""
        return self.found.tensors

    @property
    def symbol(self) -> mx.sym.Symbol:
        """The symbol of the net, without masks."""
        return symbols.put_together(self.nodes, self.heads)

    @property
    def ops(self) -> dict[str, int]:
        """How often each operator occurs."""
        return dict(Counter(n["op"] for n in self.nodes if n["op"] != "null"))

    @property
    def axes(self) -> dict[str, list[Tensor]]:
        """Parameter to its axes that have removable channels."""
        return self.found.axes

    @property
    def blocks(self) -> dict[str, np.ndarray]:
        """Parameter to the places of blocks of its rows, where these differ."""
        return self.found.blocks

    @property
    def batch(self) -> int:
        """Samples in the batch that was traced."""
        return next(iter(self.inputs.values()))[0]

    def tensor(self, entry: Sequence) -> Tensor:
        """Return the tensor at ``(node, output, ...)``; of a weight, its first axis."""
        node = self.nodes[entry[0]]
        if node["name"] in self.axes and node["op"] == "null":
            return self.axes[node["name"]][0]
        return self.tensors[entry[0]][entry[1]]

    def kept_shape(self, entry: Sequence, alive: np.ndarray) -> tuple[int, ...]:
        """Return the shape of the tensor or parameter when only ``alive`` is kept."""
        node = self.nodes[entry[0]]
        shape = list(self.tensors[entry[0]][entry[1]].kept(alive))
        if node["op"] == "null":
            for along in self.axes.get(node["name"], ()):
                shape[along.axis] = along.kept(alive)[along.axis]
        return tuple(shape)

    def places(self, group: ChannelGroup) -> np.ndarray:
        """Return the places of a group's indices."""
        start = self.found.starts[group.name]
        return np.arange(start, start + group.width)

    def group(self, name: str) -> ChannelGroup:
        """Return a group by its name.

        Raises
        ------
        ValueError
            If there is none.
        """
        for group in self.groups:
            if group.name == name:
                return group
        raise ValueError(f"there is no group {name!r}")

    def alive(self, keep: Mapping[str, Sequence[int]]) -> np.ndarray:
        """Return for all places, and at -1, whether they are kept."""
        total = sum(group.width for group in self.groups)
        result = np.ones(total + 1, bool)
        for group in self.groups:
            if group.name in keep:
                start = self.found.starts[group.name]
                result[start : start + group.width] = False
                result[start + np.asarray(keep[group.name], int)] = True
        return result


@dataclass(frozen=True)
class Form:
    """How a kind of net becomes a symbol, and a net again.

    Parameters
    ----------
    symbol : callable
        ``symbol(net, inputs) -> Symbol`` or ``symbol(net) -> Symbol``.
    rebuild : callable
        ``rebuild(net, symbol, params) -> net`` with the values loaded.
    """

    symbol: Callable[[Any], mx.sym.Symbol]
    rebuild: Callable[[Any, mx.sym.Symbol, dict], HybridBlock]


def _call(net: HybridBlock) -> mx.sym.Symbol:
    """Call a net on the symbol ``data``, in its training form where it has two.

    The training form of a detector is its raw outputs. One that draws random numbers
    (DropBlock) would do so for ever: then the other form is the net.
    """
    try:
        symbol = _called(net, autograd.train_mode)
    except Exception:  # whatever the net's own code raises without its targets
        return _called(net, autograd.predict_mode)
    ops = {node["op"] for node in symbols.take_apart(symbol)[0]}
    if any(op.startswith(("_random_", "_sample_")) for op in ops):
        return _called(net, autograd.predict_mode)
    return symbol


def _called(net: HybridBlock, mode: Callable) -> mx.sym.Symbol:
    with mode():
        return mx.sym.Group(_flat(net(mx.sym.var("data"))))


def _flat(outputs: Any) -> list:
    if isinstance(outputs, mx.sym.Symbol):
        return [outputs]
    return [symbol for part in outputs for symbol in _flat(part)]


def block_of(symbol: mx.sym.Symbol, params: Mapping) -> SymbolBlock:
    """Return a block of a symbol; its inputs are the variables without a value."""
    free = [name for name in symbol.list_inputs() if name not in params]
    # MXNet warns of inputs of no known type, or of another than the weights'.
    types = [value.dtype for value in params.values() if len(value.shape) > 1]
    inputs = [mx.sym.var(name, dtype=(types or ["float32"])[0]) for name in free]
    block = SymbolBlock(symbol, inputs)
    for name, parameter in block.collect_params().items():
        value = params[name]
        parameter.shape = value.shape
        parameter.dtype = value.dtype
        parameter.initialize(mx.init.Zero(), ctx=value.ctx, force_reinit=True)
        parameter.set_data(value)
    return block


FORMS: dict[type, Form] = {
    HybridBlock: Form(_call, lambda net, *pair: block_of(*pair)),
    tuple: Form(lambda net: net[0], lambda net, *pair: block_of(*pair)),
}


def form_of(net: Any) -> Form:
    """Return the form that a net carries, or else that of its nearest base type.

    Raises
    ------
    ValueError
        If it is not a HybridBlock nor a pair of symbol and parameters.
    """
    carried = getattr(net, "form", None)
    if isinstance(carried, Form):
        return carried
    pair = isinstance(net, tuple) and len(net) == 2
    if not isinstance(net, tuple) or (pair and isinstance(net[0], mx.sym.Symbol)):
        for base in type(net).__mro__:
            if base in FORMS:
                return FORMS[base]
    raise ValueError(
        f"a net is a HybridBlock or a pair (symbol, params), not {type(net).__name__}"
    )


def symbol_of(net: Any) -> mx.sym.Symbol:
    """Return a net's symbol.

    Raises
    ------
    ValueError
        If the net cannot be called with a symbol.
    """
    form = form_of(net)
    try:
        return form.symbol(net)
    except Exception as error:  # the net's own code may raise anything
        gist = str(error).strip().splitlines() or [""]
        raise ValueError(
            f"{type(net).__name__} does not trace to a symbol:{_layer(error)} "
            f"{type(error).__name__}: {gist[0]}"
        ) from error


def _layer(error: Exception) -> str:
    """Return the innermost layer that was being called when an error was raised."""
    found, place = "", error.__traceback__
    while place is not None:
        block = place.tb_frame.f_locals.get("self")
        if (
            isinstance(block, HybridBlock)
            and place.tb_frame.f_code.co_name != "__call__"
        ):
            found = f" {type(block).__name__} {block.name!r}:"
        place = place.tb_next
    return found


def pair_of(net: Any) -> tuple[mx.sym.Symbol, dict[str, mx.nd.NDArray]]:
    """Return a net as a pair of its symbol and the values that this uses.

    Raises
    ------
    ValueError
        If the net does not trace, or a parameter has no value.
    """
    symbol = symbol_of(net)
    params, _ = _values(net, symbols.take_apart(symbol)[0])
    for name, value in params.items():
        if value is None:
            raise ValueError(f"parameter {name!r} has no value: initialise the net")
    return symbol, params


def trace(net: Any, shape: Sequence = SHAPE) -> Graph:
    """Return a net's symbol, values and channel groups.

    Parameters
    ----------
    net : HybridBlock or tuple
        A block that can be called with a symbol, or (symbol, params) with ``params``
        a dict of NDArrays; names may start with ``arg:`` and ``aux:``.
    shape : tuple or dict
        Shape of the input (batch, channels, height, width), or a shape by name for
        several inputs. A (symbol, params) pair has the inputs that are no parameters.

    Returns
    -------
    Graph
        Counting works without values; masks in the net are left out.

    Raises
    ------
    ValueError
        If the net does not trace or the shape does not fit it.
    """
    nodes, heads = symbols.without_masks(*symbols.take_apart(symbol_of(net)))
    params, settings = _values(net, nodes)
    inputs = _inputs(nodes, params, shape)
    known = {n: v.shape for n, v in params.items() if v is not None}
    shapes = symbols.output_shapes(nodes, heads, {**known, **inputs})
    for name in symbols.variables(nodes):
        if name not in inputs:
            params.setdefault(name, None)
    groups = find_groups(nodes, heads, shapes, inputs)
    return Graph(nodes, heads, params, settings, inputs, groups)


def _values(net: Any, nodes: Sequence[dict]) -> tuple[dict, dict]:
    """Return copies of the values that the nodes use, and how they are trained."""
    # MXNet's BatchNorm writes its running statistics on the way back, which its engine
    # does not know: a copy right after a step of training would be of those before.
    mx.nd.waitall()
    used, running = symbols.variables(nodes), symbols.states(nodes)
    marked = {node["name"] for node in nodes if symbols.CONSTANT in node["attrs"]}
    if isinstance(net, tuple):
        given = {re.sub("^(arg|aux):", "", n): v for n, v in net[1].items()}
        params = {n: given[n].copy() for n in used if n in given}
        default = {}
        for name in params:
            trained = "null" if name in running or name in marked else "write"
            default[name] = Setting(trained, constant=name in marked)
        return params, default
    given = {p.name: p for p in net.collect_params().values()}
    params, settings = {}, {}
    for name in used:
        if name in given:
            p = given[name]
            params[name] = None if p._data is None else p.list_data()[0].copy()
            constant = name in marked or isinstance(p, Constant)
            trained = "null" if constant else p.grad_req
            settings[name] = Setting(trained, p.lr_mult, p.wd_mult, constant)
    return params, settings


def _inputs(nodes: Sequence[dict], params: Mapping, shape: Any) -> dict[str, tuple]:
    free = [name for name in symbols.variables(nodes) if name not in params]
    if not isinstance(shape, Mapping):
        # Without any values the rest are parameters, else they are inputs, too.
        if len(free) != 1 and (params or "data" not in free):
            raise ValueError(f"shape must be a dict with the inputs' shapes: {free}")
        return {"data" if "data" in free else free[0]: _checked(shape)}
    for name in shape:
        if name not in free:
            raise ValueError(f"there is no input {name!r}; inputs are {free}")
    missing = [name for name in free if name not in shape]
    if missing and params:
        raise ValueError(f"there is no shape for input {missing[0]!r}")
    return {name: _checked(size) for name, size in shape.items()}


def _checked(shape: Any) -> tuple:
    whole = isinstance(shape, (tuple, list)) and len(shape) > 0
    if not whole or not all(isinstance(n, (int, np.integer)) and n > 0 for n in shape):
        raise ValueError(f"shape {shape!r} is not a tuple of whole numbers above 0")
    return tuple(int(n) for n in shape)


# Heights and widths of common inputs: a dense layer behind a flattened map fits one.
SIZES = (224, 300, 299, 32, 28, 64, 96, 128, 160, 192, 256, 320, 416, 512, 16, 8, 331)
SIZES += (24, 48, 20, 10, 12, 14, 9, 7, 6, 5, 4, 227, 288, 336, 384, 448, 608, 640)


def trace_any(net: Any) -> Graph:
    """Return a net's graph for the first usual input shape that fits its parameters.

    Raises
    ------
    ValueError
        If none fits; ``trace`` with the right shape says more.
    """
    nodes, heads = symbols.without_masks(*symbols.take_apart(symbol_of(net)))
    params, _ = _values(net, nodes)
    known = {n: v.shape for n, v in params.items() if v is not None}
    first = None
    for size in SIZES:
        shape = _guess(nodes, params, size)
        try:
            inputs = _inputs(nodes, params, shape)
            symbols.output_shapes(nodes, heads, {**known, **inputs})
        except ValueError as error:
            first = first or error
            continue
        return trace(net, shape)
    raise ValueError(f"no usual input shape fits the net, give shape=...: {first}")


def _guess(nodes: Sequence[dict], params: Mapping, size: int) -> tuple:
    """Return an input shape for the first layer whose weight tells its channels."""
    for node in nodes:
        weight = (
            params.get(nodes[node["inputs"][1][0]]["name"])
            if len(node["inputs"]) > 1
            else None
        )
        if weight is None:
            continue
        if node["op"] == "Convolution":
            groups = attribute(node["attrs"], "num_group", 1)
            return (1, weight.shape[1] * groups, *[size] * (weight.ndim - 2))
        if node["op"] == "FullyConnected":
            return (1, weight.shape[1])
        if node["op"] == "Deconvolution":
            return (1, weight.shape[0], *[size] * (weight.ndim - 2))
    return (1, 3, size, size)
