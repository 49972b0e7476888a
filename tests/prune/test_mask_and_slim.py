from __future__ import annotations

from functools import lru_cache

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon
from mxnet.gluon import nn

from gluon_compress import Plan, count, mask, set_mask, slim, trace
from gluon_compress.fresh_process import run_export
from gluon_compress.model_folder import Reference, check, export
from nets import (
    MIXING,
    NETS,
    SHAPE,
    batch,
    chain,
    concat,
    conv,
    difference,
    flat,
    plans,
    random_plan,
    ready,
    residual,
    two_outputs,
)

ALL = {**NETS, **{f"mixing_{name}": make for name, make in MIXING.items()}}
# One net each of what masks and cuts do differently.
SOME = ("residual", "concat", "shuffle", "slices", "squeeze_excite", "flatten_dense")
SOME += ("uneven_shuffle", "joined_blocks", "deformable_groups")

# MXNet on a CPU may crash in training where channels that are no multiples of 16 are
# joined by a concatenation, in any net.
TRAINED = ("residual", "shuffle", "squeeze_excite", "flatten_dense", "many_groups")


def values(net) -> dict[str, np.ndarray]:
    return {p.name: p.data().asnumpy() for p in net.collect_params().values()}


def assert_same(left: dict, right: dict) -> None:
    assert set(left) == set(right)
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])


@lru_cache(maxsize=None)
def traced(name: str) -> tuple:
    """Return a net, which no test alters, and its graph."""
    net = ready(ALL[name]())
    return net, trace(net, SHAPE)


def planned(name: str, seed: int = 5) -> tuple:
    """Return such a net, its graph, and a plan for it."""
    net, graph = traced(name)
    return net, graph, random_plan(graph, seed)


def fresh(name: str) -> tuple:
    """Return a net of its own, and a plan for it."""
    return ready(ALL[name]()), planned(name)[2]


def step(net, images) -> list[mx.nd.NDArray]:
    """Train one step and return the gradients."""
    trainer = gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1})
    with autograd.record():
        outputs = net(images)
        nested = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        loss = sum(((output - 1) ** 2).mean() for output in nested)
    loss.backward()
    trainer.step(1)
    parameters = net.collect_params().values()
    return [p.grad() for p in parameters if p.grad_req != "null"]


# Law 1: masks and slim nets agree, and keeping everything changes nothing.


@pytest.mark.parametrize("name", ALL)
def test_mask_is_slim(name):
    net, graph = traced(name)
    for plan in plans(graph):
        masked, small = (way(net, plan, graph=graph) for way in (mask, slim))
        assert difference(masked(batch()), small(batch())) < 1e-5


@pytest.mark.parametrize("name", ALL)
def test_keeping_everything_changes_nothing(name):
    net, graph = traced(name)
    outputs = net(batch())
    for way, plan in ((mask, None), (slim, Plan.everything(graph))):
        kept = way(net, plan, graph=graph)
        assert difference(outputs, kept(batch())) < 1e-5


@pytest.mark.parametrize("way", [mask, slim])
def test_no_plan_keeps_everything(way):
    net, graph = traced("concat")
    kept, everything = (
        values(way(net, plan, graph=graph)) for plan in (None, Plan.everything(graph))
    )
    assert_same(kept, everything)


@pytest.mark.parametrize("name", SOME)
def test_pruning_changes_the_outputs(name):
    # Or the tests above would say nothing.
    net, graph, plan = planned(name)
    assert difference(net(batch()), slim(net, plan, graph=graph)(batch())) > 1e-2


def test_hybridized_nets_agree():
    net, graph, plan = planned("residual")
    masked, small = (way(net, plan, graph=graph) for way in (mask, slim))
    for each in (masked, small):
        each.hybridize(static_alloc=True, static_shape=True)
    assert difference(masked(batch()), small(batch())) < 1e-5


def test_channels_are_gone():
    net = ready(residual())
    small = slim(net, Plan({"conv0": (1, 4, 6), "conv1": (0, 5)}), shape=SHAPE)
    shapes = [p.shape for p in small.collect_params(".*weight").values()]
    assert shapes == [(3, 3, 3, 3), (2, 3, 3, 3), (3, 2, 3, 3), (5, 3 * 8 * 8)]


