#!/usr/bin/env python
"""Measure the top-1 of a classifier's folder on images, one folder a class.

  scripts/evaluate_classifier.py runs/imagenette/resnet50_v1d/full/model --data DATA
  scripts/evaluate_classifier.py model_zoo/NAME --data DATA --split val --out runs/eval

Of each image, the middle is taken at the size that the classifier has learnt.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from common import add_out, main, parser, write_result
from inputs import contexts

BATCH = 64


def arguments():
    """Return the parser of this script."""
    made = parser(__doc__)
    made.add_argument("model", metavar="FOLDER")
    made.add_argument("--data", required=True, metavar="ROOT", help="holds the split")
    made.add_argument("--split", default="val", help="folder in it; default: val")
    add_out(made, "model", "top1", required=False)
    return made


def run(args) -> None:
    """Load, measure, print, and write the result where asked to."""
    device = contexts(args.ctx)[0]
    from gluon_compress import data
    from gluon_compress.evaluate import top1
    from gluon_compress.model_folder import read_manifest
    from gluon_compress.models import family_of, load
    from gluon_compress.sizes import size_text

    net, manifest = load(args.model, "classifier"), read_manifest(args.model)
    net.collect_params().reset_ctx(device)
    net.hybridize(static_alloc=True, static_shape=True)
    family = family_of(net)
    size, classes = family.input_size(net), family.classes_of(net)
    images = data.ImageFolder(Path(args.data, args.split), classes)
    sample = partial(data.crop_val_sample, size=size)
    batches = data.Batches(images, sample, BATCH, shuffle=False)
    found = top1(lambda batch: net(batch.as_in_context(device)), batches.epoch(0))
    print(f"top-1 at {size_text(size)} pixels: {100 * found:.1f}, {len(images)} images")
    if args.out:
        where = {"root": Path(args.data).name, "split": args.split}
        model = {"name": manifest["name"], "files": manifest["files"]}
        content = {"model": model, "data": {**where, **data.counted(images)}}
        print(write_result(args.out, {**content, "top1": found}))


if __name__ == "__main__":
    main(run, arguments())
