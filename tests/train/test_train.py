from __future__ import annotations

import math
from dataclasses import replace

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon, nd

from gluon_compress.train import (
    BEST,
    LAST,
    LOG,
    Diverged,
    Options,
    Schedule,
    fit,
    learning_rate,
    load_best,
)
from training import (
    EAGER,
    ONE_STEP,
    QUIET,
    SHORT,
    Batches,
    Fixed,
    content,
    conv_net,
    cross_entropy,
    dense,
    figures,
    mean_output,
    position,
    records,
    run_judged,
    same,
    stored,
    values,
)

# --- the rate ---------------------------------------------------------------------


def test_rate_rises_linearly_from_a_tenth():
    schedule = Schedule(epochs=10, learning_rate=2.0, warmup_epochs=4)
    rates = [learning_rate(schedule, e) for e in (0, 1, 2, 4)]
    assert rates == pytest.approx([0.2, 0.65, 1.1, 2.0])


def test_cosine_ends_at_a_hundredth_of_the_rate():
    schedule = Schedule(epochs=10, learning_rate=2.0, warmup_epochs=4)
    rates = [learning_rate(schedule, e) for e in (4, 7, 8.5, 10)]
    half = [0.5 * (1 + math.cos(math.pi * p)) for p in (0, 0.5, 0.75, 1)]
    assert rates == pytest.approx([2 * (0.01 + 0.99 * h) for h in half])


