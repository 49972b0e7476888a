#!/usr/bin/env python
"""Time a training step of a quantised classifier against one of float32.

OMP_NUM_THREADS=1 scripts/time_quantization.py mobilenet1.0
"""

from __future__ import annotations

import argparse
import json
import time

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon

import gluon_compress as gc
from gluon_compress.quantization.training import WeightScales
from gluon_compress.train import Position

MAX, LEARNED = {"ranges": "max"}, {"ranges": "learned"}
CONFIGS = {
    "float32": None,
    "max, fixed": {"weights": MAX},
    "max, moving": {"weights": MAX, "activations": {"ranges": "moving"}},
    "learned, fixed": {"weights": LEARNED},
    "learned, learned": {"weights": LEARNED, "activations": LEARNED},
}


def main() -> None:
    """Read arguments and print one line of JSON for each kind of ranges."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a classifier of GluonCV, as mobilenet1.0")
    parser.add_argument("--size", type=int, default=96, help="pixels; default: 96")
    parser.add_argument("--batch-size", type=int, default=16, help="default: 16")
    parser.add_argument("--repeats", type=int, default=4, help="default: 4")
    args = parser.parse_args()
    net = gc.build(args.model, ["a", "b", "c"], size=args.size)
    images = mx.nd.random.normal(shape=(args.batch_size, 3, args.size, args.size))
    labels = mx.nd.array(np.arange(args.batch_size) % 3)
    steps = {}
    for name, config in CONFIGS.items():
        made = net if config is None else gc.quantize(net, config, [(images[:4],)])
        steps[name] = step_of(made, images, labels)
    times: dict[str, list] = {name: [] for name in steps}
    for _ in range(1 + args.repeats):
        for name, step in steps.items():
            begin = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - begin)
    least = {name: min(all_of[1:]) for name, all_of in times.items()}
    for name, seconds in least.items():
        row = {"net": args.model, "ranges": name, "seconds": round(seconds, 3)}
        print(json.dumps({**row, "ratio": round(seconds / least["float32"], 2)}))


def step_of(net, images, labels):
    """Return a function that trains a net for one step."""
    net.hybridize(static_alloc=True, static_shape=True)
    trainer = gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 1e-4})
    loss_function, hooks = gluon.loss.SoftmaxCrossEntropyLoss(), WeightScales(net)

    def step() -> None:
        with autograd.record():
            loss = loss_function(net(images), labels).mean()
        loss.backward()
        trainer.step(1)
        hooks.end_step(Position(1, 0, 1))
        mx.nd.waitall()

    return step


if __name__ == "__main__":
    main()
