"""Measures two-stage detectors: parameters, MACs, and CPU seconds of a pass."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

from gluon_compress.cli.app import Command
from gluon_compress.cli.options import above_0, add_out, write_result
from gluon_compress.markdown import table
from gluon_compress.storage.atomic import write_atomically

TEXT = """Measure two-stage detectors: parameters, MACs, and CPU seconds of a pass.

  OMP_NUM_THREADS=1 %(prog)s --out docs/benchmark/rcnn

For each model: a forward pass of one image up to boxes, of its first stage alone, and a
training step on one image, in Gluon: the least CPU time (user and system) of several
runs. With --out, also writes result.json and rcnn.md.
"""
PAGE = "rcnn.md"
MODELS = (
    "faster_rcnn_fpn_resnet18_v1b",
    "faster_rcnn_fpn_resnet50_v1b",
    "mask_rcnn_fpn_resnet18_v1b",
    "mask_rcnn_fpn_resnet50_v1b",
)
CLASSES = 20
HEAD = (
    "model",
    "proposals",
    "parameters, M",
    "GMACs",
    "of the second stage",
    "first stage, s",
    "to boxes, s",
    "training step, s",
)
INTRODUCTION = """# Two-stage detectors

Models for {classes} classes at {size} x {size} pixels, one image, `OMP_NUM_THREADS` of
{threads}, in Gluon: the least CPU time (user and system) of {runs} runs, in seconds.
GMACs are of both stages, of as many regions as there are proposals; for masks, of as
many as there are detections. "To boxes" is a whole pass with both NMS, and masks where
there are some. Weights are initial values. Masks are not trained here.

"""


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="+", default=list(MODELS), metavar="NAME")
    parser.add_argument("--size", type=above_0, default=320, help="pixels a side")
    parser.add_argument("--runs", type=above_0, default=2)
    add_out(parser, "rows", required=False, files=[PAGE])


def _benchmark(args: argparse.Namespace) -> None:
    """Measure the models one by one, and print the table."""
    from gluon_compress.provenance import threads

    rows = []
    for name in args.models:
        rows.append(measured(name, args.size, args.runs))
        print(table_of(rows[-1:]), flush=True)
    if args.out:
        settings = {"size": args.size, "runs": args.runs, "threads": threads()}
        result = write_result(args.out, {**settings, "rows": rows})
        page = page_of(json.loads(result.read_text(encoding="utf-8")))
        write_atomically(Path(args.out) / PAGE, page)


def measured(name: str, size: int, runs: int) -> dict[str, Any]:
    """Return what one model costs.

    Raises
    ------
    ValueError
        For a model that is no two-stage detector.
    """
    import mxnet as mx

    import gluon_compress as gc
    from gluon_compress import models
    from gluon_compress.models import family_of
    from gluon_compress.models.rcnn.inference import stages_of

    net = gc.build(name, [str(number) for number in range(CLASSES)], size=size)
    family = family_of(net)
    if family.kind not in ("rcnn", "mask_rcnn"):
        raise ValueError(f"model {name!r}; allowed: two-stage detectors")
    cost = models.cost_of(net)
    symbol, params = family.inference_graph(net)
    first = gc.count(gc.trace((symbol, params), shape=(1, 3, size, size))).macs
    mx.random.seed(0)
    image = mx.nd.random.normal(shape=(1, 3, size, size))
    features = stages_of(net, family.to_symbol(net))["features"]
    array = image.asnumpy()
    return {
        "model": name,
        "proposals": family.config_of(net).rpn_post_nms,
        "params": cost["params"],
        "macs": cost["macs"],
        "second_stage_macs": cost["macs"] - first,
        "first_stage_s": least(lambda: features({"data": array}), runs),
        "to_boxes_s": least(lambda: family.results(net, image), runs),
        "training_step_s": None
        if family.kind == "mask_rcnn"
        else least(training_step(net, image, size), runs),
    }


def training_step(net: Any, image: Any, size: int) -> Callable[[], None]:
    """Return what trains a net for one step on an image with two objects."""
    import mxnet as mx
    import numpy as np
    from mxnet import autograd, gluon

    from gluon_compress.models import family_of, supervised_step

    family = family_of(net)
    block, step = family.training_net(net), supervised_step(family.loss(net))
    boxes = np.array([[0.1, 0.2, 0.5, 0.6], [0.5, 0.1, 0.8, 0.9]]) * size
    label = np.hstack([boxes, [[0, 0], [1, 0]]]).astype(np.float32)
    batch = [image, *(mx.nd.array(target) for target in family.targets(net)([label]))]
    trainer = gluon.Trainer(block.collect_params(), "sgd", {"learning_rate": 1e-4})

    def run() -> None:
        with autograd.record():
            loss, _ = step(block, batch)
        loss.backward()
        trainer.step(1)
        mx.nd.waitall()

    return run


def least(run: Callable[[], Any], runs: int) -> float:
    """Return the least CPU time of several runs after one to warm up, seconds."""
    times = []
    for _ in range(runs + 1):
        before = os.times()
        run()
        after = os.times()
        times.append(after.user + after.system - before.user - before.system)
    return round(min(times[1:]), 2)


def table_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as a Markdown table."""
    cells = [
        [
            row["model"],
            str(row["proposals"]),
            f"{row['params'] / 1e6:.1f}",
            f"{row['macs'] / 1e9:.2f}",
            f"{row['second_stage_macs'] / 1e9:.2f}",
            *(
                "–" if row[key] is None else f"{row[key]:.2f}"
                for key in ("first_stage_s", "to_boxes_s", "training_step_s")
            ),
        ]
        for row in rows
    ]
    return table(HEAD, cells)


def page_of(result: Mapping[str, Any]) -> str:
    """Return the page of a result."""
    stated = {key: result[key] for key in ("size", "runs", "threads")}
    introduction = INTRODUCTION.format(classes=CLASSES, **stated)
    hardware = result["hardware"]
    source = f"{hardware['cpu']}; commit {result['commit']}, {result['date'][:10]}.\n"
    return "\n".join([introduction + source, table_of(result["rows"])])


COMMAND = Command(TEXT, _add_options, _benchmark)
