"""Traces a net to its graph, and builds nets from symbols."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Callable, Mapping, Sequence

import mxnet as mx
import numpy as np
from mxnet import autograd
from mxnet.gluon import Constant, HybridBlock, Parameter, SymbolBlock

from gluon_compress.graph import symbols
from gluon_compress.graph.annotations import (
    CHANNEL_MASK,
    FIXED,
    Annotation,
    NewAnnotation,
    annotations_of,
    insert,
    is_parameter,
    of_output,
    of_weight,
    strip,
    stripped,
)
from gluon_compress.graph.channels import Tensor
from gluon_compress.graph.groups import ChannelGroup, Grouping, find_groups


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
        As ``symbols.take_apart`` returns them, without channel masks.
    plain : list
        For each node, its number in the plain symbol, -1 for nodes of annotations.
    params : dict
        Copies of the values of the annotations' parameters.
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
        """The annotations; sources are numbered as in ``nodes``."""
        return annotations_of(self.nodes)


@dataclass(frozen=True)
class Graph:
    """A net as nodes, values and channel groups; immutable.

    Parameters
    ----------
    nodes, heads
        The plain symbol, without any annotations, see ``symbols.take_apart``.
    params : dict
        Name to a copy of the value; None if a parameter has no value yet.
    settings : dict
        Name to ParamAttrs.
    inputs : dict
        Name to shape.
    grouping : Grouping
    annotated : Annotated
        The symbol with the annotations that slimming keeps.
    running : frozenset of str
        Names of the parameters that are running statistics.
    deployed : callable, optional
        Returns what ``inference`` does, where that is another graph.
    """

    nodes: list[dict]
    heads: list
    params: dict[str, Any]
    settings: dict[str, ParamAttrs]
    inputs: dict[str, tuple]
    grouping: Grouping
    annotated: Annotated
    running: frozenset[str]
    deployed: Callable[[], Graph] | None = field(default=None, compare=False)

    def inference(self) -> Graph:
        """Return the graph that runtimes get of the net, which may join layers.

        Its groups that may lose channels have the names that they have here.
        """
        return self if self.deployed is None else self.deployed()

    @property
    def groups(self) -> list[ChannelGroup]:
        """The channel groups, in the order of their first producers."""
        return self.grouping.groups

    @property
    def tensors(self) -> list[list[Tensor]]:
        """The outputs of each node."""
        return self.grouping.tensors

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
        """For each parameter, its axes that have removable channels."""
        return self.grouping.axes

    @property
    def blocks(self) -> dict[str, np.ndarray]:
        """For some parameters, the positions of each block of rows, if they differ."""
        return self.grouping.blocks

    @property
    def batch(self) -> int:
        """Samples in the traced batch."""
        return next(iter(self.inputs.values()))[0]

    def tensor(self, entry: Sequence) -> Tensor:
        """Return the tensor at ``(node, output, ...)``; of a weight, its first axis."""
        node = self.nodes[entry[0]]
        if node["name"] in self.axes and node["op"] == "null":
            return self.axes[node["name"]][0]
        return self.tensors[entry[0]][entry[1]]

    def kept_shape(self, entry: Sequence, keep_mask: np.ndarray) -> tuple[int, ...]:
        """Return the shape of a tensor or parameter under a keep mask."""
        node = self.nodes[entry[0]]
        shape = list(self.tensors[entry[0]][entry[1]].kept_shape(keep_mask))
        if node["op"] == "null":
            for tensor in self.axes.get(node["name"], ()):
                if tensor.axis is not None:
                    shape[tensor.axis] = tensor.kept_shape(keep_mask)[tensor.axis]
        return tuple(shape)

    def positions(self, group: ChannelGroup) -> np.ndarray:
        """Return the positions of a group's indices."""
        start = self.grouping.starts[group.name]
        return np.arange(start, start + group.width)

    def group(self, name: str) -> ChannelGroup:
        """Return a group by its name.

        Raises
        ------
        ValueError
            If there is no such group.
        """
        for group in self.groups:
            if group.name == name:
                return group
        raise ValueError(f"there is no group {name!r}")

    def keep_mask(self, keep: Mapping[str, Sequence[int]]) -> np.ndarray:
        """Return for every position, and for -1, whether it is kept."""
        total = sum(group.width for group in self.groups)
        mask = np.ones(total + 1, bool)
        for group in self.groups:
            if group.name in keep:
                start = self.grouping.starts[group.name]
                mask[start : start + group.width] = False
                mask[start + np.asarray(keep[group.name], int)] = True
        return mask


