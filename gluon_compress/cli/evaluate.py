"""Measures a model on labelled images: mAP of detectors, top-1 of classifiers."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any, Iterator, Mapping

from gluon_compress.cli.app import Command
from gluon_compress.cli.image_files import without
from gluon_compress.cli.options import (
    add_devices,
    add_others,
    add_out,
    add_resized,
    add_runtime,
    contexts,
    refuse,
    share,
    write_result,
)
from gluon_compress.cli.released import manifest_of, open_predictor
from gluon_compress.printable import printable

TEXT = """Measure a model on labelled images: mAP of a detector, top-1 of a classifier.

  %(prog)s runs/demo/compact/model --data DATA --split test --out runs/eval
  %(prog)s edge --runtime onnxruntime --data DATA
  %(prog)s runs/demo/compact/model --deployed edge --data DATA --out runs/eval
  %(prog)s runs/imagenette/resnet50_v1d/full/model --data DATA

The folder's manifest says what it is: a detector or a classifier, and, with --runtime,
deployed. A detector's DATA is in VOC layout, or as --kind says; of a classifier,
DATA/SPLIT has one folder a class, and the centre of each image is used, at the size it
was trained at. With --deployed, the same detector is measured in Gluon and in every
runtime that reads the deployed folder, which also writes precision.md.
"""
CLASSIFIER_TEXT = """Measure the top-1 of a classifier's folder, one folder a class.

  %(prog)s runs/imagenette/resnet50_v1d/full/model --data DATA
  %(prog)s model_zoo/NAME --data DATA --split val --out runs/eval

The middle of each image is taken, at the size that the classifier was trained at.
"""
RUNTIMES_TEXT = """Compare the mAP of deployed folders, in every runtime, with Gluon's.

  %(prog)s --net runs/demo/compact/model edge --data DATA --out DIR

Measures in all runtimes that read a format of the deployed folder; writes result.json
and precision.md.
"""
BATCH, DETECTOR_BATCH = 64, 8
MOST = {"float32": 0.1, "int8": 1.0}  # points of mAP that a runtime may differ by
HEAD = ("runtime", "precision", "mAP at 0.5", "points off", "at most", "met")
PAGE = "precision.md"
KINDS = ("voc", "gluoncv_voc", "coco")
OF_DETECTORS = ("kind", "classes", "metric", "deployed", "resized")


# ---------------------------------------------------------------- options


def _add_labelled_images(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, metavar="ROOT", help="labelled images")
    parser.add_argument(
        "--kind",
        choices=KINDS,
        help="of a detector's images, as data.kind in recipes; default: voc",
    )
    parser.add_argument("--split", help="split to measure on; default: test, or val")
    parser.add_argument(
        "--classes",
        nargs="+",
        metavar="NAME",
        help="names in the annotations, or a file of them, in the order of the model's",
    )
    add_others(parser)
    _add_most_broken(parser)
    add_resized(parser)
    parser.add_argument(
        "--metric", choices=("voc07", "voc10"), help="of detectors; default: voc07"
    )


def _add_most_broken(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--most-broken",
        type=share,
        metavar="SHARE",
        help="of the images, which may be unreadable; they are left out; default: 0.5",
    )


def _add_evaluate_options(parser: argparse.ArgumentParser) -> None:
    add_devices(parser)
    parser.add_argument("model", metavar="MODEL", help="folder, or a released model")
    add_runtime(parser)
    _add_labelled_images(parser)
    parser.add_argument(
        "--deployed", metavar="FOLDER", help="deployed folder to compare with"
    )
    add_out(parser, "model", "data", required=False, files=[PAGE])


def _add_classifier_options(parser: argparse.ArgumentParser) -> None:
    add_devices(parser)
    parser.add_argument("model", metavar="FOLDER")
    parser.add_argument("--data", required=True, metavar="ROOT", help="holds the split")
    parser.add_argument("--split", help="folder in it; default: val")
    add_others(parser)
    _add_most_broken(parser)
    add_out(parser, "model", "top1", required=False)
    parser.set_defaults(runtime=None, precision=None, threads=None)


def _add_runtimes_options(parser: argparse.ArgumentParser) -> None:
    add_devices(parser)
    parser.add_argument(
        "--net",
        action="append",
        nargs=2,
        metavar=("MODEL", "DEPLOYED"),
        required=True,
        help="any number of times",
    )
    _add_labelled_images(parser)
    add_out(parser, "nets", "metric", files=[PAGE])


# ---------------------------------------------------------------- one model


def _evaluate(args: argparse.Namespace) -> None:
    """Measure what the folder's manifest says it is."""
    if getattr(args, "deployed", None):
        refuse(args, ("runtime", "precision", "threads"), "not with --deployed")
        if not args.out:
            raise ValueError(f"--deployed {args.deployed}: needs --out")
        args.net = [(args.model, args.deployed)]
        _evaluate_runtimes(args)
        return
    from gluon_compress.detector import Detector

    predictor = open_predictor(args)
    if predictor.postprocess.finds_boxes:
        _evaluate_detector(args, Detector(predictor))
    else:
        refuse(args, OF_DETECTORS, f"{args.model} is a classifier")
        _evaluate_classifier(args, predictor)


