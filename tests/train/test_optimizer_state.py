"""A trainer that got the state of another goes on as that one does, bit for bit."""

from __future__ import annotations

import json
from dataclasses import replace

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon, nd

from gluon_compress.train.optimizer_state import (
    OptimizerState,
    check_optimizer_state,
    optimizer_state,
    set_optimizer_state,
)

OPTIMIZERS = {
    "sgd": {"momentum": 0.9, "wd": 0.01},
    "nag": {"momentum": 0.9},
    "signum": {},
    "adam": {},
    "adamax": {},
    "nadam": {},
    "adagrad": {},
    "adadelta": {},
    "rmsprop": {"centered": True},
    "ftrl": {},
    "ftml": {},
    "lamb": {},
    "lars": {"momentum": 0.9},
    "dcasgd": {},
}


def trainer_of(name: str, ctx=None, **settings) -> gluon.Trainer:
    """Return a trainer of one parameter that is used and one that is not."""
    params = gluon.ParameterDict()
    for key in ("used", "unused"):
        params.get(key, shape=(2, 3), init=mx.init.One())
    params.initialize(ctx=ctx or [mx.cpu()])
    ordered = [params.get(key) for key in ("used", "unused")]
    settings = {"learning_rate": 0.1, **settings}
    return gluon.Trainer(ordered, name, settings, update_on_kvstore=False)


def step(trainer: gluon.Trainer, number: int) -> None:
    parameter = trainer._params[0]
    with autograd.record():
        losses = [
            (value.square() * (number + 1 + nd.arange(3, ctx=value.context))).sum()
            for value in parameter.list_data()
        ]
    autograd.backward(losses)
    trainer.step(len(losses), ignore_stale_grad=True)


def value(trainer: gluon.Trainer) -> np.ndarray:
    return trainer._params[0].list_data()[0].asnumpy()


def moved(trainer: gluon.Trainer, other: gluon.Trainer) -> None:
    """Give another trainer parameters and state, by way of JSON."""
    state = optimizer_state(trainer)
    state = replace(state, numbers=json.loads(json.dumps(state.numbers)))
    check_optimizer_state(other, state, "a.ckpt")
    other._params[0].set_data(nd.array(value(trainer)))
    set_optimizer_state(other, state)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("steps", [0, 3])
def test_it_goes_on_exactly(name, steps):
    first, second = (trainer_of(name, **OPTIMIZERS[name]) for _ in range(2))
    for number in range(steps):
        step(first, number)
    moved(first, second)
    for number in range(steps, steps + 3):
        step(first, number)
        step(second, number)
        assert np.array_equal(value(first), value(second))
    assert not np.array_equal(value(first), np.ones((2, 3)))


def test_all_devices_get_the_state():
    devices = [mx.cpu(0), mx.cpu(1)]
    first, second = (trainer_of("adam", devices) for _ in range(2))
    step(first, 0)
    moved(first, second)
    for trainer in (first, second):
        step(trainer, 1)
    for one, other in zip(first._params[0].list_data(), second._params[0].list_data()):
        assert np.array_equal(one.asnumpy(), other.asnumpy())


def stepped() -> OptimizerState:
    trainer = trainer_of("sgd", momentum=0.9)
    step(trainer, 0)
    return optimizer_state(trainer)


MOMENTUM = np.zeros((2, 3), np.float32)
NUMBERS = {"optimizer": "SGD"}


@pytest.mark.parametrize(
    ("numbers", "arrays", "message"),
    [
        ({"optimizer": "Adam"}, {}, "Adam.*SGD"),
        ({}, {}, "optimizer: this key is missing"),
        ({**NUMBERS, "lr": 1}, {}, "lr: no such key"),
        ({**NUMBERS, "num_update": -1}, {}, "num_update is -1"),
        ({**NUMBERS, "num_update": 1e400}, {}, "num_update is inf"),
        ({**NUMBERS, "updates": {"0": [1]}}, {}, "updates.*1 numbers"),
        ({**NUMBERS, "updates": {"x" * 500: [1, 1]}}, {}, "updates.*xxx"),
        ({**NUMBERS, "updates": {"0": [1, "2"]}}, {}, r"updates\.0\[1\] is '2'"),
        (NUMBERS, {"0.0": MOMENTUM[:1]}, r"used.*\(1, 3\)"),
        (NUMBERS, {"0.0": MOMENTUM.astype("float64")}, "used.*float64"),
        (NUMBERS, {"2.0": MOMENTUM}, "'2.0' belongs to no parameter"),
        (NUMBERS, {"0.1": MOMENTUM}, "'0.1' belongs to no parameter"),
        (NUMBERS, {"0.0": MOMENTUM + np.nan}, "NaN"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(numbers, arrays, message):
    trainer = trainer_of("sgd", momentum=0.9)
    with pytest.raises(ValueError, match=f"^a.ckpt: .*{message}") as error:
        check_optimizer_state(trainer, OptimizerState(numbers, arrays), "a.ckpt")
    assert len(str(error.value)) <= 300
    assert trainer._updaters[0].states == {}


def test_a_state_has_no_arrays_where_nothing_was_updated():
    assert list(stepped().arrays) == ["0.0"]
    assert optimizer_state(trainer_of("sgd", momentum=0.9)).arrays == {}
