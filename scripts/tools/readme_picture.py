"""Lets a released detector find cat and astronaut for README, and writes the example.

Photographs are taken from scikit-image, whose files are not part of this project: the
cat Chelsea (Stefan van der Walt, CC0) and Eileen Collins (NASA, public domain).
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import numpy as np

from gluon_compress.cli.app import Command
from gluon_compress.cli.options import share
from gluon_compress.provenance import ROOT
from tools.accuracy import FILE

TEXT = """Draw README's picture of photographs with a released detector.

  %(prog)s ssd_300_resnet50_v1d_compact_animals

Writes docs/photographs.jpg and what stands between the marks in README.md: the picture,
what it shows, and ten lines of Python that find the same boxes. The photographs come
from scikit-image: pip install scikit-image.
"""
PHOTOGRAPHS = ("chelsea", "astronaut")
PICTURE = Path("docs", "photographs.jpg")
BEGIN, END = "<!-- photographs: begin -->", "<!-- photographs: end -->"
PANEL = 480  # pixels
USUAL = 0.5  # threshold of a detector whose card suggests none


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="of a released detector of cats and persons")
    parser.add_argument(
        "--threshold", type=share, help="lowest score; default: its card's suggestion"
    )
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--zoo", type=Path, help="folder; default: that of the package")


def _run(args: argparse.Namespace) -> None:
    """Detect, draw, and write the part of README."""
    from gluon_compress import report, zoo
    from gluon_compress.detector import Detector, GluonPredictor
    from gluon_compress.storage.atomic import write_atomically
    from gluon_compress.zoo.index import folder

    readme = args.readme.read_text(encoding="utf-8")
    if not (readme.count(BEGIN) == readme.count(END) == 1):
        raise ValueError(f"{args.readme}: allowed: {BEGIN} and {END}, each once")
    photographs = load_photographs()
    home = folder() if args.zoo is None else args.zoo
    entry = zoo.read(home).get(args.name)
    if entry is None or entry.weights is None:
        names = [name for name, each in zoo.read(home).items() if each.weights]
        raise ValueError(f"{args.name}: no weights; allowed: {', '.join(names)}")
    threshold = args.threshold
    if threshold is None:
        threshold = suggested_threshold(home / args.name)
    net = zoo.load_folder(home / args.name, zoo.load(home / entry.weights.file))
    detector = Detector(GluonPredictor(net))
    tiles = []
    for name, image in photographs.items():
        ids, scores, corner_boxes = detector.find(image, threshold)
        boxes = report.Boxes(corner_boxes, ids, scores)
        found = boxes.records(detector.classes)
        tiles.append(report.Tile(image, boxes, name))
        words = [f"{each['class']} {each['score']:.2f}" for each in found]
        print(f"{name}: {', '.join(words) or 'nothing found'}")
    if not any(len(tile.boxes) for tile in tiles):
        raise ValueError(f"{args.name} finds nothing at {threshold:g}: nothing written")
    target = args.readme.parent / PICTURE
    report.gallery(tiles, detector.classes, target, columns=len(tiles), panel=PANEL)
    text = slot(entry, threshold)
    pattern = f"{re.escape(BEGIN)}.*{re.escape(END)}"
    whole = f"{BEGIN}\n\n{text}\n\n{END}"
    readme = re.sub(pattern, lambda _: whole, readme, flags=re.DOTALL)
    write_atomically(args.readme, readme)
    print(target)


def load_photographs() -> dict[str, np.ndarray]:
    """Return the photographs by name, ``(H, W, 3)``, uint8, RGB.

    Raises
    ------
    ValueError
        If scikit-image is not installed.
    """
    try:
        from skimage import data
    except ImportError:
        raise ValueError(
            "scikit-image is missing, which has the photographs: pip install "
            "scikit-image"
        ) from None
    return {name: np.asarray(getattr(data, name)()) for name in PHOTOGRAPHS}


def suggested_threshold(folder: Path) -> float:
    """Return the threshold that a released detector's card suggests, or the usual."""
    from gluon_compress.storage.atomic import read_json

    path = folder / FILE
    return read_json(path)["threshold"] if path.exists() else USUAL


def slot(entry: Any, threshold: float) -> str:
    """Return what README shows: the picture, its caption, and the example."""
    size = f"{entry.bytes / 1e6:.1f} MB, {entry.macs / 1e9:.2f} GMACs"
    return f"""![What a small detector finds on two photographs]({PICTURE.as_posix()})

*`{entry.name}` ({size}) on photographs that it has not learnt
from, at a score of {threshold:.2f} or more. Photographs: scikit-image's `chelsea`
(Stefan van der Walt, CC0) and `astronaut` (NASA, public domain).*

```python
import gluon_compress as gc
from skimage import data  # pip install scikit-image

net = gc.get_model("{entry.name}", pretrained=True)
gc.deploy(net, "cats", formats=["mxnet"])  # the files that devices run
predictor = gc.Predictor("cats", "mxnet")
ids, scores, corner_boxes = predictor([data.chelsea()])[0]
for i, score, box in zip(ids, scores, corner_boxes):
    if score >= {threshold:.2f}:
        print(predictor.classes[int(i)], score, box)
```"""


COMMAND = Command(TEXT, _add_options, _run, writes=("readme",))
