"""Times a training step of a quantised classifier against one of float32, in turn."""

from __future__ import annotations

import argparse
import time
from typing import Any, Callable

from gluon_compress.cli.app import Command
from gluon_compress.cli.options import above_0, add_out, write_result
from gluon_compress.markdown import table

TEXT = """Time a training step of a quantised classifier against one of float32.

  %(prog)s mobilenet1.0
  %(prog)s resnet18_v1b --size 96 --out runs/quantization

Each kind of ranges takes its turn. Shows the least of the times, and its ratio to
float32's. With --out, also writes result.json.
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
    parser.add_argument("model", help="a classifier of GluonCV, as mobilenet1.0")
    parser.add_argument("--size", type=above_0, default=96, help="pixels; default: 96")
    parser.add_argument("--batch-size", type=above_0, default=16, help="default: 16")
    parser.add_argument("--repeats", type=above_0, default=4, help="default: 4")
    add_out(parser, "model", "rows", required=False)


def _benchmark(args: argparse.Namespace) -> None:
    """Time one step after the other, and print the least times."""
    import mxnet as mx
    import numpy as np

    import gluon_compress as gc

    net = gc.build(args.model, ["a", "b", "c"], size=args.size)
    images = mx.nd.random.normal(shape=(args.batch_size, 3, args.size, args.size))
    labels = mx.nd.array(np.arange(args.batch_size) % 3)
    steps = {}
    for name, config in CONFIGS.items():
        made = net if config is None else gc.quantize(net, config, [(images[:4],)])
        steps[name] = step_of(made, images, labels)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(1 + args.repeats):
        for name, step in steps.items():
            begun = time.perf_counter()
            step()
            if number:  # the first round makes the graphs
                seconds[name].append(time.perf_counter() - begun)
    least = {name: min(each) for name, each in seconds.items()}
    rows = [
        {"ranges": name, "ms": 1e3 * each, "ratio": each / least["float32"]}
        for name, each in least.items()
    ]
    lines = [[r["ranges"], f"{r['ms']:.0f} ms", f"{r['ratio']:.2f}"] for r in rows]
    print(table(("ranges (weights, maps)", "step", "of float32"), lines))
    if args.out:
        settings = {key: getattr(args, key) for key in ("model", "size", "batch_size")}
        print(write_result(args.out, {**settings, "rows": rows}))


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
