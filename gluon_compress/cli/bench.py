"""Times a model folder in Gluon, or a deployed folder in its runtimes."""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, Callable, Iterator, Tuple

from gluon_compress.cli.app import Command
from gluon_compress.cli.options import (
    above_0,
    add_devices,
    add_out,
    contexts,
    refuse,
    write_result,
)
from gluon_compress.deployment.formats import PRECISIONS
from gluon_compress.deployment.runtimes import RUNTIMES

TEXT = """Time a model folder in Gluon, or a deployed folder in its runtimes.

  %(prog)s model_zoo/ssd_300_resnet50_v1d_compact_s_bccd
  %(prog)s deploy/edge --runtimes onnxruntime openvino --threads 2 --out runs/bench

One image at a time, random numbers for pixels. A model folder is timed as it is loaded,
for a detector with boxes and suppression; a deployed one without, in every runtime that
reads it and is installed. Times are medians; let nothing else run on the machine.
"""
WARM_UP, LEAST = 3, 5  # runs before the timed ones, and the least number of these
Measurement = Tuple[str, str, Callable[[], Any]]  # runtime, precision, run
HEAD = ("runtime", "precision", "ms", "quartiles", "images/s")


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_devices(parser)
    parser.add_argument("model", metavar="FOLDER")
    parser.add_argument(
        "--runtimes",
        nargs="+",
        choices=RUNTIMES,
        metavar="NAME",
        help=f"of a deployed folder: {', '.join(RUNTIMES)}; default: all",
    )
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS)
    parser.add_argument(
        "--threads",
        type=above_0,
        metavar="N",
        help="of runtimes; OMP_NUM_THREADS sets those of mxnet and Gluon",
    )
    parser.add_argument(
        "--seconds", type=above_0, default=5, help="for each runtime; default: 5"
    )
    add_out(parser, "model", "rows", required=False)


def _bench(args: argparse.Namespace) -> None:
    """Time each runtime, print the table, and write the result if asked to."""
    from gluon_compress.deployment.manifest import is_deployed
    from gluon_compress.markdown import overlap, table
    from gluon_compress.model_folder import read_manifest

    manifest = read_manifest(args.model)
    measurements = _deployed(args) if is_deployed(manifest) else _gluon(args)
    rows: list[dict[str, Any]] = []
    for runtime, precision, run in measurements:
        low, middle, high = statistics.quantiles(timed(run, args.seconds), n=4)
        times = {"ms": middle, "ms_quartiles": [low, high]}
        rows.append({"runtime": runtime, "precision": precision, **times})
    if not rows:
        raise ValueError(f"{args.model}: no runtime that reads it can be run here")
    print(table(HEAD, map(_cells, rows)), end="")
    for one, other in combinations(rows, 2):
        if overlap(one["ms_quartiles"], other["ms_quartiles"]):
            names = (f"{row['runtime']} {row['precision']}" for row in (one, other))
            print(f"too close in time to tell which is faster: {' and '.join(names)}")
    if args.out:
        model = {"name": manifest["name"], "files": manifest["files"]}
        print(write_result(args.out, {"model": model, "rows": rows}))


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    low, high = row["ms_quartiles"]
    ms, speed = f"{row['ms']:.1f}", f"{1e3 / row['ms']:.1f}"
    return (row["runtime"], row["precision"], ms, f"{low:.1f} to {high:.1f}", speed)


def timed(run: Callable[[], None], seconds: float) -> list[float]:
    """Return the milliseconds of each call, after a warm-up."""
    for _ in range(WARM_UP):
        run()
    times: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(times) < LEAST:
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
    return times


def _gluon(args: argparse.Namespace) -> Iterator[Measurement]:
    refuse(args, ("runtimes", "precisions", "threads"), "only of a deployed folder")
    context = contexts(args.ctx)[0]
    import mxnet as mx

    from gluon_compress import models

    net = models.load(args.model)
    net.collect_params().reset_ctx(context)
    net.hybridize(static_alloc=True, static_shape=True)
    height, width = models.input_size(net)
    image = mx.nd.random.normal(shape=(1, 3, height, width), ctx=context)

    def run() -> None:
        net(image)
        mx.nd.waitall()

    yield "gluon", "float32", run


def _deployed(args: argparse.Namespace) -> Iterator[Measurement]:
    import numpy as np

    from gluon_compress.deployment.formats import formats_of, runtimes_and_precisions
    from gluon_compress.deployment.predictor import Predictor
    from gluon_compress.deployment.runtimes import open_files
    from gluon_compress.model_folder import read_manifest

    manifest = read_manifest(args.model)
    entries, shape = manifest["formats"], manifest["input"]["shape"]
    image = np.random.RandomState(0).standard_normal(shape).astype(np.float32)
    for runtime, precision in runtimes_and_precisions():
        readable = [f for f in formats_of(runtime, precision) if f in entries]
        is_wanted = runtime in (args.runtimes or RUNTIMES)
        if not readable or not is_wanted:
            continue
        if precision not in (args.precisions or PRECISIONS):
            continue
        files = [Path(args.model, file) for file in entries[readable[0]]["files"]]
        threads = None if runtime == "mxnet" else args.threads
        try:
            if manifest.get("stages"):  # they run in turn, with NMS between them
                net = Predictor(args.model, runtime, threads=threads).outputs
            else:
                net = open_files(runtime, files, shape, threads)
        except ValueError as error:  # it is not installed, or cannot load them
            print(f"skipped {runtime} {precision}: {error}")
            continue
        yield runtime, precision, partial(net, image)


BENCH = Command(TEXT, _add_options, _bench)
