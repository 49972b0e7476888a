"""Times a deployed net layer by layer in its runtime: JSON in, JSON out.

The runtimes' own profiles are read for several runs. Of each layer the smallest time
counts: what else a machine does only adds to it.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable, Iterator

RUNS = 40
KINDS = {  # of layers that are no convolutions, by a part of their type
    "sums": ("Add", "Eltwise", "Subgraph"),
    "pooling": ("Pool",),
    "to and from int8": ("Quantize", "Convert"),
    "layout": ("Transpose", "Reshape", "Concat", "Reorder", "Flatten"),
}
OTHER = "other"
JOINED = ("Conv", "Relu", "Clip", "Add")
TYPES = ("Conv", "FusedConv", "QLinearConv", "Convolution", "GroupConvolution")


def profiled(task: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each layer of a net: name, kind, milliseconds, MACs.

    A convolution's kind is its ``kind_of_convolution``.
    """
    shapes = dict(convolutions(task["source"]))
    best: dict[str, tuple[str, float]] = {}
    for name, op, ms in PROFILES[task["runtime"]](task["file"], task["threads"]):
        best[name] = (op, min(ms, best.get(name, ("", ms))[1]))
    rows = []
    for name, (op, ms) in best.items():
        # Runtimes append to names.
        layer = shapes.get(re.sub(r"(_nchwc|_token_\d+|/.*)+$", "", name))
        kind, macs = layer if layer and op in TYPES else (_kind(op), 0)
        rows.append({"name": name, "kind": kind, "ms": ms, "macs": macs})
    return rows


def convolutions(source: str) -> Iterator[tuple[str, tuple[str, int]]]:
    """Yield the names of each convolution of an ONNX file, with kind and MACs.

    A runtime calls a layer by its node, or by an output of it or of what it is joined
    with.
    """
    import numpy as np
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load(source))
    values = [*model.graph.value_info, *model.graph.output]
    sizes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values
    }
    weights = {w.name: list(w.dims) for w in model.graph.initializer}
    readers = {name: node for node in model.graph.node for name in node.input}
    for node in model.graph.node:
        if node.op_type != "Conv":
            continue
        outs, ins, *kernel = weights[node.input[1]]
        cells = int(np.prod(sizes[node.output[0]][2:]))
        macs = cells * outs * ins * int(np.prod(kernel))
        row = kind_of_convolution(kernel[0], ins, outs), macs
        yield node.name, row
        while node is not None and node.op_type in JOINED:
            yield node.name, row
            yield node.output[0], row
            node = readers.get(node.output[0])


def kind_of_convolution(kernel: int, ins: int, outs: int) -> str:
    """Return the words for convolutions of about this speed; ``ins`` in one group."""
    if ins == 1 and outs > 1:
        return "depthwise"
    if ins == 3:
        return "first layer"
    if min(ins, outs) <= THIN:
        return f"{kernel}x{kernel}, up to {THIN} channels on a side"
    return f"{kernel}x{kernel}, wider"


THIN = 32


def _kind(op: str) -> str:
    for kind, words in KINDS.items():
        if any(word in op for word in words):
            return kind
    return OTHER


def _noise() -> Any:
    import numpy as np

    return np.random.RandomState(0).standard_normal((1, 3, 300, 300)).astype("float32")


def _onnxruntime(file: str, threads: int) -> Iterator[tuple[str, str, float]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder, "profile"))
        session = onnxruntime.InferenceSession(
            file, options, providers=["CPUExecutionProvider"]
        )
        for _ in range(RUNS):
            session.run(None, {session.get_inputs()[0].name: _noise()})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    ending = "_kernel_time"
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(ending):
            name = event["name"][: -len(ending)]
            yield name, event["args"]["op_name"], event["dur"] / 1e3


def _openvino(file: str, threads: int) -> Iterator[tuple[str, str, float]]:
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(threads),
        "PERF_COUNT": "YES",
    }
    for _ in range(RUNS // 4):
        net = openvino.Core().compile_model(file, "CPU", settings)
        request = net.create_infer_request()
        first, mean = _openvino_times(request, 1), _openvino_times(request, 3)
        for name, (op, ms) in mean.items():
            # Its times are means of all runs; the first one prepares weights.
            yield name, op, (4 * ms - first.get(name, ("", 0.0))[1]) / 3


def _openvino_times(request: Any, runs: int) -> dict[str, tuple[str, float]]:
    for _ in range(runs):
        request.infer({0: _noise()})
    rows = request.get_profiling_info()
    times = {r.node_name: (r.node_type, r.real_time.total_seconds()) for r in rows}
    return {name: (op, 1e3 * s) for name, (op, s) in times.items() if s}


PROFILES: dict[str, Callable[[str, int], Iterator[tuple[str, str, float]]]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}

if __name__ == "__main__":
    print(json.dumps(profiled(json.loads(sys.argv[1]))), flush=True)
