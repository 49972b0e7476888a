"""Annotations of a symbol: masks and fake quantisers that tracing looks through.

An annotation is a small subgraph between a tensor, its *source*, and all readers of the
tensor. It works element by element and has its own parameters::

    conv0_weight --> [broadcast_mul] --> conv0        kind: weight_mask
                          ^
                  conv0_weight_mask

Its nodes have a mark, an attribute of the symbol, which survives saving, loading and
composing. ``strip`` removes annotations, which leaves the plain symbol, ``insert``
adds new ones, and ``annotations_of`` lists them. Tracing, counting and timing see the
plain symbol.
Slimming cuts the parameters of an annotation like the tensor it belongs to: each
parameter states the axes of that tensor along which its own axes lie.

There are four kinds. ``prune.mask`` writes a ``channel_mask``, which slimming drops.
``weight_mask``, ``fake_quant`` and ``binary`` stay.

For masking and slimming to agree, an annotation must compute every element from the
same element of its source, and map zero to zero.
"""

from __future__ import annotations

import ast
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Callable, Collection, Mapping, Sequence

import mxnet as mx
import numpy as np
from mxnet.ndarray.ndarray import _DTYPE_NP_TO_MX

from gluon_compress.graph import rules
from gluon_compress.graph.operators import operator_of
from gluon_compress.graph.symbols import (
    put_together,
    reachable,
    take_apart,
    variables,
)

CHANNEL_MASK, WEIGHT_MASK, FAKE_QUANT = "channel_mask", "weight_mask", "fake_quant"
BINARY = "binary"
STAYING = (WEIGHT_MASK, FAKE_QUANT, BINARY)  # when channels are removed
KINDS = (CHANNEL_MASK, *STAYING)

# Attributes that mark annotations. The value on an operator is the annotation's name,
# on a parameter its role, and on the parameter of a channel mask the group's name.
MARKS = {kind: f"__{kind}__" for kind in KINDS}
AXES = "__annotation_axes__"  # axes of the source along which a parameter's axes lie
FIXED = "__annotation_fixed__"  # on parameters that are not trained

SHAPED = "_shaped"  # suffix of nodes that reshape parameters for broadcasting


@dataclass(frozen=True)
class Annotation:
    """An annotation in a symbol.

    Parameters
    ----------
    kind, name : str
    target : str
        The node whose output is annotated: a parameter's name, or a layer's.
    source : tuple of int
        The annotated tensor: number of the node, and of its output.
    parameters : tuple of str
        The variables of the annotation.
    """

    kind: str
    name: str
    target: str
    source: tuple[int, int]
    parameters: tuple[str, ...]


@dataclass(frozen=True)
class AnnotationParameter:
    """A parameter of a new annotation.

    Parameters
    ----------
    value : NDArray
    axes : tuple of int
        For each axis of the value, the axis of the annotated tensor along which it
        lies: ``(0,)`` for a scale per output channel of a convolution's weight,
        ``(1,)`` for one per channel of a map ``(B, C, H, W)``, all axes for a weight
        mask. Empty for a scalar.
    trained : bool
    """

    value: mx.nd.NDArray
    axes: tuple[int, ...] = ()
    trained: bool = False


@dataclass(frozen=True)
class NewAnnotation:
    """An annotation to be inserted into a symbol.

    Parameters
    ----------
    kind : str
        One of ``STAYING``.
    build : callable
        ``build(x, **parameters) -> Symbol``: the annotated tensor. The parameters have
        shapes that broadcast against the tensor ``x``. Only operators that work element
        by element are allowed.
    parameters : mapping
        Role to ``AnnotationParameter``. The variable of a role is named
        ``<node>_<role>``.
    """

    kind: str
    build: Callable[..., mx.sym.Symbol]
    parameters: Mapping[str, AnnotationParameter] = field(default_factory=dict)


# Reading.


def strip(
    nodes: Sequence[dict], heads: Sequence, kinds: Collection[str] = KINDS
) -> tuple[list[dict], list]:
    """Return the symbol without annotations of some kinds.

    Parameters
    ----------
    nodes, heads
        As ``symbols.take_apart`` returns them; not changed.
    kinds : collection of str
        Some of ``KINDS``.

    Raises
    ------
    ValueError
        If an annotation reads more than one tensor.
    """
    nodes, heads, _ = stripped(nodes, heads, kinds)
    return nodes, heads


