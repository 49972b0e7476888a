"""Trace a net to its graph, and make nets of symbols."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Callable, Mapping, Sequence

import mxnet as mx
import numpy as np
from mxnet import autograd
from mxnet.gluon import Constant, HybridBlock, SymbolBlock

from gluon_compress.graph import symbols
from gluon_compress.graph.annotations import (
    CHANNEL_MASK,
    FIXED,
    Annotation,
    NewAnnotation,
    annotate_output,
    annotate_weight,
    annotations_of,
    called,
    is_parameter,
    strip,
    stripped,
)
from gluon_compress.graph.channels import Tensor
from gluon_compress.graph.groups import ChannelGroup, Groups, find_groups


@dataclass(frozen=True)
class ParamAttrs:
    """How a parameter is trained; ``constant`` ones are not counted as parameters."""

    grad_req: str = "write"
    lr_mult: float = 1.0
    wd_mult: float = 1.0
    constant: bool = False


@dataclass(frozen=True)
class Annotated:
    """The symbol of a graph with its weight masks and fake quantisers.

    Parameters
    ----------
    nodes, heads
        As ``symbols.take_apart`` gives them, without channel masks.
    plain : list
        For each node its number in the plain symbol, -1 for nodes of annotations.
    params : dict
        Values of the annotations' own parameters, copies.
    settings : dict
        Their names to ParamAttrs.
    targets : frozenset of str
        Names of the nodes whose outputs are annotated.
    """

    nodes: list[dict]
    heads: list
    plain: list[int]
    params: dict[str, Any]
    settings: dict[str, ParamAttrs]
    targets: frozenset[str]

    @property
    def annotations(self) -> list[Annotation]:
        """The annotations; numbers of sources are those of ``nodes`` here."""
        return annotations_of(self.nodes)


@dataclass(frozen=True)
class Graph:
    """A net as nodes, values and channel groups; nothing in it is ever changed.

    Parameters
    ----------
    nodes, heads
        The plain symbol, without any annotations, see ``symbols.take_apart``.
    params : dict
        Name to NDArray, copies; None where a parameter has no value yet.
    settings : dict
        Name to ParamAttrs.
    inputs : dict
        Name to shape.
    found : Groups
    annotated : Annotated
        The symbol with what tracing looks through and slimming keeps.
    """

    nodes: list[dict]
    heads: list
    params: dict[str, Any]
    settings: dict[str, ParamAttrs]
    inputs: dict[str, tuple]
    found: Groups
    annotated: Annotated

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
        """The symbol of the net, without annotations."""
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
        """Parameter to the positions of blocks of its rows, where these differ."""
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
            for tensor in self.axes.get(node["name"], ()):
                if tensor.axis is not None:
                    shape[tensor.axis] = tensor.kept(alive)[tensor.axis]
        return tuple(shape)

    def positions(self, group: ChannelGroup) -> np.ndarray:
        """Return the positions of a group's indices."""
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

    def keep_mask(self, keep: Mapping[str, Sequence[int]]) -> np.ndarray:
        """Return for every position, and at -1, whether it is kept."""
        total = sum(group.width for group in self.groups)
        result = np.ones(total + 1, bool)
        for group in self.groups:
            if group.name in keep:
                start = self.found.starts[group.name]
                result[start : start + group.width] = False
                result[start + np.asarray(keep[group.name], int)] = True
        return result


def stated_shape(net: Any) -> Any:
    """Return the input shape that a net states itself, None if it states none.

    Nets that this package makes of others keep the shape they were traced with, in
    their attribute ``input_shape``.
    """
    return getattr(net, "input_shape", None)


@dataclass(frozen=True)
class NetAdapter:
    """How a kind of net becomes a symbol, and a net again.

    A net carries its adapter in the attribute ``net_adapter``, or its class has one in
    ``NET_ADAPTERS``, see ``register_adapter``.

    Parameters
    ----------
    symbol : callable
        ``symbol(net) -> Symbol``: what is traced, pruned and exported.
    rebuild : callable
        ``rebuild(net, symbol, params) -> net`` of the same kind, with the values
        loaded.
    shape : callable
        ``shape(net) -> tuple, dict or None``: the input shape, as for ``trace``, where
        a net of this kind knows it.
    """

    symbol: Callable[[Any], mx.sym.Symbol]
    rebuild: Callable[[Any, mx.sym.Symbol, dict], HybridBlock]
    shape: Callable[[Any], Any] = stated_shape


