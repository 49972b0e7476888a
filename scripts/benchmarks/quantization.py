"""Times a training step of a quantised classifier against one of float32, in turn."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, Callable, Mapping

from gluon_compress.cli.app import Command
from gluon_compress.cli.options import above_0, add_out, write_result
from gluon_compress.markdown import table
from gluon_compress.storage.atomic import write_atomically

TEXT = """Time a training step of quantised classifiers against one of float32.

  %(prog)s mobilenet1.0
  %(prog)s resnet18_v1b mobilenet1.0 --out docs/benchmark/quantization

Each kind of ranges takes its turn. Shows the least of the times, and its ratio to
float32's. With --out, also writes result.json and quantization.md.
"""
PAGE = "quantization.md"
INTRODUCTION = """# Time of a quantised training step

Forward and backward pass and update, of batches of {batch_size} images of {size} px,
against the same net in float32: the least of {repeats} steps, in turn. The aims were at
most 1.7 times for nets like ResNet, and 3 for MobileNet. The spread of times is not
known: a difference of a few per cent may be chance.
"""
MAX, LEARNED = {"ranges": "max"}, {"ranges": "learned"}
CONFIGS: dict[str, dict | None] = {
    "float32": None,
    "max, fixed": {"weights": MAX},
    "max, moving": {"weights": MAX, "activations": {"ranges": "moving"}},
    "learned, fixed": {"weights": LEARNED},
    "learned, learned": {"weights": LEARNED, "activations": LEARNED},
}


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models", nargs="+", metavar="MODEL", help="of GluonCV, as mobilenet1.0"
    )
    parser.add_argument("--size", type=above_0, default=96, help="pixels; default: 96")
    parser.add_argument("--batch-size", type=above_0, default=16, help="default: 16")
    parser.add_argument("--repeats", type=above_0, default=4, help="default: 4")
    add_out(parser, "batch_size", "nets", required=False, files=[PAGE])


def _benchmark(args: argparse.Namespace) -> None:
    """Time net after net, and print the least times."""
    nets = {name: timed(name, args) for name in args.models}
    print(table_of(nets))
    if args.out:
        settings = ("size", "batch_size", "repeats")
        content = {key: getattr(args, key) for key in settings}
        result = write_result(args.out, {**content, "nets": nets})
        page = page_of(json.loads(result.read_text(encoding="utf-8")))
        write_atomically(Path(args.out) / PAGE, page)


def timed(name: str, args: argparse.Namespace) -> dict[str, float]:
    """Return the least milliseconds of a step of a net, by kind of ranges."""
    import mxnet as mx
    import numpy as np

    import gluon_compress as gc

    net = gc.build(name, ["a", "b", "c"], size=args.size)
    images = mx.nd.random.normal(shape=(args.batch_size, 3, args.size, args.size))
    labels = mx.nd.array(np.arange(args.batch_size) % 3)
    steps = {}
    for kind, config in CONFIGS.items():
        made = net if config is None else gc.quantize(net, config, [(images[:4],)])
        steps[kind] = step_of(made, images, labels)
    ms: dict[str, list[float]] = {kind: [] for kind in steps}
    for number in range(1 + args.repeats):
        for kind, step in steps.items():
            begun = time.perf_counter()
            step()
            if number:  # the first round makes the graphs
                ms[kind].append(1e3 * (time.perf_counter() - begun))
    return {kind: min(each) for kind, each in ms.items()}


def page_of(result: Mapping[str, Any]) -> str:
    """Return the page as Markdown, from the result alone."""
    hardware = result["hardware"]
    machine = f"{hardware['cpu']}, {hardware['threads']} threads"
    source = f"{machine}; commit {result['commit']}, {result['date'][:10]}.\n"
    text = INTRODUCTION.format(**{k: v for k, v in result.items() if k != "nets"})
    return "\n".join([text, source, table_of(result["nets"])])


def table_of(nets: Mapping[str, Mapping[str, float]]) -> str:
    """Return a table of the ratios, one column a net."""
    rows = [
        [kind, *(f"{ms[kind] / ms['float32']:.2f}" for ms in nets.values())]
        for kind in CONFIGS
        if kind != "float32"
    ]
    times = [f"{ms['float32']:.0f} ms" for ms in nets.values()]
    head = ("ranges of weights, of maps", *nets)
    return table(head, [["float32", *times], *rows])


def step_of(net: Any, images: Any, labels: Any) -> Callable[[], None]:
    """Return a function that trains a net for one step."""
    import mxnet as mx
    from mxnet import autograd, gluon

    from gluon_compress.quantization.training import WeightScales
    from gluon_compress.train import Position

    net.hybridize(static_alloc=True, static_shape=True)
    options = {"learning_rate": 1e-4}
    trainer = gluon.Trainer(net.collect_params(), "sgd", options)
    loss_function, hooks = gluon.loss.SoftmaxCrossEntropyLoss(), WeightScales(net)

    def step() -> None:
        with autograd.record():
            loss = loss_function(net(images), labels).mean()
        loss.backward()
        trainer.step(1)
        hooks.end_step(Position(1, 0, 1))
        mx.nd.waitall()

    return step


COMMAND = Command(TEXT, _add_options, _benchmark)
