"""Draws what detectors find on images: one detector, or two side by side."""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path
from typing import Any, Iterator, Sequence

from gluon_compress.cli import video
from gluon_compress.cli.app import Command
from gluon_compress.cli.image_files import (
    images_of,
    others_in,
    pictures,
    refuse_other_picture,
    without,
)
from gluon_compress.cli.options import (
    above_0,
    add_devices,
    add_runtime,
    contexts,
    keys_of,
    refuse,
    share,
)
from gluon_compress.cli.released import open_detector
from gluon_compress.printable import printable

DETECT_TEXT = """Draw what a detector finds on images or a video, and list it.

  %(prog)s runs/demo/compact/model photo.jpg folder/ --out found
  %(prog)s deploy/edge --runtime onnxruntime folder/ --out found
  %(prog)s deploy/edge --runtime onnxruntime clip.mp4 --out found.webm
  %(prog)s deploy/edge --runtime onnxruntime --camera 0 --out -

Images are .jpg, .jpeg or .png. Other files of a folder are named and skipped, as are
images that cannot be read. Pictures keep their names, and detections.json lists what
was found. Boxes are corner boxes (xmin, ymin, xmax, ymax) in pixels of the image.

Of a video or a camera, --out is a video (.mp4, .mov, .mkv, .avi, or .webm for
browsers), a file of JSON lines (.jsonl), a folder for both, or - for JSON lines on
standard output. A camera's frames are dropped, not delayed, if they come faster than
the detector works. Ctrl-C ends a recording, and finishes the files.
"""
COMPARE_TEXT = r"""Draw what two detectors find on the same images, side by side.

  %(prog)s runs/demo/full/model runs/demo/compact/model \
    runs/toy/JPEGImages --limit 2 --out before_after.png

What each of the two costs stands above its pictures. Images that cannot be read are
named and left out.
"""
LIST = "detections.json"
SMALLEST = 480  # pixels; narrower pictures are enlarged so that labels have room,
LONGEST = 1920  # but for this
JPEG = 65_500  # what a picture of that format can hold, pixels


def _add_detect_options(parser: argparse.ArgumentParser) -> None:
    add_devices(parser)
    parser.add_argument("model", metavar="MODEL", help="folder, or a released model")
    add_runtime(parser)
    images = parser.add_argument(
        "images", nargs="+", default=[], metavar="IMAGE_FOLDER_OR_VIDEO"
    )
    parser.add_argument(
        "--out",
        type=video.place,
        required=True,
        metavar="DIR",
        help="a folder; of a video or camera also a video, a .jsonl, or -",
    )
    _add_threshold(parser)
    video.add_options(parser, images)


def _add_compare_options(parser: argparse.ArgumentParser) -> None:
    add_devices(parser)
    parser.add_argument("before", metavar="BEFORE", help="model folder, drawn left")
    parser.add_argument("after", metavar="AFTER", help="model folder, drawn right")
    parser.add_argument("images", nargs="+", metavar="IMAGE_OR_FOLDER")
    parser.add_argument("--out", required=True, metavar="PICTURE", help="PNG or JPEG")
    parser.add_argument("--limit", type=above_0, default=3, help="images; default: 3")
    _add_threshold(parser)


def _add_threshold(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threshold", type=share, default=0.5, help="lowest score; default: 0.5"
    )


def width_of(height: int, width: int) -> int:
    """Return how wide the picture of an image is drawn, pixels."""
    longer = max(height, width)
    scale = min(max(1, min(SMALLEST / width, LONGEST / longer)), JPEG / longer)
    return max(1, int(width * scale))


def _detect(args: argparse.Namespace) -> None:
    """Detect on every image, or in a video; draw, and write the list."""
    if video.names_a_video(args):
        video.detect_in_video(args)
    else:
        _detect_on_images(args)


