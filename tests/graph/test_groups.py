from __future__ import annotations

from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from mxnet.gluon import nn

from gluon_compress import Plan, mask, slim
from gluon_compress.graph import (
    OPERATORS,
    ChannelGroup,
    NetAdapter,
    Operator,
    pair_of,
    trace,
)
from gluon_compress.graph.channels import balanced_sets
from gluon_compress.graph.names import structural_names
from gluon_compress.graph.symbols import infer_shapes
from nets import (
    MIXING,
    NETS,
    SHAPE,
    Wired,
    batch,
    chain,
    conv,
    depth_to_space,
    detector_head,
    difference,
    few_groups,
    graph_of,
    projection,
    ready,
    residual,
    two_outputs,
    unit,
    with_input,
)

TESTS = Path(__file__).resolve().parents[1]

# Group to width, or to (width, channels per index). A width below 0 is a frozen group.
GROUPS = {
    "chain": {"conv0": 8, "conv1": 6, "dense0": -5},
    # b is added to the stem: one group.
    "residual": {"conv0": 8, "conv1": 6, "dense0": -5},
    "projection": {"conv0": 8, "conv1": 6, "conv2": 10, "dense0": -5},
    "concat": {"conv0": 8, "conv1": 6, "conv2": 4, "conv3": 7, "dense0": -5},
    "dense_block": {"conv0": 8, "conv1": 6, "conv2": 4, "dense0": -5},
    "preactivation": {"conv0": 8, "dense0": -5},
    "depthwise": {"conv0": 8, "conv2": 6, "dense0": -5},
    "multiplier": {"conv0": 8, "conv2": 6, "dense0": -5},
    # Two groups of 8 inputs and 12 outputs: both lose the same places.
    "few_groups": {"conv0": (8, 2), "conv1": (12, 2), "conv2": 6, "dense0": -5},
    # Eight groups of two: they go whole.
    "many_groups": {"conv0": (8, 2), "conv2": 6, "dense0": -5},
    "shuffle": {"conv0": (4, 2), "conv1": (4, 4), "conv3": (6, 2), "dense0": -5},
    # Nine channels of the shuffled 30 make blocks of 10 shorter by three each, and so
    # do the twelve around the places where blocks meet.
    "uneven_shuffle": {
        "conv0": (4, 3),
        "conv1": (-1, 12),
        "conv1.2": (2, 9),
        "conv2": (4, 3),
        "dense0": -5,
    },
    # The first block has all 3 of one branch and 3 of the other's 9.
    "joined_blocks": {
        "conv0": 8,
        "conv1": 3,
        "conv2": (3, 2),
        "conv3": (4, 2),
        "dense0": -5,
    },
    "halves_crossed": {"conv0": (-1, 4), "conv0.2": (4, 2), "conv2": 7, "dense0": -5},
    "shared_groups": {"conv0": (6, 2), "dense0": -5},
    "deconvolution_groups": {
        "conv0": (4, 2),
        "conv1": (6, 2),
        "conv2": 6,
        "dense0": -5,
    },
    # 12 channels in blocks of 4 for filters and of 6 for places.
    "deformable_groups": {
        "conv0": (2, 6),
        "deformable_conv0_convolution0": -36,
        "deformable_conv0": (5, 3),
        "conv1": 4,
        "dense0": -5,
    },
    "mirrored": {"conv0": 8, "conv1": 6, "dense0": -5},
    "squeeze_excite": {"conv0": 8, "dense0": 4, "conv1": 6, "dense2": -5},
    "hard_swish": {"conv0": 8, "conv1": 6, "dense0": -5},
    "halves": {"conv0": (6, 2), "conv1": 6, "conv2": 7, "dense0": -5},
    # Cut at 2, 5 and 9: what all slices share must stay apart.
    "slices": {
        "conv0": 2,
        "conv0.2": 3,
        "conv0.3": 4,
        "conv0.4": 3,
        "conv1": 4,
        "conv2": 5,
        "conv3": 6,
        "dense0": -5,
    },
    "gated": {"conv0": (6, 2), "conv1": 6, "dense0": -5},
    "shared": {"conv0": 8, "dense0": -5},
    "flatten_dense": {"conv0": 8, "dense0": 7, "dense1": -5},
    "deconvolution": {"conv0": 8, "conv1": 6, "conv3": -3},
    # 3x3 places have two coordinates each, and a weight in the modulated form.
    "deformable": {
        "conv0": 8,
        "deformable_conv0_convolution0": -18,
        "deformable_conv0": 6,
        "modulated_deformable_conv0_convolution0": -18,
        "modulated_deformable_conv0_convolution0.2": -9,
        "modulated_deformable_conv0": 7,
        "dense0": -5,
    },
    "two_outputs": {"conv0": 8, "conv1": -4, "conv2": 6, "dense0": -5},
    "detector_head": {
        "conv0": 8,
        "conv1": -6,
        "conv2": 6,
        "conv3": -9,
        "conv4": -8,
        "conv5": -12,
    },
    # Two anchors share each of 7 numbers, the first two of which go another way.
    "yolo_head": {"conv0": 8, "conv1": (-4, 1), "conv1.2": (-10, 1)},
    "sigmoid": {"conv0": 8, "conv1": 6, "dense0": -5},
    "scalars": {"conv0": 8, "conv1": 6, "dense0": -5},
    "plain": {"conv0": 8, "conv1": 6, "conv2": 7, "dense0": -5},
    "channel_prelu": {"conv0": 8, "conv1": 6, "dense0": -5},
    "layer_scale": {"conv0": 8, "dense0": -5},
    "positions": {"conv0": 8, "conv1": 6, "dense0": -5},
    "instance_norm": {"conv0": 8, "conv1": 6, "dense0": -5},
    "spatial_gate": {"conv0": 8, "conv2": 6, "dense0": -5},
    "channel_sum": {"conv0": 8, "conv1": 7, "conv2": 6, "dense0": -5},
    "resampled": {"conv0": 8, "conv1": 6, "conv2": 4, "dense0": -5},
    # Blocks of 2x2 pixels take four channels each.
    "depth_to_space": {"conv0": (4, 4), "conv1": 6, "dense0": -5},
    "perceptron": {"dense0": 9, "dense1": 8, "dense2": -5},
    "split_attention": {"conv0": 8, "conv1": (6, 2), "conv2": 4, "dense0": -5},
    # The input is added to conv2.
    "with_input": {"conv0": 8, "conv1": 6, "conv2": -3, "dense0": -5},
}


