#!/usr/bin/env python
"""Measure the mAP of a model folder on a data set in VOC layout.

  scripts/evaluate.py runs/demo/compact/model --data DATA --split test --out runs/eval

A model folder is one with a manifest.json.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from common import contexts, main, parser, write_result


def arguments():
    """Return the parser of this script."""
    made = parser(__doc__)
    made.add_argument("model", metavar="MODEL_FOLDER")
    made.add_argument("--data", required=True, metavar="ROOT", help="in VOC layout")
    made.add_argument("--split", default="test", help="list to use; default: test")
    names = "names in the annotations, or a file of them, in the order of the model's"
    made.add_argument("--classes", nargs="+", metavar="NAME", help=names)
    unknown = {"choices": ("error", "skip"), "default": "error"}
    made.add_argument("--unknown", help="objects of other classes", **unknown)
    made.add_argument("--metric", choices=("voc07", "voc10"), default="voc07")
    made.add_argument("--out", metavar="DIR", help="where to write result.json")
    return made


def run(args) -> None:
    """Load, measure, print, and write the result where asked to."""
    context = contexts(args.ctx)[0]
    from gluon_compress import data, models, report
    from gluon_compress.evaluate import precisions
    from gluon_compress.export import read_manifest

    net = models.load(args.model)
    images = _open(data, args, net.classes)
    size = models.image_size(net)
    views = partial(data.ssd_val_sample, size=size)
    net.collect_params().reset_ctx(context)
    net.hybridize(static_alloc=True, static_shape=True)
    figures = precisions(
        lambda batch: net(batch.as_in_context(context)),
        data.Batches(images, views, 8, shuffle=False).epoch(0),
        images.classes,
        size=size,
        metric=args.metric,
    )
    shown = {"mAP": figures["mAP"], **figures["classes"]}
    print(report.precision_table({f"{args.metric} AP": shown}))
    print(f"mAP at IoU 0.5 to 0.95: {100 * figures['mAP_50_95']:.1f}")
    for file, reason in images.problems:
        print(f"skipped {file}: {reason}")
    if args.out:
        manifest = read_manifest(args.model)
        print(write_result(args.out, _result(args, manifest, images, figures)))


def _open(data, args, known):
    names = args.classes or known
    names = names[0] if len(names) == 1 and Path(names[0]).is_file() else names
    images = data.VOCLayout(args.data, args.split, names, unknown=args.unknown)
    if len(images.classes) != len(known):
        raise ValueError(f"--classes: the model has {len(known)}, not {names}")
    return images


def _result(args, manifest: dict, images, figures: dict) -> dict:
    model = {"name": manifest["name"], "files": manifest["files"]}
    counts = {"images": len(images), "skipped": len(images.problems)}
    source = {"root": Path(args.data).name, "split": args.split, **counts}
    return {"model": model, "data": source, **figures}


if __name__ == "__main__":
    main(run, arguments())
