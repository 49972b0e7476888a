#!/usr/bin/env python
"""Hold the mAP of deployed folders, in every runtime, against that of nets in Gluon.

  scripts/evaluate_runtimes.py --net runs/demo/compact/model edge --data DATA --out DIR

In all that read a format of the deployed folder; writes result.json and precision.md.
"""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

from common import add_out, main, parser, write_result
from labelled import add_images, labelled, precisions_of, source
from loaded import load_detector
from tables import percent, table

MOST = {"float32": 0.1, "int8": 1.0}  # points of mAP that a runtime may differ by
HEAD = ("runtime", "precision", "mAP at 0.5", "points off", "at most", "met")


def arguments():
    """Return the parser of this script."""
    made = parser(__doc__)
    pair = {"nargs": 2, "metavar": ("MODEL", "DEPLOYED"), "required": True}
    made.add_argument("--net", action="append", help="any number of times", **pair)
    add_images(made)
    add_out(made, "nets", "metric")
    return made


def run(args) -> None:
    """Measure net by net in every runtime, and write both files."""
    nets = {}
    for model, deployed in args.net:
        rows = nets[Path(deployed).name] = []
        for place, runtime, precision in ((model, None, None), *_ways(deployed)):
            how = {"runtime": runtime, "precision": precision, "threads": None}
            net = load_detector(Namespace(model=place, ctx=args.ctx, **how))
            images = labelled(args, net.classes)
            figures = precisions_of(net, images, args.metric)
            how = {"runtime": runtime or "gluon", "precision": precision or "float32"}
            keys = ("mAP", "voc_mAP_50_95")
            rows.append({**how, **{key: figures[key] for key in keys}})
    content = {"nets": nets, "metric": args.metric, "data": source(args, images)}
    result = write_result(args.out, content)
    page = page_of(json.loads(result.read_text(encoding="utf-8")))
    (Path(args.out) / "precision.md").write_text(page, encoding="utf-8")
    print(result)


def page_of(result: dict) -> str:
    """Return the page of a result, as Markdown."""
    where = "`{split}` of {root}".format(**result["data"])
    text = f"# Precision in edge runtimes\n\nmAP ({result['metric']}) on {where}.\n"
    return "\n".join([text, *_parts(result)])


def _parts(result: dict):
    for name, (gluon, *rows) in result["nets"].items():
        shown = [["gluon", "float32", percent(gluon["mAP"]), "", "", ""]]
        for row in rows:
            off, most = 100 * (row["mAP"] - gluon["mAP"]), MOST[row["precision"]]
            met = "yes" if round(abs(off), 2) <= most else "no"
            figures = (percent(row["mAP"]), f"{off:+.2f}", f"{most:.1f}", met)
            shown.append([row["runtime"], row["precision"], *figures])
        yield f"## {name}\n\n{table(HEAD, shown)}"


def _ways(deployed: str) -> list[tuple[str, str, str]]:
    from gluon_compress.deployment import manifest
    from gluon_compress.deployment.formats import formats_of, runtimes_and_precisions

    written = set(manifest.read(deployed).formats)
    pairs = runtimes_and_precisions()
    return [(deployed, *pair) for pair in pairs if written & {*formats_of(*pair)}]


if __name__ == "__main__":
    main(run, arguments())