def test_step_multiplies_at_each_milestone():
    schedule = Schedule(
        epochs=9, mode="step", milestones=(3, 6), decay=0.1, learning_rate=1.0
    )
    rates = [learning_rate(schedule, e) for e in (1, 2.99, 3, 5.5, 6, 8)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_the_rate_of_every_step_is_the_schedules(tmp_path):
    schedule = SHORT.replace(warmup_epochs=0.5)
    fit(conv_net(), Batches(3), cross_entropy, schedule, tmp_path, options=QUIET)
    rates = [r["lr"] for r in records(tmp_path, "step")]
    assert rates == [learning_rate(schedule, step / 3) for step in range(6)]


# --- the update -------------------------------------------------------------------


def test_an_update_is_rate_times_gradient(tmp_path):
    net, x = dense([1.0, 2.0]), [[3.0, 4.0], [5.0, 8.0]]
    fit(net, Fixed(nd.array(x)), mean_output, ONE_STEP, tmp_path, options=QUIET)
    assert values(net)[0] == pytest.approx(np.array([[1 - 0.5 * 4, 2 - 0.5 * 6]]))


def test_momentum_adds_to_the_next_update(tmp_path):
    net, schedule = dense([1.0]), ONE_STEP.replace(momentum=0.5)
    batches = Fixed(nd.array([[2.0]]), count=2)
    fit(net, batches, mean_output, schedule, tmp_path, options=QUIET)
    first, second = (learning_rate(schedule, e) for e in (0, 0.5))
    expected = 1 - first * 2 - (0.5 * first * 2 + second * 2)
    assert values(net)[0].item() == pytest.approx(expected)


def test_weight_decay_spares_biases_and_batchnorm(tmp_path):
    net = conv_net()
    for parameter in net.collect_params().values():
        parameter.set_data(nd.ones(parameter.shape))
    before, schedule = values(net), ONE_STEP.replace(weight_decay=0.1)

    def nothing(net, batch):
        return (0 * net(batch[0])).sum(), {}

    fit(net, Batches(1), nothing, schedule, tmp_path, options=QUIET)
    learned = [p for p in net.collect_params().values() if p.grad_req != "null"]
    ends = {p.name: (p.data().asnumpy(), len(p.shape) > 1) for p in learned}
    assert len(before) == 8
    assert len(ends) == 6
    for value, is_weight in ends.values():
        assert value == pytest.approx(1 - 0.5 * 0.1 if is_weight else 1)


def test_gradients_are_clipped_by_their_common_norm(tmp_path):
    net = dense([0.0, 0.0], bias=True)
    schedule = ONE_STEP.replace(clip_norm=1.3)
    batch = Fixed(nd.array([[3.0, 4.0]]) * 4)  # the bias adds 1: the norm is sqrt(401)
    fit(net, batch, mean_output, schedule, tmp_path, options=QUIET)
    gradient = np.array([12, 16, 1]) * 1.3 / math.sqrt(401)
    assert np.concatenate([v.ravel() for v in values(net)]) == pytest.approx(
        -0.5 * gradient
    )
    (step,) = records(tmp_path, "step")
    assert step["gradient_norm"] == pytest.approx(math.sqrt(401))  # before clipping


def test_a_small_gradient_is_not_clipped(tmp_path):
    net, schedule = dense([0.0]), ONE_STEP.replace(clip_norm=10.0)
    fit(net, Fixed(nd.array([[3.0]])), mean_output, schedule, tmp_path, options=QUIET)
    assert values(net)[0].item() == pytest.approx(-1.5)


@pytest.mark.parametrize("clip", [None, 0.5])
def test_two_devices_make_the_update_of_one(tmp_path, clip):
    x, ends = nd.array(np.random.RandomState(0).randn(4, 3)), []
    for name, ctx in (("one", (mx.cpu(),)), ("two", (mx.cpu(0), mx.cpu(1)))):
        net, schedule = dense([1.0, 2.0, 3.0]), SHORT.replace(clip_norm=clip)
        net.collect_params().reset_ctx(list(ctx))
        options = replace(QUIET, ctx=ctx)
        fit(net, Fixed(x), mean_output, schedule, tmp_path / name, options=options)
        ends += [p.asnumpy() for p in net.weight.list_data()]
    assert len(ends) == 3
    for end in ends[1:]:
        assert end == pytest.approx(ends[0], rel=1e-5)


def test_a_batch_smaller_than_the_devices_is_named(tmp_path):
    net, ctx = dense([1.0]), (mx.cpu(0), mx.cpu(1))
    net.collect_params().reset_ctx(list(ctx))
    options = replace(QUIET, ctx=ctx)
    with pytest.raises(ValueError, match="a batch of 1 cannot be split over 2"):
        fit(net, Fixed(nd.ones((1, 1))), mean_output, SHORT, tmp_path, options=options)


def test_batches_may_be_numpy_arrays(tmp_path):
    net = dense([0.0])
    batches = Fixed(np.full((2, 1), 3, np.uint8))
    fit(net, batches, mean_output, ONE_STEP, tmp_path, options=QUIET)
    assert values(net)[0].item() == pytest.approx(-1.5)


def test_the_seed_decides_dropout(tmp_path):
    ends = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        net, options = conv_net(), replace(QUIET, seed=seed)
        fit(net, Batches(), cross_entropy, ONE_STEP, tmp_path / name, options=options)
        ends.append(values(net))
    assert same(ends[0], ends[1])
    assert not same(ends[0], ends[2])


# --- log, validation, callbacks ---------------------------------------------------


def test_log_has_a_record_a_step(tmp_path):
    end = fit(conv_net(), Batches(3), cross_entropy, SHORT, tmp_path, options=QUIET)
    steps = records(tmp_path, "step")
    assert [(r["epoch"], r["step"]) for r in steps] == [(i // 3, i) for i in range(6)]
    for record in steps:
        assert record["parts"]["half"] == pytest.approx(record["loss"] / 2)
        assert record["images_per_second"] > 0
        assert "gradient_norm" not in record  # which only clipping looks at
    assert (end.epoch, end.batch, end.step) == (2, 0, 6)


@pytest.mark.parametrize(("every", "expected"), [(2, [2, 4, 5]), (0, [5]), (1, 5)])
def test_validation_runs_every_n_epochs_and_at_the_end(tmp_path, every, expected):
    schedule = SHORT.replace(epochs=5, validate_every=every)
    net = conv_net()
    fit(
        net,
        Batches(1),
        cross_entropy,
        schedule,
        tmp_path,
        validate=figures(net),
        options=QUIET,
    )
    expected = [1, 2, 3, 4, 5] if expected == 5 else expected
    assert [r["epoch"] for r in records(tmp_path, "validation")] == expected


def test_best_checkpoint_is_of_the_first_best_validation(tmp_path):
    end, seen = run_judged(tmp_path, [0.1, 0.5, 0.5, 0.3])
    assert (end.best, end.best_epoch) == (0.5, 2)
    assert same(stored(tmp_path / BEST), seen[1])
    assert same(stored(tmp_path / LAST), seen[3])
    assert not same(seen[1], seen[2])


def test_the_best_parameters_can_be_loaded(tmp_path):
    _, seen = run_judged(tmp_path, [0.1, 0.5, 0.3])
    net = conv_net()
    assert load_best(net, tmp_path).epoch == 2
    assert same(values(net), seen[1])


def test_a_run_without_validation_has_no_best(tmp_path):
    fit(conv_net(), Batches(), cross_entropy, ONE_STEP, tmp_path, options=QUIET)
    with pytest.raises(ValueError, match=f"{BEST}: there is no such checkpoint"):
        load_best(conv_net(), tmp_path)


def test_a_validation_without_a_value_is_never_the_best(tmp_path):
    end, _ = run_judged(tmp_path, [math.nan, 0.2, math.inf])
    assert (end.best, end.best_epoch) == (0.2, 2)
    assert [r["mAP"] for r in records(tmp_path, "validation")] == [None, 0.2, None]


def test_callbacks_see_the_start_of_every_epoch(tmp_path):
    seen = []

    def callback(net, progress):
        seen.append((progress.epoch, progress.batch, progress.step))

    options = {"callbacks": [callback], "options": QUIET}
    fit(conv_net(), Batches(2), cross_entropy, SHORT, tmp_path, **options)
    assert seen == [(0, 0, 0), (1, 0, 2)]


def test_callbacks_see_the_length_of_the_run(tmp_path):
    seen = []
    callbacks = [lambda net, progress: seen.append(progress.epochs)]
    how = {"callbacks": callbacks, "options": QUIET}
    end = fit(conv_net(), Batches(1), cross_entropy, SHORT, tmp_path, **how)
    assert seen == [2, 2]
    assert end.epochs == 2


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([0.9, 0.3, 0.2], 0.3), ([0.9, 0.1, 0.2], 0.2), ([0.9, math.nan, math.nan], None)],
)
def test_a_callback_may_forget_what_was_best(tmp_path, scores, expected):
    def forget(net, progress):
        if progress.epoch == 1:
            progress.best = progress.best_epoch = None

    net, left = conv_net(), iter(scores)
    how = {"validate": lambda: {"mAP": next(left)}, "options": QUIET}
    schedule = SHORT.replace(epochs=3)
    end = fit(
        net, Batches(1), cross_entropy, schedule, tmp_path, callbacks=[forget], **how
    )
    assert end.best == expected
    assert (tmp_path / BEST).exists() == (expected is not None)


@pytest.mark.parametrize("shown", [True, False])
def test_progress_bar_is_on_standard_error(tmp_path, capfd, shown):
    options = Options(progress=shown)
    schedule = ONE_STEP.replace(epochs=4)
    fit(conv_net(), Batches(), cross_entropy, schedule, tmp_path, options=options)
    out, err = capfd.readouterr()
    assert out == ""
    words = ("epoch 4/4", "loss=", "half=", "img/s=", "12/12")
    assert [word in err for word in words] == [shown] * 5
    assert err.count("/12 [") == 2 * shown  # no terminal: begin, end, every 10 s


def test_a_finished_folder_holds_nothing_temporary(tmp_path):
    run_judged(tmp_path, [0.1, 0.2])
    assert sorted(content(tmp_path)) == sorted([BEST, LAST, LOG])


# --- bad input --------------------------------------------------------------------


def test_an_empty_data_set_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no batch"):
        fit(conv_net(), Batches(0), cross_entropy, SHORT, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_file_is_not_a_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="file: is a file; a run needs a folder"):
        fit(conv_net(), Batches(), cross_entropy, SHORT, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("units", [0, 2])
def test_a_net_without_values_is_refused(tmp_path, units):
    net = gluon.nn.Dense(1, in_units=units)
    if not units:
        net.initialize()
    with pytest.raises(ValueError, match="weight' has no value yet"):
        fit(net, Batches(), cross_entropy, SHORT, tmp_path / "new", options=QUIET)
    assert not (tmp_path / "new").exists()


def test_an_epoch_that_ends_early_is_an_error(tmp_path):
    batches = Batches(2)
    batches.__class__ = type("Announced", (Batches,), {"__len__": lambda self: 5})
    with pytest.raises(ValueError, match="epoch 0 ended after 2 of 5 batches"):
        fit(conv_net(), batches, cross_entropy, SHORT, tmp_path, options=QUIET)


def test_an_epoch_never_has_more_batches_than_announced(tmp_path):
    batches = Batches(5)
    batches.__class__ = type("Announced", (Batches,), {"__len__": lambda self: 2})
    end = fit(conv_net(), batches, cross_entropy, SHORT, tmp_path, options=QUIET)
    assert end.step == 4


# --- divergence -------------------------------------------------------------------


def poisoned(at: int):
    """Return a step loss whose ``at``-th call gives NaN."""
    calls = iter(range(1000))

    def loss(net, batch):
        value, parts = cross_entropy(net, batch)
        return (value * math.nan if next(calls) == at else value), parts

    return loss


def test_nan_names_the_step_and_the_rate(tmp_path):
    rate = f"{learning_rate(SHORT, 4 / 3):.3g}"
    where = f"epoch 1, batch 1, step 4, learning rate {rate}"
    with pytest.raises(Diverged, match=f"loss became nan at {where}"):
        fit(conv_net(), Batches(3), poisoned(4), SHORT, tmp_path, options=QUIET)


def test_nan_leaves_a_checkpoint_to_go_on_from(tmp_path):
    with pytest.raises(Diverged):
        fit(conv_net(), Batches(3), poisoned(4), SHORT, tmp_path / "a", options=QUIET)
    assert position(tmp_path / "a")["step"] == 3
    ends = []
    for name, resume in (("a", True), ("b", False)):
        net, options = conv_net(), replace(QUIET, resume=resume)
        fit(net, Batches(3), cross_entropy, SHORT, tmp_path / name, options=options)
        ends.append(values(net))
    assert same(*ends)


def test_an_infinite_gradient_norm_stops_the_run(tmp_path):
    net, schedule = dense([0.1]), ONE_STEP.replace(clip_norm=1.0)
    batches = Fixed(nd.array([[1e30]]))
    with pytest.raises(Diverged, match="gradient norm became inf at epoch 0, batch 0"):
        fit(net, batches, mean_output, schedule, tmp_path, options=QUIET)
    assert values(net)[0].item() == pytest.approx(0.1)


@pytest.mark.parametrize("count", [1, 2])
def test_an_update_to_infinity_does_not_reach_a_checkpoint(tmp_path, count):
    net, schedule = dense([0.0]), ONE_STEP.replace(learning_rate=1e10)
    batches = Fixed(nd.array([[1e30]]), count=count)
    with pytest.raises(Diverged, match="weight' became inf at epoch 0.*rate 1e\\+10"):
        fit(net, batches, mean_output, schedule, tmp_path, options=EAGER)
    assert stored(tmp_path / LAST)[0].item() == 0


@pytest.mark.parametrize("name", ["foo", "", "DEVICE", "dist_async", None])
def test_unknown_kvstore_is_refused_with_the_known(name):
    known = "device, local, nccl, dist_sync, dist_device_sync"
    with pytest.raises(ValueError, match=f"kvstore is {name!r}; allowed: {known}$"):
        Options(kvstore=name)


@pytest.mark.parametrize("name", ["device", "local"])
def test_kvstores_that_need_nothing(name):
    assert mx.kvstore.create(Options(kvstore=name).kvstore).type == name


def test_distributed_kvstore_needs_a_launcher(monkeypatch):
    assert Options().kvstore == "device"
    with pytest.raises(ValueError, match="'dist_sync', which needs .*-compress launch"):
        Options(kvstore="dist_sync")
    monkeypatch.setenv("GLUON_COMPRESS_HUB", "127.0.0.1:9")
    assert Options().kvstore == "dist_sync"
    assert Options(kvstore="dist_device_sync").kvstore == "dist_device_sync"
    allowed = "allowed in a launched process: dist_sync, dist_device_sync"
    with pytest.raises(ValueError, match=f"kvstore is 'device'; {allowed}"):
        Options(kvstore="device")


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_threshold_of_gradients_is_for_launched_processes(monkeypatch, value):
    with pytest.raises(ValueError, match="gradient_threshold is 0.5; allowed: .*dist"):
        Options(gradient_threshold=0.5)
    monkeypatch.setenv("GLUON_COMPRESS_HUB", "127.0.0.1:9")
    assert Options(gradient_threshold=0.5).gradient_threshold == 0.5
    with pytest.raises(ValueError, match="gradient_threshold is .*; allowed: a number"):
        Options(gradient_threshold=value)


@pytest.mark.parametrize("built", [False, True])
def test_nccl_needs_an_mxnet_with_it(monkeypatch, built):
    class Features:
        def is_enabled(self, name):
            assert name == "NCCL"
            return built

    monkeypatch.setattr(mx.runtime, "Features", Features)
    if built:
        assert Options(kvstore="nccl")
    else:
        with pytest.raises(ValueError, match="'nccl', which needs an MXNet"):
            Options(kvstore="nccl")


# --- callbacks --------------------------------------------------------------------


def test_step_callbacks_come_after_each_update(tmp_path):
    net, seen = dense([1.0]), []

    def callback(block, progress):
        seen.append((progress.step, float(block.weight.data().asscalar())))

    batches = Fixed(nd.ones((2, 1)), count=3)
    fit(
        net,
        batches,
        mean_output,
        ONE_STEP,
        tmp_path,
        step_callbacks=[callback],
        options=QUIET,
    )
    assert [step for step, _ in seen] == [1, 2, 3]
    assert seen[-1][1] == float(net.weight.data().asscalar())
    weights = [1.0, *(weight for _, weight in seen)]
    assert all(after < before for before, after in zip(weights, weights[1:]))


def test_what_step_callbacks_change_is_stored(tmp_path):
    net = dense([1.0])

    def clamp(block, progress):
        block.weight.set_data(nd.array([[7.0]]))

    batches = Fixed(nd.ones((2, 1)), count=2)
    fit(
        net,
        batches,
        mean_output,
        ONE_STEP,
        tmp_path,
        step_callbacks=[clamp],
        options=QUIET,
    )
    assert stored(tmp_path / LAST)[0].item() == 7.0