def test_values_of_kept_channels_are_those_of_the_net():
    net = ready(chain())
    small = slim(net, Plan({"conv0": (1, 4, 6), "conv1": (0, 5)}), shape=SHAPE)
    before, after = values(net), values(small)
    first, second = [name for name in before if "conv" in name]
    np.testing.assert_array_equal(after[first], before[first][[1, 4, 6]])
    np.testing.assert_array_equal(after[second], before[second][[0, 5]][:, [1, 4, 6]])


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ((nn.Conv1D(8, 3), nn.BatchNorm(), nn.Conv1D(6, 3), nn.Dense(3)), (1, 3, 20)),
        ((nn.Conv3D(8, 3), nn.BatchNorm(), nn.Conv3D(6, 3)), (1, 3, 6, 6, 6)),
        ((nn.Dense(6, flatten=False), gluon.rnn.LSTM(8), nn.Dense(3)), (1, 5, 4)),
        ((nn.Dense(6, flatten=False), nn.LayerNorm(), nn.Dense(3)), (1, 5, 4)),
        ((conv(8), nn.Swish(), conv(6), nn.GELU(), conv(4)), SHAPE),
        ((conv(8), nn.GroupNorm(4), conv(6), nn.ReflectionPad2D(1), conv(4)), SHAPE),
    ],
    ids=("1d", "3d", "lstm", "layer_norm", "swish", "group_norm"),
)
def test_mask_is_slim_on_other_layers(layers, shape):
    net = nn.HybridSequential()
    net.add(*layers)
    net.initialize(mx.init.Normal(0.3))
    images = mx.nd.random.normal(shape=shape)
    net(images)
    for plan in plans(trace(net, shape)):
        masked, small = (way(net, plan, shape=shape) for way in (mask, slim))
        assert difference(masked(images), small(images)) < 1e-5


# Law 4: the given net is left as it was.


@pytest.mark.parametrize("way", [mask, slim])
@pytest.mark.parametrize("name", TRAINED)
def test_given_net_is_unchanged(name, way):
    net, graph, plan = planned(name)
    before, outputs = values(net), flat(net(batch()))
    step(way(net, plan, graph=graph), batch())
    assert_same(values(net), before)
    np.testing.assert_array_equal(flat(net(batch()))[0], outputs[0])


# Masks.


@pytest.mark.parametrize("name", SOME)
def test_masks_can_be_taken_back(name):
    net, graph, plan = planned(name)
    masked = mask(net, plan, graph=graph)
    set_mask(masked, None, graph=graph)
    assert difference(net(batch()), masked(batch())) < 1e-5


@pytest.mark.parametrize("name", SOME)
def test_masks_can_be_changed(name):
    net, graph, plan = planned(name)
    masked = mask(net, random_plan(graph, 9), graph=graph)
    masked.hybridize()
    masked(batch())
    set_mask(masked, plan, shape=SHAPE)
    small = slim(net, plan, graph=graph)
    assert difference(masked(batch()), small(batch())) < 1e-5


def test_one_mask_for_a_group():
    net = ready(concat())
    masked = mask(net, Plan({"conv0": (1, 2)}), shape=SHAPE)
    found = {p.name: p for p in masked.collect_params(".*_mask").values()}
    groups = ("conv0", "conv1", "conv2", "conv3")
    assert set(found) == {f"{group}_mask" for group in groups}
    assert all(p.grad_req == "null" for p in found.values())
    expected = [0, 1, 1, 0, 0, 0, 0, 0]
    np.testing.assert_array_equal(found["conv0_mask"].data().asnumpy(), expected)


@pytest.mark.parametrize("name", TRAINED)
def test_dead_channels_stay_dead_in_training(name):
    net, graph, plan = planned(name)
    masked = mask(net, plan, graph=graph)
    before = values(masked)
    for _ in range(3):
        gradients = step(masked, batch())
    assert all(np.isfinite(gradient.asnumpy()).all() for gradient in gradients)
    after = values(masked)
    masks = [name for name in before if name.endswith(("_mask", "_places"))]
    assert masks
    assert_same({n: before[n] for n in masks}, {n: after[n] for n in masks})
    assert any((before[n] != after[n]).any() for n in before)
    # What was learned does not depend on what is dead.
    small = slim(masked, plan, shape=SHAPE)
    assert difference(masked(batch()), small(batch())) < 1e-5