def stripped(
    nodes: Sequence[dict], heads: Sequence, kinds: Collection[str] = KINDS
) -> tuple[list[dict], list, list[int]]:
    """As ``strip``; the third value is the old numbers of the remaining nodes."""
    scan = _Scan(nodes, kinds)
    return reachable(scan.nodes, scan.moved(heads))


class _Scan:
    """One pass over a symbol that finds the nodes of annotations.

    Attributes
    ----------
    sources : dict
        For each node of an annotation that reads a tensor, the source it stands for.
    variables : dict
        For each node computed from annotation parameters alone, these variables.
    members : dict
        For each node in ``sources``, kind and name of its annotation.
    nodes : list of dict
        The nodes, reading sources instead of annotations.
    """

    def __init__(self, nodes: Sequence[dict], kinds: Collection[str]) -> None:
        marks = {MARKS[kind]: kind for kind in KINDS if kind in kinds}
        self.sources: dict[int, list] = {}
        self.variables: dict[int, tuple[str, ...]] = {}
        self.members: dict[int, tuple[str, str]] = {}
        self.nodes = []
        for i, node in enumerate(nodes):
            node = {**node, "inputs": self.moved(node["inputs"])}
            self.nodes.append(node)
            kind = None
            if not marks.keys().isdisjoint(node["attrs"]):
                kind = next(marks[key] for key in marks if key in node["attrs"])
            outside = [e for e in node["inputs"] if e[0] not in self.variables]
            if not outside and (kind or node["inputs"]):
                self.variables[i] = self._variables(node)
            elif kind or self._is_unmarked_mask(node, kinds):
                self._check_source(node, outside)
                name = node["attrs"][MARKS[kind]] if kind else node["name"]
                self.members[i] = (kind or CHANNEL_MASK, name)
                self.sources[i] = outside[0]

    def moved(self, entries: Sequence) -> list:
        """Return entries with annotations replaced by their sources."""
        return [self.sources.get(e[0], e) for e in entries]

    def _variables(self, node: dict) -> tuple[str, ...]:
        if node["op"] == "null":
            return (node["name"],)
        names = [name for e in node["inputs"] for name in self.variables[e[0]]]
        return tuple(dict.fromkeys(names))

    def _is_unmarked_mask(self, node: dict, kinds: Collection[str]) -> bool:
        """Recognise channel masks of earlier versions, which marked only variables."""
        if node["op"] != "broadcast_mul" or CHANNEL_MASK not in kinds:
            return False
        return [e[0] in self.variables for e in node["inputs"]] == [False, True]

    def _check_source(self, node: dict, outside: Sequence) -> None:
        if any(e[:2] != outside[0][:2] for e in outside):
            names = sorted({self.nodes[e[0]]["name"] for e in outside})
            raise ValueError(
                f"annotation node {node['name']!r} reads {', '.join(names)}; allowed: "
                "one tensor"
            )


def annotations_of(
    nodes: Sequence[dict], kinds: Collection[str] = KINDS
) -> list[Annotation]:
    """Return the annotations of a symbol, in the order of its nodes.

    Parameters
    ----------
    nodes : sequence
        As ``symbols.take_apart`` returns them.
    kinds : collection of str
        Some of ``KINDS``.
    """
    scan = _Scan(nodes, kinds)
    sources: dict[tuple[str, str], list] = {}
    parameters: dict[tuple[str, str], dict] = {}
    for i, key in scan.members.items():
        sources.setdefault(key, scan.sources[i])
        for entry in scan.nodes[i]["inputs"]:
            names = dict.fromkeys(scan.variables.get(entry[0], ()))
            parameters.setdefault(key, {}).update(names)
    return [
        Annotation(
            kind, name, nodes[i]["name"], (i, out), tuple(parameters[kind, name])
        )
        for (kind, name), (i, out, *_) in sources.items()
    ]


def of_kind(nodes: Sequence[dict], kind: str) -> list[Annotation]:
    """Return the annotations of a kind, each of the tensor below all annotations.

    ``annotations_of(nodes, [kind])`` takes the others for part of the plain symbol: of
    two annotations of a weight, the second has the first one's node as its source.
    """
    return [a for a in annotations_of(nodes) if a.kind == kind]


def weights_below(nodes: Sequence[dict], kind: str) -> dict[str, mx.sym.Symbol]:
    """Return what the annotations of a kind read of each annotated parameter.

    It is the parameter itself, or what the annotations before make of it: a weight
    under its mask.
    """
    sources = {a.name: a.source for a in annotations_of(nodes, [kind])}
    return {
        a.target: put_together(nodes, [[*sources[a.name], 0]])
        for a in of_kind(nodes, kind)
        if nodes[a.source[0]]["op"] == "null"
    }