def found(graph) -> dict[str, ChannelGroup]:
    return {group.name: group for group in graph.groups}


def test_groups_of_every_net_are_listed():
    assert set(GROUPS) == set(NETS)


@pytest.mark.parametrize("name", NETS)
def test_groups(name):
    expected = {}
    for group, said in GROUPS[name].items():
        width, size = said if isinstance(said, tuple) else (said, 1)
        expected[group] = (abs(width), size, width < 0)
    groups = found(graph_of(name)).values()
    assert {g.name: (g.width, g.size, bool(g.frozen)) for g in groups} == expected


NORM = ("gamma", "beta", "running_mean", "running_var")


def norm(number: int) -> set[str]:
    return {f"batchnorm{number}_{kind}" for kind in NORM}


def members(make, group: str) -> set[str]:
    return set(found(trace(ready(make()), SHAPE))[group].members)


def test_members_of_a_chain():
    # What produces the channels, what scales them, and what reads them.
    assert members(chain, "conv0") == {"conv0_weight", "conv1_weight", *norm(0)}


def test_members_of_a_residual():
    written = {"conv0_weight", "conv2_weight", *norm(0), *norm(2)}
    assert members(residual, "conv0") == {*written, "conv1_weight", "dense0_weight"}


def test_members_of_a_projection():
    written = {"conv2_weight", "conv3_weight", *norm(2), *norm(3)}
    assert members(projection, "conv2") == {*written, "dense0_weight"}


