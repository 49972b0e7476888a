"""Measures the forms of a deformable convolution in runtimes, one layer at a time."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

from gluon_compress.cli.app import Command
from gluon_compress.cli.options import above_0, add_out, write_result
from gluon_compress.markdown import table
from gluon_compress.storage.atomic import write_atomically

TEXT = """Measure a deformable convolution in each form, in each runtime.

  %(prog)s --out docs/benchmark/deformable

One layer, one thread: the least CPU time of several runs, in ms, and as a multiple of
an ordinary 3 x 3 convolution of each channel in the same runtime. With --out, also
writes result.json and deformable.md.
"""
PAGE = "deformable.md"
LAYERS = (("none", 1), ("square", 4), ("depthwise", 4), ("depthwise", 8))
FORMS = ("deformable", "dilated", "sampled")
RUNTIMES = ("mxnet", "onnxruntime", "openvino", "ncnn")
HEAD = ("layer", "form", *RUNTIMES)
INTRODUCTION = """# Deformable convolutions in runtimes

Milliseconds of one layer of {channels} channels on a map of {side} x {side}, one
thread: the least CPU time of {runs} runs. In brackets, the multiple of the ordinary
convolution in the first row, in the same runtime. `square` has dense weights; the other
layers are a 3 x 3 convolution of each channel and a 1 x 1 convolution. A dash: the
runtime has no such operator, or the form is not exact.
"""


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--channels", type=above_0, default=64)
    parser.add_argument("--side", type=above_0, default=64, help="of the map")
    parser.add_argument("--runs", type=above_0, default=5)
    add_out(parser, "rows", required=False, files=[PAGE])


def _benchmark(args: argparse.Namespace) -> None:
    """Write each layer in each form, run it, and print the table."""
    from gluon_compress.storage.atomic import scratch_folder

    rows = []
    for rung, bound in LAYERS:
        graph = graph_of(rung, bound, args.channels, args.side)
        for form in FORMS if rung != "none" else ("",):
            if form == "dilated" and rung == "square":
                continue
            times = {}
            for runtime in RUNTIMES:
                with scratch_folder() as folder:
                    run = opened(graph, form, runtime, folder)
                    if run is not None:
                        times[runtime] = least_time(run, graph, args.runs)
            rows.append({"rung": rung, "bound": bound, "form": form, "ms": times})
            print(table_of([rows[0], rows[-1]] if len(rows) > 1 else rows))
    if args.out:
        settings = {key: getattr(args, key) for key in ("channels", "side", "runs")}
        result = write_result(args.out, {**settings, "rows": rows})
        page = page_of(json.loads(result.read_text(encoding="utf-8")))
        write_atomically(Path(args.out) / PAGE, page)


def graph_of(rung: str, bound: int, channels: int, side: int) -> Any:
    """Return a layer on a map, with taps at all distances."""
    import mxnet as mx
    import numpy as np

    from gluon_compress.deployment.formats import InferenceGraph
    from gluon_compress.graph.deformable import deformable
    from gluon_compress.graph.symbols import infer_shapes

    shape = (1, channels, side, side)
    data = mx.sym.var("data")
    if rung == "none":
        x = mx.sym.Convolution(
            data,
            num_filter=channels,
            num_group=channels,
            kernel=(3, 3),
            pad=(1, 1),
            no_bias=True,
            name="layer_conv",
        )
        symbol = mx.sym.Convolution(
            x, num_filter=channels, kernel=(1, 1), no_bias=True, name="layer_point"
        )
    else:
        symbol = deformable(data, channels, channels, "layer", rung=rung, bound=bound)
    random = np.random.RandomState(0)
    shapes, _ = infer_shapes(symbol, {"data": shape})
    values = {n: random.randn(*s) / np.sqrt(np.prod(s[1:])) for n, s in shapes.items()}
    if "layer_distance_weight" in values:
        values["layer_distance_weight"] *= bound
    params = {n: mx.nd.array(v) for n, v in values.items() if n != "data"}
    images = random.randn(*shape).astype(np.float32)
    return InferenceGraph("layer", symbol, params, shape, images)


def opened(graph: Any, form: str, runtime: str, folder: Path) -> Callable | None:
    """Return what runs a graph in a form; None if the runtime cannot."""
    from gluon_compress.deployment import formats, runtimes
    from gluon_compress.deployment.deformable import in_form

    formed = in_form(graph, form or None)
    try:
        if runtime == "mxnet":
            formats.save_mxnet(formed, folder)
            name = "mxnet"
        elif runtime == "onnxruntime":
            formats.write_onnx(formed, folder / "layer.onnx", batch=1)
            name = "onnx"
        elif form == "deformable":
            return None
        else:
            name = runtime
            formats.FORMATS[name].write(formed, folder)
        files = [folder / f"layer{ending}" for ending in formats.FORMATS[name].files]
        threads = None if runtime == "mxnet" else 1
        run = runtimes.open_files(runtime, files, graph.shape, threads)
        run(graph.images)
    except Exception:  # each runtime has its own
        return None
    return run


def least_time(run: Callable, graph: Any, runs: int) -> float:
    """Return the least CPU time of a run, ms."""
    times = []
    for _ in range(runs):
        begun = time.process_time()
        run(graph.images)
        times.append(1000 * (time.process_time() - begun))
    return min(times)


def page_of(result: Mapping[str, Any]) -> str:
    """Return the page as Markdown, from the result alone."""
    hardware = result["hardware"]
    text = INTRODUCTION.format(**{k: result[k] for k in ("channels", "side", "runs")})
    source = f"{hardware['cpu']}; commit {result['commit']}, {result['date'][:10]}.\n"
    return "\n".join([text, source, table_of(result["rows"])])


def table_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of milliseconds, and of multiples of the first row."""
    lines = []
    for row in rows:
        cells = []
        for runtime in RUNTIMES:
            own, plain = (each["ms"].get(runtime) for each in (row, rows[0]))
            if own is None:
                cells.append("–")
            else:
                share = f" ({own / plain:.1f})" if row is not rows[0] and plain else ""
                cells.append(f"{own:.1f}{share}")
        name = "ordinary" if row["rung"] == "none" else f"`{row['rung']}`"
        name += "" if row["rung"] == "none" else f", bound {row['bound']}"
        lines.append([name, row["form"], *cells])
    return table(HEAD, lines)


COMMAND = Command(TEXT, _add_options, _benchmark)