def _evaluate_detector(args: argparse.Namespace, detector: Any) -> None:
    from gluon_compress import report

    images = labelled(args, detector.classes)
    figures = precisions_of(detector, images, _metric(args), most_broken(args))
    column = {"mAP": figures["mAP"], **figures["classes"]}
    print(report.precision_table({f"{_metric(args)} AP": column}))
    print(f"mAP at IoU 0.5 to 0.95: {100 * figures['voc_mAP_50_95']:.1f}")
    source = source_of(args, images, "test")
    _print_counts(images, source)
    if args.out:
        content = {"model": _identity(args), "data": source, **figures}
        print(write_result(args.out, content))


def _evaluate_classifier(args: argparse.Namespace, predictor: Any) -> None:
    from gluon_compress import data
    from gluon_compress.evaluate import top1
    from gluon_compress.sizes import size_text

    size = (predictor.height, predictor.width)
    folder = Path(args.data, args.split or "val")
    others = args.others or "error"
    images = data.ImageFolder(folder, predictor.classes, others=others, absent=True)
    batches = data.Batches(
        images,
        predictor.preprocess.sample,
        predictor.max_batch or BATCH,
        shuffle=False,
        normalized=predictor.preprocess.inputs,
        most_broken=most_broken(args),
    )
    accuracy = top1(partial(_votes, predictor), batches.epoch(0))
    text = f"top-1 at {size_text(size)} pixels: {100 * accuracy:.1f}"
    source = source_of(args, images, "val")
    print(f"{text}, {source['images']} images")
    _print_counts(images, source)
    if args.out:
        content = {"model": _identity(args), "data": source, "top1": accuracy}
        print(write_result(args.out, content))


def _print_counts(images: Any, source: Mapping[str, Any]) -> None:
    """Print what of the images was left out, and what was repaired."""
    from gluon_compress import data

    for file, reason in images.problems:
        print(printable(f"skipped {file}: {without(file, reason)}"))
    for file, reason in getattr(images, "doubts", ()):
        print(printable(f"in doubt {file}: {reason}"))
    if source["skipped"]:
        used = source["images"]
        print(f"measured on {used} images; {source['skipped']} are left out")
    for line in data.describe_counts(source):
        print(line)


def _votes(predictor: Any, batch: Any) -> Any:
    """Return ``(B, C)``: 1 for the most probable class of each image, else 0.

    Where there is no such class, all are NaN.
    """
    import numpy as np

    ids, shares = (part[:, 0] for part in predictor.detect(batch.asnumpy()))
    votes = np.eye(len(predictor.classes))[ids]
    votes[(ids < 0) | np.isnan(shares)] = np.nan
    return votes


def _identity(args: argparse.Namespace) -> dict[str, Any]:
    manifest = manifest_of(args.model)
    return {
        "name": manifest["name"],
        "files": manifest["files"],
        "runtime": args.runtime or "gluon",
        "precision": args.precision or "float32",
    }


# ---------------------------------------------------------------- labelled images


def labelled(args: argparse.Namespace, classes: Any) -> Any:
    """Return the images of ``args`` for a detector of these classes.

    Raises
    ------
    ValueError
        If there are no such images, or the number of classes differs.
    """
    from gluon_compress import data

    names = args.classes or classes
    in_file = len(names) == 1 and Path(names[0]).is_file()
    names = data.read_class_names(Path(args.data), names[0] if in_file else names)
    open_split: Any = {
        "voc": data.VOCLayout,
        "gluoncv_voc": data.voc_gluoncv,
        "coco": data.coco_gluoncv,
    }[args.kind or KINDS[0]]
    images = open_split(
        args.data,
        args.split or "test",
        names,
        others=args.others or "error",
        absent=not args.classes,
        resized=args.resized or "error",
    )
    if len(images.classes) != len(classes):
        raise ValueError(f"--classes: the model has {len(classes)}, not {names}")
    return images


