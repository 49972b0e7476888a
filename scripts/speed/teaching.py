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
    from gluon_compress.deployment import fused
    from gluon_compress.distill import needs_taps
    from gluon_compress.models import NamedBlock, family_of, supervised_step

    full, net = gc.build(FULL), gc.build(args.student)
    if args.student == FULL:
        net = gc.slim(net, gc.Plan.load(args.plan))
    images = mx.nd.array(noise((args.batch, 3, 300, 300)))
    family = family_of(net)
    targets = family.targets(net)([np.array(LABEL)] * args.batch)
    batch = [images, *map(mx.nd.array, targets)]
    weights = dict.fromkeys(losses, 1.0)
    taps = family.map_names(full) if needs_taps(weights) else ()
    form = {"taps": taps, "stride": args.stride}
    block = family.training_net(full, **form)
    teacher = fused(block)
    loss, context = family.loss(net), family.loss_context(net, **form) if taps else {}
    named = NamedBlock(teacher, block.names)
    both = gc.distil_step(named, taps, loss, weights=weights, **context)
    widths = family.map_widths(full) if taps else ()
    student = family.training_net(net, adapters=widths, **form)
    alone = supervised_step(loss)

    def teach() -> None:
        for output in teacher(images):
            output.wait_to_read()

    return {
        "labels": partial(_trainer(family.training_net(net), alone), batch),
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
