"""The labelled images that a detector is measured on, and what it reaches there."""

from __future__ import annotations

from functools import partial
from pathlib import Path


def add_images(parser) -> None:
    """Add the options that choose labelled images and the metric."""
    parser.add_argument("--data", required=True, metavar="ROOT", help="in VOC layout")
    parser.add_argument("--split", default="test", help="list to use; default: test")
    names = "names in the annotations, or a file of them, in the order of the model's"
    parser.add_argument("--classes", nargs="+", metavar="NAME", help=names)
    unknown = {"choices": ("error", "skip"), "default": "error"}
    parser.add_argument("--unknown", help="objects of other classes", **unknown)
    parser.add_argument("--metric", choices=("voc07", "voc10"), default="voc07")


def labelled(args, known):
    """Return the images of ``args`` for a net of these classes.

    Raises
    ------
    ValueError
        If there are no such images, or their classes are not as many as the net's.
    """
    from gluon_compress import data

    names = args.classes or known
    names = names[0] if len(names) == 1 and Path(names[0]).is_file() else names
    images = data.VOCLayout(args.data, args.split, names, unknown=args.unknown)
    if len(images.classes) != len(known):
        raise ValueError(f"--classes: the model has {len(known)}, not {names}")
    return images


def precisions_of(net, images, metric: str) -> dict:
    """Return what ``evaluate.precisions`` does, of a ``loaded.Detector``."""
    from gluon_compress import data
    from gluon_compress.evaluate import precisions

    views = partial(data.ssd_val_sample, size=net.size)
    how = {"shuffle": False, "normalized": net.normalized}
    batches = data.Batches(images, views, net.batch, **how)
    how = {"size": net.size, "metric": metric}
    return precisions(net.detect, batches, images.classes, **how)


def source(args, images) -> dict:
    """Return what a result says of the images."""
    from gluon_compress import data

    place = {"root": Path(args.data).name, "split": args.split}
    return {**place, **data.counted(images)}