@pytest.mark.parametrize("name", TRAINED)
def test_gradients_of_dead_channels_are_zero(name):
    net, graph, plan = planned(name)
    masked = mask(net, plan, graph=graph)
    step(masked, batch())
    graph = trace(masked, SHAPE)
    dead = ~graph.keep_mask(plan.keep)
    parameters = {p.name: p for p in masked.collect_params().values()}
    for parameter, axes in graph.axes.items():
        if parameters[parameter].grad_req != "null" and "gamma" in parameter:
            gradient = parameters[parameter].grad().asnumpy()
            assert not gradient[dead[axes[0].positions]].any()


def test_masks_do_not_disturb_what_comes_after():
    net, own, plan = planned("shuffle")
    masked = mask(net, plan, shape=SHAPE)
    other = trace(masked, SHAPE)
    assert other.groups == own.groups
    assert other.ops == own.ops
    assert count(other) == count(own)
    again = mask(masked, plan, shape=SHAPE)
    assert_same(values(again), values(masked))
    plain = slim(masked, None, shape=SHAPE)
    assert difference(net(batch()), plain(batch())) < 1e-5


def test_net_without_masks_cannot_change_them():
    with pytest.raises(ValueError, match=r"no masks; mask\(net, plan\) returns one"):
        set_mask(ready(chain()), None, shape=SHAPE)


# What the new net is like.


@pytest.mark.parametrize("name", TRAINED)
def test_slim_net_trains(name):
    net, graph, plan = planned(name)
    small = slim(net, plan, graph=graph)
    before = values(small)
    gradients = step(small, batch())
    assert all(np.isfinite(gradient.asnumpy()).all() for gradient in gradients)
    after = values(small)
    trained = [p.name for p in small.collect_params(".*weight").values()]
    assert all((before[n] != after[n]).any() for n in trained)


@pytest.mark.parametrize("way", [mask, slim])
def test_settings_survive(way):
    net, plan = fresh("residual")
    first, second, third = list(net.collect_params().values())[:3]
    first.grad_req, second.lr_mult, third.wd_mult = "null", 0.5, 0.25
    made = {p.name: p for p in way(net, plan, shape=SHAPE).collect_params().values()}
    for old in net.collect_params().values():
        new = made[old.name]
        assert new.grad_req == old.grad_req
        assert (new.lr_mult, new.wd_mult) == (old.lr_mult, old.wd_mult)


@pytest.mark.parametrize("way", [mask, slim])
@pytest.mark.parametrize("devices", [[mx.cpu(1)], [mx.cpu(0), mx.cpu(1)]])
def test_type_and_devices_survive(way, devices):
    net, plan = fresh("shuffle")
    net.cast("float64")
    net.collect_params().reset_ctx(devices)
    made = way(net, plan, shape=SHAPE)
    output = made(batch().astype("float64").as_in_context(mx.cpu(1)))
    assert (output.context, output.dtype) == (mx.cpu(1), np.float64)
    assert all(p.list_ctx() == devices for p in made.collect_params().values())


def test_types_agree():
    net, plan = fresh("shuffle")
    net.cast("float64")
    masked, small = (way(net, plan, shape=SHAPE) for way in (mask, slim))
    images = batch().astype("float64")
    assert difference(masked(images), small(images)) < 1e-12


@pytest.mark.parametrize("name", SOME)
def test_slim_nets_can_be_slimmed(name):
    net, graph, first = planned(name)
    small = slim(net, first, graph=graph)
    other = trace(small, SHAPE)
    second = random_plan(other, 8)
    twice = slim(small, second, graph=other)
    at_once = slim(net, first.compose(second), graph=graph)
    assert_same(values(twice), values(at_once))
    np.testing.assert_array_equal(flat(twice(batch()))[0], flat(at_once(batch()))[0])


