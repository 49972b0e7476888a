"""Masks of single weights and fake quantisers: looked through, kept and cut."""

from __future__ import annotations

from functools import lru_cache

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd

from annotations import fake_quant, weight_mask
from gluon_compress import Plan, count, mask, recalibrate, set_mask, slim, trace
from gluon_compress.deployment.folding import fold
from gluon_compress.graph import (
    AnnotationParameter,
    NewAnnotation,
    annotate,
    block_of,
    pair_of,
    symbol_of,
)
from gluon_compress.graph.annotations import (
    CHANNEL_MASK,
    FAKE_QUANT,
    WEIGHT_MASK,
    annotations_of,
    bake_weights,
    strip,
)
from gluon_compress.graph.operators import operator_of
from gluon_compress.graph.symbols import put_together, take_apart
from nets import (
    NETS,
    SHAPE,
    batch,
    chain,
    difference,
    plain,
    plans,
    random_plan,
    ready,
    residual,
    uneven_shuffle,
)

SOME = ("residual", "concat", "shuffle", "uneven_shuffle", "deconvolution_groups")
SOME += ("few_groups", "depthwise", "flatten_dense", "deformable_groups", "shared")


def values(net) -> dict[str, np.ndarray]:
    return {p.name: p.data().asnumpy() for p in net.collect_params().values()}


@lru_cache(maxsize=None)
def plain_net(name: str):
    """Return a net that no test alters."""
    return ready(NETS[name]())


@lru_cache(maxsize=None)
def with_annotations(name: str, way):
    """Return such a net with annotations."""
    return way(plain_net(name))


@lru_cache(maxsize=None)
def graph_of(net):
    return trace(net, SHAPE)


def weights_of(net) -> dict[str, tuple]:
    """Return the weights of a net's layers, and the axis of their output channels."""
    graph = graph_of(net)
    rows = [(operator_of(node["op"]), node) for node in graph.nodes]
    return {
        graph.nodes[node["inputs"][row.weight_input][0]]["name"]: row.weight_axis
        for row, node in rows
        if row.weight_input is not None
    }


def with_weight_masks(net, seed: int = 0):
    """Return a net without a third of its weights."""
    dice, given = np.random.RandomState(seed), values(net)
    masks = {
        name: weight_mask(dice.rand(*given[name].shape) > 1 / 3)
        for name in weights_of(net)
    }
    return annotate(net, weights=masks, graph=graph_of(net))


def with_fake_quantisers(net, levels: int = 7):
    """Return a net with weights quantised per output channel, coarsely."""
    given, quantisers = values(net), {}
    for name, axis in weights_of(net).items():
        others = tuple(k for k in range(given[name].ndim) if k != axis)
        scales = np.abs(given[name]).max(axis=others) / levels + 1e-6
        quantisers[name] = fake_quant(scales, axis)
    return annotate(net, weights=quantisers, graph=graph_of(net))


def with_quantised_outputs(net, step: float = 0.05):
    """Return a net in which every output of a layer or activation is quantised."""
    names = {
        node["name"]: fake_quant(np.array([step]), None)
        for node in graph_of(net).nodes
        if node["op"] in ("Convolution", "Activation", "FullyConnected", "BatchNorm")
    }
    return annotate(net, outputs=names, graph=graph_of(net))


def with_all(net):
    return with_quantised_outputs(with_fake_quantisers(with_weight_masks(net)))


WAYS = (with_weight_masks, with_fake_quantisers, with_quantised_outputs, with_all)
PAIRS = [(name, with_all) for name in SOME]
PAIRS += [(name, way) for way in WAYS[:-1] for name in ("residual", "uneven_shuffle")]


# Writing, reading, stripping.


def test_weight_mask_multiplies_the_weight():
    net = ready(plain())
    name, value = next((n, v) for n, v in values(net).items() if v.ndim == 4)
    wanted = np.random.RandomState(0).rand(*value.shape) > 0.5
    masked = annotate(net, weights={name: weight_mask(wanted)}, shape=SHAPE)
    net.collect_params()[name].set_data(mx.nd.array(value * wanted))
    assert difference(masked(batch()), net(batch())) < 1e-6


