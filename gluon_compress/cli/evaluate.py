"""Measures a model on labelled images: mAP of detectors, top-1 of classifiers."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any, Iterator, Mapping

from gluon_compress.cli.app import Command
from gluon_compress.cli.detector import Detector, in_runtime, load_detector
from gluon_compress.cli.image_files import without
from gluon_compress.cli.options import (
    add_devices,
    add_out,
    add_runtime,
    contexts,
    refuse,
    write_result,
)

TEXT = """Measure a model on labelled images: mAP of a detector, top-1 of a classifier.

  %(prog)s runs/demo/compact/model --data DATA --split test --out runs/eval
  %(prog)s edge --runtime onnxruntime --data DATA
  %(prog)s runs/demo/compact/model --deployed edge --data DATA --out runs/eval
  %(prog)s runs/imagenette/resnet50_v1d/full/model --data DATA

The folder's manifest says what it is: a detector, a classifier, or, with --runtime, a
deployed detector. A detector's DATA is in VOC layout; a classifier's DATA/SPLIT has one
folder a class, and the middle of each image is taken at the size it was trained at.
With --deployed, the same detector is measured in Gluon and in every runtime that reads
the deployed folder, which also writes precision.md.
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
BATCH = 64
MOST = {"float32": 0.1, "int8": 1.0}  # points of mAP that a runtime may differ by
HEAD = ("runtime", "precision", "mAP at 0.5", "points off", "at most", "met")
OF_DETECTORS = ("classes", "unknown", "metric", "runtime", "precision", "threads")


# ---------------------------------------------------------------- options


def _add_labelled_images(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, metavar="ROOT", help="labelled images")
    parser.add_argument("--split", help="of the images; default: test, or val")
    parser.add_argument(
        "--classes",
        nargs="+",
        metavar="NAME",
        help="names in the annotations, or a file of them, in the order of the model's",
    )
    parser.add_argument(
        "--unknown",
        choices=("error", "skip"),
        help="objects of other classes; default: error",
    )
    parser.add_argument(
        "--metric", choices=("voc07", "voc10"), help="of detectors; default: voc07"
    )


def _add_evaluate_options(parser: argparse.ArgumentParser) -> None:
    add_devices(parser)
    parser.add_argument("model", metavar="FOLDER")
    add_runtime(parser)
    _add_labelled_images(parser)
    parser.add_argument("--deployed", metavar="FOLDER", help="to compare with")
    add_out(parser, "model", "data", required=False)


def _add_classifier_options(parser: argparse.ArgumentParser) -> None:
    add_devices(parser)
    parser.add_argument("model", metavar="FOLDER")
    parser.add_argument("--data", required=True, metavar="ROOT", help="holds the split")
    parser.add_argument("--split", help="folder in it; default: val")
    add_out(parser, "model", "top1", required=False)


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
    add_out(parser, "nets", "metric")


# ---------------------------------------------------------------- one model


def _evaluate(args: argparse.Namespace) -> None:
    """Measure what the folder's manifest says it is."""
    from gluon_compress.model_folder import read_manifest

    if read_manifest(args.model).get("kind") == "classifier":
        refuse(args, (*OF_DETECTORS, "deployed"), f"{args.model} is a classifier")
        _evaluate_classifier(args)
    elif getattr(args, "deployed", None):
        refuse(args, ("runtime", "precision", "threads"), "not with --deployed")
        if not args.out:
            raise ValueError(f"--deployed {args.deployed}: needs --out")
        args.net = [(args.model, args.deployed)]
        _evaluate_runtimes(args)
    else:
        _evaluate_detector(args)


def _evaluate_detector(args: argparse.Namespace) -> None:
    detector = load_detector(args)
    from gluon_compress import report

    images = labelled(args, detector.classes)
    figures = precisions_of(detector, images, _metric(args))
    shown = {"mAP": figures["mAP"], **figures["classes"]}
    print(report.precision_table({f"{_metric(args)} AP": shown}))
    print(f"mAP at IoU 0.5 to 0.95: {100 * figures['mAP_50_95']:.1f}")
    for file, reason in images.problems:
        print(f"skipped {file}: {without(file, reason)}")
    source = source_of(args, images, "test")
    for name, count in source["repairs"].items():
        print(f"repairs: {name} {count}")
    if args.out:
        runtime = {
            "runtime": args.runtime or "gluon",
            "precision": args.precision or "float32",
        }
        model = {**_identity(args.model), **runtime}
        print(write_result(args.out, {"model": model, "data": source, **figures}))


