#!/usr/bin/env python
"""Measure the mAP of a detector's folder on a data set in VOC layout.

  scripts/evaluate.py runs/demo/compact/model --data DATA --split test --out runs/eval
  scripts/evaluate.py deploy/edge --runtime onnxruntime --data DATA

The folder is a model folder, or with --runtime what scripts/export.py --formats wrote.
"""

from __future__ import annotations

from common import add_out, main, parser, write_result
from labelled import add_images, labelled, precisions_of, source
from loaded import load_detector
from places import without
from runtime import add_runtime


def arguments():
    """Return the parser of this script."""
    made = parser(__doc__)
    made.add_argument("model", metavar="FOLDER")
    add_runtime(made)
    add_images(made)
    add_out(made, "model", "mAP", required=False)
    return made


def run(args) -> None:
    """Load, measure, print, and write the result where asked to."""
    net = load_detector(args)
    from gluon_compress import report

    images = labelled(args, net.classes)
    figures = precisions_of(net, images, args.metric)
    shown = {"mAP": figures["mAP"], **figures["classes"]}
    print(report.precision_table({f"{args.metric} AP": shown}))
    print(f"mAP at IoU 0.5 to 0.95: {100 * figures['voc_mAP_50_95']:.1f}")
    for file, reason in images.problems:
        print(f"skipped {file}: {without(file, reason)}")
    where = source(args, images)
    for name, count in where["repairs"].items():
        print(f"repairs: {name} {count}")
    if args.out:
        whole = {"model": _model(args), "data": where, **figures}
        print(write_result(args.out, whole))


def _model(args) -> dict:
    from gluon_compress.model_folder import read_manifest

    manifest = read_manifest(args.model)
    how = {"runtime": args.runtime or "gluon", "precision": args.precision or "float32"}
    return {"name": manifest["name"], "files": manifest["files"], **how}


if __name__ == "__main__":
    main(run, arguments())
