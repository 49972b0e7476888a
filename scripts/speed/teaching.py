"""Steps of training that are timed: from labels, from a teacher too."""

from __future__ import annotations

from typing import Callable

from facts import ROOT
from speed.convolution import noise

FULL = "ssd_300_resnet50_v1d"
PLAN = ROOT / "model_zoo" / "ssd_300_resnet50_v1d_compact" / "plan.json"
LABEL = [[30.0, 40, 150, 200, 3, 0], [100.0, 90, 280, 290, 7, 0]]  # of every image


def steps(args) -> dict[str, Callable[[], None]]:
    """Return what is timed: functions that end when their work is done.

    Parameters
    ----------
    args
        With ``student``, ``plan``, ``losses`` and ``batch``.
    """
    import mxnet as mx
    import numpy as np
    from mxnet import autograd, gluon

    import gluon_compress as gc
    from gluon_compress.data import SSDTargets
    from gluon_compress.distill import needs_taps
    from gluon_compress.models import head, ssd

    full, net = gc.build(FULL), gc.build(args.student)
    if args.student == FULL:
        net = gc.slim(net, gc.Plan.load(args.plan))
    images = mx.nd.array(noise((args.batch, 3, 300, 300)))
    targets = SSDTargets(ssd.anchors_of(net))([np.array(LABEL)] * args.batch)
    batch = [images, *map(mx.nd.array, targets)]
    weights = dict.fromkeys(args.losses, 1.0)
    taps = head.map_names(full) if needs_taps(weights) else ()
    taught = head.head_block(full, taps=taps)
    both = gc.distil_step(
        taught, taps, head.ssd_loss(), weights=weights, anchors=head.map_anchors(net)
    )
    widths = head.map_widths(full) if taps else ()
    blocks = {"labels": head.head_block(net)}
    blocks["both"] = head.head_block(net, taps=taps, adapters=widths)
    losses = {"labels": head.supervised(head.ssd_loss()), "both": both}
    trainers = {}
    for name, block in (*blocks.items(), ("teacher", taught)):
        block.hybridize(static_alloc=True, static_shape=True)
        if name in blocks:
            how = {"momentum": 0.9, "learning_rate": 1e-9}  # noise teaches nothing
            trainers[name] = gluon.Trainer(block.collect_params(), "sgd", how)

    def step(name: str) -> None:
        with autograd.record():
            loss, _ = losses[name](blocks[name], batch)
        loss.backward()
        trainers[name].step(1)
        mx.nd.waitall()

    def teach() -> None:
        for output in taught(images):
            output.wait_to_read()

    return {
        "labels": lambda: step("labels"),
        "teacher": teach,
        "both": lambda: step("both"),
    }
