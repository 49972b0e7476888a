"""Finds the predictors of a raw head, with the annotations around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping, Sequence

import mxnet as mx
from mxnet.gluon import HybridBlock, SymbolBlock

from gluon_compress.graph import give_value
from gluon_compress.graph.annotations import MARKS, sources_of, stripped
from gluon_compress.graph.symbols import put_together

FEATURES = "features"  # the variable of a map in a predictor's symbol


@dataclass(frozen=True)
class PredictorNodes:
    """The nodes of a predictor of one map.

    Parameters
    ----------
    nodes : sequence of dict
        Of the raw head, as ``symbols.take_apart`` returns them.
    number : int
        The convolution's node.
    end : int
        The node that gives the predictions: the convolution, or the last annotation of
        its output.
    parameters : tuple of str
        The names of weight and bias.
    """

    nodes: Sequence[dict]
    number: int
    end: int
    parameters: tuple[str, ...]

    @property
    def layer(self) -> dict:
        """The convolution."""
        return self.nodes[self.number]

    @property
    def annotated(self) -> bool:
        """Whether the output, the weight or the bias has annotations."""
        entries = self.layer["inputs"][1:]
        plain = all(self.nodes[entry[0]]["op"] == "null" for entry in entries)
        return self.end != self.number or not plain

    @property
    def features(self) -> list:
        """The entry of the map that it reads."""
        return self.layer["inputs"][0]

    def symbol(self, names: Mapping[str, str]) -> mx.sym.Symbol:
        """Return what it computes from ``FEATURES``, its variables renamed."""
        source = self.features[:2]

        def moved(entry: Sequence) -> list:
            return [0, 0, 0] if entry[:2] == source else [entry[0] + 1, *entry[1:]]

        features = {"op": "null", "name": FEATURES, "attrs": {}, "inputs": []}
        nodes = [
            {
                **node,
                "name": names.get(node["name"], node["name"]),
                "inputs": [moved(entry) for entry in node["inputs"]],
            }
            for node in self.nodes
        ]
        return put_together([features, *nodes], [[self.end + 1, 0, 0]])


def find_predictors(nodes: Sequence[dict], head: Sequence) -> list[PredictorNodes]:
    """Walk up from an output of a raw head to the predictors that its concat joins.

    Raises
    ------
    ValueError
        If there are annotations behind them, which a GluonCV SSD has no place for.
    """
    plain, plain_heads, originals = stripped(nodes, [head])
    sources = sources_of(nodes)
    node = plain[plain_heads[0][0]]
    while node["op"] not in ("Concat", "null"):
        node = plain[node["inputs"][0][0]]
    predictors, ends = [], {source: i for i, source in sources.items()}
    for entry in node["inputs"]:
        number = entry[0]
        while plain[number]["op"] not in ("Convolution", "null"):
            number = plain[number]["inputs"][0][0]
        if plain[number]["op"] == "Convolution":
            original = originals[number]
            end = ends.get((original, 0), original)
            weights = (entry[0] for entry in nodes[original]["inputs"][1:])
            names = tuple(nodes[sources.get(i, (i, 0))[0]]["name"] for i in weights)
            predictors.append(PredictorNodes(nodes, original, end, names))
    _check_behind(nodes, head, {predictor.end for predictor in predictors})
    return predictors


def _check_behind(nodes: Sequence[dict], head: Sequence, ends: set[int]) -> None:
    """Refuse annotations between predictors and an output."""
    marks = set(MARKS.values())
    waiting, seen = [head[0]], set(ends)
    while waiting:
        i = waiting.pop()
        if i in seen:
            continue
        seen.add(i)
        node = nodes[i]
        if not marks.isdisjoint(node["attrs"]):
            raise ValueError(
                f"annotation node {node['name']!r} is behind the predictors; allowed: "
                "annotations of weights and of outputs of layers"
            )
        waiting += [entry[0] for entry in node["inputs"]]


class AnnotatedPredictor(HybridBlock):
    """A predictor with annotations of its weight, bias or output.

    Parameters
    ----------
    predictor : gluon.nn.Conv2D
        The convolution; it has the parameters.
    nodes : PredictorNodes
    params : mapping
        Values of all parameters of the raw head.
    """

    def __init__(
        self, predictor: HybridBlock, nodes: PredictorNodes, params: Mapping
    ) -> None:
        super().__init__(prefix="")
        shared = predictor.collect_params()
        names = dict(zip(nodes.parameters, shared))
        self.predictor = predictor
        features = mx.sym.var(FEATURES, dtype="float32")
        self.annotated = SymbolBlock(nodes.symbol(names), features, params=shared)
        for name, parameter in self.annotated.collect_params().items():
            if name not in shared:
                give_value(parameter, params[name])

    def forward(self, x: Any) -> Any:
        """Return the predictions of a map, of an array or a symbol."""
        return self.annotated(x)