def test_concatenated_groups_share_the_next_weight():
    groups = found(graph_of("concat"))
    readers = [name for name in groups if "conv3_weight" in groups[name].members]
    assert readers == ["conv0", "conv1", "conv2", "conv3"]


def test_depthwise_convolution_belongs_to_the_group_it_works_on():
    own = {"conv0_weight", "conv1_weight", *norm(0), *norm(1)}
    assert members(NETS["depthwise"], "conv0") == {*own, "conv2_weight"}


def test_flattened_channel_owns_all_its_positions():
    graph = graph_of("flatten_dense")
    (name,) = [n for n in graph.axes if graph.axes[n][0].shape == (7, 8 * 2 * 2)]
    (along,) = [t for t in graph.axes[name] if t.axis == 1]
    np.testing.assert_array_equal(along.positions, np.repeat(np.arange(8), 2 * 2))


def test_weight_of_uneven_blocks_has_places_for_each():
    graph = graph_of("uneven_shuffle")
    (name,) = graph.blocks
    blocks = graph.blocks[name]
    assert blocks.shape == (3, 10)
    kept = graph.keep_mask({"conv1.2": (1,)})[blocks].sum(axis=1)
    np.testing.assert_array_equal(kept, 10 - 3)


def test_even_blocks_need_no_places_of_their_own():
    assert trace(ready(few_groups()), SHAPE).blocks == {}


@pytest.mark.parametrize(
    ("counts", "sets", "rest"),
    [
        ([[2, 2], [1, 1]], [[0], [1]], []),
        ([[1, 0], [1, 0], [0, 1], [0, 1]], [[0, 2], [1, 3]], []),
        ([[2, 0], [0, 1], [0, 1]], [[0, 1, 2]], []),
        ([[2, 1, 0], [3, 0, 0], [0, 1, 2], [0, 3, 0], [0, 0, 3]], None, []),
        ([[1, 0], [0, 1], [1, 0]], [[0, 1]], [2]),
        (np.zeros((0, 2), int), [], []),
    ],
)
def test_balanced_sets(counts, sets, rest):
    found, left = balanced_sets(np.array(counts))
    assert left == rest
    assert sets is None or found == sets
    for rows in found:
        assert np.ptp(np.array(counts)[rows].sum(axis=0)) == 0


def test_balanced_sets_survive_the_removal_of_others():
    # Or plans for a slim net would not compose with those of the net it came from.
    counts = np.random.RandomState(0).multinomial(3, [1 / 3] * 3, 60)
    counts = np.concatenate([counts, np.roll(counts, 1, 1), np.roll(counts, 2, 1)])
    sets, _ = balanced_sets(counts)
    gone = set(sets[1] + sets[4])
    stay = [row for row in range(len(counts)) if row not in gone]
    later = [[stay[row] for row in rows] for rows in balanced_sets(counts[stay])[0]]
    assert len(sets) > 10
    assert later == [rows for rows in sets if not gone & set(rows)]


def test_detector_head_freezes_its_predictors_only():
    groups = found(trace(ready(detector_head()), SHAPE))
    frozen = {name: groups[name].frozen for name in groups if groups[name].frozen}
    assert set(frozen) == {"conv1", "conv3", "conv4", "conv5"}
    assert all("network output" in reason for reason in frozen.values())


def test_outputs_are_frozen_by_name():
    groups = found(trace(ready(two_outputs()), SHAPE))
    assert groups["conv1"].frozen == "network output 0 (conv1)"
    assert groups["dense0"].frozen == "network output 1 (dense0)"


def test_input_is_named_where_it_freezes():
    groups = found(trace(ready(with_input()), SHAPE))
    assert groups["conv2"].frozen == "network input 'data'"