def test_fake_quantiser_acts_on_an_output():
    net = ready(chain())
    name = trace(net, SHAPE).nodes[-1]["name"]
    quantised = annotate(
        net, outputs={name: fake_quant(np.array([0.25]), None)}, shape=SHAPE
    )
    found, wanted = quantised(batch()).asnumpy(), net(batch()).asnumpy()
    np.testing.assert_allclose(found, 0.25 * np.round(wanted / 0.25), atol=1e-6)


def test_annotations_are_listed():
    net = with_quantised_outputs(with_weight_masks(ready(plain())))
    rows = annotations_of(take_apart(symbol_of(net))[0])
    weights = [row for row in rows if row.kind == WEIGHT_MASK]
    outputs = [row for row in rows if row.kind == FAKE_QUANT]
    assert {row.target for row in weights} == set(weights_of(net))
    assert [row.parameters for row in weights] == [
        (f"{row.target}_mask",) for row in weights
    ]
    assert all(row.parameters == (f"{row.target}_scale",) for row in outputs)


@pytest.mark.parametrize("annotated", WAYS)
def test_stripped_symbol_is_the_plain_one(annotated):
    net = ready(residual())
    nodes, heads = strip(*take_apart(symbol_of(annotated(net))))
    plain_nodes, plain_heads = take_apart(symbol_of(net))
    assert bare(nodes) == bare(plain_nodes)
    assert [h[:2] for h in heads] == [h[:2] for h in plain_heads]


def bare(nodes) -> list[tuple]:
    # The third number of an entry counts how often the symbol was called.
    return [(n["op"], n["name"], [e[:2] for e in n["inputs"]]) for n in nodes]


def test_one_kind_is_stripped_alone():
    net = with_fake_quantisers(with_weight_masks(ready(plain())))
    nodes, heads = strip(*take_apart(symbol_of(net)), [FAKE_QUANT])
    assert {row.kind for row in annotations_of(nodes)} == {WEIGHT_MASK}


def test_names_do_not_depend_on_what_was_built_before():
    net = ready(residual())
    first, second = (take_apart(symbol_of(with_all(net)))[0] for _ in range(2))
    assert bare(first) == bare(second)


def test_symbol_survives_a_file(tmp_path):
    net = with_all(ready(residual()))
    symbol, params = pair_of(net)
    symbol.save(str(tmp_path / "net.json"))
    mx.nd.save(str(tmp_path / "net.params"), params)
    loaded = block_of(
        mx.sym.load(str(tmp_path / "net.json")),
        mx.nd.load(str(tmp_path / "net.params")),
    )
    assert difference(net(batch()), loaded(batch())) == 0
    own, other = trace(net, SHAPE), trace(loaded, SHAPE)
    assert other.annotated.annotations == own.annotated.annotations
    assert other.groups == own.groups


def test_channel_masks_with_marks_on_variables_alone_are_looked_through():
    # Symbols were written so at first.
    net = ready(residual())
    nodes, heads = take_apart(symbol_of(mask(net, None, shape=SHAPE)))
    for node in nodes:
        if node["op"] == "broadcast_mul":
            node["attrs"] = {}
    assert [n["name"] for n in strip(nodes, heads)[0]] == [
        n["name"] for n in take_apart(symbol_of(net))[0]
    ]
    assert {row.kind for row in annotations_of(nodes)} == {CHANNEL_MASK}


def test_trained_parameters_are_trained_and_others_are_not():
    net = with_all(ready(chain()))
    kinds = {p.name: p.grad_req for p in net.collect_params().values()}
    assert {kinds[n] for n in kinds if n.endswith("_mask")} == {"null"}
    assert {kinds[n] for n in kinds if n.endswith("_scale")} == {"write"}


def test_weights_behind_annotations_get_gradients():
    net = with_all(ready(chain()))
    with autograd.record():
        loss = (net(batch()) ** 2).sum()
    loss.backward()
    for weight in net.collect_params(".*conv.*weight$").values():
        assert np.abs(weight.grad().asnumpy()).max() > 0


