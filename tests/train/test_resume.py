from __future__ import annotations

import json
import signal
from contextlib import ExitStack
from dataclasses import asdict, replace

import mxnet as mx
import numpy as np
import pytest

from gluon_compress.train import BEST, LAST, LOG, fit
from training import (
    QUIET,
    SHORT,
    Batches,
    Stop,
    content,
    conv_net,
    cross_entropy,
    dense,
    mean_output,
    outcome,
    position,
    records,
    run_judged,
    same,
    stopped,
    values,
)


def train_until(folder, step: int, **options) -> None:
    with pytest.raises(Stop):
        fit(
            conv_net(),
            Batches(3),
            stopped(step),
            SHORT,
            folder,
            options=replace(QUIET, **options),
        )


RESUME = replace(QUIET, resume=True)


def test_a_checkpoint_within_the_epoch_waits_for_its_minutes(tmp_path):
    train_until(tmp_path / "often", 2, save_minutes=0)
    train_until(tmp_path / "seldom", 2, save_minutes=10)
    assert position(tmp_path / "often")["batch"] == 2
    assert position(tmp_path / "seldom")["batch"] == 0


def test_a_resume_asks_for_the_batches_that_are_left(tmp_path):
    train_until(tmp_path, 2, save_minutes=0)
    batches = Batches(3)
    fit(conv_net(), batches, cross_entropy, SHORT, tmp_path, options=RESUME)
    assert batches.asked == [(0, 2), (1, 0)]


