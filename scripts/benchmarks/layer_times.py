"""Shows which layers of detectors take the time, in float32 and in int8."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Mapping, Sequence

from benchmarks.nets import deployed_folder
from benchmarks.runner import Setting, in_process
from experiments.nets import TIMED
from gluon_compress.cli.app import Command
from gluon_compress.cli.options import above_0, add_out, write_result
from gluon_compress.markdown import table
from gluon_compress.storage.atomic import write_atomically

TEXT = """Show which layers of detectors take the time, in float32 and in int8.

  %(prog)s --out runs/layers
  %(prog)s compact_s lite --runtimes onnxruntime --out runs/layers

Nets are those of benchmark.py. ONNX Runtime and OpenVINO tell how long each layer
takes; the smallest time of several runs counts. Writes result.json and layers.md.
"""
PAGE, WORKER = "layers.md", "benchmarks.layer_worker"
DEFAULT = ("compact_s", "compact", "mobilenet", "lite")
FILES = {"float32": "onnx", "int8": "onnx-int8"}  # that both runtimes read
INTRODUCTION = """# Which layers take the time

Head graphs of SSD-300 for 20 classes, one image, as in
[the benchmark](../benchmark.md). The runtimes' own profiles tell the time of each
layer; it is the smallest of {runs} runs. Convolutions include all that is computed in
them: BatchNorm, activations, in OpenVINO also sums.
"""
SPEEDS = """## Speed of convolutions

Giga-multiply-accumulates per second in float32 and in int8. Where the two are close,
int8 does not pay.
"""


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("nets", nargs="*", metavar="NET", help="default: four of them")
    add_out(parser, "rows", files=[PAGE])
    parser.add_argument("--work", metavar="DIR", help="for nets; default: OUT/nets")
    parser.add_argument(
        "--runtimes",
        nargs="+",
        choices=("onnxruntime", "openvino"),
        default=("onnxruntime", "openvino"),
    )
    parser.add_argument("--threads", type=above_0, default=1, metavar="N")


def _benchmark(args: argparse.Namespace) -> None:
    """Profile net by net, print, and write both files."""
    out, rows = Path(args.out), []
    nets = args.nets or DEFAULT
    unknown = sorted(set(nets) - set(TIMED))
    if unknown:
        raise ValueError(f"{unknown[0]}: none of {', '.join(TIMED)}")
    work = Path(args.work or out / "nets")
    for net in nets:
        folder = deployed_folder(net, work, list(FILES.values()))
        files = {p: folder / _file(folder, name) for p, name in FILES.items()}
        for runtime in args.runtimes:
            for precision, file in files.items():
                setting = Setting(runtime, precision, args.threads, 1)
                task = {"file": str(file), "source": str(files["float32"])}
                layers = in_process(WORKER, setting, task)
                named = {"net": net, "runtime": runtime, "precision": precision}
                rows.append({**named, "layers": layers})
                total = sum(layer["ms"] for layer in layers)
                print(f"{net} {runtime} {precision}: {total:.1f} ms", flush=True)
    result = write_result(out, {"threads": args.threads, "rows": rows})
    page = page_of(json.loads(result.read_text(encoding="utf-8")))
    write_atomically(out / PAGE, page)
    print(result)


def _file(folder: Path, name: str) -> str:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    (file,) = manifest["formats"][name]["files"]
    return file


# ---------------------------------------------------------------- the page


def page_of(result: Mapping[str, Any]) -> str:
    """Return the page as Markdown, from the result alone."""
    from benchmarks.layer_worker import RUNS

    threads = f"{result['threads']} thread{'s' if result['threads'] > 1 else ''}"
    machine = f"{result['hardware']['cpu']}, {threads}"
    source = f"{machine}; commit {result['commit']}, {result['date'][:10]}.\n"
    parts = [INTRODUCTION.format(runs=RUNS), source]
    for runtime in dict.fromkeys(row["runtime"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["runtime"] == runtime]
        parts += [f"## {runtime}, ms\n", _times(rows)]
    return "\n".join([*parts, SPEEDS, _speeds(result["rows"])])


def _kinds(rows: Sequence[Mapping]) -> list[str]:
    """Return the kinds of layers, what takes most time first."""
    total: dict[str, float] = {}
    for row in rows:
        for layer in row["layers"]:
            total[layer["kind"]] = total.get(layer["kind"], 0.0) + layer["ms"]
    return sorted(total, key=total.__getitem__, reverse=True)


def _times(rows: Sequence[Mapping]) -> str:
    head = ("layers", *(f"{row['net']}, {row['precision']}" for row in rows))
    lines = [
        [kind, *(f"{_sum(row, kind, 'ms'):.2f}" for row in rows)]
        for kind in _kinds(rows)
    ]
    totals = [f"{sum(layer['ms'] for layer in row['layers']):.2f}" for row in rows]
    return table(head, [*lines, ["all", *totals]])


def _speeds(rows: Sequence[Mapping]) -> str:
    columns = list(dict.fromkeys((row["net"], row["runtime"]) for row in rows))
    kinds = [k for k in _kinds(rows) if any(_sum(row, k, "macs") for row in rows)]
    lines = []
    for kind in kinds:
        cells = []
        for net, runtime in columns:
            of_net = [r for r in rows if (r["net"], r["runtime"]) == (net, runtime)]
            cells.append(" and ".join(_speed(row, kind) for row in of_net))
        lines.append([kind, *cells])
    return table(("convolutions", *(f"{n}, {r}" for n, r in columns)), lines)


def _speed(row: Mapping, kind: str) -> str:
    ms = _sum(row, kind, "ms")
    return f"{_sum(row, kind, 'macs') / ms / 1e6:.0f}" if ms else "–"


def _sum(row: Mapping, kind: str, key: str) -> float:
    return sum(layer[key] for layer in row["layers"] if layer["kind"] == kind)


COMMAND = Command(TEXT, _add_options, _benchmark)
