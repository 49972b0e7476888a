"""Measures what share of training speed is left when images must be prepared."""

from __future__ import annotations

import argparse
import time
from functools import partial
from itertools import chain, count, repeat
from typing import Any, Iterator

from gluon_compress.cli.app import Command
from gluon_compress.cli.options import add_out, write_result

TEXT = """Measure how much training speed a detector keeps with real images.

  %(prog)s --data DATA --split train

Trains in turn on real batches and on one fixed batch, so that both see the same state
of the machine. The share is the median over turns.
"""
MODEL = "ssd_300_resnet50_v1d_0.11"
SETTINGS = ("data", "split", "model", "batch_size", "turns", "steps")


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, metavar="ROOT", help="in VOC layout")
    parser.add_argument("--split", default="train", help="list to use; default: train")
    parser.add_argument("--model", default=MODEL, help=f"default: {MODEL}")
    parser.add_argument("--batch-size", type=int, default=8, help="default: 8")
    parser.add_argument("--turns", type=int, default=5, help="default: 5")
    parser.add_argument("--steps", type=int, default=12, help="of a turn; default: 12")
    add_out(parser, "fixed_batch", required=False)


def _benchmark(args: argparse.Namespace) -> None:
    """Build the net, take turns, print the speeds and their ratio."""
    import numpy as np
    from mxnet import autograd, gluon

    from gluon_compress import data, models

    images = data.VOCLayout(args.data, args.split)
    net = models.build(args.model, images.classes)
    family = models.family_of(net)
    block, loss = family.training_net(net), models.supervised_step(family.loss(net))
    block.hybridize(static_alloc=True, static_shape=True)
    trainer = gluon.Trainer(block.collect_params(), "sgd", {"learning_rate": 1e-4})
    batches = data.Batches(
        images,
        partial(data.detection_train_sample, size=models.input_size(net)),
        args.batch_size,
        last="fill",
        targets=family.targets(net),
    )

    def speed(source: Iterator[Any]) -> float:
        start = time.perf_counter()
        for _ in range(args.steps):
            with autograd.record():
                total, _ = loss(block, next(source))
            total.backward()
            trainer.step(1)
            total.wait_to_read()
        return args.steps * args.batch_size / (time.perf_counter() - start)

    real = chain.from_iterable(batches.epoch(n) for n in count())
    fixed = repeat(next(real))
    for source in (real, fixed):  # caches fill, kernels are chosen
        speed(source)
    turns = np.array([(speed(real), speed(fixed)) for _ in range(args.turns)])
    on_real, on_fixed = np.median(turns, axis=0)
    share = float(np.median(turns[:, 0] / turns[:, 1]))
    speeds = f"{on_real:.1f} images/s on real data, {on_fixed:.1f} on a fixed batch"
    print(f"{speeds}: {share:.0%}")
    if args.out:
        settings = {name: getattr(args, name) for name in SETTINGS}
        figures = {"images_per_second": on_real, "fixed_batch": on_fixed}
        print(write_result(args.out, {**settings, **figures, "share": share}))


COMMAND = Command(TEXT, _add_options, _benchmark)