@pytest.fixture
def interruptible():
    """Let SIGINT interrupt: a job in the background is told to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("step", [1, 3, 6])  # 3 is the last of an epoch, 6 of the run
def test_signal_stops_after_the_step_and_its_checkpoint(tmp_path, step, number):
    def ask(net, progress):
        if progress.step == step:
            signal.raise_signal(number)

    parts = {"validate": lambda: {"score": 1.0}, "options": RESUME}
    ends = (KeyboardInterrupt, SystemExit)
    net, asked = conv_net(), {**parts, "step_callbacks": [ask]}
    with pytest.raises(ends, match=LAST):
        fit(net, Batches(3), cross_entropy, SHORT, tmp_path / "cut", **asked)
    assert position(tmp_path / "cut")["step"] == step
    whole, resumed = conv_net(), conv_net()
    fit(whole, Batches(3), cross_entropy, SHORT, tmp_path / "whole", **parts)
    fit(resumed, Batches(3), cross_entropy, SHORT, tmp_path / "cut", **parts)
    assert same(values(whole), values(resumed))
    assert outcome(tmp_path / "whole") == outcome(tmp_path / "cut")
    assert sorted(content(tmp_path / "cut")) == sorted([BEST, LAST, LOG])


def test_folder_has_one_training_at_a_time(tmp_path):
    def again(net, progress):
        with pytest.raises(ValueError, match=f"{tmp_path}: is being written by"):
            fit(conv_net(), Batches(3), cross_entropy, SHORT, tmp_path, options=RESUME)

    fit(
        conv_net(),
        Batches(1),
        cross_entropy,
        SHORT,
        tmp_path,
        callbacks=[again],
        options=QUIET,
    )
    assert len(records(tmp_path, "step")) == 2


def test_log_that_cannot_be_written_is_named(tmp_path, full_disk):
    with ExitStack() as stack:

        def fill(net, batch):
            stack.enter_context(full_disk(0))
            return cross_entropy(net, batch)

        with pytest.raises(OSError, match="large") as error:
            fit(conv_net(), Batches(3), fill, SHORT, tmp_path, options=QUIET)
    assert error.value.filename == str(tmp_path / LOG)


@pytest.mark.parametrize("step", [2, 3, 4])
def test_what_a_callback_draws_is_drawn_again(tmp_path, step):
    ends = []
    for name, loss in (("whole", cross_entropy), ("cut", stopped(step))):
        net = conv_net()
        how = {"callbacks": [shake], "options": QUIET}
        try:
            fit(net, Batches(3), loss, SHORT, tmp_path / name, **how)
        except Stop:
            mx.random.seed(9)  # as if the process were another
            net, how["options"] = conv_net(), RESUME
            fit(net, Batches(3), cross_entropy, SHORT, tmp_path / name, **how)
        ends.append(values(net))
    assert same(*ends)


def shake(net, progress) -> None:
    """Add something random to a weight."""
    weight = net[4].weight
    weight.set_data(weight.data() + mx.nd.random.normal(0, 0.1, weight.shape))


def test_a_checkpoint_without_the_length_of_the_run_is_read(tmp_path):
    train_until(tmp_path, 2, save_minutes=0)
    with np.load(tmp_path / LAST) as stored:
        arrays = {name: stored[name] for name in stored.files}
    header = json.loads(arrays["meta"].tobytes())
    del header["meta"]["epochs"]  # as earlier versions wrote it
    arrays["meta"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    with open(tmp_path / LAST, "wb") as file:
        np.savez(file, **arrays)
    net = conv_net()
    end = fit(net, Batches(3), cross_entropy, SHORT, tmp_path, options=RESUME)
    assert end.epochs == 2


def test_resume_of_a_finished_run_returns_at_once(tmp_path):
    net = conv_net()
    end = fit(net, Batches(3), cross_entropy, SHORT, tmp_path, options=QUIET)
    before, other, batches = content(tmp_path), conv_net(), Batches(3)
    again = fit(other, batches, stopped(0), SHORT, tmp_path, options=RESUME)
    assert asdict(again) == asdict(end)
    assert batches.asked == []
    assert same(values(net), values(other))
    assert content(tmp_path) == before


def test_resume_in_an_empty_folder_starts(tmp_path):
    end = fit(conv_net(), Batches(3), cross_entropy, SHORT, tmp_path, options=RESUME)
    assert end.step == 6


@pytest.mark.parametrize("kept", [(LAST, BEST, LOG), (BEST,), (LOG,)])
def test_a_folder_with_a_run_is_not_overwritten(tmp_path, kept):
    run_judged(tmp_path, [0.1, 0.2])
    for name in {LAST, BEST, LOG} - set(kept):
        (tmp_path / name).unlink()
    before = content(tmp_path)
    for options in (QUIET, RESUME)[: 1 if LAST in kept else 2]:
        with pytest.raises(ValueError, match=f"{kept[0]}: the folder holds a run"):
            fit(conv_net(), Batches(), cross_entropy, SHORT, tmp_path, options=options)
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    ("schedule", "seed", "count", "message"),
    [
        (SHORT.replace(learning_rate=0.2), 0, 3, "learning_rate 0.1, now it is 0.2"),
        (SHORT.replace(epochs=3), 0, 3, "epochs 2, now it is 3"),
        (SHORT, 1, 3, "seed 0, now it is 1"),
        (SHORT, 0, 4, "batches 3, now it is 4"),
    ],
)
def test_a_run_does_not_go_on_as_another(tmp_path, schedule, seed, count, message):
    train_until(tmp_path, 2, save_minutes=0)
    before, net = content(tmp_path), conv_net()
    start, options = values(net), replace(RESUME, seed=seed)
    with pytest.raises(ValueError, match=f"{LAST}: the run was started with {message}"):
        fit(net, Batches(count), cross_entropy, schedule, tmp_path, options=options)
    assert same(values(net), start)
    assert content(tmp_path) == before


def test_a_run_does_not_go_on_with_other_frozen_parameters(tmp_path):
    train_until(tmp_path, 2, save_minutes=0)
    net = conv_net()
    net[0].weight.grad_req = "null"
    with pytest.raises(ValueError, match="started with learned 6, now it is 5"):
        fit(net, Batches(3), cross_entropy, SHORT, tmp_path, options=RESUME)


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_checkpoint_cut_short_is_named_and_left_alone(tmp_path, share):
    train_until(tmp_path, 2, save_minutes=0)
    whole = (tmp_path / LAST).read_bytes()
    (tmp_path / LAST).write_bytes(whole[: int(share * len(whole))])
    before = content(tmp_path)
    with pytest.raises(ValueError, match=f"{LAST}: not a complete checkpoint") as error:
        fit(conv_net(), Batches(3), cross_entropy, SHORT, tmp_path, options=RESUME)
    assert "\n" not in str(error.value)
    assert content(tmp_path) == before


def test_the_checkpoint_of_another_net_is_named_and_left_alone(tmp_path):
    train_until(tmp_path, 2, save_minutes=0)
    before = content(tmp_path)
    with pytest.raises(ValueError, match=f"{LAST}: holds 8 parameters, the net has 1"):
        fit(dense([1.0]), Batches(3), mean_output, SHORT, tmp_path, options=RESUME)
    assert content(tmp_path) == before


def test_a_lost_log_begins_anew(tmp_path):
    train_until(tmp_path, 2, save_minutes=0)
    (tmp_path / LOG).unlink()
    fit(conv_net(), Batches(3), cross_entropy, SHORT, tmp_path, options=RESUME)
    assert [r["step"] for r in records(tmp_path, "step")] == [2, 3, 4, 5]
