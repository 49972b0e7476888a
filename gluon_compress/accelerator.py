"""Cycles and bytes of a net on a processor with a line buffer.

It stands in for the FPGA of Huang et al. 2021 (CoDeNet), which chose its deformable
convolutions by what they ask of memory. Layers run one after the other. A layer reads
its map and its weights from outside once, if the rows that its taps reach fit into the
line buffer, and writes its map; meanwhile it multiplies. It takes as long as the
slowest of three:

- multiplying: MACs, and four for each tap and channel that is interpolated;
- memory outside: weights, maps and offsets, in words a cycle;
- the line buffer: a tap anywhere in it is read by itself, four numbers where it is
  interpolated. Windows of ordinary convolutions are shifted, and cost nothing here.

If the rows do not fit, an ordinary convolution reads its map once for each row of its
kernel, and a deformable one fetches every tap from outside.

Not modelled: the order of loops within a layer, weights that do not fit on the chip,
maps that stay on the chip between layers, overlap of layers, bursts and latency of
memory, and time of layers without weights other than pooling. So cycles tell structures
apart; frames a second need a factor from a measurement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Sequence

import numpy as np

from gluon_compress.graph import Graph, Tensor
from gluon_compress.graph.context import attribute, numbers
from gluon_compress.graph.deformable import OPERATOR, DeformableNode, deformable_nodes
from gluon_compress.graph.layer_rules import whole_groups
from gluon_compress.graph.operators import operator_of
from gluon_compress.markdown import table
from gluon_compress.validation import Count, Positive, Settings

CORNERS = 4  # numbers that an interpolated tap is made of
LAYERS = ("Convolution", "Deconvolution", "FullyConnected", OPERATOR)


class Accelerator(Settings):
    """A processor of convolutions.

    Parameters
    ----------
    multipliers : int
        Multiply-accumulates of a cycle.
    words : float
        Numbers of a map that a cycle moves from or to memory outside.
    lanes : int
        Numbers that the line buffer gives in a cycle, at any places.
    rows : int
        Rows of a map that the line buffer can have.
    on_chip : int
        Bytes of the line buffer.
    megahertz : float
        The clock.
    weight_bits, map_bits : int
        Of a weight, and of a number of a map.
    """

    multipliers: Count = 128
    words: Positive = 8.0
    lanes: Count = 64
    rows: Count = 17
    on_chip: Count = 512 * 1024
    megahertz: Positive = 250.0
    weight_bits: Count = 4
    map_bits: Count = 8


@dataclass(frozen=True)
class LayerWork:
    """What a layer asks of an accelerator, whatever its channels.

    Parameters
    ----------
    name, op : str
    rung : str
        Of a deformable convolution, else empty.
    inputs, outputs : Tensor
        Its map, and what it makes of it.
    cells, out_cells : int
        Places of either.
    taps : int
        Of its kernel; of a layer without weights, 0.
    inner : int or None
        Inputs that an output channel is made of, where that is not ``inputs / groups``.
    groups : int
    at_inputs : bool
        Whether every place of the input meets a filter, as in a transposed convolution.
    columns : int
        Of a row of its map.
    reach : int
        Rows that its taps reach.
    kernel_rows : int
    offsets : int
        Numbers of a place that say where its taps are.
    """

    name: str
    op: str
    rung: str
    inputs: Tensor
    outputs: Tensor
    cells: int
    out_cells: int
    taps: int
    inner: int | None
    groups: int
    at_inputs: bool
    columns: int
    reach: int
    kernel_rows: int
    offsets: int

    @property
    def interpolated(self) -> bool:
        """Whether its taps lie between places."""
        return self.rung in ("full", "bounded", "square")

    def cost(self, ins: Any, outs: Any, device: Accelerator) -> dict[str, Any]:
        """Return ``macs``, ``bytes`` and the cycles of each part, and ``cycles``.

        Parameters
        ----------
        ins, outs : int or ndarray
            Channels of its map and of what it makes.
        device : Accelerator
        """
        inner = ins / self.groups if self.inner is None else self.inner
        filters = outs * inner * self.taps
        macs = filters * (self.cells if self.at_inputs else self.out_cells)
        corners = CORNERS if self.interpolated else 1
        reads = self.out_cells * ins * self.taps * corners if self.rung else 0 * macs
        products = macs + (reads if self.interpolated else 0)
        once, again = self.cells * ins, self._reads_again(ins, reads)
        fits = self._fits(ins, device)
        words = np.where(fits, once, again) + self.out_cells * (outs + self.offsets)
        size = (words * device.map_bits + filters * device.weight_bits) / 8
        parts = {
            "multiplying": np.ceil(products / device.multipliers),
            "memory": np.ceil(size * 8 / (device.map_bits * device.words)),
            "buffer": np.where(fits, np.ceil(reads / device.lanes), 0),
        }
        cycles = np.maximum.reduce(list(parts.values()))
        return {"macs": macs, "bytes": size, **parts, "cycles": cycles}

    def _reads_again(self, ins: Any, reads: Any) -> Any:
        """Return the numbers read from outside where the rows do not fit."""
        return reads if self.rung else self.cells * ins * self.kernel_rows

    def _fits(self, ins: Any, device: Accelerator) -> Any:
        """Return whether the line buffer has the rows that the taps reach."""
        # Of a depthwise layer one channel after the other can be in it.
        channels = 1 if self.inner == 1 else ins
        size = self.reach * self.columns * channels * device.map_bits / 8
        return (size <= device.on_chip) & (self.reach <= device.rows)


def works_of(graph: Graph) -> list[LayerWork]:
    """Return the layers of a graph that an accelerator computes, in order."""
    found = {node.number: node for node in deformable_nodes(graph.nodes)}
    works = []
    for i, node in enumerate(graph.nodes):
        pools = node["op"] == "Pooling" and not attribute(
            node["attrs"], "global_pool", False
        )
        if node["op"] in LAYERS or pools:
            works.append(_work(graph, i, found.get(i)))
    return works


def _work(graph: Graph, i: int, deformed: DeformableNode | None) -> LayerWork:
    node, output = graph.nodes[i], graph.tensors[i][0]
    # The rows that padding adds are not read from anywhere.
    entry = node["inputs"][0] if deformed is None else deformed.source
    source = graph.tensors[entry[0]][entry[1]]
    kernel = numbers(node["attrs"], "kernel") or (1, 1)
    dilation = numbers(node["attrs"], "dilate") or (1, 1)
    spatial = source.shape[2:] or (1, 1)
    reach = (kernel[0] - 1) * dilation[0] + 1
    rung, offsets = "", 0
    if deformed is not None:
        rung = deformed.rung
        offsets = 18 if rung in ("full", "bounded") else 1
        bound = deformed.bound
        reach = {"full": spatial[0], "bounded": 2 * bound + 2}.get(rung, 2 * bound + 1)
    weighs, taps = node["op"] in LAYERS, math.prod(kernel)
    if node["op"] == "FullyConnected":
        taps = math.prod(spatial)
    groups, inner = attribute(node["attrs"], "num_group", 1), None
    if weighs:
        place = operator_of(node["op"]).weight_input or 1
        weight = graph.tensors[node["inputs"][place][0]][0].shape
        if whole_groups(node["attrs"], source.shape[1]):
            inner = weight[1]
    return LayerWork(
        name=node["name"],
        op=node["op"],
        rung=rung,
        inputs=source,
        outputs=output,
        cells=math.prod(spatial),
        out_cells=math.prod(output.shape[2:]),
        taps=taps if weighs else 0,
        inner=inner,
        groups=groups,
        at_inputs=node["op"] == "Deconvolution",
        columns=spatial[-1],
        reach=min(reach, spatial[0]),
        kernel_rows=kernel[0],
        offsets=offsets,
    )


@dataclass(frozen=True)
class AcceleratorCost:
    """Cycles and bytes of a net on an accelerator.

    Parameters
    ----------
    device : Accelerator
    rows : tuple of (LayerWork, dict)
        Each layer and its costs, see ``LayerWork.cost``.
    """

    device: Accelerator
    rows: tuple[tuple[LayerWork, dict], ...]

    @property
    def cycles(self) -> int:
        """Of one image."""
        return int(sum(costs["cycles"] for _, costs in self.rows))

    @property
    def bytes(self) -> float:
        """That are moved from or to memory outside for one image."""
        return float(sum(costs["bytes"] for _, costs in self.rows))

    @property
    def frames_a_second(self) -> float:
        """At the clock of the accelerator."""
        return self.device.megahertz * 1e6 / self.cycles

    def __str__(self) -> str:
        columns = ["layer", "rung", "MACs", "bytes", "cycles", "slowest"]
        rows: list[Sequence] = []
        for work, costs in self.rows:
            parts = ("multiplying", "memory", "buffer")
            slowest = max(parts, key=lambda part: float(costs[part]))
            figures = [f"{int(costs[k]):,}" for k in ("macs", "bytes", "cycles")]
            rows.append([work.name, work.rung, *figures, slowest])
        total = [f"{int(self.bytes):,}", f"{self.cycles:,}"]
        rows.append(["all", "", "", *total, f"{self.frames_a_second:.1f} fps"])
        return table(columns, rows)


def accelerator_cost(
    graph: Graph, device: Accelerator | None = None
) -> AcceleratorCost:
    """Return cycles and bytes from outside of each layer of a net, for one image.

    Parameters
    ----------
    graph : Graph
        As ``trace`` or ``models.graph_of`` returns it.
    device : Accelerator, optional
        Default: ``Accelerator()``.
    """
    device = Accelerator() if device is None else device
    rows = []
    for work in works_of(graph):
        ins, outs = work.inputs.shape[1], work.outputs.shape[1]
        rows.append((work, work.cost(ins, outs, device)))
    return AcceleratorCost(device, tuple(rows))


def calibrated(device: Accelerator, cost: AcceleratorCost, fps: float) -> Accelerator:
    """Return an accelerator whose clock gives a net a known number of images a second.

    The clock then stands for all that is not modelled; it is no clock of a real one.
    """
    megahertz = cost.cycles * fps / 1e6
    return device.replace(megahertz=megahertz)