@pytest.mark.parametrize("name", MIXING)
def test_operator_that_mixes_channels_freezes_them_and_is_named(name):
    groups = found(trace(ready(MIXING[name]()), SHAPE))
    assert name.lower() in groups["conv0"].frozen.lower()
    assert not groups["conv1"].frozen


def test_operator_without_a_rule_freezes_only_what_it_touches():
    def wire(F, m, x):
        return m["out"](F.sort(m["a"](m["stem"](x)), axis=2))

    net = Wired(wire, stem=unit(8), a=unit(6), out=nn.Dense(5))
    groups = found(trace(ready(net), SHAPE))
    assert groups["conv1"].frozen == "no rule for operator sort (wired0_sort0)"
    assert not groups["conv0"].frozen


def test_weight_that_is_computed_freezes_its_channels():
    def wire(F, m, x):
        return m["out"](F.Convolution(m["stem"](x), F.tanh(m["weight"]), **how))

    how = {"num_filter": 6, "kernel": (1, 1), "no_bias": True}
    net = Wired(wire, {"weight": (6, 8, 1, 1)}, stem=conv(8), out=nn.Dense(5))
    groups = found(trace(ready(net), SHAPE))
    assert "computed where a parameter is due" in groups["conv0"].frozen


def test_single_channel_is_frozen():
    net = nn.HybridSequential()
    net.add(conv(1), conv(4), nn.Dense(5))
    groups = found(trace(ready(net), SHAPE))
    assert list(groups) == ["conv0", "conv1", "dense0"] or "conv0" not in groups
    assert all(g.frozen for g in groups.values() if g.width == 1)


def test_names_do_not_depend_on_nets_built_before():
    first = trace(ready(projection()), SHAPE).groups
    ready(few_groups())
    assert trace(ready(projection()), SHAPE).groups == first


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["resnetv1d3_conv0_fwd"], ["resnetv1d0_conv0"]),
        (["conv7_fwd", "conv12_fwd", "conv7_bias"], ["conv0", "conv1", "conv0_bias"]),
        (["conv2", "dense5", "conv1"], ["conv0", "dense0", "conv1"]),
        (["stem_conv3_fwd", "data"], ["stem_conv3", "data"]),
        (["_plus7"], ["_plus7"]),
        (["deformable_conv4_offset"], ["deformable_conv0_offset"]),
        (["modulated_deformable_conv2_fwd"], ["modulated_deformable_conv0"]),
    ],
)
def test_counters_of_a_process_are_replaced(names, expected):
    assert structural_names(names) == expected


@pytest.mark.parametrize("prefixes", [("", ""), ("arg:", "aux:")])
def test_symbol_and_params_are_the_graph_of_the_block(prefixes):
    net = ready(residual())
    values = {p.name: p for p in net.collect_params().values()}
    states = [name for name in values if "running" in name]
    params = {prefixes[n in states] + n: p.data() for n, p in values.items()}
    graph = trace((net(mx.sym.var("data")), params), SHAPE)
    own = trace(net, SHAPE)
    assert graph.groups == own.groups
    assert graph.ops == own.ops
    assert all((graph.params[n] == own.params[n]).asnumpy().all() for n in own.params)
    assert {n: s.grad_req for n, s in graph.settings.items()} == {
        n: s.grad_req for n, s in own.settings.items()
    }


def test_input_may_have_any_name():
    symbol = residual()(mx.sym.var("image"))
    values = {p.name: p.data() for p in ready(residual()).collect_params().values()}
    shapes, _, states = symbol.infer_shape(image=SHAPE)
    names = symbol.list_arguments() + symbol.list_auxiliary_states()
    params = {
        name: mx.nd.zeros(shape)
        for name, shape in zip(names, (*shapes, *states))
        if name != "image"
    }
    assert len(params) == len(values)
    graph = trace((symbol, params), SHAPE)
    assert graph.inputs == {"image": SHAPE}
    assert found(graph)["conv0"].width == 8


