"""Takes symbols apart into nodes, puts them together, and infers shapes.

A node is a dict as in MXNet's JSON: ``op`` ("null" for a variable), ``name``, ``attrs``
(text to text) and ``inputs``, a list of ``[node, output, version]``.
"""

from __future__ import annotations

import ast
import json
import re
from functools import lru_cache
from typing import Any, Mapping, Sequence

import mxnet as mx

# Marks constants such as anchors, which symbols do not distinguish from parameters.
CONSTANT = "__constant_value__"


def take_apart(symbol: mx.sym.Symbol) -> tuple[list[dict], list]:
    """Return the nodes of a symbol in topological order, and its heads."""
    stored = json.loads(symbol.tojson())
    nodes = [{"attrs": {}, **node} for node in stored["nodes"]]
    return nodes, stored["heads"]


def put_together(nodes: Sequence[dict], heads: Sequence) -> mx.sym.Symbol:
    """Return the symbol of nodes, without those that no head needs."""
    nodes, heads, _ = reachable(nodes, heads)
    stored = {
        "nodes": nodes,
        "arg_nodes": [i for i, node in enumerate(nodes) if node["op"] == "null"],
        "heads": heads,
        "attrs": {"mxnet_version": ["int", _version()]},
    }
    return mx.sym.load_json(json.dumps(stored))


def replaced(
    nodes: Sequence[dict],
    heads: Sequence,
    number: int,
    form: mx.sym.Symbol,
    inputs: Mapping[str, Sequence],
) -> tuple[list[dict], list]:
    """Return nodes and heads with another subgraph in place of a node.

    Parameters
    ----------
    nodes, heads
        As ``take_apart`` returns them; not changed.
    number : int
        Of the node, which has one output.
    form : Symbol
        With one output, what is computed instead, by operators of one output.
    inputs : mapping
        Names of variables of ``form`` to the entries of earlier nodes that they are.
    """
    built, [[end, *_]] = take_apart(form)
    result, places = list(nodes[:number]), {}
    for i, node in enumerate(built):
        if node["name"] in inputs:
            places[i] = list(inputs[node["name"]])
            continue
        moved = [
            places[entry[0]] if entry[1] == 0 else entry for entry in node["inputs"]
        ]
        result.append({**node, "inputs": moved})
        places[i] = [len(result) - 1, 0, 0]
    shift = len(result) - number - 1

    def after(entry: Sequence) -> list:
        if entry[0] == number:
            return places[end]
        return [entry[0] + shift * (entry[0] > number), *entry[1:]]

    rest = [
        {**n, "inputs": [after(e) for e in n["inputs"]]} for n in nodes[number + 1 :]
    ]
    return [*result, *rest], [after(head) for head in heads]


def text_of(symbol: mx.sym.Symbol) -> str:
    """Return a symbol's JSON without how often this process has called it.

    MXNet counts that in the version of each running statistic.
    """

    def without_versions(line: re.Match) -> str:
        return re.sub(r"\[(\d+), (\d+), \d+\]", r"[\1, \2, 0]", line[0])

    lines = re.compile(r'^ *"(?:inputs|heads)": \[\[.*$', re.MULTILINE)
    return lines.sub(without_versions, symbol.tojson())


def _version() -> int:
    major, minor, patch = (int(part) for part in mx.__version__.split(".")[:3])
    return major * 10000 + minor * 100 + patch


def reachable(
    nodes: Sequence[dict], heads: Sequence
) -> tuple[list[dict], list, list[int]]:
    """Return the nodes that heads need, the heads, and the nodes' old numbers."""
    needed = {head[0] for head in heads}
    for i in range(len(nodes) - 1, -1, -1):
        if i in needed:
            needed.update(entry[0] for entry in nodes[i]["inputs"])
    old_numbers = sorted(needed)
    new_numbers = {old: new for new, old in enumerate(old_numbers)}

    def moved(entries: Sequence) -> list:
        return [[new_numbers[e[0]], *e[1:]] for e in entries]

    result = [{**nodes[i], "inputs": moved(nodes[i]["inputs"])} for i in old_numbers]
    return result, moved(heads), old_numbers


def variables(nodes: Sequence[dict]) -> list[str]:
    """Return the names of all variables, in the order of the nodes."""
    return [node["name"] for node in nodes if node["op"] == "null"]


