"""Moving averages of parameters: their formula, their place, and exact resume."""

from __future__ import annotations

from dataclasses import replace

import mxnet as mx
import numpy as np
import pytest
from mxnet import nd

from gluon_compress.train import BEST, LAST, fit, load_best
from gluon_compress.train.averages import Averages
from gluon_compress.train.checkpoint import read_checkpoint
from training import (
    QUIET,
    SHORT,
    Batches,
    Fixed,
    Stop,
    conv_net,
    cross_entropy,
    dense,
    mean_output,
    same,
    stopped,
    values,
)

RESUME = replace(QUIET, resume=True, save_minutes=0)
PLAIN = SHORT.replace(epochs=1, momentum=0.0, weight_decay=0.0)


def test_averages_follow_their_formula(tmp_path):
    """The gradient is the input, so the weight falls by a known amount each step."""
    net, seen = dense([5.0]), []
    schedule = PLAIN.replace(ema=0.6)

    def note(net, progress) -> None:
        seen.append(float(net.weight.data().asscalar()))

    batches = Fixed(nd.array([[2.0]]), count=5)
    fit(
        net,
        batches,
        mean_output,
        schedule,
        tmp_path,
        step_callbacks=[note],
        options=QUIET,
    )
    assert seen[0] == pytest.approx(5.0 - 0.1 * 2.0)
    average = 5.0
    for n, value in enumerate(seen, 1):
        decay = min(0.6, n / (9 + n))
        average = decay * average + (1 - decay) * value
    assert float(net.weight.data().asscalar()) == pytest.approx(average, rel=1e-6)
    assert average > seen[-1] + 0.01  # it lags behind


def test_running_statistics_are_averaged_and_masks_are_not():
    net = conv_net()
    parameters = list(net.collect_params().values())
    mask = mx.gluon.Parameter("mask", shape=(4,), grad_req="null")
    mask.initialize(mx.init.One())
    averages = Averages([*parameters, mask], 0.5)
    for parameter in (*parameters, mask):
        parameter.set_data(parameter.data() + 1)
    averages.update(1)
    before = [p.data().asnumpy() - 1 for p in parameters]
    averages.apply()
    for parameter, old in zip(parameters, before):
        expected = 0.1 * old + 0.9 * (old + 1)
        assert np.allclose(parameter.data().asnumpy(), expected, atol=1e-6)
    assert (mask.data().asnumpy() == 2).all()


def test_validations_and_the_best_checkpoint_have_the_averages(tmp_path):
    net, seen, last = conv_net(), [], []

    def validate() -> dict:
        seen.append(values(net))
        return {"score": 1.0 - 0.1 * len(seen)}  # the first is the best

    schedule = SHORT.replace(epochs=3, ema=0.9)
    options = {"validate": validate, "options": QUIET}
    steps = [lambda net, _: last.append(values(net))]
    fit(
        net,
        Batches(3),
        cross_entropy,
        schedule,
        tmp_path,
        step_callbacks=steps,
        **options,
    )
    assert len(seen) == 3
    assert not same(seen[0], last[2])
    assert same(values(net), seen[2])
    stored = conv_net()
    load_best(stored, tmp_path)
    assert same(values(stored), seen[0])
    read_checkpoint(tmp_path / LAST, list(stored.collect_params().values()))
    assert same(values(stored), last[-1])
    read_checkpoint(
        tmp_path / LAST, list(stored.collect_params().values()), averages=True
    )
    assert same(values(stored), seen[2])


def test_training_itself_is_the_same_with_averages(tmp_path):
    ends = []
    for name, ema in (("with", 0.9), ("without", None)):
        net, seen = conv_net(), []

        def note(net, _, seen=seen) -> None:
            seen.append(values(net))

        parts = {
            "validate": lambda: {"score": 1.0},
            "step_callbacks": [note],
            "options": QUIET,
        }
        schedule = SHORT.replace(ema=ema)
        fit(net, Batches(3), cross_entropy, schedule, tmp_path / name, **parts)
        ends.append(seen)
    assert all(same(a, b) for a, b in zip(*ends))


@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_resumed_run_ends_with_the_same_averages(tmp_path, step):
    schedule = SHORT.replace(ema=0.8)
    whole, cut, resumed = conv_net(), conv_net(), conv_net()
    fit(whole, Batches(3), cross_entropy, schedule, tmp_path / "whole", options=QUIET)
    with pytest.raises(Stop):
        fit(cut, Batches(3), stopped(step), schedule, tmp_path / "cut", options=RESUME)
    for _ in range(2):  # the second time, the run is finished
        folder = tmp_path / "cut"
        fit(resumed, Batches(3), cross_entropy, schedule, folder, options=RESUME)
        assert same(values(whole), values(resumed))
    content = [(tmp_path / n / LAST) for n in ("whole", "cut")]
    arrays = [dict(np.load(path)) for path in content]
    names = [name for name in arrays[0] if name[0] == "a"]
    assert len(names) == len(values(whole))
    assert all(np.array_equal(arrays[0][name], arrays[1][name]) for name in names)
    assert not (tmp_path / "cut" / BEST).exists()


def test_averages_need_those_of_the_run(tmp_path):
    with pytest.raises(Stop):
        fit(conv_net(), Batches(3), stopped(2), SHORT, tmp_path, options=RESUME)
    schedule = SHORT.replace(ema=0.8)
    with pytest.raises(ValueError, match="started with ema None"):
        fit(conv_net(), Batches(3), cross_entropy, schedule, tmp_path, options=RESUME)
    net = conv_net()
    averages = Averages(list(net.collect_params().values()), 0.8)
    with pytest.raises(ValueError, match="^last.ckpt: holds averages of 0 parameters"):
        averages.check({}, "last.ckpt")


@pytest.mark.parametrize("decay", [0, 1, 1.5, -0.1, "much"])
def test_decays_that_are_no_decays_are_refused(decay):
    with pytest.raises(ValueError, match="ema.*above 0 and below 1"):
        SHORT.replace(ema=decay)