def stated_shape(net: Any) -> Any:
    """Return the input shape that a net states, or None.

    Nets that this package returns state the shape they were traced with in their
    attribute ``input_shape``.
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
        ``rebuild(net, symbol, params) -> net`` of the same kind, with these values.
    shape : callable
        ``shape(net) -> tuple, dict or None``: the input shape, as for ``trace``, if the
        net knows it.
    inference : callable, optional
        ``inference(net) -> (symbol, params)``: what runtimes get, if that is another
        symbol.
    """

    symbol: Callable[[Any], mx.sym.Symbol]
    rebuild: Callable[[Any, mx.sym.Symbol, dict], HybridBlock]
    shape: Callable[[Any], Any] = stated_shape
    inference: Callable[[Any], tuple] | None = None


def _call(net: HybridBlock) -> mx.sym.Symbol:
    """Call a net on the symbol ``data``, in training mode if possible.

    In training mode a detector returns its raw outputs. A net that draws random numbers
    in training (DropBlock) is called in inference mode.
    """
    try:
        symbol = _called(net, autograd.train_mode)
    except Exception:  # the net's code may raise anything without targets
        return _called(net, autograd.predict_mode)
    ops = {node["op"] for node in symbols.take_apart(symbol)[0]}
    if any(op.startswith(("_random_", "_sample_")) for op in ops):
        return _called(net, autograd.predict_mode)
    return symbol


def _called(net: HybridBlock, mode: Callable) -> mx.sym.Symbol:
    inputs = [mx.sym.var(name) for name in _input_names(net)]
    with mode():
        return mx.sym.Group(_flat(net(*inputs)))


def _input_names(net: HybridBlock) -> list[str]:
    """Return ``data``, or several names: those of a symbol, or ``data0``, ``data1``."""
    if isinstance(net, SymbolBlock):
        names = [symbol.name for symbol in net._cached_graph[0]]
        return names if len(names) > 1 else ["data"]
    parameters = list(inspect.signature(net.hybrid_forward).parameters.values())
    needed = [
        parameter
        for parameter in parameters[1:]  # the first is MXNet's namespace
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        and parameter.default is parameter.empty
        and parameter.name not in net._reg_params
    ]
    count = len(needed)
    return [f"data{i}" for i in range(count)] if count > 1 else ["data"]


def in_order(names: Sequence[str], first: Sequence[str]) -> list[str]:
    """Return names, those in ``first`` before the others and in its order."""
    known = [name for name in first if name in names]
    return [*known, *(name for name in names if name not in known)]


def inputs_of(net: Any, symbol: mx.sym.Symbol, params: Mapping) -> list[str]:
    """Return the names of a net's inputs, in the order in which it takes them."""
    free = [name for name in symbol.list_inputs() if name not in params]
    return in_order(free, _input_names(net) if isinstance(net, HybridBlock) else ())


def _flat(outputs: Any) -> list:
    if isinstance(outputs, mx.sym.Symbol):
        return [outputs]
    return [symbol for part in outputs for symbol in _flat(part)]


def block_of(
    symbol: mx.sym.Symbol, params: Mapping, inputs: Sequence[str] = ()
) -> SymbolBlock:
    """Return a block of a symbol; its inputs are the variables without a value.

    It takes them in the order of ``inputs``, or else in that of the symbol.
    """
    free = [name for name in symbol.list_inputs() if name not in params]
    free = in_order(free, inputs)
    # MXNet warns if an input's type is unknown or differs from the weights'.
    types = [value.dtype for value in params.values() if len(value.shape) > 1]
    inputs = [mx.sym.var(name, dtype=(types or ["float32"])[0]) for name in free]
    block = SymbolBlock(symbol, inputs)
    for name, parameter in block.collect_params().items():
        value = params[name]
        parameter.dtype = value.dtype
        give_value(parameter, value, value.ctx)
    return block


def give_value(
    parameter: Parameter, value: mx.nd.NDArray, ctx: mx.Context | None = None
) -> None:
    """Give a parameter that has no value a copy of one, and its shape.

    Parameters
    ----------
    parameter : Parameter
        Keeps its type.
    value : NDArray
    ctx : Context, optional
        Of the copy; by default the CPU.
    """
    parameter.shape = value.shape
    # Filling it with zeros first, as ``initialize`` does, takes most of the time.
    parameter._load_init(value, ctx, cast_dtype=True)


NET_ADAPTERS: dict[type, NetAdapter] = {
    HybridBlock: NetAdapter(
        _call, lambda net, symbol, params: block_of(symbol, params, _input_names(net))
    ),
    tuple: NetAdapter(lambda net: net[0], lambda net, *pair: block_of(*pair)),
}