def two_inputs() -> tuple:
    symbol = mx.sym.Convolution(
        mx.sym.var("left") + mx.sym.var("right"), kernel=(1, 1), num_filter=4, name="c"
    )
    params = {"c_weight": mx.nd.ones((4, 3, 1, 1)), "c_bias": mx.nd.ones(4)}
    return symbol, params


class TwoInputs(mx.gluon.HybridBlock):
    def __init__(self):
        super().__init__()
        with self.name_scope():
            self.left, self.right = conv(4), conv(4)
            self.out = nn.Dense(3)

    def hybrid_forward(self, F, x, y):
        return self.out(self.left(x) + self.right(y))


def test_block_with_several_inputs_is_masked_and_slimmed():
    net = TwoInputs()
    net.initialize()
    x, y = batch(), batch(seed=2)
    net(x, y)
    shape = {"data0": SHAPE, "data1": SHAPE}
    graph = trace(net, shape)
    plan = Plan({group.name: [0, 2] for group in graph.groups if not group.frozen})
    assert plan.keep
    masked, small = (change(net, plan, shape=shape) for change in (mask, slim))
    assert difference(masked(x, y), small(x, y)) < 1e-5
    assert trace(small).inputs == shape


def test_shape_that_a_slim_net_declares_is_its_own():
    def wire(F, m, x):
        return m["out"](m["b"](F.relu(F.broadcast_mul(m["a"](x), m["factor"]))))

    layers = {"a": conv(8), "b": conv(6), "out": nn.Dense(3)}
    net = ready(Wired(wire, {"factor": (1, 8, 1, 1)}, **layers))
    first = trace(net, SHAPE).groups[0]
    small = slim(net, Plan({first.name: [0, 2, 5]}), shape=SHAPE)
    shapes, outputs = infer_shapes(pair_of(small)[0], {"data": SHAPE})
    factor = next(name for name in shapes if name.endswith("factor"))
    assert (shapes[factor], outputs) == ((1, 3, 1, 1), [(1, 3)])


def test_shapes_that_do_not_follow_are_named(capfd):
    symbol = mx.sym.broadcast_mul(mx.sym.var("data"), mx.sym.var("factor"))
    with pytest.raises(ValueError, match="factor"):
        infer_shapes(symbol, {"data": SHAPE})
    with pytest.raises(ValueError, match="fit"):
        infer_shapes(symbol, {"data": SHAPE, "factor": (7, 7, 7, 7)})
    assert capfd.readouterr() == ("", "")


def test_shapes_by_name_for_several_inputs():
    graph = trace(two_inputs(), {"left": SHAPE, "right": SHAPE})
    assert graph.inputs == {"left": SHAPE, "right": SHAPE}


def test_values_right_after_a_step_of_training_are_those_of_that_step():
    net = nn.HybridSequential()
    for _ in range(10):
        net.add(nn.Conv2D(32, 3, padding=1, use_bias=False), nn.BatchNorm())
    net.initialize()
    net.hybridize(static_alloc=True, static_shape=True)
    images = mx.nd.random.normal(shape=(8, 3, 64, 64))
    for _ in range(3):  # MXNet still works on the last one when the values are copied
        with autograd.record():
            loss = net(images).square().sum()
        loss.backward()
        _, params = pair_of(net)
        mx.nd.waitall()
        for name, parameter in net.collect_params().items():
            assert (params[name] == parameter.data()).asnumpy().all(), name


def test_tracing_needs_no_values():
    net = chain()
    assert found(trace(net, SHAPE))["conv0"].width == 8
    assert all(value is None for value in trace(net, SHAPE).params.values())


def test_graph_holds_copies():
    net = ready(chain())
    graph = trace(net, SHAPE)
    name = next(iter(net.collect_params()))
    before = graph.params[name].asnumpy()
    net.collect_params()[name].set_data(mx.nd.zeros(before.shape))
    np.testing.assert_array_equal(graph.params[name].asnumpy(), before)


