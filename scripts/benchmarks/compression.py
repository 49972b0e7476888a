"""Measures detectors that are quantised or made sparse without training."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Sequence

from gluon_compress.cli.app import Command
from gluon_compress.cli.options import above_0, add_out, write_result
from gluon_compress.markdown import table
from gluon_compress.storage.atomic import write_atomically

TEXT = """Measure detectors that are quantised or made sparse without training.

  %(prog)s model_zoo/ssd_300_mobilenet1.0_bccd --data DATA/bccd \\
      --out docs/benchmark/compression

Nothing is trained: ranges and BatchNorm's statistics are measured on training images.
Accuracy is mAP in Gluon, whose fake quantisers compute what the files do; bytes are
those of the file that `packed`, or for float32 `mxnet`, writes. With --out, also writes
result.json and compression.md.
"""
PAGE = "compression.md"
INTRODUCTION = """# Compression after training

mAP, VOC 2007's, on {images} images of {data} test, and MB of the file of weights.
Nothing is trained: ranges, biases and BatchNorm's statistics are measured on {measured}
training images. Training with [quantisers](../../quantization.md) or
[masks](../../sparsity.md) is for what is lost here.
"""
WEIGHTS8 = {"levels": "full"}
FOUR = {"weights": {"bits": 4}, "equalize": True, "correct_bias": True}
EIGHT = {"weights": WEIGHTS8, "correct_bias": True}


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", metavar="FOLDER", help="of detectors")
    parser.add_argument("--data", required=True, metavar="DIR", help="in VOC's layout")
    parser.add_argument(
        "--measure", type=above_0, default=64, help="training images; default: 64"
    )
    parser.add_argument("--images", type=above_0, help="to test on; default: all")
    add_out(parser, "models", "data", required=False, files=[PAGE])


def _benchmark(args: argparse.Namespace) -> None:
    """Compress, measure and write, net after net, and print the table."""
    from gluon_compress import data, models
    from gluon_compress.detector import Detector, predictor_of
    from gluon_compress.evaluate import precisions
    from gluon_compress.models import family_of

    rows: Dict[str, Dict[str, Any]] = {}
    for folder in args.models:
        net = models.load(folder)
        preprocess = family_of(net).preprocess(net)
        classes = family_of(net).classes_of(net)

        def batches(images: Any, size: int, preprocess: Any = preprocess) -> Any:
            return data.Batches(
                images,
                preprocess.sample,
                size,
                shuffle=False,
                normalized=preprocess.inputs,
            )

        test = data.VOCLayout(args.data, "test", classes)
        if args.images:
            test = data.draw_subset(test, args.images)
        train = data.VOCLayout(args.data, "train", classes)
        measured = [
            tuple(batch)
            for batch in batches(data.draw_subset(train, args.measure), 16).epoch(0)
        ]

        def accuracy(made: Any, test: Any = test, classes: Any = classes) -> float:
            made.hybridize(static_alloc=True, static_shape=True)
            detector = Detector(predictor_of(made))
            size = (detector.height, detector.width)
            found = batches(test, 8).epoch(0)
            figures = precisions(
                detector.detect, found, classes, size=size, metric="voc07"
            )
            return figures["mAP"]

        name = Path(folder).name
        rows[name] = {}
        for kind, make in kinds().items():
            made = make(net, measured)
            form = "mxnet" if kind == "float32" else "packed"
            rows[name][kind] = {"mAP": accuracy(made), "bytes": bytes_of(made, form)}
            print(table_of({name: rows[name]}), flush=True)
    if args.out:
        images = len(test)
        content = {"models": rows, "images": images, "measured": args.measure}
        content["data"] = Path(args.data).name
        result = write_result(args.out, content)
        page = page_of(json.loads(result.read_text(encoding="utf-8")))
        write_atomically(Path(args.out) / PAGE, page)


def kinds() -> Dict[str, Callable]:
    """Return how each kind of net is made: ``make(net, batches)``."""
    import gluon_compress as gc

    def sparse(level: float) -> Callable:
        def make(net: Any, batches: Sequence) -> Any:
            return gc.recalibrate(gc.sparsify(net, level=level), batches)

        return make

    def quantised(settings: Mapping[str, Any]) -> Callable:
        return lambda net, batches: gc.quantize(net, settings, batches)

    def mixed(net: Any, batches: Sequence) -> Any:
        bits = dict.fromkeys(delicate_layers(net), {"weights": 8})
        return gc.quantize(net, {**FOUR, "mixed": bits}, batches)

    def both(net: Any, batches: Sequence) -> Any:
        return gc.quantize(sparse(0.5)(net, batches), EIGHT, batches)

    return {
        "float32": lambda net, batches: net,
        "8 bits": quantised(EIGHT),
        "weights of 4 bits": quantised(FOUR),
        "4 bits, predictors and depthwise 8": mixed,
        "50 % zeros": sparse(0.5),
        "90 % zeros": sparse(0.9),
        "50 % zeros, 8 bits": both,
    }


def delicate_layers(net: Any) -> list[str]:
    """Return the names of a detector's predictors and depthwise layers."""
    weights = {
        name.removesuffix("_weight"): parameter.shape
        for name, parameter in net.collect_params(".*_weight").items()
    }
    return [
        name for name, shape in weights.items() if "predictor" in name or shape[1] == 1
    ]


def bytes_of(net: Any, form: str) -> int:
    """Return the bytes of a net's weights in the files of ``packed`` or ``mxnet``."""
    from gluon_compress.deployment import quantised_packed
    from gluon_compress.deployment.deployable import Deployable
    from gluon_compress.model_folder import save_pair

    symbol, params = Deployable.of(net).graph
    with tempfile.TemporaryDirectory() as folder:
        if form == "packed":
            quantised_packed.save(symbol, params, Path(folder) / "net")
        else:
            save_pair(symbol, params, Path(folder), "net")
        files = [f for f in Path(folder).iterdir() if f.suffix != ".json"]
        return sum(file.stat().st_size for file in files)


def page_of(result: Mapping[str, Any]) -> str:
    """Return the page as Markdown, from the result alone."""
    text = INTRODUCTION.format(**result)
    source = f"Commit {result['commit']}, {result['date'][:10]}.\n"
    return "\n".join([text, source, table_of(result["models"])])


def table_of(models: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a table of mAP and MB, two columns a net."""
    head = ["", *(f"{name}, {what}" for name in models for what in ("mAP", "MB"))]
    every = list(dict.fromkeys(kind for row in models.values() for kind in row))
    lines = []
    for kind in every:
        cells = []
        for row in models.values():
            if kind in row:
                mean, size = 100 * row[kind]["mAP"], row[kind]["bytes"] / 1e6
                cells += [f"{mean:.1f}", f"{size:.2f}"]
            else:
                cells += ["", ""]
        lines.append([kind, *cells])
    return table(head, lines)


COMMAND = Command(TEXT, _add_options, _benchmark)
