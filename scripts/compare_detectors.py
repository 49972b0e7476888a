#!/usr/bin/env python
r"""Draw what two detectors find on the same images, side by side, in one picture.

  scripts/compare_detectors.py runs/demo/full/model runs/demo/compact/model \
    runs/toy/JPEGImages --limit 2 --out before_after.png

What each of the two costs stands above its pictures. Images that cannot be read are
named and left out.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from common import above_0, main, parser, share
from places import images_of


def arguments():
    """Return the parser of this script."""
    made = parser(__doc__)
    made.add_argument("before", metavar="BEFORE", help="model folder, drawn left")
    made.add_argument("after", metavar="AFTER", help="model folder, drawn right")
    made.add_argument("images", nargs="+", metavar="IMAGE_OR_FOLDER")
    made.add_argument("--out", required=True, metavar="PICTURE", help="PNG or JPEG")
    made.add_argument("--limit", type=above_0, default=3, help="images; default: 3")
    made.add_argument(
        "--threshold", type=share, default=0.5, help="lowest score; default: 0.5"
    )
    return made


def run(args) -> None:
    """Let both find what is on the images, and draw it."""
    from gluon_compress import models, report
    from gluon_compress.data.images import EXTENSIONS

    if Path(args.out).suffix.lower() not in EXTENSIONS:
        raise ValueError(f"--out {args.out}; allowed: {', '.join(EXTENSIONS)}")
    paths = images_of(args.images, EXTENSIONS)
    nets = [models.load(folder) for folder in (args.before, args.after)]
    if nets[0].classes != nets[1].classes:
        raise ValueError(
            f"{args.after}: finds {list(nets[1].classes)}; {args.before} finds "
            f"{list(nets[0].classes)}, and pictures side by side need the same classes"
        )
    examples = list(islice(_examples(nets, paths, args.threshold), args.limit))
    if not examples:
        raise ValueError(f"none of the {len(paths)} images can be read")
    heads = (_cost("before", nets[0]), _cost("after", nets[1]))
    report.detections(examples, nets[0].classes, args.out, heads=heads)
    print(args.out)


def _examples(nets, paths, threshold: float):
    from gluon_compress import report, summary
    from gluon_compress.data.images import read_image

    for path in paths:
        try:
            image = read_image(path)
        except ValueError as error:
            print(f"skipped {error}")
            continue
        found = (summary.detect(net, image, threshold) for net in nets)
        yield report.Example(image, *found, name=path.name)


def _cost(where: str, net) -> str:
    from gluon_compress import models

    cost = models.cost_of(net)
    return f"{where}: {cost['macs'] / 1e9:.2f} GMACs, {cost['bytes'] / 1e6:.1f} MB"


if __name__ == "__main__":
    main(run, arguments())