# Tracing and counting see the plain net.


@pytest.mark.parametrize(("name", "annotated"), PAIRS)
def test_annotated_net_has_the_groups_and_costs_of_the_plain_one(name, annotated):
    own = graph_of(plain_net(name))
    other = graph_of(with_annotations(name, annotated))
    assert other.groups == own.groups
    assert count(other) == count(own)
    assert list(other.params) == list(own.params)


# Slimming keeps annotations, and cuts them like what they annotate.


@pytest.mark.parametrize("name", SOME)
def test_mask_of_weights_then_slim_is_slim_then_mask_of_weights(name):
    net, masked = plain_net(name), with_annotations(name, with_weight_masks)
    plan = random_plan(graph_of(net), 5)
    small = values(slim(masked, plan, graph=graph_of(masked)))
    # Cut the masks as if they were the weights.
    symbol, params = pair_of(net)
    masks = {n: v for n, v in pair_of(masked)[1].items() if n.endswith("_mask")}
    params.update({n.replace("_mask", ""): v for n, v in masks.items()})
    cut = values(slim((symbol, params), plan, shape=SHAPE))
    assert masks
    for mask_name in masks:
        weight = mask_name.replace("_mask", "")
        np.testing.assert_array_equal(small[mask_name], cut[weight])


def test_scales_per_channel_are_cut_like_the_channels():
    net = with_fake_quantisers(ready(chain()))
    small = slim(net, Plan({"conv0": (1, 4, 6), "conv1": (0, 5)}), shape=SHAPE)
    before, after = values(net), values(small)
    first, second = [n for n in before if n.endswith("weight_scale") and "conv" in n]
    np.testing.assert_array_equal(after[first], before[first][[1, 4, 6]])
    np.testing.assert_array_equal(after[second], before[second][[0, 5]])


def test_scales_of_an_output_are_cut_like_its_channels():
    net = ready(plain())
    graph = trace(net, SHAPE)
    name = next(node["name"] for node in graph.nodes if node["op"] == "Convolution")
    scales = np.linspace(0.1, 0.8, 8)
    net = annotate(net, outputs={name: fake_quant(scales, 1)}, graph=graph)
    small = slim(net, Plan({"conv0": (1, 4, 6)}), shape=SHAPE)
    np.testing.assert_allclose(values(small)[f"{name}_scale"], scales[[1, 4, 6]])


@pytest.mark.parametrize(("name", "annotated"), PAIRS)
def test_mask_is_slim_with_annotations(name, annotated):
    net = with_annotations(name, annotated)
    graph = graph_of(net)
    for plan in plans(graph)[1:3]:
        masked, small = (way(net, plan, graph=graph) for way in (mask, slim))
        assert annotations_of(take_apart(symbol_of(small))[0])
        # A value on the edge between two steps may fall to either side.
        assert close(masked(batch()), small(batch()))


def close(one, other) -> bool:
    return difference(one, other) < 1e-5


@pytest.mark.parametrize("annotated", WAYS)
def test_order_of_masking_and_annotating_does_not_matter(annotated):
    net, plan = ready(residual()), Plan({"conv0": (1, 4, 6), "conv1": (0, 5)})
    first = mask(annotated(net), plan, shape=SHAPE)
    last = annotated(mask(net, plan, shape=SHAPE))
    assert close(first(batch()), last(batch()))
    assert close(slim(first, plan, shape=SHAPE)(batch()), first(batch()))
    assert close(slim(last, plan, shape=SHAPE)(batch()), last(batch()))


def test_masks_of_an_annotated_net_change_in_place():
    net, plan = with_all(ready(residual())), Plan({"conv1": (0, 5)})
    masked = mask(net, None, shape=SHAPE)
    set_mask(masked, plan)
    assert close(masked(batch()), slim(net, plan, shape=SHAPE)(batch()))


def test_slim_nets_are_slimmed_again():
    net = with_all(ready(chain()))
    once = slim(net, Plan({"conv0": (1, 2, 4, 6)}), shape=SHAPE)
    twice = slim(once, Plan({"conv0": (1, 2)}))
    assert close(
        twice(batch()), slim(net, Plan({"conv0": (2, 4)}), shape=SHAPE)(batch())
    )


