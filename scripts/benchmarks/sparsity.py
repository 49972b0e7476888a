"""Times a convolution with zeros in its weight in every runtime, in turn."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any, Mapping

from gluon_compress.cli.app import Command
from gluon_compress.cli.options import above_0, add_out, write_result
from gluon_compress.markdown import table
from gluon_compress.storage.atomic import write_atomically

TEXT = """Time a convolution with zeros in its weight, against one without.

  %(prog)s --out docs/benchmark/sparsity

A 3x3 convolution from 256 to 256 channels, in each runtime that is installed, on one
thread. All shares of zeros take turns; what counts is the least time of each. With
--out, also writes result.json and sparsity.md.
"""
PAGE = "sparsity.md"
FORMATS = {"mxnet": "mxnet", "onnx": "onnxruntime", "openvino": "openvino"}
CHANNELS = 256
LEVELS = (0.0, 0.9, 0.99)
INTRODUCTION = """# Zeros gain no time

A 3 × 3 convolution from {channels} to {channels} channels on a map of {size} × {size},
on one thread: the least time of {repeats}, in turn, as a multiple of the time without
zeros. The weights that stay are random.
"""


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=above_0, default=40, help="pixels; default: 40")
    parser.add_argument("--repeats", type=above_0, default=40, help="default: 40")
    add_out(parser, "channels", "ratios", required=False, files=[PAGE])


def _benchmark(args: argparse.Namespace) -> None:
    """Time runtime by runtime, and print the ratios."""
    with tempfile.TemporaryDirectory() as folder:
        ms = times(Path(folder), args.size, args.repeats)
    ratios = {
        runtime: {level: t / each["0.0"] for level, t in each.items()}
        for runtime, each in ms.items()
    }
    print(table_of(ratios))
    if args.out:
        settings = {"size": args.size, "repeats": args.repeats, "channels": CHANNELS}
        content = {**settings, "ms": ms, "ratios": ratios}
        result = write_result(args.out, content)
        page = page_of(json.loads(result.read_text(encoding="utf-8")))
        write_atomically(Path(args.out) / PAGE, page)


def times(folder: Path, size: int, repeats: int) -> dict[str, dict[str, float]]:
    """Return the least milliseconds by runtime and share of zeros."""
    import mxnet as mx
    import numpy as np

    import gluon_compress as gc
    from gluon_compress.deployment.plain_nets import export_formats
    from gluon_compress.deployment.runtimes import RUNTIMES

    shape = (1, CHANNELS, size, size)
    net = mx.gluon.nn.HybridSequential()
    net.add(mx.gluon.nn.Conv2D(CHANNELS, 3, padding=1, in_channels=CHANNELS))
    mx.random.seed(0)
    net.initialize(mx.init.Xavier())
    image = np.random.RandomState(0).normal(size=shape).astype(np.float32)
    runs: dict[str, dict[str, Any]] = {runtime: {} for runtime in FORMATS.values()}
    for level in LEVELS:
        made = gc.sparsify(net, level=level, shape=shape)
        place = folder / str(level)
        entries = export_formats(
            made, place, "conv", list(FORMATS), shape=shape, images=image
        )
        for form, runtime in FORMATS.items():
            files = [place / file for file in entries[form]["files"]]
            threads = {} if runtime == "mxnet" else {"threads": 1}
            run = RUNTIMES[runtime].open(files, **threads)
            runs[runtime][str(level)] = run
    ms = {r: {level: float("inf") for level in each} for r, each in runs.items()}
    for _ in range(repeats):
        for runtime, each in runs.items():
            for level, run in each.items():
                begun = time.perf_counter()
                run(image)
                spent = 1e3 * (time.perf_counter() - begun)
                ms[runtime][level] = min(ms[runtime][level], spent)
    return ms


def page_of(result: Mapping[str, Any]) -> str:
    """Return the page as Markdown, from the result alone."""
    text = INTRODUCTION.format(**result)
    cpu, commit = result["hardware"]["cpu"], result["commit"]
    source = f"{cpu}; commit {commit}, {result['date'][:10]}.\n"
    return "\n".join([text, source, table_of(result["ratios"])])


def table_of(ratios: Mapping[str, Mapping[str, float]]) -> str:
    """Return a table of the ratios, one column for each share of zeros."""
    head = ["runtime", *(f"{100 * level:g} % zeros" for level in LEVELS)]
    rows = [
        [runtime, *(f"{each[str(level)]:.2f}" for level in LEVELS)]
        for runtime, each in ratios.items()
    ]
    return table(head, rows)


COMMAND = Command(TEXT, _add_options, _benchmark)
