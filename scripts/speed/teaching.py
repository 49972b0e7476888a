"""Steps of training that are timed: from labels, from a teacher too."""

from __future__ import annotations

from functools import partial
from typing import Callable, Sequence

from gluon_compress.provenance import ROOT
from speed.convolution import noise

FULL = "ssd_300_resnet50_v1d"
PLAN = ROOT / "model_zoo" / "ssd_300_resnet50_v1d_compact" / "plan.json"
LABEL = [[30.0, 40, 150, 200, 3, 0], [100.0, 90, 280, 290, 7, 0]]  # of every image


def steps(args, losses: Sequence[str]) -> dict[str, Callable[[], None]]:
    """Return what is timed: functions that end when their work is done.

    Parameters
    ----------
    args
        With ``student``, ``plan``, ``stride`` and ``batch``.
    losses : sequence of str
        What a teacher teaches by, each with weight 1.
    """
    import mxnet as mx
    import numpy as np

    import gluon_compress as gc
    from gluon_compress.data import SSDTargets
    from gluon_compress.deployment import fused
    from gluon_compress.distill import needs_taps
    from gluon_compress.models import head, ssd

    full, net = gc.build(FULL), gc.build(args.student)
    if args.student == FULL:
        net = gc.slim(net, gc.Plan.load(args.plan))
    images = mx.nd.array(noise((args.batch, 3, 300, 300)))
    targets = SSDTargets(ssd.anchors_of(net))([np.array(LABEL)] * args.batch)
    batch = [images, *map(mx.nd.array, targets)]
    weights = dict.fromkeys(losses, 1.0)
    taps = head.map_names(full) if needs_taps(weights) else ()
    form = {"taps": taps, "stride": args.stride}
    taught = fused(head.head_block(full, **form))
    anchors = head.map_anchors(net, stride=args.stride)
    loss = head.ssd_loss()
    both = gc.distil_step(taught, taps, loss, weights=weights, anchors=anchors)
    widths = head.map_widths(full) if taps else ()
    student = head.head_block(net, adapters=widths, **form)

    def teach() -> None:
        for output in taught(images):
            output.wait_to_read()

    return {
        "labels": partial(_trainer(head.head_block(net), head.supervised(loss)), batch),
        "teacher": teach,
        "both": partial(_trainer(student, both), batch),
    }


def _trainer(block, step_loss: Callable) -> Callable:
    """Return a function that trains a block on a batch."""
    from mxnet import autograd, gluon, nd

    block.hybridize(static_alloc=True, static_shape=True)
    how = {"momentum": 0.9, "learning_rate": 1e-9}  # noise teaches nothing
    trainer = gluon.Trainer(block.collect_params(), "sgd", how)

    def step(batch) -> None:
        with autograd.record():
            loss, _ = step_loss(block, batch)
        loss.backward()
        trainer.step(1)
        nd.waitall()

    return step