def test_recalibration_keeps_annotations():
    net = with_all(ready(chain()))
    again = recalibrate(net, [(batch(),)])
    assert trace(again).annotated.annotations == trace(net, SHAPE).annotated.annotations


def test_scales_of_input_channels_that_differ_by_block_are_refused():
    net = ready(uneven_shuffle())
    graph = trace(net, SHAPE)
    (name,) = graph.blocks
    scales = np.ones(graph.params[name].shape[1])
    net = annotate(net, weights={name: fake_quant(scales, 1)}, graph=graph)
    with pytest.raises(ValueError, match=f"{name}_scale"):
        slim(net, Plan({"conv1.2": (1,)}), shape=SHAPE)


# Folding.


def test_baked_weights_are_what_layers_read():
    net = with_fake_quantisers(with_weight_masks(ready(residual())))
    symbol, params = pair_of(net)
    nodes, heads, params = bake_weights(*take_apart(symbol), params)
    assert not annotations_of(nodes)
    assert (
        difference(net(batch()), block_of(put_together(nodes, heads), params)(batch()))
        < 1e-6
    )


def test_folding_looks_through_annotated_weights():
    net = with_fake_quantisers(with_weight_masks(ready(chain())))
    symbol, params = fold(*pair_of(net))
    ops = [node["op"] for node in take_apart(symbol)[0]]
    assert "BatchNorm" not in ops
    assert difference(net(batch()), block_of(symbol, params)(batch())) < 1e-5


# Errors.


def mixing(x, mask):
    return mx.sym.broadcast_mul(x, mx.sym.sum(mask))


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"axes": (0, 1)}, "weight_mask"),
        ({"axes": (0, 1, 2, 7)}, "weight_mask"),
    ],
)
def test_parameter_that_does_not_fit_is_refused(change, place):
    net = ready(plain())
    (name,) = list(weights_of(net))[:1]
    new = weight_mask(np.ones(values(net)[name].shape))
    parameter = AnnotationParameter(new.parameters["mask"].value, **change)
    new = NewAnnotation(WEIGHT_MASK, new.build, {"mask": parameter})
    with pytest.raises(ValueError, match=place):
        annotate(net, weights={name: new}, shape=SHAPE)


def test_annotation_that_mixes_elements_is_refused():
    net = ready(plain())
    (name,) = list(weights_of(net))[:1]
    new = weight_mask(np.ones(values(net)[name].shape))
    new = NewAnnotation(WEIGHT_MASK, mixing, new.parameters)
    with pytest.raises(ValueError, match="operator sum"):
        annotate(net, weights={name: new}, shape=SHAPE)


def test_annotation_that_moves_zero_is_refused():
    # Channels that are gone must not come back behind a mask.
    def shifted(x, scale):
        return mx.sym.broadcast_add(x, scale)

    net = ready(plain())
    (name,) = list(weights_of(net))[:1]
    parameters = fake_quant(np.array([1.0]), None).parameters
    new = NewAnnotation(FAKE_QUANT, shifted, parameters)
    with pytest.raises(ValueError, match="zero"):
        annotate(net, weights={name: new}, shape=SHAPE)


@pytest.mark.parametrize("key", ["weights", "outputs"])
def test_unknown_target_is_refused(key):
    new = fake_quant(np.array([1.0]), None)
    with pytest.raises(ValueError, match="'conv9'"):
        annotate(ready(chain()), **{key: {"conv9": new}}, shape=SHAPE)


def test_same_parameter_twice_is_refused():
    net = with_weight_masks(ready(plain()))
    with pytest.raises(ValueError, match="_mask' already"):
        with_weight_masks(net)


def test_given_net_is_unchanged():
    net = ready(residual())
    before, outputs = values(net), net(batch()).asnumpy()
    with_all(net)
    after = values(net)
    assert all((before[name] == after[name]).all() for name in before)
    np.testing.assert_array_equal(net(batch()).asnumpy(), outputs)
