"""Finds where a net can be cut in two, and cuts it.

A **cut point** is a tensor that everything behind it is computed from: every path from
the input to an output of the net passes through it. In the words of graph theory, it
dominates the outputs. Only such a tensor can be sent in place of the image.

Operators that look at the size of a tensor alone do not need its values. What they
read does not have to cross; where it does not, zeros of its size take its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Mapping, NamedTuple, Sequence, Tuple

import cv2
import mxnet as mx
import numpy as np
from mxnet.gluon import SymbolBlock

from gluon_compress.cost import macs_by_node
from gluon_compress.data.preprocess import as_rgb
from gluon_compress.graph import Graph, block_of, pair_of, trace
from gluon_compress.graph.annotations import sources_of, stripped
from gluon_compress.graph.operators import operator_of
from gluon_compress.graph.symbols import output_shapes, put_together, take_apart
from gluon_compress.validation import few, wrong

Entry = Tuple[int, int]  # number of a node, and of its output
Pair = Tuple[mx.sym.Symbol, Dict[str, mx.nd.NDArray]]
INPUT = "data"
# Their outputs follow from the size of their inputs.
SIZE_ONLY = {
    *("zeros_like", "ones_like", "shape_array", "size_array"),
    "_contrib_arange_like",
}
JPEG_QUALITY = 95
BITS = (4, 8, 16)  # of an integer in a message
MOST_LISTED = 6  # names in a message


@dataclass(frozen=True)
class CutPoint:
    """A tensor that a net can be cut at.

    Parameters
    ----------
    name : str
        Of the node that computes it, the same in every process.
    node : str
        Its name in this process.
    shape : tuple of int
        For one image, without the batch axis.
    head_macs, tail_macs : int
        Multiply-accumulates before and behind it, for one image.
    """

    name: str
    node: str
    shape: tuple[int, ...]
    head_macs: int
    tail_macs: int

    def bytes(self, bits: int = 8) -> int:
        """Return the bytes of the tensor with numbers of so many bits."""
        return -(-int(np.prod(self.shape, dtype=np.int64)) * bits // 8)


@dataclass(frozen=True)
class CutPoints(Sequence):
    """The cut points of a net, from the input to the outputs.

    ``str(points)`` is a table.

    Parameters
    ----------
    points : tuple of CutPoint
    macs : int
        Of the whole net.
    raw_bytes : int
        Of the input as an image of 8 bits.
    jpeg_bytes : float, optional
        Of the input as a JPEG of quality 95: the mean over given images.
    """

    points: tuple[CutPoint, ...]
    macs: int
    raw_bytes: int
    jpeg_bytes: float | None = None

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: Any) -> Any:
        return self.points[index]

    def at(self, place: str | int) -> CutPoint:
        """Return a cut point by its number or its name.

        Raises
        ------
        ValueError
            If there is none.
        """
        if isinstance(place, int) and not isinstance(place, bool):
            if not 0 <= place < len(self.points):
                raise wrong("at", place, f"0 to {len(self.points) - 1}, or a name")
            return self.points[place]
        same = [p for p in self.points if place in (p.name, p.node)]
        if len(same) != 1:
            names = few([p.name for p in self.points], MOST_LISTED) or "none"
            allowed = f"a tensor that alone crosses: {names}"
            if same:
                numbers = [self.points.index(p) for p in same]
                allowed = f"one of the numbers {numbers}, for several have this name"
            raise wrong("at", place, allowed)
        return same[0]

    def __str__(self) -> str:
        rows = [_HEADINGS, self._sent("image", self.raw_bytes)]
        if self.jpeg_bytes is not None:
            rows.append(self._sent("JPEG", round(self.jpeg_bytes)))
        for number, point in enumerate(self.points):
            size, whole = point.bytes(32), _grouped(point.bytes(8))
            shape = " x ".join(map(str, point.shape))
            share = self._share(point.bytes(8))
            macs = f"{100 * point.head_macs / max(self.macs, 1):.1f} %"
            row = (str(number), point.name, shape, _grouped(size), whole, share, macs)
            rows.append(row)
        return aligned(rows, left=(1, 2))

    def _sent(self, name: str, size: int) -> tuple[str, ...]:
        return ("", name, "", "", _grouped(size), self._share(size), "0.0 %")

    def _share(self, size: int) -> str:
        return f"{100 * size / self.raw_bytes:.1f} %"


_HEADINGS = ("", "tensor", "shape", "float32", "8 bits", "of the image", "MACs before")


def aligned(rows: Sequence[Sequence[str]], left: Sequence[int]) -> str:
    """Return lines of a table; some columns are set to the left."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = (
        "  ".join(
            text.ljust(width) if k in left else text.rjust(width)
            for k, (text, width) in enumerate(zip(row, widths))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def _grouped(number: int) -> str:
    return f"{number:,}"


class Halves(NamedTuple):
    """A net in two parts: ``tail(head(images))`` is what the net gives.

    Parameters
    ----------
    head, tail : SymbolBlock
        The second takes what the first gives.
    point : CutPoint
        Where they meet.
    """

    head: SymbolBlock
    tail: SymbolBlock
    point: CutPoint


def split(
    net: Any,
    at: str | int | None = None,
    *,
    shape: Any = None,
    images: Sequence[np.ndarray] | None = None,
) -> CutPoints | Halves:
    """Return where a net can be cut, or with ``at`` its two halves.

    Parameters
    ----------
    net : HybridBlock or (symbol, params)
        Any net that traces; not changed.
    at : str or int, optional
        Name or number of a cut point.
    shape : tuple, optional
        Of the input, unless the net states it.
    images : sequence of ndarray, optional
        Images as the net's input shows them, ``(height, width, 3)``, uint8, RGB: how
        large they are as JPEG files of quality 95 is measured.

    Returns
    -------
    CutPoints or Halves

    Raises
    ------
    ValueError
        If the net has no single input, or there is no such cut point.
    """
    graph = trace(net, shape)
    points = cut_points(graph)
    if at is None:
        return CutPoints(
            points,
            sum(macs_by_node(graph)),
            int(np.prod(_shape(graph)[1:])),
            None if images is None else jpeg_bytes(images),
        )
    point = CutPoints(points, 0, 1).at(at)
    head, tail = cut(*pair_of(net), point.node, _shape(graph))
    return Halves(block_of(*head), block_of(*tail), point)


def cut_points(graph: Graph) -> tuple[CutPoint, ...]:
    """Return the cut points of a graph, from the input to the outputs.

    Raises
    ------
    ValueError
        If it has several inputs.
    """
    _shape(graph)
    (source,) = (
        i
        for i, node in enumerate(graph.nodes)
        if node["op"] == "null" and node["name"] in graph.inputs
    )
    macs = macs_by_node(graph)
    total, points = sum(macs), []
    for number, output in dominators(graph.nodes, graph.heads, source):
        before = sum(macs[i] for i in ancestors(graph.nodes, number))
        points.append(
            CutPoint(
                graph.grouping.names[number],
                graph.nodes[number]["name"],
                tuple(graph.tensors[number][output].shape[1:]),
                before,
                total - before,
            )
        )
    return tuple(points)


def _shape(graph: Graph) -> tuple[int, ...]:
    if len(graph.inputs) != 1:
        names = ", ".join(graph.inputs)
        raise ValueError(f"the net has the inputs {names}; allowed: one, the image")
    return next(iter(graph.inputs.values()))


def jpeg_bytes(images: Sequence[np.ndarray], quality: int = JPEG_QUALITY) -> float:
    """Return the mean size of images as JPEG files, bytes.

    Parameters
    ----------
    images : sequence of ndarray
        ``(H, W, 3)``, uint8, RGB.
    quality : int

    Raises
    ------
    ValueError
        If there is none, or for anything but images.
    """
    if not len(images):
        raise ValueError(
            "images: there is none to measure JPEG on; allowed: one or more"
        )
    setting = [cv2.IMWRITE_JPEG_QUALITY, quality]
    files = [cv2.imencode(".jpg", as_rgb(i)[..., ::-1], setting)[1] for i in images]
    return sum(len(file) for file in files) / len(files)


# On nodes.


def needed_values(node: Mapping) -> list:
    """Return the inputs of a node whose values it needs, not their sizes alone."""
    if node["op"] in SIZE_ONLY:
        return []
    inputs = node["inputs"]
    return inputs[:1] if operator_of(node["op"]).size_inputs else inputs


def dominators(nodes: Sequence[Mapping], heads: Sequence, source: int) -> list[Entry]:
    """Return the tensors that every path from a variable to a head passes through.

    They are in topological order. The variable itself is none, nor is a tensor that no
    operator is behind.

    In an order in which every edge goes forward, a vertex is on all paths if and only
    if no edge passes over it: paths only go forward, and every vertex that is looked at
    lies on some path.

    Parameters
    ----------
    nodes, heads
        As ``take_apart`` returns them.
    source : int
        Number of the variable.
    """
    reached = _behind(nodes, source)
    needed = _before(nodes, [h[0] for h in heads if h[0] in reached])
    on_paths = reached & needed
    end = (len(nodes), -1)
    edges: list[tuple[tuple, tuple]] = []
    for i in sorted(on_paths - {source}):
        for entry in needed_values(nodes[i]):
            if entry[0] in on_paths:
                edges.append(((entry[0], entry[1]), (i, -1)))
    edges += [((h[0], h[1]), end) for h in heads if h[0] in on_paths]
    outputs = {start for start, _ in edges}
    edges += [((i, -1), (i, out)) for i, out in outputs]
    feeds_operator = {start for start, stop in edges if stop != end}
    result, reach = [], (-1, -1)
    leaving: dict[tuple, tuple] = {}
    for start, stop in edges:
        leaving[start] = max(leaving.get(start, stop), stop)
    for vertex in sorted(leaving):
        is_tensor = vertex[1] >= 0 and vertex[0] != source
        if is_tensor and reach <= vertex and vertex in feeds_operator:
            result.append(vertex)
        reach = max(reach, leaving[vertex])
    return result


def ancestors(nodes: Sequence[Mapping], number: int) -> set[int]:
    """Return the nodes that a node's values are computed from, and itself."""
    return _before(nodes, [number])


def _before(nodes: Sequence[Mapping], ends: Sequence[int]) -> set[int]:
    found = set(ends)
    for i in range(len(nodes) - 1, -1, -1):
        if i in found:
            found.update(entry[0] for entry in needed_values(nodes[i]))
    return found


def _behind(nodes: Sequence[Mapping], source: int) -> set[int]:
    """Return a variable and the nodes whose values depend on its values."""
    found = {source}
    for i, node in enumerate(nodes):
        if any(entry[0] in found for entry in needed_values(node)):
            found.add(i)
    return found


def cut(
    symbol: mx.sym.Symbol,
    params: Mapping[str, mx.nd.NDArray],
    name: str,
    shape: Sequence[int],
) -> tuple[Pair, Pair]:
    """Return the two halves of a net that is cut at a node.

    Annotations of the tensor, such as its quantiser, belong to the first half.

    Parameters
    ----------
    symbol : Symbol
    params : mapping
        Values of all its parameters.
    name : str
        Of the node.
    shape : sequence of int
        Of the input, with the batch axis.

    Returns
    -------
    (symbol, params), (symbol, params)
        The input of the second is called ``data``, whatever the first one's is.

    Raises
    ------
    ValueError
        If the net cannot be cut there.
    """
    nodes, heads = take_apart(symbol)
    source = _source(nodes, params)
    number, output = _located(nodes, heads, source, name)
    inside = _behind(nodes, source) & ancestors(nodes, number)
    head = put_together(nodes, [[number, output, 0]])
    tail = _tail(nodes, heads, (number, output), inside)
    sizes = {n: tuple(v.shape) for n, v in params.items()}
    tail = _with_sizes(tail, nodes, heads, {**sizes, nodes[source]["name"]: shape})
    return (head, _used(head, params)), (tail, _used(tail, params))


def _used(symbol: mx.sym.Symbol, params: Mapping) -> dict[str, mx.nd.NDArray]:
    names = set(symbol.list_inputs())
    return {name: value for name, value in params.items() if name in names}


def _source(nodes: Sequence[Mapping], params: Mapping) -> int:
    free = [
        i for i, n in enumerate(nodes) if n["op"] == "null" and n["name"] not in params
    ]
    if len(free) != 1:
        names = [nodes[i]["name"] for i in free]
        raise ValueError(f"the net has the inputs {names}; allowed: one, the image")
    return free[0]


def _located(
    nodes: Sequence[dict], heads: Sequence, source: int, name: str
) -> tuple[int, int]:
    """Return the tensor to cut at, behind its annotations."""
    plain, plain_heads, originals = stripped(nodes, heads)
    start = originals.index(source)
    found = [
        (originals[i], output)
        for i, output in dominators(plain, plain_heads, start)
        if plain[i]["name"] == name
    ]
    if len(found) != 1:
        raise wrong("at", name, "a tensor that alone crosses, and whose name is unique")
    ends = [i for i, e in sources_of(nodes).items() if e == found[0]]
    return (ends[-1], 0) if ends else found[0]


def number_of(nodes: Sequence[Mapping], name: str) -> int:
    """Return the number of the first node of a name."""
    return next(i for i, node in enumerate(nodes) if node["name"] == name)


def outputs_at(symbol: mx.sym.Symbol, names: Sequence[str]) -> mx.sym.Symbol:
    """Return the outputs of some nodes, behind their annotations."""
    nodes, _ = take_apart(symbol)
    ends = {source: i for i, source in sources_of(nodes).items()}  # the last one
    numbers = [number_of(nodes, name) for name in names]
    return put_together(nodes, [[ends.get((i, 0), i), 0, 0] for i in numbers])


_SIZE_OF = "__size_of__"  # suffix of variables that stand for what was cut off


def _tail(
    nodes: Sequence[dict], heads: Sequence, entry: Entry, inside: set[int]
) -> mx.sym.Symbol:
    """Return what is behind a tensor, from the variable ``data``."""
    labels = _crossing(nodes, heads, entry, inside)
    numbers = {crossing: i for i, crossing in enumerate(labels)}

    def moved(e: Sequence) -> list:
        if e[0] in inside:
            return [numbers[e[0], e[1]], 0, 0]
        return [e[0] + len(numbers), *e[1:]]

    result: list[dict] = [_variable(label) for label in labels.values()]
    for i, node in enumerate(nodes):
        if i in inside:  # nothing reads it any more
            result.append(_variable(f"{i}_cut_off"))
        else:
            result.append({**node, "inputs": [moved(e) for e in node["inputs"]]})
    return put_together(result, [moved(h) for h in heads])


def _variable(name: str) -> dict:
    return {"op": "null", "name": name, "attrs": {}, "inputs": []}


def _crossing(
    nodes: Sequence[dict], heads: Sequence, entry: Entry, inside: set[int]
) -> dict[Entry, str]:
    """Return the names of variables for what the second half reads of the first.

    All but the tensor itself are read for their sizes.
    """
    labels = {entry: INPUT}
    outside = [n for i, n in enumerate(nodes) if i not in inside]
    for e in [*(e for node in outside for e in node["inputs"]), *heads]:
        if e[0] in inside:
            labels.setdefault((e[0], e[1]), f"{e[0]}_{e[1]}{_SIZE_OF}")
    return labels


def _with_sizes(
    tail: mx.sym.Symbol, nodes: Sequence[dict], heads: Sequence, shapes: Mapping
) -> mx.sym.Symbol:
    """Return a second half with zeros for tensors of which only sizes are needed."""
    names = [n for n in tail.list_arguments() if n.endswith(_SIZE_OF)]
    if not names:
        return tail
    every = output_shapes(nodes, heads, shapes)
    like = mx.sym.var(INPUT)
    for name in names:
        number, output = map(int, name[: -len(_SIZE_OF)].split("_"))
        tail = tail(**{name: _zeros(like, every[number][output])})
    return one_variable_each(tail)


def one_variable_each(symbol: mx.sym.Symbol) -> mx.sym.Symbol:
    """Return a composed symbol with one node for all variables of a name."""
    nodes, heads = take_apart(symbol)
    first: dict[str, int] = {}
    numbers = [
        first.setdefault(node["name"], i) if node["op"] == "null" else i
        for i, node in enumerate(nodes)
    ]

    def moved(entries: Sequence) -> list:
        return [[numbers[e[0]], *e[1:]] for e in entries]

    nodes = [{**node, "inputs": moved(node["inputs"])} for node in nodes]
    return put_together(nodes, moved(heads))


def _zeros(like: mx.sym.Symbol, shape: Sequence[int]) -> mx.sym.Symbol:
    """Return zeros of a shape, and of the batch axis of a tensor."""
    first = mx.sym.zeros_like(like).reshape((0, -1))
    one = mx.sym.slice_axis(first, axis=1, begin=0, end=1)
    flat = mx.sym.broadcast_axis(one, axis=1, size=int(np.prod(shape[1:])))
    return flat.reshape((0, *shape[1:]))
