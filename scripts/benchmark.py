#!/usr/bin/env python
"""Time detectors in edge runtimes: head graphs, in turn, in one run.

  scripts/benchmark.py compact_s lite deploy/edge --runtimes onnxruntime --out runs/b
  scripts/benchmark.py deploy/edge --images DATA/JPEGImages --out runs/b

Nets are deployed folders (scripts/export.py --formats), or full, compact, compact_s,
mobilenet, lite, resnet50_v1d_0.48 and resnet50_v1d_0.37: those of 20 classes, with
starting values. With --images, deployed folders are also timed from image files to
boxes (2 threads, batch 1). Writes result.json, benchmark.md and benchmark.png.
"""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

from common import above_0, add_out, main, parser, write_result
from speed.aims import plain
from speed.images import readable
from speed.measure import deployed, measure, measure_ways
from speed.nets import NETS
from speed.page import table_of_ways, tables_of
from speed.plot import draw
from speed.settings import FORMATS, Setting, formats_of, refuse_idle_images
from speed.whole import page_of


def arguments():
    """Return the parser of this script."""
    made = parser(__doc__)
    made.add_argument("nets", nargs="*", metavar="NET", help="default: all names")
    add_out(made, "rows", "ways")
    made.add_argument("--work", metavar="DIR", help="for nets; default: OUT/nets")
    made.add_argument("--images", metavar="DIR", help="for the way to boxes, too")
    made.add_argument("--count", type=above_0, default=16, help="of --images")
    many = {"nargs": "+"}
    runtimes = list(dict.fromkeys(runtime for runtime, _ in FORMATS))
    made.add_argument("--runtimes", **many, choices=runtimes, default=runtimes)
    kinds = ["float32", "int8"]
    made.add_argument("--precisions", **many, choices=kinds, default=kinds)
    made.add_argument("--threads", **many, type=above_0, default=[2], metavar="N")
    made.add_argument("--batches", **many, type=above_0, default=[1], metavar="N")
    seconds = {"type": above_0, "default": 20, "help": "for a setting; default: 20"}
    made.add_argument("--seconds", **seconds)
    return made


def run(args) -> None:
    """Measure setting by setting, print its table, and write both files."""
    out, rows, ways = Path(args.out), [], []
    grid = product(args.runtimes, args.precisions, args.threads, args.batches)
    settings = [s for s in (Setting(*chosen) for chosen in grid) if s.format]
    if not settings:
        raise ValueError("no runtime of --runtimes runs such precisions and batches")
    names = args.nets or list(NETS)
    trained = sorted(set(names) - set(NETS))  # whose boxes are not everywhere
    if args.images:
        refuse_idle_images(trained, settings)
    files = readable(args.images, args.count) if args.images else []
    work = Path(args.work or out / "nets")
    folders = deployed(names, work, formats_of(settings))
    for setting in settings:
        found = measure(folders, setting, args.seconds)
        print(tables_of(found), flush=True)
        rows += found
        for name in trained if files and plain(vars(setting)) else ():
            ways.append(measure_ways(folders[name], name, files, setting, args.seconds))
            print(table_of_ways(ways[-1:]), flush=True)
    out.mkdir(parents=True, exist_ok=True)
    draw(rows, out / "benchmark.png")
    result = write_result(out, {"rows": rows, "ways": ways})
    page = page_of(json.loads(result.read_text(encoding="utf-8")))
    (out / "benchmark.md").write_text(page, encoding="utf-8")
    print(result)


if __name__ == "__main__":
    main(run, arguments())