def sources_of(nodes: Sequence[dict]) -> dict[int, tuple[int, int]]:
    """Return the annotated tensor of every node that computes an annotation."""
    return {i: (e[0], e[1]) for i, e in _Scan(nodes, KINDS).sources.items()}


def is_parameter(node: dict) -> bool:
    """Tell whether a node is a variable that belongs to annotations."""
    return node["op"] == "null" and not set(MARKS.values()).isdisjoint(node["attrs"])


def mask_names(nodes: Sequence[dict]) -> dict[str, str]:
    """Return the variable of each masked group, by the group's name."""
    mark = MARKS[CHANNEL_MASK]
    pairs = ((n["attrs"].get(mark), n["name"]) for n in nodes if n["op"] == "null")
    return {group: name for group, name in pairs if group}


def parameter_axes(node: dict) -> tuple[int, ...]:
    """Return the axes of the annotated tensor along which a parameter's axes lie."""
    text = node["attrs"].get(AXES)
    return () if text is None else ast.literal_eval(text)


# Writing.


def marked(node: dict, kind: str, name: str) -> dict:
    """Return a node with the mark of an annotation."""
    return {**node, "attrs": {**node["attrs"], MARKS[kind]: name}}


def parameter_node(
    name: str, kind: str, role: str, shape: Sequence[int], dtype: Any
) -> dict:
    """Return the variable of an annotation's parameter."""
    attrs = {
        MARKS[kind]: role,
        "__shape__": str(tuple(shape)),  # cannot be inferred from the input
        "__dtype__": str(_DTYPE_NP_TO_MX[np.dtype(dtype).type]),
    }
    return {"op": "null", "name": name, "attrs": attrs, "inputs": []}


@dataclass(frozen=True)
class Insertion:
    """A new annotation, and the tensor that gets it: the first output of a node.

    Parameters
    ----------
    node : int
        Number of the node.
    target : str
        Prefix of the annotation's parameters.
    shape : tuple of int
        Of the tensor.
    new : NewAnnotation
    is_weight : bool
        Whether the tensor is a parameter.
    """

    node: int
    target: str
    shape: tuple[int, ...]
    new: NewAnnotation
    is_weight: bool = False


def of_weight(
    nodes: Sequence[dict], weight: str, shape: Sequence[int], new: NewAnnotation
) -> Insertion:
    """Return the insertion of an annotation of a weight.

    If the weight has annotations already, the new one is applied after them.

    Parameters
    ----------
    nodes
        As ``symbols.take_apart`` returns them.
    weight : str
        Name of a variable.
    shape : sequence of int
        Shape of the weight.
    new : NewAnnotation

    Raises
    ------
    ValueError
        If there is no such variable.
    """
    numbers = [i for i, n in enumerate(nodes) if n["op"] == "null"]
    number = next((i for i in numbers if nodes[i]["name"] == weight), None)
    if number is None or is_parameter(nodes[number]):
        raise ValueError(f"the net has no weight {weight!r} to annotate")
    return Insertion(number, weight, tuple(shape), new, is_weight=True)


def of_output(
    nodes: Sequence[dict],
    layer: str,
    shape: Sequence[int],
    new: NewAnnotation,
    *,
    call: int = 0,
) -> Insertion:
    """Return the insertion of an annotation of a node's first output.

    Channel masks of the output are applied after the annotation.

    Parameters
    ----------
    nodes
        As ``symbols.take_apart`` returns them.
    layer : str
        Name of the operator's node, or of an input of the network.
    shape : sequence of int
        Shape of the output.
    new : NewAnnotation
    call : int
        Which of the nodes of this name, if a layer is called several times.

    Raises
    ------
    ValueError
        If there is no such node.
    """
    numbers = [i for i, node in enumerate(nodes) if node["name"] == layer]
    if call >= len(numbers):
        raise ValueError(f"the net has {len(numbers)} nodes {layer!r} to annotate")
    target = f"{layer}.{call + 1}" if call else layer
    return Insertion(numbers[call], target, tuple(shape), new)