def test_symbol_and_params_are_a_net_too():
    net, _, plan = planned("residual")
    params = {p.name: p.data() for p in net.collect_params().values()}
    pair = (net(mx.sym.var("data")), params)
    for way in (mask, slim):
        own, other = (way(each, plan, shape=SHAPE) for each in (net, pair))
        assert_same(values(own), values(other))
        np.testing.assert_array_equal(own(batch()).asnumpy(), other(batch()).asnumpy())


def test_several_inputs():
    symbol = mx.sym.Convolution(
        mx.sym.var("left") + mx.sym.var("right"), kernel=(1, 1), num_filter=4, name="a"
    )
    symbol = mx.sym.Convolution(symbol, kernel=(1, 1), num_filter=2, name="b")
    shapes = {"left": SHAPE, "right": SHAPE}
    sizes = zip(symbol.list_arguments(), symbol.infer_shape(**shapes)[0])
    params = {n: mx.nd.random.normal(shape=s) for n, s in sizes if n not in shapes}
    plan = Plan({"a": (0, 3)})
    masked, small = (way((symbol, params), plan, shape=shapes) for way in (mask, slim))
    images = batch(), 2 * batch()
    assert difference(masked(*images), small(*images)) < 1e-5


def test_nested_outputs_become_a_flat_list():
    net, _, plan = planned("two_outputs")
    assert isinstance(two_outputs()(mx.sym.var("data"))[1], list)
    outputs = slim(net, plan, shape=SHAPE)(batch())
    assert [output.shape for output in outputs] == [(2, 4, 8, 8), (2, 5)]


# Law 5: a slim net needs nothing but its files.


def test_slim_nets_load_in_a_new_process(tmp_path):
    np.save(tmp_path / "images.npy", batch().asnumpy())
    expected = {}
    for name in NETS:
        net, graph, plan = planned(name)
        small = slim(net, plan, graph=graph)
        small.hybridize()
        expected[name] = flat(small(batch()))
        small.export(str(tmp_path / name))
    images = str(tmp_path / "images.npy")
    for name in NETS:
        pair = (tmp_path / f"{name}-{end}" for end in ("symbol.json", "0000.params"))
        run_export(*map(str, pair), "data", images, str(tmp_path / f"{name}.npz"))
        with np.load(tmp_path / f"{name}.npz") as stored:
            own = [mx.nd.array(stored[key]) for key in stored.files]
        other = [mx.nd.array(array) for array in expected[name]]
        assert difference(own, other) < 1e-6, name


@pytest.mark.parametrize("name", ["detector_head", "shuffle"])
def test_slim_net_exports(name, tmp_path):
    net, graph, plan = planned(name)
    small = slim(net, plan, graph=graph)
    reference = Reference(batch().asnumpy(), tuple(flat(small(batch()))))
    shape = (2, *SHAPE[1:])
    manifest = export(small, tmp_path / "out", shape=shape, reference=reference)
    assert manifest["max_difference"]["relative"] < 1e-5
    assert all(d["relative"] < 1e-5 for d in check(tmp_path / "out").values())


# Errors.


@pytest.mark.parametrize("way", [mask, slim])
@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"conv9": (0,)}, "group 'conv9' is not in the net; allowed: conv0, conv1"),
        ({"conv0": (0, 8)}, "group 'conv0' keeps channel 8, its width is 8"),
        ({"dense0": (0,)}, "keeps 1 of 5 channels, but it is frozen: network output"),
    ],
)
def test_plan_that_does_not_fit_is_refused(way, plan, message):
    with pytest.raises(ValueError, match=message):
        way(ready(chain()), Plan(plan), shape=SHAPE)


@pytest.mark.parametrize("way", [mask, slim])
def test_net_without_values_is_refused(way):
    with pytest.raises(ValueError, match=r"'conv\d+_weight' has no value: initialise"):
        way(chain(), None, shape=SHAPE)


@pytest.mark.parametrize("way", [mask, slim])
def test_shape_that_is_not_stated_is_asked_for(way):
    with pytest.raises(ValueError, match="shape="):
        way(ready(chain()), None)


@pytest.mark.parametrize("way", [mask, slim])
def test_graph_spares_another_tracing(way):
    net, graph, plan = planned("residual")
    spared, again = way(net, plan, graph=graph), way(net, plan, shape=SHAPE)
    assert difference(spared(batch()), again(batch())) == 0