def test_hybridized_net_is_traced():
    net = ready(residual())
    net.hybridize(static_alloc=True)
    net(batch())
    assert found(trace(net, SHAPE))["conv0"].width == 8


def test_shape_is_not_guessed():
    with pytest.raises(ValueError, match="shape="):
        trace(ready(chain()))


def test_net_that_states_its_shape_needs_no_other():
    net = ready(chain())
    net.input_shape = SHAPE
    assert trace(net).inputs == {"data": SHAPE}


def test_slim_net_states_the_shape_it_was_traced_with():
    small = slim(ready(chain()), None, shape=SHAPE)
    assert trace(small).inputs == {"data": SHAPE}


def test_net_may_carry_its_adapter():
    net = ready(chain())
    head = net[:2]
    net.net_adapter = NetAdapter(
        lambda net: head(mx.sym.var("data")), lambda *_: None, lambda net: SHAPE
    )
    assert list(found(trace(net))) == ["conv0", "conv1"]


def test_net_that_draws_random_numbers_in_training_is_traced_as_it_infers():
    def wire(F, m, x):
        x = m["stem"](x)
        if mx.autograd.is_training():
            x = F.broadcast_mul(x, F.random.uniform(shape=(1, 1, 8, 8)) > 0.5)
        return m["out"](x)

    net = ready(Wired(wire, stem=unit(8), out=nn.Dense(5)))
    assert difference(net(batch()), slim(net, None, shape=SHAPE)(batch())) < 1e-5


@pytest.mark.parametrize(
    ("net", "shape", "message"),
    [
        (depth_to_space, (1, 3), r"shapes do not fit: operator 'conv\d+_fwd'"),
        (residual, (1, 3, 8, 0), r"shape \(1, 3, 8, 0\) is not a tuple of whole"),
        (residual, "8x8", "shape '8x8' is not a tuple of whole numbers above 0"),
        (residual, (1, 4, 8, 8), "shapes do not fit: operator"),
        (residual, {"image": SHAPE}, r"no input 'image'; inputs are \['data'\]"),
        (lambda: 3, SHAPE, r"a HybridBlock or a pair \(symbol, params\), not int"),
        (lambda: (1, 2), SHAPE, r"a HybridBlock or a pair \(symbol, params\)"),
        (nn.Sequential, SHAPE, "a HybridBlock or a pair .* not Sequential"),
        (two_inputs, SHAPE, r"shape must be a dict .*\['left', 'right'\]"),
        (two_inputs, {"left": SHAPE}, "there is no shape for input 'right'"),
    ],
)
def test_bad_input_is_one_clear_line(net, shape, message):
    net = net()
    if net.__class__ in (Wired, nn.HybridSequential):
        ready(net)
    with pytest.raises(ValueError, match=message) as raised:
        trace(net, shape)
    assert "\n" not in str(raised.value)


def test_net_that_needs_numbers_does_not_trace():
    net = nn.HybridLambda(lambda F, x: x * float(x.shape[0]))
    with pytest.raises(ValueError, match="HybridLambda does not trace to a symbol"):
        trace(net, SHAPE)


def test_layer_that_does_not_trace_is_named():
    net = nn.HybridSequential()
    net.add(
        conv(8), nn.HybridLambda(lambda F, x: x * float(x.shape[0]), prefix="mine_")
    )
    with pytest.raises(ValueError, match="symbol: HybridLambda 'mine': ") as raised:
        trace(net, SHAPE)
    assert "\n" not in str(raised.value)


def test_rule_that_fails_names_operator_and_layer(monkeypatch):
    def broken(op):
        raise IndexError("no such axis")

    monkeypatch.setitem(OPERATORS, "Pooling", Operator(broken))
    with pytest.raises(
        ValueError, match="operator Pooling .* for 'pool0': Index.* axis"
    ):
        trace(ready(chain()), SHAPE)


def test_unknown_group_is_named():
    with pytest.raises(ValueError, match="there is no group 'conv9'"):
        trace(ready(chain()), SHAPE).group("conv9")