def _detect_on_images(args: argparse.Namespace) -> None:
    from gluon_compress import report
    from gluon_compress.data.images import EXTENSIONS, read_image
    from gluon_compress.storage.atomic import write_json

    refuse(args, ("every", "seconds"), "only of a video or a camera")
    if args.out == video.STANDARD_OUTPUT or video.is_file_name(args.out):
        raise ValueError(f"--out {args.out or '-'}; allowed for images: a folder")
    out, results = Path(args.out), []
    targets = pictures(args.images, out, EXTENSIONS)
    refuse_other_list(out / LIST)
    detector = open_detector(args)
    reason = f"no image by its name ({', '.join(EXTENSIONS)})"
    others = others_in(args.images, EXTENSIONS)
    skipped = [{"file": str(path), "reason": reason} for path in others]
    for row in skipped:
        print(printable("skipped {file}: {reason}".format(**row)))
    for path, target in targets.items():
        try:
            image = read_image(path)
        except ValueError as error:
            skipped.append({"file": str(path), "reason": without(path, str(error))})
            print(printable(f"skipped {error}"))
            continue
        boxes = _boxes(detector, image, args.threshold)
        width = width_of(*image.shape[:2])
        picture = report.draw(image, boxes, detector.classes, width=width)
        report.save_image(picture, target)
        detections = boxes.records(detector.classes)
        results.append({"file": str(path), "detections": detections})
        print(printable(f"{path}: {len(boxes)} objects, drawn in {target}"))
    if not results:
        raise ValueError(f"none of the {len(targets)} images can be read")
    content = {"threshold": args.threshold, "images": results, "skipped": skipped}
    write_json(out / LIST, content)


def refuse_other_list(path: Path) -> None:
    """Raise ValueError for a file in place of the list that is none of this command."""
    if path.is_file() and not {"threshold", "images"} <= keys_of(path):
        raise ValueError(f"{path}: is another file; choose a new folder")


def _boxes(detector: Any, image: Any, threshold: float) -> Any:
    from gluon_compress import report

    ids, scores, corner_boxes = detector.find(image, threshold)
    return report.Boxes(corner_boxes, ids, scores)


def _compare(args: argparse.Namespace) -> None:
    """Let both detect on the images, and draw it."""
    from gluon_compress import report
    from gluon_compress.data.images import EXTENSIONS
    from gluon_compress.detector import load_detector

    if Path(args.out).suffix.lower() not in EXTENSIONS:
        raise ValueError(f"--out {args.out}; allowed: {', '.join(EXTENSIONS)}")
    refuse_other_picture(Path(args.out))
    paths = images_of(args.images, EXTENSIONS)
    context = contexts(args.ctx)[0]
    before, after = (load_detector(f, ctx=context) for f in (args.before, args.after))
    if before.classes != after.classes:
        raise ValueError(
            f"{args.after}: finds {list(after.classes)}; {args.before} finds "
            f"{list(before.classes)}, and pictures side by side need the same classes"
        )
    examples = _examples((before, after), paths, args.threshold)
    drawn = list(islice(examples, args.limit))
    if not drawn:
        raise ValueError(f"none of the {len(paths)} images can be read")
    heads = (_cost("before", args.before), _cost("after", args.after))
    report.detections(drawn, before.classes, args.out, heads=heads)
    print(args.out)


def _examples(detectors: Sequence, paths: Sequence[Path], threshold: float) -> Iterator:
    from gluon_compress import report
    from gluon_compress.data.images import read_image

    for path in paths:
        try:
            image = read_image(path)
        except ValueError as error:
            print(printable(f"skipped {error}"))
            continue
        before, after = (_boxes(detector, image, threshold) for detector in detectors)
        yield report.Example(image, before, after, name=path.name)


def _cost(when: str, folder: str) -> str:
    from gluon_compress import models

    cost = models.cost_of(models.load(folder))
    return f"{when}: {cost['macs'] / 1e9:.2f} GMACs, {cost['bytes'] / 1e6:.1f} MB"


DETECT = Command(DETECT_TEXT, _add_detect_options, _detect)
COMPARE = Command(COMPARE_TEXT, _add_compare_options, _compare)
