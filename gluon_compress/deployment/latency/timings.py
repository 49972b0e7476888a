"""Which runtimes and precisions have latency tables; imports no MXNet."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping


@dataclass(frozen=True)
class Timing:
    """How a runtime is timed in a precision.

    Parameters
    ----------
    format : str
        Of the files of blocks, one of ``FORMATS``.
    deployed : str
        The format that ``deploy`` writes for it.
    options : mapping
        For opening the runtime.
    """

    format: str
    deployed: str
    options: Mapping[str, Any] = field(default_factory=dict)


# OpenVINO reads ONNX files as it does its own, and they are written in a fraction of
# the time. With a batch of any length, as ``deploy`` has it, it compiles other kernels.
TIMINGS: dict[tuple[str, str], Timing] = {
    ("mxnet", "float32"): Timing("mxnet", "mxnet"),
    ("mxnet", "int8"): Timing("int8", "int8"),
    ("onnxruntime", "float32"): Timing("onnx", "onnx"),
    ("onnxruntime", "int8"): Timing("onnx-int8", "onnx-int8"),
    ("openvino", "float32"): Timing("onnx-dynamic", "openvino"),
    ("openvino", "int8"): Timing("onnx-int8", "onnx-int8"),
    ("openvino", "bfloat16"): Timing(
        "onnx-dynamic", "openvino", {"precision": "bfloat16"}
    ),
    ("ncnn", "float32"): Timing("ncnn", "ncnn"),
    ("opencv", "float32"): Timing("onnx", "onnx"),
}
RUNTIMES = tuple(dict.fromkeys(runtime for runtime, _ in TIMINGS))
PRECISIONS = tuple(dict.fromkeys(precision for _, precision in TIMINGS))


def timing_of(runtime: str, precision: str) -> Timing:
    """Return how a runtime is timed in a precision.

    Raises
    ------
    ValueError
        If there is no such runtime, or it has no such precision.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime {runtime!r}; allowed: {', '.join(RUNTIMES)}")
    if (runtime, precision) not in TIMINGS:
        allowed = ", ".join(p for r, p in TIMINGS if r == runtime)
        raise ValueError(f"precision {precision!r} of {runtime}; allowed: {allowed}")
    return TIMINGS[runtime, precision]