def register_adapter(kind: type, adapter: NetAdapter) -> None:
    """Register how a kind of net is traced and rebuilt."""
    NET_ADAPTERS[kind] = adapter


def adapter_of(net: Any) -> NetAdapter:
    """Return the adapter of a net, or else the one of its nearest base class.

    Raises
    ------
    ValueError
        If it is neither a HybridBlock nor a pair of symbol and parameters.
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
    except Exception as error:  # the net's code may raise anything
        gist = str(error).strip().splitlines() or [""]
        raise ValueError(
            f"{type(net).__name__} does not trace to a symbol:{_layer(error)} "
            f"{type(error).__name__}: {gist[0]}"
        ) from error


def _layer(error: Exception) -> str:
    """Return the innermost layer that was being called when an error was raised."""
    layer, traceback = "", error.__traceback__
    while traceback is not None:
        frame = traceback.tb_frame
        block = frame.f_locals.get("self")
        if isinstance(block, HybridBlock) and frame.f_code.co_name != "__call__":
            layer = f" {type(block).__name__} {block.name!r}:"
        traceback = traceback.tb_next
    return layer


def pair_of(net: Any) -> tuple[mx.sym.Symbol, dict[str, mx.nd.NDArray]]:
    """Return a net as a pair of its symbol and the values of its parameters.

    Raises
    ------
    ValueError
        If the net does not trace, or a parameter has no value.
    """
    symbol = symbol_of(net)
    params, _ = _values(net, symbol, symbols.take_apart(symbol)[0])
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
        several inputs, which a block has as ``data0``, ``data1`` and so on. The inputs
        of a (symbol, params) pair are the variables without a value. Optional for nets
        that state it: detectors, and what ``mask``, ``slim`` and the like return.

    Returns
    -------
    Graph
        Values are optional, for counting for instance. Annotations are not part of it.

    Raises
    ------
    ValueError
        If the net does not trace, or the shape is needed or does not fit the net.
    """
    symbol = symbol_of(net)
    nodes, heads = strip(*symbols.take_apart(symbol), [CHANNEL_MASK])
    params, settings = _values(net, symbol, nodes)
    annotated, plain, plain_heads = _without_annotations(nodes, heads, params, settings)
    for name in (*annotated.params, *annotated.settings):
        params.pop(name, None)
        settings.pop(name, None)
    inputs = _inputs(plain, params, input_shape(net, shape))
    order = inputs_of(net, symbol, params)
    inputs = {name: inputs[name] for name in in_order(list(inputs), order)}
    stated = {n: v.shape for n, v in params.items() if v is not None}
    shapes = symbols.output_shapes(plain, plain_heads, {**stated, **inputs})
    for name in symbols.variables(plain):
        if name not in inputs:
            params.setdefault(name, None)
    groups = find_groups(plain, plain_heads, shapes, inputs)
    return Graph(
        *(plain, plain_heads, params, settings, inputs, groups, annotated),
        running=frozenset(symbol.list_auxiliary_states()),
        deployed=_deployed(net, inputs),
    )


def _deployed(net: Any, inputs: Mapping) -> Callable[[], Graph] | None:
    """Return what traces the graph that runtimes get of a net, once."""
    inference = adapter_of(net).inference
    if inference is None:
        return None
    return lru_cache(maxsize=None)(lambda: trace(inference(net), dict(inputs)))


def input_shape(net: Any, shape: Any = None) -> Any:
    """Return the given shape, or else the one that the net states.

    Raises
    ------
    ValueError
        If there is neither.
    """
    shape = adapter_of(net).shape(net) if shape is None else shape
    if shape is None:
        raise ValueError(
            f"{type(net).__name__} does not state the shape of its input: pass shape="
        )
    return shape


def _without_annotations(
    nodes: list[dict], heads: list, params: Mapping, settings: Mapping
) -> tuple[Annotated, list[dict], list]:
    """Return the annotated symbol, and the nodes and heads of the plain one."""
    plain, plain_heads, originals = stripped(nodes, heads)
    numbers = dict(zip(originals, range(len(originals))))
    names = [node["name"] for node in nodes if is_parameter(node)]
    annotated = Annotated(
        nodes,
        heads,
        [numbers.get(i, -1) for i in range(len(nodes))],
        {name: params.get(name) for name in names},
        {name: settings[name] for name in names if name in settings},
        frozenset(a.target for a in annotations_of(nodes)) if names else frozenset(),
    )
    return annotated, plain, plain_heads