def _evaluate_classifier(args: argparse.Namespace) -> None:
    device = contexts(args.ctx)[0]
    from gluon_compress import data
    from gluon_compress.evaluate import top1
    from gluon_compress.models.classifier import load_classifier

    net, manifest = load_classifier(args.model)
    net.collect_params().reset_ctx(device)
    net.hybridize(static_alloc=True, static_shape=True)
    size = manifest["input"]["shape"][-1]
    folder = Path(args.data, args.split or "val")
    images = data.ImageFolder(folder, manifest["classes"])
    sample = partial(data.crop_val_sample, size=size)
    batches = data.Batches(images, sample, BATCH, shuffle=False)
    accuracy = top1(lambda batch: net(batch.as_in_context(device)), batches.epoch(0))
    print(f"top-1 at {size} pixels: {100 * accuracy:.1f}, {len(images)} images")
    if args.out:
        source = source_of(args, images, "val")
        content = {"model": _identity(args.model), "data": source, "top1": accuracy}
        print(write_result(args.out, content))


def _identity(folder: str) -> dict[str, Any]:
    from gluon_compress.model_folder import read_manifest

    manifest = read_manifest(folder)
    return {"name": manifest["name"], "files": manifest["files"]}


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
    names = names[0] if len(names) == 1 and Path(names[0]).is_file() else names
    split, unknown = args.split or "test", args.unknown or "error"
    images = data.VOCLayout(args.data, split, names, unknown=unknown)
    if len(images.classes) != len(classes):
        raise ValueError(f"--classes: the model has {len(classes)}, not {names}")
    return images


def precisions_of(detector: Detector, images: Any, metric: str) -> dict[str, Any]:
    """Return what ``evaluate.precisions`` does, of any detector."""
    from gluon_compress import data
    from gluon_compress.evaluate import precisions

    sample = partial(data.ssd_val_sample, size=detector.size)
    batches = data.Batches(
        images, sample, detector.batch, shuffle=False, normalized=detector.normalized
    )
    return precisions(
        detector.detect, batches, images.classes, size=detector.size, metric=metric
    )


def source_of(args: argparse.Namespace, images: Any, split: str) -> dict[str, Any]:
    """Return what a result says of the images; ``split`` is the default one."""
    from gluon_compress import data

    place = {"root": Path(args.data).name, "split": args.split or split}
    return {**place, **data.counted(images)}


def _metric(args: argparse.Namespace) -> str:
    return args.metric or "voc07"


# ---------------------------------------------------------------- every runtime


def _evaluate_runtimes(args: argparse.Namespace) -> None:
    """Measure net by net in every runtime, and write both files."""
    nets: dict[str, list] = {}
    images = None
    for model, deployed in args.net:
        gluon = argparse.Namespace(model=model, ctx=args.ctx, runtime=None)
        ways = [("gluon", "float32", load_detector(gluon))]
        ways += [(*way, in_runtime(deployed, *way)) for way in _ways(deployed)]
        rows = nets[Path(deployed).name] = []
        for runtime, precision, detector in ways:
            images = labelled(args, detector.classes)
            figures = precisions_of(detector, images, _metric(args))
            means = {key: figures[key] for key in ("mAP", "mAP_50_95")}
            rows.append({"runtime": runtime, "precision": precision, **means})
    source = source_of(args, images, "test")
    content = {"nets": nets, "metric": _metric(args), "data": source}
    result = write_result(args.out, content)
    page = precision_page(json.loads(result.read_text(encoding="utf-8")))
    (Path(args.out) / "precision.md").write_text(page, encoding="utf-8")
    print(result)


def _ways(folder: str) -> list[tuple[str, str]]:
    """Return each runtime and precision that reads a format of a deployed folder."""
    from gluon_compress.deployment import manifest
    from gluon_compress.deployment.predictor import READS

    formats = set(manifest.read(folder).formats)
    return [way for way, read in READS.items() if formats & set(read)]


def precision_page(result: Mapping[str, Any]) -> str:
    """Return the page of a comparison of runtimes, as Markdown."""
    place = "`{split}` of {root}".format(**result["data"])
    text = f"# Precision in edge runtimes\n\nmAP ({result['metric']}) on {place}.\n"
    return "\n".join([text, *_tables(result["nets"])])


def _tables(nets: Mapping[str, list]) -> Iterator[str]:
    from gluon_compress.markdown import percent, table

    for name, (gluon, *rows) in nets.items():
        cells = [["gluon", "float32", percent(gluon["mAP"]), "", "", ""]]
        for row in rows:
            off, most = 100 * (row["mAP"] - gluon["mAP"]), MOST[row["precision"]]
            met = "yes" if round(abs(off), 2) <= most else "no"
            figures = (percent(row["mAP"]), f"{off:+.2f}", f"{most:.1f}", met)
            cells.append([row["runtime"], row["precision"], *figures])
        yield f"## {name}\n\n{table(HEAD, cells)}"


EVALUATE = Command(TEXT, _add_evaluate_options, _evaluate)
EVALUATE_CLASSIFIER = Command(CLASSIFIER_TEXT, _add_classifier_options, _evaluate)
EVALUATE_RUNTIMES = Command(RUNTIMES_TEXT, _add_runtimes_options, _evaluate_runtimes)
