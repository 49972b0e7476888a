#!/usr/bin/env python
"""Time detectors in edge runtimes: head graphs, in turn, in one run.

  scripts/benchmark.py --out runs/benchmark
  scripts/benchmark.py compact_s lite deploy/edge --runtimes onnxruntime --out runs/b

Nets are deployed folders (scripts/export.py --formats), or full, compact, compact_s,
mobilenet, lite, resnet50_v1d_0.48 and resnet50_v1d_0.37: those of 20 classes, with
starting values. Writes result.json, benchmark.md and .png. Leave the machine alone.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

from common import above_0, main, parser, write_result
from speed.measure import deployed, measure
from speed.nets import NETS
from speed.page import ratios, tables_of
from speed.plot import draw
from speed.settings import FORMATS, Setting, formats_of

PAIRS = (("compact_s", "lite"), ("compact", "lite"), ("full", "compact"))


def arguments():
    """Return the parser of this script."""
    made = parser(__doc__)
    made.add_argument("nets", nargs="*", metavar="NET", help="default: all names")
    made.add_argument("--out", required=True, metavar="DIR")
    many = {"nargs": "+"}
    runtimes = list(dict.fromkeys(runtime for runtime, _ in FORMATS))
    made.add_argument("--runtimes", **many, choices=runtimes, default=runtimes)
    kinds = ["float32", "int8"]
    made.add_argument("--precisions", **many, choices=kinds, default=kinds)
    made.add_argument("--threads", **many, type=above_0, default=[2], metavar="N")
    made.add_argument("--batches", **many, type=above_0, default=[1], metavar="N")
    made.add_argument(
        "--seconds", type=above_0, default=20, help="for a setting; default: 20"
    )
    return made


def run(args) -> None:
    """Measure setting by setting, print its table, and write both files."""
    out, rows = Path(args.out), []
    grid = product(args.runtimes, args.precisions, args.threads, args.batches)
    settings = [s for s in (Setting(*chosen) for chosen in grid) if s.format]
    if not settings:
        raise ValueError("no runtime of --runtimes runs such precisions and batches")
    names = args.nets or list(NETS)
    folders = deployed(names, out / "nets", formats_of(settings))
    for setting in settings:
        found = measure(folders, setting, args.seconds)
        print(tables_of(found), flush=True)
        rows += found
    text = f"# Benchmark\n\n{ratios(rows, PAIRS)}\n{tables_of(rows)}"
    (out / "benchmark.md").write_text(text, encoding="utf-8")
    draw(rows, out / "benchmark.png")
    print(write_result(out, {"rows": rows}))


if __name__ == "__main__":
    main(run, arguments())
