"""What accompanies a training, and that a resumed run has the same of it."""

from __future__ import annotations

import numpy as np
import pytest
from mxnet import nd

from gluon_compress.train import Hooks, SeveralHooks, fit, hooked
from training import EAGER, SHORT, Batches, Stop, conv_net, cross_entropy, outcome

COUNT = 3


class Moving(Hooks):
    """Keeps a moving average of the images in a parameter that is not trained."""

    def __init__(self, net) -> None:
        self.parameter, self.seen = net[1].running_mean, []
        self.weight = net[0].weight

    def see(self, images) -> None:
        mean = 0.5 * self.parameter.data() + 0.5 * images.mean()
        self.parameter.set_data(mean)

    def loss(self):
        return 0.25 * self.weight.data().square().sum()

    def end_step(self, position) -> None:
        self.seen.append(
            (position.step, round(position.epoch * COUNT), position.epochs)
        )
        self.parameter.set_data(self.parameter.data() + 0.01 * position.share)


def run(folder, *, stop_at=None, resume=False):
    net = conv_net()
    net[1].running_mean.grad_req = "null"
    hooks = Moving(net)
    calls = iter(range(100))

    def loss(net, batch):
        if next(calls) == stop_at:
            raise Stop
        return cross_entropy(net, batch)

    arguments = hooked(SeveralHooks([hooks, Hooks()]), COUNT, part="size")
    wrap = arguments.pop("wrap")
    options = EAGER if not resume else EAGER.__class__(progress=False, resume=True)
    fit(net, Batches(COUNT), wrap(loss), SHORT, folder, options=options, **arguments)
    return hooks


def test_a_resumed_run_has_the_state_of_one_that_was_not_stopped(tmp_path):
    whole = run(tmp_path / "whole")
    assert whole.seen == [(i + 1, i + 1, 2) for i in range(6)]
    with pytest.raises(Stop):
        run(tmp_path / "parts", stop_at=4)
    run(tmp_path / "parts", resume=True)
    assert outcome(tmp_path / "whole") == outcome(tmp_path / "parts")


def test_the_term_of_the_loss_is_added_and_logged(tmp_path):
    run(tmp_path)
    lines = [line for line in outcome(tmp_path)["log.jsonl"] if line["kind"] == "step"]
    assert all(line["parts"]["size"] > 0 for line in lines)
    assert lines[0]["loss"] > lines[0]["parts"]["size"]


def test_the_terms_of_several_hooks_are_summed():
    class Two(Hooks):
        def loss(self):
            return nd.array([2.0])

    assert SeveralHooks([Hooks()]).loss() is None
    total = SeveralHooks([Two(), Hooks(), Two()]).loss()
    assert np.array_equal(total.asnumpy(), [4])
