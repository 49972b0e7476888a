#!/usr/bin/env python
"""Draw what a detector finds on images, and list it in detections.json.

  scripts/detect.py runs/demo/compact/model photo.jpg folder/ --out found
  scripts/detect.py deploy/edge --runtime onnxruntime folder/ --out found

Images are .jpg, .jpeg or .png; what else a folder holds is named and skipped, as images
are that cannot be read. Pictures keep their names. Boxes are corner boxes (xmin, ymin,
xmax, ymax) in pixels of the image.
"""

from __future__ import annotations

import sys
from pathlib import Path

from common import folder, main, parser, share
from loaded import load_detector
from places import others_in, pictures, without
from runtime import add_runtime

SMALLEST = 480  # pixels; narrower pictures are enlarged so that labels have room,
LONGEST = 1920  # but for this
JPEG = 65_500  # what a picture of that format can hold, pixels


def arguments():
    """Return the parser of this script."""
    made = parser(__doc__)
    made.add_argument("model", metavar="FOLDER")
    add_runtime(made)
    made.add_argument("images", nargs="+", metavar="IMAGE_OR_FOLDER")
    made.add_argument("--out", type=folder, required=True, metavar="DIR")
    made.add_argument(
        "--threshold", type=share, default=0.5, help="lowest score; default: 0.5"
    )
    return made


def width_of(height: int, width: int) -> int:
    """Return how wide a picture of an image is drawn."""
    longer = max(height, width)
    scale = min(max(1, min(SMALLEST / width, LONGEST / longer)), JPEG / longer)
    return max(1, int(width * scale))


def run(args) -> None:
    """Detect on every image, draw, and write the list."""
    from gluon_compress import report
    from gluon_compress.data import images
    from gluon_compress.storage import atomic

    sys.stdout.reconfigure(errors="backslashreplace")  # names need not be UTF-8
    out, found, kinds = Path(args.out), [], images.EXTENSIONS
    targets = pictures(args.images, out, kinds)
    net = load_detector(args)
    no_image = f"no image by its name ({', '.join(kinds)})"
    others = others_in(args.images, kinds)
    skipped = [{"file": str(path), "reason": no_image} for path in others]
    for one in skipped:
        print("skipped {file}: {reason}".format(**one))
    for path, target in targets.items():
        try:
            image = images.read_image(path)
        except ValueError as error:
            skipped.append({"file": str(path), "reason": without(path, str(error))})
            print(f"skipped {error}")
            continue
        boxes = net.find(image, args.threshold)
        how = {"width": width_of(*image.shape[:2])}
        report.save_image(report.draw(image, boxes, net.classes, **how), target)
        found.append({"file": str(path), "detections": boxes.records(net.classes)})
        print(f"{path}: {len(boxes)} objects, drawn in {target}")
    if not found:
        raise ValueError(f"none of the {len(targets)} images can be read")
    content = {"threshold": args.threshold, "images": found, "skipped": skipped}
    atomic.write_json(out / "detections.json", content)


if __name__ == "__main__":
    main(run, arguments())
