"""Turns ncnn's float32 files of a quantised net into int8 ones.

ncnn quantises the inputs of layers, symmetric about zero, and weights by channel. Its
layers take a net's own weights as they are. Ranges become symmetric: a map without
negative values loses half of its levels unless the scheme is ``signed``. Sums stay
float32, as do grouped convolutions that are not depthwise, and layers that share a
weight but read maps of different ranges.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Sequence

import numpy as np

from gluon_compress.deployment.file_checks import check_ncnn_layer, ncnn_numbers
from gluon_compress.deployment.quantised import QuantisedGraph
from gluon_compress.graph.symbols import take_apart
from gluon_compress.quantization.levels import Levels
from gluon_compress.quantization.placement import LAYERS, source_of, weight_of
from gluon_compress.quantization.settings import NARROW

INT8 = struct.pack("<I", 0x000D4B38)  # before weights of 8 bits
SIZE = {"Convolution": 6, "ConvolutionDepthWise": 6, "InnerProduct": 2}
TERM = {"Convolution": 2, "ConvolutionDepthWise": 1, "InnerProduct": 2}
SCALES = 8  # the key that says which scales follow
BIAS = {"Convolution": 5, "ConvolutionDepthWise": 5, "InnerProduct": 1}
MOST = 127


@dataclass(frozen=True)
class _Known:
    """A layer of the graph: its weight, and the largest value of its input."""

    values: np.ndarray
    levels: Levels
    largest: float


def add_integers(
    param: Path, weights: Path, graph: QuantisedGraph, shape: Sequence[int]
) -> int:
    """Rewrite ncnn's two files with integers; return how many layers have some.

    Parameters
    ----------
    param, weights : Path
        As pnnx wrote them of ``graph.symbol``, float32.
    graph : QuantisedGraph
    shape : sequence of int
        Of the input.
    """
    head, counts, *lines = param.read_text(encoding="ascii").splitlines()
    data, place, count = weights.read_bytes(), 0, 0
    known = _known_layers(graph)
    channels: Dict[str, int | None] = {}
    read: set[str] = set()
    new_lines, parts = [], []
    for line in lines:
        words = line.split()
        size = check_ncnn_layer(words, channels, read, shape)
        part, place = data[place : place + size], place + size
        changed = _integers(words, part, known) if words[0] in SIZE else None
        if changed is not None:
            line, part, count = f"{line} {SCALES}={TERM[words[0]]}", changed, count + 1
        new_lines.append(line)
        parts.append(part)
    param.write_text("\n".join([head, counts, *new_lines]) + "\n", encoding="ascii")
    weights.write_bytes(b"".join(parts))
    return count


def _integers(
    words: Sequence[str], part: bytes, known: Sequence[_Known]
) -> bytes | None:
    """Return a layer's weights in int8 with its scales, None if it stays float32."""
    ins, outs = int(words[2]), int(words[3])
    numbers = ncnn_numbers(words[4 + ins + outs :], words[1])
    size, filters = numbers.get(SIZE[words[0]], 0), numbers.get(0, 0)
    if words[0] == "ConvolutionDepthWise" and numbers.get(7, 1) != filters:
        return None  # one scale a group
    floats = np.frombuffer(part[4 : 4 + 4 * size], "<f4")
    same = [k for k in known if _are_same(k.values, floats)]
    # The file does not say which of the layers of one weight it is.
    if len({k.largest for k in same}) != 1 or part[:4] != bytes(4):
        return None
    layer = same[0]
    levels = layer.levels.refined(NARROW)
    stored = levels.levels.astype(np.int8).tobytes()
    stored += bytes(-len(stored) % 4)
    bias = part[4 + 4 * size :]
    scales = (1 / levels.scale).astype("<f4").tobytes()
    return INT8 + stored + bias + scales + struct.pack("<f", MOST / layer.largest)


def _are_same(values: np.ndarray, floats: np.ndarray) -> bool:
    if values.size != floats.size:
        return False
    return bool(np.allclose(values.reshape(-1), floats, rtol=1e-5, atol=1e-7))


def _known_layers(graph: QuantisedGraph) -> list[_Known]:
    nodes, _ = take_apart(graph.symbol)
    known = []
    for node in nodes:
        if node["op"] not in LAYERS:
            continue
        name = nodes[weight_of(node)[0]]["name"]
        source = source_of(nodes, node["inputs"][0][0], set(graph.tensors))
        grid = graph.tensors.get(nodes[source]["name"])
        if name in graph.weights and grid is not None:
            largest = max(grid.high, -grid.low) * grid.scale
            values = graph.params[name].asnumpy()
            known.append(_Known(values, graph.weights[name], largest))
    return known