def _call(net: HybridBlock) -> mx.sym.Symbol:
    """Call a net on the symbol ``data``, in its training form where it has two.

    In training form a detector puts out its raw outputs. A net that draws random
    numbers in training (DropBlock) would go on drawing them, so its inference form is
    taken.
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


NET_ADAPTERS: dict[type, NetAdapter] = {
    HybridBlock: NetAdapter(_call, lambda net, *pair: block_of(*pair)),
    tuple: NetAdapter(lambda net: net[0], lambda net, *pair: block_of(*pair)),
}


def register_adapter(kind: type, adapter: NetAdapter) -> None:
    """Say how a kind of net is traced and rebuilt, if not by calling it."""
    NET_ADAPTERS[kind] = adapter


def adapter_of(net: Any) -> NetAdapter:
    """Return the adapter that a net carries, or else that of its nearest base type.

    Raises
    ------
    ValueError
        If it is not a HybridBlock nor a pair of symbol and parameters.
    """
    carried = getattr(net, "net_adapter", None)
    if isinstance(carried, NetAdapter):
        return carried
    pair = isinstance(net, tuple) and len(net) == 2
    if not isinstance(net, tuple) or (pair and isinstance(net[0], mx.sym.Symbol)):
        for base in type(net).__mro__:
            if base in NET_ADAPTERS:
                return NET_ADAPTERS[base]
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
    adapter = adapter_of(net)
    try:
        return adapter.symbol(net)
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


def trace(net: Any, shape: Any = None) -> Graph:
    """Return a net's symbol, values and channel groups.

    Parameters
    ----------
    net : HybridBlock or tuple
        A block that can be called with a symbol, or (symbol, params) with ``params``
        a dict of NDArrays; names may start with ``arg:`` and ``aux:``.
    shape : tuple or dict
        Shape of the input (batch, channels, height, width), or a shape by name for
        several inputs. A (symbol, params) pair has the inputs that are no parameters.
        May be left out for nets that state it: detectors, and whatever ``mask``,
        ``slim`` and the like return.

    Returns
    -------
    Graph
        Counting works without values; annotations in the net are looked through.

    Raises
    ------
    ValueError
        If the net does not trace, or the shape is needed or does not fit the net.
    """
    nodes, heads = strip(*symbols.take_apart(symbol_of(net)), [CHANNEL_MASK])
    params, settings = _values(net, nodes)
    annotated, plain, plain_heads = _looked_through(nodes, heads, params, settings)
    for name in (*annotated.params, *annotated.settings):
        params.pop(name, None)
        settings.pop(name, None)
    inputs = _inputs(plain, params, input_shape(net, shape))
    known = {n: v.shape for n, v in params.items() if v is not None}
    shapes = symbols.output_shapes(plain, plain_heads, {**known, **inputs})
    for name in symbols.variables(plain):
        if name not in inputs:
            params.setdefault(name, None)
    groups = find_groups(plain, plain_heads, shapes, inputs)
    return Graph(plain, plain_heads, params, settings, inputs, groups, annotated)


def input_shape(net: Any, shape: Any = None) -> Any:
    """Return the shape that is given, or else the one that the net states.

    Raises
    ------
    ValueError
        If there is neither.
    """
    shape = adapter_of(net).shape(net) if shape is None else shape
    if shape is None:
        raise ValueError(
            f"{type(net).__name__} does not state the shape of its input: give shape="
        )
    return shape


def _looked_through(
    nodes: list[dict], heads: list, params: Mapping, settings: Mapping
) -> tuple[Annotated, list[dict], list]:
    """Return the annotated symbol, and the nodes and heads of the plain one."""
    plain, plain_heads, kept = stripped(nodes, heads)
    numbers = dict(zip(kept, range(len(kept))))
    own = [node["name"] for node in nodes if is_parameter(node)]
    annotated = Annotated(
        nodes,
        heads,
        [numbers.get(i, -1) for i in range(len(nodes))],
        {name: params.get(name) for name in own},
        {name: settings[name] for name in own if name in settings},
        frozenset(a.target for a in annotations_of(nodes)) if own else frozenset(),
    )
    return annotated, plain, plain_heads


def _values(net: Any, nodes: Sequence[dict]) -> tuple[dict, dict]:
    """Return copies of the values that the nodes use, and how they are trained."""
    # MXNet's BatchNorm writes its running statistics on the way back, which its engine
    # does not know: a copy right after a step of training would be of those before.
    mx.nd.waitall()
    used, running = symbols.variables(nodes), symbols.states(nodes)
    marked = {node["name"] for node in nodes if symbols.CONSTANT in node["attrs"]}
    fixed = running | marked | {n["name"] for n in nodes if FIXED in n["attrs"]}
    if isinstance(net, tuple):
        given = {re.sub("^(arg|aux):", "", n): v for n, v in net[1].items()}
        params = {n: given[n].copy() for n in used if n in given}
        default = {}
        for name in params:
            trained = "null" if name in fixed else "write"
            default[name] = ParamAttrs(trained, constant=name in marked)
        return params, default
    given = {p.name: p for p in net.collect_params().values()}
    params, settings = {}, {}
    for name in used:
        if name in given:
            p = given[name]
            params[name] = None if p._data is None else p.list_data()[0].copy()
            constant = name in marked or isinstance(p, Constant)
            trained = "null" if constant else p.grad_req
            settings[name] = ParamAttrs(trained, p.lr_mult, p.wd_mult, constant)
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


def rebuild(net: Any, graph: Graph, symbol: mx.sym.Symbol, params: dict) -> Any:
    """Return a net of a symbol, of the kind and trained as the one it came from.

    Parameters
    ----------
    net : HybridBlock or (symbol, params)
        Left as it is.
    graph : Graph
        Of the net.
    symbol : Symbol
    params : dict
        Values of all its parameters. Those that the graph does not have are not
        trained.
    """
    result = adapter_of(net).rebuild(net, symbol, params)
    settings = {**graph.settings, **graph.annotated.settings}
    for parameter in result.collect_params().values():
        if parameter.name in settings:
            setting = settings[parameter.name]
            parameter.grad_req = setting.grad_req
            parameter.lr_mult, parameter.wd_mult = setting.lr_mult, setting.wd_mult
        elif parameter.name in params and parameter.name not in graph.params:
            parameter.grad_req = "null"
    devices = _devices(net)
    if len(devices) > 1:  # a graph has the values of the first
        result.collect_params().reset_ctx(devices)
    shapes = list(graph.inputs.values())
    result.input_shape = shapes[0] if len(shapes) == 1 else dict(graph.inputs)
    return result


def with_constant_mark(node: dict, settings: Mapping[str, ParamAttrs]) -> dict:
    """Return a node that says so if it is a constant, which no symbol tells."""
    attrs = settings.get(node["name"])
    if node["op"] != "null" or attrs is None or not attrs.constant:
        return node
    return {**node, "attrs": {**node["attrs"], symbols.CONSTANT: "1"}}


def _devices(net: Any) -> list[mx.Context]:
    """Return the devices that a net's parameters lie on."""
    if isinstance(net, tuple):
        return []
    values = (p for p in net.collect_params().values() if p._data is not None)
    return next((p.list_ctx() for p in values), [])