def most_broken(args: argparse.Namespace) -> float:
    """Return the share of images that may be broken."""
    from gluon_compress.data.broken import MOST_BROKEN

    return MOST_BROKEN if args.most_broken is None else args.most_broken


def precisions_of(
    detector: Any, images: Any, metric: str, most_broken: float
) -> dict[str, Any]:
    """Return what ``evaluate.precisions`` does, of any detector."""
    from gluon_compress import data
    from gluon_compress.evaluate import precisions, warn_of_limit

    size = (detector.height, detector.width)
    postprocess = detector.predictor.postprocess
    limit = getattr(postprocess, "most_detections", None)
    warn_of_limit(data.most_objects(images), limit, str(images.place))
    batches = data.Batches(
        images,
        detector.preprocess.sample,
        detector.max_batch or DETECTOR_BATCH,
        shuffle=False,
        normalized=detector.preprocess.inputs,
        most_broken=most_broken,
    )
    return precisions(
        detector.detect, batches, images.classes, size=size, metric=metric
    )


def source_of(args: argparse.Namespace, images: Any, split: str) -> dict[str, Any]:
    """Return the entry of a result on its images; ``split`` is the default."""
    from gluon_compress import data

    source = {"root": Path(args.data).name, "split": args.split or split}
    return {**source, **data.count_images(images)}


def _metric(args: argparse.Namespace) -> str:
    return args.metric or "voc07"


# ---------------------------------------------------------------- every runtime


def _evaluate_runtimes(args: argparse.Namespace) -> None:
    """Evaluate every net in every runtime; write ``result.json`` and the page."""
    from gluon_compress.detector import load_detector
    from gluon_compress.storage.atomic import write_atomically
    from gluon_compress.storage.reading import read_json

    nets: dict[str, list] = {}
    images = None
    for model, deployed in args.net:
        gluon = load_detector(model, ctx=contexts(args.ctx)[0])
        detectors = [("gluon", "float32", gluon)]
        for runtime, precision in _runtimes_and_precisions(deployed):
            detector = load_detector(deployed, runtime=runtime, precision=precision)
            detectors.append((runtime, precision, detector))
        rows = nets[Path(deployed).name] = []
        for runtime, precision, detector in detectors:
            images = labelled(args, detector.classes)
            figures = precisions_of(detector, images, _metric(args), most_broken(args))
            means = {key: figures[key] for key in ("mAP", "voc_mAP_50_95")}
            rows.append({"runtime": runtime, "precision": precision, **means})
    source = source_of(args, images, "test")
    content = {"nets": nets, "metric": _metric(args), "data": source}
    result = write_result(args.out, content)
    page = precision_page(read_json(result))
    write_atomically(Path(args.out) / PAGE, page)
    _print_counts(images, source)
    print(result)


def _runtimes_and_precisions(folder: str) -> list[tuple[str, str]]:
    """Return the runtimes and precisions that a deployed folder has formats for."""
    from gluon_compress.deployment import manifest
    from gluon_compress.deployment.formats import formats_of, runtimes_and_precisions

    formats = set(manifest.read(folder).formats)
    return [
        (runtime, precision)
        for runtime, precision in runtimes_and_precisions()
        if formats & set(formats_of(runtime, precision))
    ]


def precision_page(result: Mapping[str, Any]) -> str:
    """Return the page of a comparison of runtimes, as Markdown."""
    images = "`{split}` of {root}".format(**result["data"])
    text = f"# Accuracy in edge runtimes\n\nmAP ({result['metric']}) on {images}.\n"
    return "\n".join([text, *_tables(result["nets"])])


def _tables(nets: Mapping[str, list]) -> Iterator[str]:
    from gluon_compress.markdown import percent, table

    for name, (gluon, *rows) in nets.items():
        cells = [["gluon", "float32", percent(gluon["mAP"]), "", "", ""]]
        for row in rows:
            off, most = (
                100 * (row["mAP"] - gluon["mAP"]),
                MOST.get(row["precision"], 1.0),
            )
            met = "yes" if round(abs(off), 2) <= most else "no"
            figures = (percent(row["mAP"]), f"{off:+.2f}", f"{most:.1f}", met)
            cells.append([row["runtime"], row["precision"], *figures])
        yield f"## {name}\n\n{table(HEAD, cells)}"


EVALUATE = Command(TEXT, _add_evaluate_options, _evaluate)
EVALUATE_CLASSIFIER = Command(CLASSIFIER_TEXT, _add_classifier_options, _evaluate)
EVALUATE_RUNTIMES = Command(RUNTIMES_TEXT, _add_runtimes_options, _evaluate_runtimes)