def states(nodes: Sequence[dict]) -> set[str]:
    """Return the names of the variables that are running statistics."""
    symbol = put_together(nodes, [[i, 0, 0] for i in range(len(nodes))])
    return set(symbol.list_auxiliary_states())


def output_shapes(
    nodes: Sequence[dict], heads: Sequence, variable_shapes: Mapping[str, tuple]
) -> list[list[tuple]]:
    """Return the shapes of every node's outputs.

    Parameters
    ----------
    nodes, heads
        As ``take_apart`` returns them.
    variable_shapes : mapping
        Shapes of the inputs, and of other variables if known.

    Raises
    ------
    ValueError
        If shapes contradict each other or do not suffice.
    """
    # Names can occur twice in a symbol, and its list of outputs has names only.
    renamed, shapes = [], {}
    for i, node in enumerate(nodes):
        attrs = {k: v for k, v in node["attrs"].items() if not k.startswith("__")}
        stated = _stated_shape(node)
        if node["op"] == "null" and (node["name"] in variable_shapes or stated):
            shapes[f"n{i}"] = variable_shapes.get(node["name"], stated)
        renamed.append({**node, "name": f"n{i}", "attrs": attrs})
    internals = put_together(renamed, heads).get_internals()
    try:  # the strict function prints when it fails
        _, inferred, _ = internals.infer_shape_partial(**shapes)
    except mx.MXNetError as error:
        raise ValueError(f"shapes do not fit: {_gist(error, nodes)}") from None
    result: list[list[tuple]] = [[] for _ in nodes]
    for name, shape in zip(internals.list_outputs(), inferred):
        i = int(name.split("_")[0][1:])
        if not shape or not all(n > 0 for n in shape):
            raise ValueError(
                f"the shape of {nodes[i]['name']!r} does not follow from "
                f"{ {name: tuple(shape) for name, shape in variable_shapes.items()} }"
            )
        result[i].append(tuple(shape))
    return result


def infer_shapes(
    symbol: mx.sym.Symbol, shapes: Mapping[str, tuple]
) -> tuple[dict[str, tuple], list[tuple]]:
    """Return the shapes of a symbol's variables, by name, and of its outputs.

    Parameters
    ----------
    symbol : Symbol
    shapes : mapping
        Shapes of the inputs and of all parameters that have one: that of a learned
        scale, for instance, does not follow from the input.

    Raises
    ------
    ValueError
        If shapes contradict each other or do not suffice.
    """
    names = symbol.list_inputs()
    given = {name: tuple(shape) for name, shape in shapes.items() if name in names}
    try:  # the strict function prints when it fails
        arguments, outputs, states = symbol.infer_shape_partial(**given)
    except mx.MXNetError as error:
        line = str(error).strip().splitlines()[0]
        raise ValueError(f"shapes do not fit: {line}") from None
    names = symbol.list_arguments() + symbol.list_auxiliary_states()
    variable_shapes = dict(zip(names, arguments + states))
    results = dict(zip(symbol.list_outputs(), outputs))
    for name, shape in {**variable_shapes, **results}.items():
        if not shape or not all(n > 0 for n in shape):
            raise ValueError(f"the shape of {name!r} does not follow from those given")
    return variable_shapes, outputs


def shapes_of(values: Mapping[str, Any]) -> dict[str, tuple]:
    """Return the shapes of arrays or Gluon parameters, as far as they are complete."""
    shapes = {name: value.shape for name, value in values.items()}
    return {n: tuple(s) for n, s in shapes.items() if s and all(k > 0 for k in s)}


def _stated_shape(node: dict) -> tuple | None:
    """Return the shape a variable was declared with, if it is complete."""
    text = node["attrs"].get("__shape__")
    return None if text is None else _complete_shape(text)


@lru_cache(maxsize=1024)
def _complete_shape(text: str) -> tuple | None:
    shape = ast.literal_eval(text)
    return tuple(shape) if shape and all(n > 0 for n in shape) else None


def _gist(error: Exception, nodes: Sequence[dict]) -> str:
    """Return what an MXNet error says in one line, with the node's own name."""
    line = str(error).strip().splitlines()[0]

    def original_name(match: re.Match) -> str:
        return f"operator {nodes[int(match[1])]['name']!r}: "

    return re.sub(r"^.*operator n(\d+): (\[[\d:]+\] \S+ )?", original_name, line)