def _values(
    net: Any, symbol: mx.sym.Symbol, nodes: Sequence[dict]
) -> tuple[dict, dict]:
    """Return copies of the values that nodes of a symbol use, and how they train."""
    # BatchNorm writes running statistics in its backward pass, of which MXNet's engine
    # does not know: right after a training step, a copy would have the old ones.
    mx.nd.waitall()
    used, running = symbols.variables(nodes), set(symbol.list_auxiliary_states())
    marked = {node["name"] for node in nodes if symbols.CONSTANT in node["attrs"]}
    fixed = running | marked | {n["name"] for n in nodes if FIXED in n["attrs"]}
    if isinstance(net, tuple):
        values = {re.sub("^(arg|aux):", "", n): v for n, v in net[1].items()}
        params = {n: values[n].copy() for n in used if n in values}
        default = {}
        for name in params:
            trained = "null" if name in fixed else "write"
            default[name] = ParamAttrs(trained, constant=name in marked)
        return params, default
    parameters = {p.name: p for p in net.collect_params().values()}
    params, settings = {}, {}
    for name in used:
        if name in parameters:
            p = parameters[name]
            params[name] = None if p._data is None else p.list_data()[0].copy()
            constant = name in marked or isinstance(p, Constant)
            trained = "null" if constant else p.grad_req
            settings[name] = ParamAttrs(trained, p.lr_mult, p.wd_mult, constant)
    return params, settings


def _inputs(nodes: Sequence[dict], params: Mapping, shape: Any) -> dict[str, tuple]:
    free = [name for name in symbols.variables(nodes) if name not in params]
    if not isinstance(shape, Mapping):
        # If there are no values at all, the other variables are parameters.
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
    sequence = isinstance(shape, (tuple, list)) and len(shape) > 0
    if not sequence or not all(
        isinstance(n, (int, np.integer)) and n > 0 for n in shape
    ):
        raise ValueError(f"shape {shape!r} is not a tuple of whole numbers above 0")
    return tuple(int(n) for n in shape)


def rebuild(net: Any, graph: Graph, symbol: mx.sym.Symbol, params: dict) -> Any:
    """Return a net of a symbol, of the same kind as a net and trained in the same way.

    Parameters
    ----------
    net : HybridBlock or (symbol, params)
        Not changed.
    graph : Graph
        The graph of the net.
    symbol : Symbol
    params : dict
        Values of all its parameters. Parameters that are not in the graph are not
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
    """Return a node, marked if it is a constant, which symbols do not store."""
    attrs = settings.get(node["name"])
    if node["op"] != "null" or attrs is None or not attrs.constant:
        return node
    return {**node, "attrs": {**node["attrs"], symbols.CONSTANT: "1"}}


def _devices(net: Any) -> list[mx.Context]:
    """Return the devices of a net's parameters."""
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
    """Return a net with weight masks or fake quantisers inserted.

    Tracing, counting, masking and slimming treat it like the plain net; slimming cuts
    the new parameters like the tensors they belong to.

    Parameters
    ----------
    net : HybridBlock or (symbol, params)
        Not changed. It may have annotations and masks already.
    weights, outputs : mapping
        Name of a parameter, or of an operator's node or a network input, as in
        ``graph.nodes``, to the annotation between it and its readers. If a layer is
        called several times, each of its outputs gets its own annotation.
    shape : tuple or dict, optional
        As for ``trace``.
    graph : Graph, optional
        The current graph of this net, to avoid tracing it again.

    Raises
    ------
    ValueError
        As for ``annotations.insert``, or if the net has no values, weight or output of
        a name.

    Examples
    --------
    A weight mask, which is not trained::

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
    insertions = []
    for name, annotation in (weights or {}).items():
        if name not in graph.params:
            raise ValueError(f"the net has no weight {name!r} to annotate")
        insertions.append(of_weight(nodes, name, params[name].shape, annotation))
    tensors: dict[str, list[Tensor]] = {}
    for node, outs in zip(graph.nodes, graph.tensors):
        if node["name"] not in graph.params:
            tensors.setdefault(node["name"], []).append(outs[0])
    for name, annotation in (outputs or {}).items():
        if name not in tensors:
            raise ValueError(f"the net has no output {name!r} to annotate")
        for call, tensor in enumerate(tensors[name]):
            shape = tensor.shape
            insertions.append(of_output(nodes, name, shape, annotation, call=call))
    nodes, heads = insert(nodes, heads, insertions)
    settings = dict(graph.annotated.settings)
    for row in insertions:
        for role, parameter in row.new.parameters.items():
            params[f"{row.target}_{role}"] = parameter.value
            trained = "write" if parameter.trained else "null"
            settings[f"{row.target}_{role}"] = ParamAttrs(trained)
    annotated = replace(graph.annotated, settings=settings)
    symbol = symbols.put_together(nodes, heads)
    return rebuild(net, replace(graph, annotated=annotated), symbol, params)
