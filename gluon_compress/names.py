"""Names that ``--help`` lists, importable without MXNet.

The rows behind them need MXNet to import: ``deployment.runtimes.RUNTIMES``,
``deployment.formats.FORMATS`` and so on. A test compares both.
"""

from __future__ import annotations

RUNTIMES = ("mxnet", "onnxruntime", "openvino", "ncnn", "opencv")
PRECISIONS = ("float32", "int8")
FORMATS = ("mxnet", "onnx", "onnx-dynamic", "openvino", "ncnn", "int8", "onnx-int8")
CALIBRATIONS = ("entropy", "naive")
