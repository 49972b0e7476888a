"""Times detectors in edge runtimes: head graphs, in turn, in one run."""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path

from benchmarks import runner
from benchmarks.runtimes_page import draw, page_of, table_of_ways, tables_of
from experiments.nets import TIMED
from gluon_compress.cli.app import Command
from gluon_compress.cli.options import above_0, add_out, write_result
from gluon_compress.deployment.formats import PRECISIONS
from gluon_compress.deployment.runtimes import RUNTIMES
from gluon_compress.storage.atomic import write_atomically

TEXT = """Time detectors in edge runtimes: head graphs, in turn, in one run.

  %(prog)s compact_s lite deploy/edge --runtimes onnxruntime --out runs/b
  %(prog)s deploy/edge --images DATA/JPEGImages --out runs/b

Nets are deployed folders (scripts/export.py --formats), or full, compact, compact_s,
compact_ms, mobilenet, lite, resnet50_v1d_0.48 and resnet50_v1d_0.37, which have 20
classes and initial weights. With --images, deployed folders are also timed from image
files to boxes (2 threads, batch 1). Writes result.json, benchmark.md and benchmark.png.
"""
PAGE, PICTURE = "benchmark.md", "benchmark.png"


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("nets", nargs="*", metavar="NET", help="default: all names")
    add_out(parser, "rows", "ways", files=[PAGE, PICTURE])
    parser.add_argument("--work", metavar="DIR", help="for nets; default: OUT/nets")
    parser.add_argument("--images", metavar="DIR", help="for the way to boxes, too")
    parser.add_argument("--count", type=above_0, default=16, help="of --images")
    parser.add_argument(
        "--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES)
    )
    parser.add_argument(
        "--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS
    )
    for name, default in (("--threads", 2), ("--batches", 1)):
        parser.add_argument(
            name, nargs="+", type=above_0, default=[default], metavar="N"
        )
    parser.add_argument("--no-memory", action="store_true", help="measure time alone")
    parser.add_argument(
        "--seconds", type=above_0, default=20, help="for a setting; default: 20"
    )


def _benchmark(args: argparse.Namespace) -> None:
    """Measure setting by setting, print its table, and write both files."""
    out, rows, ways = Path(args.out), [], []
    grid = product(args.runtimes, args.precisions, args.threads, args.batches)
    settings = [s for s in (runner.Setting(*chosen) for chosen in grid) if s.format]
    if not settings:
        raise ValueError("no runtime of --runtimes runs such precisions and batches")
    names = args.nets or list(TIMED)
    trained = runner.trained(names)
    files = []
    if args.images:
        runner.refuse_idle_images(trained, settings)
        files = runner.readable_images(args.images, args.count)
    folders = runner.deployed(names, Path(args.work or out / "nets"), settings)
    for setting in settings:
        measured = runner.measure(
            folders, setting, args.seconds, memory=not args.no_memory
        )
        print(tables_of(measured), flush=True)
        rows += measured
        if not files or not setting.is_plain:
            continue
        for name in trained:
            way = runner.measure_ways(folders[name], name, files, setting, args.seconds)
            ways.append(way)
            print(table_of_ways([way]), flush=True)
    result = write_result(out, {"rows": rows, "ways": ways})
    draw(rows, out / PICTURE)
    page = page_of(json.loads(result.read_text(encoding="utf-8")))
    write_atomically(out / PAGE, page)
    print(result)


COMMAND = Command(TEXT, _add_options, _benchmark)
