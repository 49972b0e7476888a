"""Writes quantised nets as ONNX files with integer weights (QDQ).

Every quantised tensor is followed by QuantizeLinear and DequantizeLinear; weights are
int8 or int4 constants behind a DequantizeLinear, biases int32 ones. Runtimes turn that
into integer kernels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Sequence

import numpy as np

from gluon_compress.deployment.quantised import QuantisedGraph
from gluon_compress.deployment.runtimes import import_optional
from gluon_compress.quantization.levels import Levels, packed
from gluon_compress.quantization.quantisers import QuantiserGrid
from gluon_compress.quantization.settings import NARROW

OPSET4 = 21  # the first with integers of 4 bits
IR4 = 10
# What hands values on: its output has the grid of its inputs.
HAND_ON = {
    *("MaxPool", "GlobalMaxPool", "Flatten", "Reshape", "Transpose", "Slice", "Split"),
    *("Squeeze", "Unsqueeze", "Concat", "DepthToSpace", "SpaceToDepth", "Identity"),
    *("Pad", "Resize", "Upsample", "Tile", "Expand", "Dropout"),
}
LAYERS = ("Conv", "ConvTranspose", "Gemm")
LARGEST_BIAS = 2**31 - 1
# Biases beside 4-bit weights; ONNX Runtime would round float32 ones. A multiple of what
# refines levels of 4 and of 2 bits, 9 and 63: whole biases stay exact.
FINER = 252


def add_integers(
    source: Path, target: Path, graph: QuantisedGraph, *, bits: int
) -> dict[str, int]:
    """Write a float32 ONNX file of a graph's plain symbol with integers.

    Parameters
    ----------
    source : Path
        As ``mx.onnx`` exports ``graph.symbol``: tensors have the names of nodes.
    target : Path
        Written.
    graph : QuantisedGraph
    bits : int
        The fewest bits that a weight is stored in: 8, or 4 (opset 21).

    Returns
    -------
    dict
        For the manifest: the file's ``opset``, and how many ``integer_layers`` it has.
    """
    onnx = import_optional("onnx", "onnx")
    model = onnx.load(str(source))
    if bits == 4:
        model = onnx.version_converter.convert_version(model, OPSET4)
        model.ir_version = max(model.ir_version, IR4)
    writer = _Writer(onnx, model, graph, bits)
    writer.write()
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(target))
    (opset,) = [entry.version for entry in model.opset_import if not entry.domain]
    return {"opset": opset, "integer_layers": writer.layers}


class _Writer:
    """Rewrites the nodes of a model.

    Attributes
    ----------
    grids : dict
        Name of a tensor to its grid.
    renamed : dict
        Name of a tensor to that of its dequantised form.
    layers : int
        How many have integer weights.
    """

    def __init__(self, onnx: Any, model: Any, graph: QuantisedGraph, bits: int) -> None:
        self.onnx, self.model, self.graph, self.bits = onnx, model, graph, bits
        tools = import_optional("onnx.numpy_helper", "onnx")
        self.constants = {c.name: tools.to_array(c) for c in model.graph.initializer}
        self.outputs = {output.name for output in model.graph.output}
        self.grids: Dict[str, QuantiserGrid] = {}
        self.renamed: Dict[str, str] = {}
        self.nodes: list = []
        self.added: Dict[str, Any] = {}
        self.made: set[str] = set()
        self.layers = 0

    def write(self) -> None:
        """Rewrite the model in place."""
        for value in self.model.graph.input:
            if value.name in self.graph.tensors:
                self._quantise(value.name, self.graph.tensors[value.name])
        for node in self.model.graph.node:
            self._node(node)
        # Outputs keep their names: what made them gets another.
        for name in [n for n in self.renamed if n in self.outputs]:
            self._give_back(name)
        graph = self.model.graph
        used = {name for node in self.nodes for name in node.input}
        kept = [
            c for c in graph.initializer if c.name in used and c.name not in self.added
        ]
        del graph.node[:]
        graph.node.extend(self.nodes)
        del graph.initializer[:]
        graph.initializer.extend([*kept, *self.added.values()])
        del graph.value_info[:]

    def _node(self, node: Any) -> None:
        new = self.onnx.NodeProto()
        new.CopyFrom(node)
        places = [i for i, name in enumerate(node.input) if name in self.renamed]
        for i in places:
            new.input[i] = self.renamed[node.input[i]]
        integer = node.op_type in ("Conv", "Gemm") and self._layer(node, new)
        if node.op_type in LAYERS and not integer and 0 in places:
            new.input[0] = self._guarded(node.input[0])
        self.layers += integer
        self.nodes.append(new)
        for output in node.output:
            grid = self.graph.tensors.get(output)
            if grid is None and node.op_type in HAND_ON and output not in self.outputs:
                grid = self._handed_on(node)
            if grid is not None:
                self._quantise(output, grid)

    def _handed_on(self, node: Any) -> QuantiserGrid | None:
        modes = {a.name: a.s for a in node.attribute}
        if node.op_type in ("Resize", "Upsample") and modes.get("mode") != b"nearest":
            return None
        inputs = list(node.input) if node.op_type == "Concat" else list(node.input[:1])
        grids = [self.grids.get(name) for name in inputs]
        return grids[0] if all(grid == grids[0] for grid in grids) else None

    def _quantise(self, name: str, grid: QuantiserGrid) -> None:
        """Add the two nodes behind a tensor."""
        self.grids[name] = grid
        source = name
        if grid.high - grid.low < 255:  # fewer levels than the type has
            low = self._constant(
                f"{name}_low", np.float32(grid.low * np.float32(grid.scale))
            )
            high = self._constant(
                f"{name}_high", np.float32(grid.high * np.float32(grid.scale))
            )
            source = f"{name}_clipped"
            self._add("Clip", [name, low, high], source)
        scale = self._constant(f"{name}_scale", np.float32(grid.scale))
        zero = self._constant(f"{name}_zero", np.uint8(_zero(grid)))
        self._add("QuantizeLinear", [source, scale, zero], f"{name}_quantized")
        ready = f"{name}_dequantized"
        self._add("DequantizeLinear", [f"{name}_quantized", scale, zero], ready)
        self.renamed[name] = ready

    def _guarded(self, name: str) -> str:
        """Return a dequantised tensor as a layer reads it that stays float32.

        ONNX Runtime would round the weights of a layer between two quantised tensors.
        So a maximum is taken before, with the least value that the tensor can have.
        """
        ready, grid = f"{name}_float", self.grids[name]
        if ready not in self.made:
            least = np.float32(grid.low * np.float32(grid.scale))
            low = self._constant(f"{name}_least", least)
            self._add("Max", [self.renamed[name], low], ready)
        return ready

    def _layer(self, node: Any, new: Any) -> bool:
        """Store a layer's weight and bias as integers; return whether it has some."""
        name = node.input[1]
        levels = self.graph.weights.get(name)
        if levels is None or node.input[0] not in self.grids:
            return False
        in_four = self.bits == 4 and levels.bits <= 4
        if not in_four:
            levels = levels.refined(NARROW)
        new.input[1] = self._weight(name, levels, in_four)
        if len(node.input) > 2 and node.input[2]:
            bias = self.constants[node.input[2]]
            unit = levels.scale.astype(np.float64) * np.float32(
                self.grids[node.input[0]].scale
            )
            if in_four:  # no runtime has integer kernels that need this very scale
                unit = unit / FINER
            whole = np.rint(bias / unit)
            if np.abs(whole).max() <= LARGEST_BIAS:
                new.input[2] = self._bias(node, whole, unit)
        return True

    def _weight(self, name: str, levels: Levels, in_four: bool) -> str:
        ready, number = f"{name}_dequantized", 1
        while ready in self.made:  # ONNX Runtime fails at constants of two readers
            number += 1
            name, ready = f"{name}_{number}", f"{name}_{number}_dequantized"
        stored = f"{name}_quantized"
        if in_four:
            kind = self.onnx.TensorProto.INT4
            data = packed(levels.levels, 4)
            zero = packed(np.zeros(len(levels.scale), np.int8), 4)
            self.added[stored] = self.onnx.helper.make_tensor(
                stored, kind, levels.levels.shape, data, raw=True
            )
            zeros = f"{name}_zero"
            self.added[zeros] = self.onnx.helper.make_tensor(
                zeros, kind, levels.scale.shape, zero, raw=True
            )
        else:
            self._constant(stored, levels.levels)
            zeros = self._constant(f"{name}_zero", np.zeros(len(levels.scale), np.int8))
        scale = self._constant(f"{name}_scale", levels.scale)
        self._add("DequantizeLinear", [stored, scale, zeros], ready, axis=levels.axis)
        return ready

    def _bias(self, node: Any, whole: np.ndarray, unit: np.ndarray) -> str:
        # A bias may be read by layers of other scales.
        name = f"{node.output[0]}_bias"
        stored = self._constant(f"{name}_quantized", whole.astype(np.int32))
        scale = self._constant(f"{name}_scale", unit.astype(np.float32))
        self._add("DequantizeLinear", [stored, scale], f"{name}_dequantized", axis=0)
        return f"{name}_dequantized"

    def _constant(self, name: str, value: Any) -> str:
        if name not in self.added:
            tools = import_optional("onnx.numpy_helper", "onnx")
            self.added[name] = tools.from_array(np.asarray(value), name)
        return name

    def _add(self, op: str, inputs: Sequence[str], output: str, **attrs: Any) -> None:
        self.made.add(output)
        self.nodes.append(
            self.onnx.helper.make_node(op, inputs, [output], f"{output}_node", **attrs)
        )

    def _give_back(self, name: str) -> None:
        """Let the dequantised form of an output have its name."""
        ready, raw = self.renamed[name], f"{name}_unrounded"
        for node in self.nodes:
            for i, output in enumerate(node.output):
                if output == name:
                    node.output[i] = raw
                elif output == ready:
                    node.output[i] = name
            for i, source in enumerate(node.input):
                if source == name:
                    node.input[i] = raw
                elif source == ready:
                    node.input[i] = name


def _zero(grid: QuantiserGrid) -> int:
    """Return the zero point of a grid in uint8."""
    return -grid.low