def insert(
    nodes: Sequence[dict], heads: Sequence, insertions: Sequence[Insertion]
) -> tuple[list[dict], list]:
    """Return a symbol with new annotations between tensors and their readers.

    Parameters
    ----------
    nodes, heads
        As ``symbols.take_apart`` returns them; not changed.
    insertions : sequence of Insertion
        Each of another tensor.

    Raises
    ------
    ValueError
        If a parameter exists already or does not fit the shape, or an annotation does
        not work element by element.
    """
    earlier = Counter((a.kind, a.source) for a in annotations_of(nodes))
    scan = _Scan(nodes, STAYING)
    ends = {tuple(e[:2]): i for i, e in scan.sources.items()}  # the last one counts
    nodes, used = list(nodes), set(variables(nodes))
    built: dict[int, tuple[list[dict], int]] = {}
    for row in insertions:
        source, new = (row.node, 0), row.new
        number = earlier[new.kind, source]
        name = f"{row.target}_{new.kind}" + (f"_{number}" if number else "")
        for role, parameter in new.parameters.items():
            _check_parameter(f"{row.target}_{role}", parameter, row.shape, used)
            used.add(f"{row.target}_{role}")
        end = ends.get(source, row.node)
        assert end not in built, row
        built[end] = _built(row.target, name, len(row.shape), new)
        if row.is_weight:  # a shape that no layer reads directly cannot be inferred
            attrs = {**nodes[row.node]["attrs"], "__shape__": str(row.shape)}
            nodes[row.node] = {**nodes[row.node], "attrs": attrs}
    return _joined(nodes, heads, built)


def _joined(
    nodes: Sequence[dict],
    heads: Sequence,
    built: Mapping[int, tuple[list[dict], int]],
) -> tuple[list[dict], list]:
    """Return the symbol with what ``_built`` returns behind the nodes of these numbers.

    What has read a node's first output reads the result instead.
    """
    result: list[dict] = []
    numbers: list[int] = []
    results: dict[int, int] = {}

    def moved(entry: Sequence) -> list:
        if entry[0] in results and entry[1] == 0:
            return [results[entry[0]], 0, 0]
        return [numbers[entry[0]], *entry[1:]]

    for i, node in enumerate(nodes):
        start = len(result)
        numbers.append(start)
        result.append({**node, "inputs": [moved(e) for e in node["inputs"]]})
        if i in built:
            (_, *inner), head = built[i]  # the first stands for the node
            for part in inner:
                inputs = [[start + e[0], *e[1:]] for e in part["inputs"]]
                result.append({**part, "inputs": inputs})
            results[i] = start + head
    return result, [moved(head) for head in heads]


def _check_parameter(
    name: str, parameter: AnnotationParameter, shape: Sequence[int], used: set
) -> None:
    if name in used:
        raise ValueError(f"the net has a parameter {name!r} already")
    lengths, axes = parameter.value.shape, parameter.axes
    is_scalar = not axes and parameter.value.size == 1
    fits = len(lengths) == len(axes) and all(
        axis < len(shape) and n in (1, shape[axis]) for n, axis in zip(lengths, axes)
    )
    if not is_scalar and not fits:
        raise ValueError(
            f"annotation parameter {name!r} of shape {lengths} does not lie along the "
            f"axes {axes} of a tensor of shape {tuple(shape)}"
        )


def _built(
    target: str, name: str, ndim: int, new: NewAnnotation
) -> tuple[list[dict], int]:
    """Return an annotation's nodes, the source first, and the number of its result."""
    roles = {f"{target}_{role}": role for role in new.parameters}
    tensor = mx.sym.var(name)
    ready = {
        role: _broadcast_ready(
            mx.sym.var(variable), new.parameters[role], ndim, variable
        )
        for variable, role in roles.items()
    }
    symbol = new.build(tensor, **ready)
    nodes, heads = take_apart(symbol)
    if len(heads) != 1 or name not in variables(nodes):
        raise ValueError(f"annotation {name!r} must compute one tensor from its source")
    result = []
    for node in nodes:
        if node["name"] in roles and node["op"] == "null":
            result.append(_parameter(node["name"], roles[node["name"]], new))
        elif node["op"] == "null" and node["name"] != name:
            raise ValueError(
                f"annotation {name!r} has an unknown input {node['name']!r}"
            )
        else:
            result.append(marked(_checked(node, name), new.kind, name))
            # MXNet's automatic names contain counters of the process.
            if node["op"] != "null" and not node["name"].endswith(SHAPED):
                result[-1]["name"] = f"{name}_{len(result)}"
    _check_zero(
        symbol, name, ndim, {n: new.parameters[role] for n, role in roles.items()}
    )
    order = [i for i, n in enumerate(nodes) if n["op"] == "null" and n["name"] == name]
    order += [i for i in range(len(nodes)) if i != order[0]]
    number_of = {old: number for number, old in enumerate(order)}
    moved = [
        {
            **result[i],
            "inputs": [[number_of[e[0]], *e[1:]] for e in result[i]["inputs"]],
        }
        for i in order
    ]
    return moved, number_of[heads[0][0]]


