"""Finds the tensors that masks must multiply so that masking equals slimming.

A removed channel must be zero wherever an operator sums over channels (convolutions,
dense layers, sums). From there the search goes back through operators that map zero to
zero, to the first that does not, usually a BatchNorm: its output is masked.
"""

from __future__ import annotations

from typing import Sequence

from gluon_compress.graph import Graph, Tensor
from gluon_compress.graph.context import ZeroContext
from gluon_compress.graph.operators import operator_of

Output = tuple  # (node, output)


class MaskPlacement:
    """The tensors to multiply with a mask, and the edges that must read the product."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.masked: set[Output] = set()
        self.edges: set[tuple[int, int]] = set()
        self._zero: set[Output] = set()
        for i, node in enumerate(graph.nodes):
            if self._sums(node):
                self._require(i, 0)

    def _sums(self, node: dict) -> bool:
        """Return whether an operator sums over channels that can be removed."""
        sums = operator_of(node["op"]).sums
        if sums is None:
            return False
        source = self._tensor(node["inputs"][0])
        if source.axis is None:
            return False
        return sums(node["attrs"], source.axis, source.shape)

    def _tensor(self, entry: Sequence) -> Tensor:
        return self.graph.tensor(entry)

    def _require(self, i: int, k: int) -> None:
        """Require that removed channels of a node's input ``k`` are zero."""
        waiting = [(i, k)]
        while waiting:
            i, k = waiting.pop()
            entry = self.graph.nodes[i]["inputs"][k]
            output = (entry[0], entry[1])
            if self._tensor(entry).axis is None:
                continue
            self.edges.add((i, k))
            if output not in self._zero:
                self._zero.add(output)
                sources = self._sources(output)
                if sources is None:
                    self.masked.add(output)
                else:
                    waiting += [(output[0], source) for source in sources]

    def _sources(self, output: Output) -> list[int] | None:
        """Return the inputs that make an output zero; None if none can."""
        node = self.graph.nodes[output[0]]
        inputs = node["inputs"]
        removable = [
            k for k, entry in enumerate(inputs) if self._tensor(entry).axis is not None
        ]
        zeroed = [k for k in removable if tuple(inputs[k][:2]) in self._zero]
        zero = ZeroContext(node["attrs"], len(inputs), removable, zeroed)
        return operator_of(node["op"]).keeps_zero(zero)