def annotate(
    net: Any,
    *,
    weights: Mapping[str, NewAnnotation] | None = None,
    outputs: Mapping[str, NewAnnotation] | None = None,
    shape: Any = None,
    graph: Graph | None = None,
) -> Any:
    """Return a net with masks of single weights or fake quantisers written into it.

    Tracing, counting, masking and slimming work on it as on the plain net, and slimming
    cuts the new parameters like the tensors they belong to.

    Parameters
    ----------
    net : HybridBlock or (symbol, params)
        Left as it is. With annotations or without, masked or not.
    weights, outputs : mapping
        Name of a parameter, or of an operator's node or a network input, to what is
        written between it and everything that reads it. Names are those of
        ``graph.nodes``. Where a layer is called several times, each of its outputs gets
        an annotation of its own.
    shape : tuple or dict, optional
        As for ``trace``.
    graph : Graph, optional
        Of this net as it is now, so that it is not traced again.

    Raises
    ------
    ValueError
        As for ``annotate_weight`` and ``annotate_output``, or if the net has no values.

    Examples
    --------
    A mask of single weights, which is not trained::

        def masked(x, mask):
            return mx.sym.broadcast_mul(x, mask)

        mask = AnnotationParameter(values, axes=(0, 1, 2, 3))
        net = annotate(net, weights={"conv0_weight": NewAnnotation(
            "weight_mask", masked, {"mask": mask})}, shape=(1, 3, 32, 32))
    """
    symbol, params = pair_of(net)
    graph = trace(net, shape) if graph is None else graph
    nodes, heads = symbols.take_apart(symbol)
    nodes = [with_constant_mark(node, graph.settings) for node in nodes]
    settings = dict(graph.annotated.settings)

    def add(target: str, new: NewAnnotation) -> None:
        for role, parameter in new.parameters.items():
            params[f"{target}_{role}"] = parameter.value
            trained = "write" if parameter.trained else "null"
            settings[f"{target}_{role}"] = ParamAttrs(trained)

    for name, new in (weights or {}).items():
        if name not in graph.params:
            raise ValueError(f"the net has no weight {name!r} to annotate")
        nodes, heads = annotate_weight(nodes, heads, name, params[name].shape, new)
        add(name, new)
    tensors: dict[str, list[Tensor]] = {}
    for node, outs in zip(graph.nodes, graph.tensors):
        if node["name"] not in graph.params:
            tensors.setdefault(node["name"], []).append(outs[0])
    for name, new in (outputs or {}).items():
        if name not in tensors:
            raise ValueError(f"the net has no output {name!r} to annotate")
        for call, tensor in enumerate(tensors[name]):
            nodes, heads = annotate_output(
                nodes, heads, name, tensor.shape, new, call=call
            )
            add(called(name, call), new)
    annotated = replace(graph.annotated, settings=settings)
    symbol = symbols.put_together(nodes, heads)
    return rebuild(net, replace(graph, annotated=annotated), symbol, params)