def _check_zero(
    symbol: mx.sym.Symbol,
    name: str,
    ndim: int,
    parameters: Mapping[str, AnnotationParameter],
) -> None:
    """Refuse an annotation that does not map zero to zero.

    Removed channels are zero in a masked net, and must be zero after annotations.
    """
    shape = [1] * ndim
    for parameter in parameters.values():
        for n, axis in zip(parameter.value.shape, parameter.axes):
            shape[axis] = max(shape[axis], n)
    values = {variable: p.value for variable, p in parameters.items()}
    first = next(iter(values.values()), mx.nd.zeros(1))
    zeros = mx.nd.zeros(tuple(shape), ctx=first.context, dtype=first.dtype)
    used = set(symbol.list_inputs())
    values = {n: value for n, value in values.items() if n in used}
    (result,) = symbol.eval(ctx=first.context, **{name: zeros}, **values)
    if result.asnumpy().any():
        raise ValueError(f"annotation {name!r} does not map zero to zero")


def _broadcast_ready(
    variable: mx.sym.Symbol, parameter: AnnotationParameter, ndim: int, name: str
) -> mx.sym.Symbol:
    """Return a parameter in a shape that broadcasts against the annotated tensor."""
    axes = parameter.axes
    if not axes or axes == tuple(range(ndim)):
        return variable
    if len(axes) == 1:
        shape = tuple(-1 if axis == axes[0] else 1 for axis in range(ndim))
    elif axes == tuple(range(len(axes))):
        shape = tuple(0 if axis in axes else 1 for axis in range(ndim))
    else:
        raise ValueError(
            f"annotation parameter {name!r} lies along the axes {axes}; allowed: one "
            "axis, the first ones, or all"
        )
    return mx.sym.Reshape(variable, shape=shape, name=name + SHAPED)


def _parameter(name: str, role: str, new: NewAnnotation) -> dict:
    parameter = new.parameters[role]
    value = parameter.value
    node = parameter_node(name, new.kind, role, value.shape, value.dtype)
    node["attrs"][AXES] = str(tuple(parameter.axes))
    if not parameter.trained:
        node["attrs"][FIXED] = "1"
    return node


def _checked(node: dict, name: str) -> dict:
    """Refuse an operator that does not work element by element."""
    elementwise = operator_of(node["op"]).rule in (rules.same, rules.elementwise)
    shaped = node["op"] == "Reshape" and node["name"].endswith(SHAPED)
    if node["op"] != "null" and not elementwise and not shaped:
        raise ValueError(
            f"annotation {name!r} has the operator {node['op']}; allowed: operators "
            "that work element by element"
        )
    return node


# Baking.


def bake_weights(
    nodes: Sequence[dict], heads: Sequence, params: Mapping[str, mx.nd.NDArray]
) -> tuple[list[dict], list, dict[str, mx.nd.NDArray]]:
    """Return a symbol with the annotations of weights applied to their values.

    The net computes the same. Annotations of outputs and channel masks stay.

    Parameters
    ----------
    nodes, heads
        As ``symbols.take_apart`` returns them; not changed.
    params : mapping
        Values of all parameters; not changed.
    """
    scan = _Scan(nodes, STAYING)
    weights = {
        i: entry
        for i, entry in scan.sources.items()
        if nodes[entry[0]]["op"] == "null" and nodes[entry[0]]["name"] in params
    }
    if not weights:
        return list(nodes), list(heads), dict(params)
    ends = {entry[0]: i for i, entry in weights.items()}  # the last one is the result
    symbol = put_together(nodes, [[end, 0, 0] for end in ends.values()])
    needed = {name: params[name] for name in symbol.list_inputs()}
    values = symbol.eval(ctx=next(iter(needed.values())).context, **needed)
    names = [nodes[i]["name"] for i in ends]

    def moved(entries: Sequence) -> list:
        return [weights.get(e[0], e) for e in entries]

    plain = [{**node, "inputs": moved(node["inputs"])} for node in nodes]
    plain, heads, _ = reachable(plain, moved(heads))
    used = set(variables(plain))
    unchanged = {name: value for name, value in params.items() if name in used}
    return plain, heads, {**unchanged, **dict(zip(names, values))}
