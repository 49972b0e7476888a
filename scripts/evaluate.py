#!/usr/bin/env python
"""Measure the mAP of a detector's folder on a data set in VOC layout.

  scripts/evaluate.py runs/demo/compact/model --data DATA --split test --out runs/eval
  scripts/evaluate.py deploy/edge --runtime onnxruntime --data DATA

The folder is a model folder, or with --runtime what scripts/export.py --formats wrote.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from common import folder, main, parser, write_result
from loaded import load_detector
from places import without
from runtime import add_runtime


def arguments():
    """Return the parser of this script."""
    made = parser(__doc__)
    made.add_argument("model", metavar="FOLDER")
    add_runtime(made)
    made.add_argument("--data", required=True, metavar="ROOT", help="in VOC layout")
    made.add_argument("--split", default="test", help="list to use; default: test")
    names = "names in the annotations, or a file of them, in the order of the model's"
    made.add_argument("--classes", nargs="+", metavar="NAME", help=names)
    unknown = {"choices": ("error", "skip"), "default": "error"}
    made.add_argument("--unknown", help="objects of other classes", **unknown)
    made.add_argument("--metric", choices=("voc07", "voc10"), default="voc07")
    result = {"type": folder, "metavar": "DIR", "help": "where to write result.json"}
    made.add_argument("--out", **result)
    return made


def run(args) -> None:
    """Load, measure, print, and write the result where asked to."""
    net = load_detector(args)
    from gluon_compress import data, report
    from gluon_compress.evaluate import precisions
    from gluon_compress.export import read_manifest

    images = _open(data, args, net.classes)
    views = partial(data.ssd_val_sample, size=net.size)
    how = {"shuffle": False, "normalized": net.normalized}
    batches = data.Batches(images, views, net.batch, **how)
    how = {"size": net.size, "metric": args.metric}
    figures = precisions(net.detect, batches, images.classes, **how)
    shown = {"mAP": figures["mAP"], **figures["classes"]}
    print(report.precision_table({f"{args.metric} AP": shown}))
    print(f"mAP at IoU 0.5 to 0.95: {100 * figures['mAP_50_95']:.1f}")
    for file, reason in images.problems:
        print(f"skipped {file}: {without(file, reason)}")
    for name, count in data.counted(images)["repairs"].items():
        print(f"repairs: {name} {count}")
    if args.out:
        whole = _result(args, read_manifest(args.model), data.counted(images), figures)
        print(write_result(args.out, whole))


def _open(data, args, known):
    names = args.classes or known
    names = names[0] if len(names) == 1 and Path(names[0]).is_file() else names
    images = data.VOCLayout(args.data, args.split, names, unknown=args.unknown)
    if len(images.classes) != len(known):
        raise ValueError(f"--classes: the model has {len(known)}, not {names}")
    return images


def _result(args, manifest: dict, counts: dict, figures: dict) -> dict:
    model = {"name": manifest["name"], "files": manifest["files"]}
    source = {"root": Path(args.data).name, "split": args.split, **counts}
    how = {"runtime": args.runtime or "gluon", "precision": args.precision or "float32"}
    return {"model": {**model, **how}, "data": source, **figures}


if __name__ == "__main__":
    main(run, arguments())
