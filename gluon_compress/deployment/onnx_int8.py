"""Quantises ONNX files to int8, such that every CPU computes the same from them.

ONNX Runtime quantises, as QDQ nodes. Runtimes compute sums of tensors (a residual
addition, an average) in float32, each in its own order. Where a sum lies between two
levels, rounding decides, and the layers behind magnify that. So the scales of such
tensors are changed a little, to numbers of few bits: their sums are exact in float32.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, Iterator

import numpy as np

from gluon_compress.deployment.runtimes import import_optional

WITH_WEIGHTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
SUMS = ("Add", "AveragePool", "GlobalAveragePool")
BITS = 8  # of the scale of a tensor that is summed


def quantize(
    source: Path, target: Path, images: np.ndarray, *, calibration: str
) -> int:
    """Write an ONNX file whose convolutions compute in int8.

    What lies between the last weights and the outputs stays float32, so that outputs
    that are joined there keep scales of their own.

    Parameters
    ----------
    source : Path
        A float32 file whose input is called ``data``, and whose nodes have names.
    target : Path
        Written. OpenVINO reads it too.
    images : ndarray
        Inputs ``(N, ...)`` to calibrate on.
    calibration : str
        One of ``formats.CALIBRATIONS``.

    Returns
    -------
    int
        The opset of the file.

    Raises
    ------
    ValueError
        If there are no images, or ONNX Runtime is not installed.
    """
    onnx = import_optional("onnx", "onnx")
    tool = import_optional("onnxruntime.quantization", "onnx")
    if len(images) == 0:
        raise ValueError("int8 needs images to calibrate on, and there are none")
    inputs = iter([{"data": image[None]} for image in images])

    class Reader(tool.CalibrationDataReader):  # type: ignore[name-defined]
        def get_next(self):
            return next(inputs, None)

    methods = {
        "entropy": tool.CalibrationMethod.Entropy,
        "naive": tool.CalibrationMethod.MinMax,
    }
    model = with_own_constants(onnx.load(str(source)))
    with _quiet():
        tool.quantize_static(
            model,
            str(target),
            Reader(),
            quant_format=tool.QuantFormat.QDQ,
            per_channel=True,
            activation_type=tool.QuantType.QUInt8,
            weight_type=tool.QuantType.QInt8,
            calibrate_method=methods[calibration],
            nodes_to_exclude=behind_last_weights(model),
        )
    model = with_exact_sums(onnx.load(str(target)))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(target))
    (opset,) = [entry.version for entry in model.opset_import if not entry.domain]
    return opset


def with_own_constants(model: Any) -> Any:
    """Return a model in which each layer has weights and a bias of its own.

    ONNX Runtime states a bias by the scale of its layer's input, so layers cannot share
    one; and it cannot open a file in which they share quantised weights.
    """
    copy = type(model)()
    copy.CopyFrom(model)
    constants = {c.name: c for c in model.graph.initializer}
    seen: set[str] = set()
    for node in copy.graph.node:
        if node.op_type not in WITH_WEIGHTS:
            continue
        for i, name in enumerate(node.input):
            if name in seen and name in constants:
                node.input[i] = f"{name}_of_{node.name}"
                constant = copy.graph.initializer.add()
                constant.CopyFrom(constants[name])
                constant.name = node.input[i]
            seen.add(name)
    return copy


def behind_last_weights(model: Any) -> list[str]:
    """Return the names of the nodes between the last weights and the outputs."""
    makers = {output: node for node in model.graph.node for output in node.output}
    tensors = [output.name for output in model.graph.output]
    names: list[str] = []
    while tensors:
        node = makers.get(tensors.pop())
        if node is None or node.op_type in WITH_WEIGHTS or node.name in names:
            continue
        names.append(node.name)
        tensors += node.input
    return names


def with_exact_sums(model: Any) -> Any:
    """Return a QDQ model whose sums of two tensors are exact in float32.

    The scales of sums become powers of two, and those of what is summed get ``BITS``
    significant bits. Both grow, so that no value is clipped that was not before.
    """
    graph = _QDQ(model)
    sums = {scale for node in graph.sums() for scale in graph.scales_of_outputs(node)}
    summands = {
        scale for node in graph.sums() for scale in graph.scales_of_inputs(node)
    }
    for scale in sums:
        graph.rescale(scale, power_of_two(graph.value(scale)))
    for scale in summands - sums:
        graph.rescale(scale, short(graph.value(scale)))
    return graph.model


def power_of_two(value: float) -> float:
    """Return the smallest power of two that is at least a value."""
    return float(2.0 ** np.ceil(np.log2(value)))


def short(value: float) -> float:
    """Return the smallest number of ``BITS`` bits that is at least a value."""
    unit = 2.0 ** (np.floor(np.log2(value)) + 1 - BITS)
    return float(np.ceil(value / unit) * unit)


class _QDQ:
    """A copy of a QDQ model, whose scales can be changed.

    Quantised tensors are named by the constant that is their scale.
    """

    def __init__(self, model: Any) -> None:
        self.model = type(model)()
        self.model.CopyFrom(model)
        nodes = self.model.graph.node
        self._constants = {c.name: c for c in self.model.graph.initializer}
        self._makers = {output: node for node in nodes for output in node.output}
        self._readers: dict[str, list] = {}
        for node in nodes:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def sums(self) -> list:
        """Return the nodes that sum tensors."""
        return [node for node in self.model.graph.node if node.op_type in SUMS]

    def scales_of_inputs(self, node: Any) -> list[str]:
        """Return the scales of the quantised inputs of a node."""
        makers = [self._makers.get(name) for name in node.input]
        return [
            maker.input[1]
            for maker in makers
            if maker is not None
            and maker.op_type == "DequantizeLinear"
            and maker.input[0] not in self._constants
        ]

    def scales_of_outputs(self, node: Any) -> list[str]:
        """Return the scales of the outputs of a node, also behind an activation."""
        scales = []
        for reader in self._readers.get(node.output[0], []):
            if reader.op_type == "QuantizeLinear":
                scales.append(reader.input[1])
            elif reader.op_type in ("Relu", "Clip"):
                scales += self.scales_of_outputs(reader)
        return scales

    def value(self, name: str) -> float:
        """Return the value of a scale."""
        return float(self._array(name))

    def rescale(self, scale: str, value: float) -> None:
        """Change a scale, its zero point, and the biases that are stated by it."""
        old = self._array(scale)
        factor = value / float(old)
        self._set(scale, np.full_like(old, value))
        readers = self._readers[scale]
        for zero_point in {node.input[2] for node in readers}:
            levels = self._array(zero_point)
            self._set(zero_point, np.rint(levels / factor).astype(levels.dtype))
        for dequantized in readers:
            for node in self._readers.get(dequantized.output[0], []):
                if len(node.input) > 2 and node.op_type in WITH_WEIGHTS:
                    self._restate_bias(node.input[2], factor)

    def _restate_bias(self, name: str, factor: float) -> None:
        """State a bias, whose scale is the input's times the weight's, by another."""
        maker = self._makers.get(name)
        if maker is None or maker.op_type != "DequantizeLinear":
            return
        levels, scales = (self._array(constant) for constant in maker.input[:2])
        self._set(maker.input[0], np.rint(levels / factor).astype(levels.dtype))
        self._set(maker.input[1], (scales * factor).astype(scales.dtype))

    def _array(self, name: str) -> np.ndarray:
        tools = import_optional("onnx.numpy_helper", "onnx")
        return tools.to_array(self._constants[name])

    def _set(self, name: str, array: np.ndarray) -> None:
        tools = import_optional("onnx.numpy_helper", "onnx")
        self._constants[name].CopyFrom(tools.from_array(array, name))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep a tool from printing its progress and logging advice."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        logging.disable(before)
