"""Lets MXNet join layers with what follows them, where the result is the same."""

from __future__ import annotations

from collections import Counter

import mxnet as mx

from gluon_compress.graph.operators import operator_of
from gluon_compress.graph.symbols import put_together, reachable, take_apart

BACKEND = "MKLDNN"
COPIES = ("_copy", "Dropout")  # in inference
SUMS = ("elemwise_add", "broadcast_add", "_plus", "_Plus")


def fuse(symbol: mx.sym.Symbol, backend: str = BACKEND) -> mx.sym.Symbol:
    """Return a symbol for inference whose layers are joined with what follows them.

    Parameters
    ----------
    symbol : Symbol
    backend : str
        Name of MXNet's back end that joins them.
    """
    return fusible(symbol).get_backend_symbol(backend)


def fusible(symbol: mx.sym.Symbol) -> mx.sym.Symbol:
    """Return a symbol for inference that MXNet's back ends compute correctly.

    MXNet 1.9.1 joins a layer with a BatchNorm, sum or activation behind it even where
    something else reads the layer too, which then gets the joint result: ResNet v2, and
    nets with a layer among their outputs, compute something else. Executors and the C
    predict API do so without being asked. So what several nodes read is first
    multiplied by one, which nothing is joined with. MXNet also leaves out copies and
    Dropout, and renames an input that one of them reads; so this is done before.
    """
    nodes, heads = _without_copies(*take_apart(symbol))
    entries = [*heads, *(e for node in nodes for e in node["inputs"])]
    readers = Counter(entry[0] for entry in entries)
    others = {entry[0] for entry in entries if entry[1] > 0}
    new_nodes: list[dict] = []
    new_numbers: dict[int, int] = {}
    for i, node in enumerate(nodes):
        inputs = [[new_numbers[e[0]], *e[1:]] for e in node["inputs"]]
        new_nodes.append({**node, "inputs": inputs})
        if readers[i] > 1 and i not in others and _is_joined(node):
            new_nodes.append(_times_one(node, len(new_nodes) - 1))
        new_numbers[i] = len(new_nodes) - 1
    new_heads = [[new_numbers[h[0]], *h[1:]] for h in heads]
    return put_together(new_nodes, new_heads)


def _without_copies(nodes: list[dict], heads: list) -> tuple[list[dict], list]:
    """Return nodes and heads that read the sources of copies and of Dropout."""
    sources: dict[int, list] = {}

    def moved(entries: list) -> list:
        return [sources.get(entry[0], entry) for entry in entries]

    result = []
    for i, node in enumerate(nodes):
        result.append({**node, "inputs": moved(node["inputs"])})
        if node["op"] in COPIES and node["attrs"].get("mode") != "always":
            sources[i] = result[i]["inputs"][0]
    nodes, heads, _ = reachable(result, moved(heads))
    return nodes, heads


def _is_joined(node: dict) -> bool:
    """Return whether MXNet may join a node with the one behind it."""
    row = operator_of(node["op"])
    return row.foldable or row.running_statistics or node["op"] in SUMS


def _times_one(node: dict, number: int) -> dict:
    return {
        "op": "_mul_scalar",
        "name": f"{node['name']}_once",
        "attrs": {"scalar": "1", "is_int": "False"},
        "inputs": [[number, 0, 0]],
    }
