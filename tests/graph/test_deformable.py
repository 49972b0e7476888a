"""Deformable convolutions: against NumPy, their gradients, forms and channel groups."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, nd

import gluon_compress as gc
from gluon_compress.graph import block_of
from gluon_compress.graph.deformable import (
    RUNGS,
    TAPS,
    deformable,
    dilated,
    for_training,
    sampled,
)
from gluon_compress.graph.symbols import infer_shapes

MAP = (2, 4, 5, 7)
BOUND, WIDTH = 3, 6
RUNGS_WITH_TAPS = RUNGS[1:]


def net_of(rung: str, *, seed: int = 0) -> tuple[mx.sym.Symbol, dict]:
    """Return a deformable convolution of ``data`` with taps all over the map."""
    symbol = deformable(
        mx.sym.var("data"), MAP[1], WIDTH, "layer", rung=rung, bound=BOUND
    )
    shapes, _ = infer_shapes(symbol, {"data": MAP})
    random = np.random.RandomState(seed)
    params = {
        name: nd.array(random.randn(*shape))
        for name, shape in shapes.items()
        if name != "data"
    }
    return symbol, params


def noise(*shape: int, seed: int = 1) -> nd.NDArray:
    return nd.array(np.random.RandomState(seed).randn(*shape))


def run(symbol: mx.sym.Symbol, params: dict, x: nd.NDArray) -> np.ndarray:
    return symbol.bind(mx.cpu(), {"data": x, **params}).forward()[0].asnumpy()


def bilinear(image: np.ndarray, y: float, x: float) -> np.ndarray:
    """Return the channels of an image at a point; outside of it there are zeros."""
    total = np.zeros(len(image))
    for row in (int(np.floor(y)), int(np.floor(y)) + 1):
        for column in (int(np.floor(x)), int(np.floor(x)) + 1):
            if 0 <= row < image.shape[1] and 0 <= column < image.shape[2]:
                share = (1 - abs(y - row)) * (1 - abs(x - column))
                total += share * image[:, row, column]
    return total


def expected(rung: str, params: dict, x: np.ndarray) -> np.ndarray:
    """Compute a deformable convolution point by point."""
    values = {name: value.asnumpy().astype(float) for name, value in params.items()}
    batch, channels, rows, columns = x.shape
    weight = values["layer_conv_weight"]
    single = rung == "depthwise"
    out = np.zeros((batch, channels if single else WIDTH, rows, columns))
    for b, i, j in np.ndindex(batch, rows, columns):
        places = [(i + y, j + x_) for y, x_ in TAPS]
        if rung in ("full", "bounded"):
            padded = np.pad(x[b], ((0, 0), (1, 1), (1, 1)))[:, i : i + 3, j : j + 3]
            moved = np.tensordot(values["layer_offsets_weight"], padded, 3)
            moved = moved + values["layer_offsets_bias"]
            if rung == "bounded":
                moved = np.clip(moved, -BOUND, BOUND - 1)
            pairs = zip(places, moved.reshape(9, 2))
            places = [(p[0] + dy, p[1] + dx) for p, (dy, dx) in pairs]
        else:
            taps = values["layer_distance_weight"][0, :, 0, 0] @ x[b, :, i, j]
            taps = np.clip(taps + values["layer_distance_bias"][0], 1 - BOUND, BOUND)
            taps = taps if rung == "square" else np.floor(taps + 0.5)
            places = [(i + taps * y, j + taps * x_) for y, x_ in TAPS]
        found = np.stack([bilinear(x[b], *place) for place in places], axis=1)  # C, 9
        if single:
            out[b, :, i, j] = (weight.reshape(channels, 9) * found).sum(axis=1)
        else:
            flat = weight.reshape(WIDTH, channels * 9)
            out[b, :, i, j] = flat @ found.ravel()
    if single:
        return np.einsum("oc,bchw->bohw", values["layer_point_weight"][..., 0, 0], out)
    return out


@pytest.mark.parametrize("rung", RUNGS_WITH_TAPS)
def test_every_form_is_the_convolution_point_by_point(rung):
    """Many taps are beyond the border, where there are zeros."""
    symbol, params = net_of(rung)
    x = noise(*MAP)
    wanted = expected(rung, params, x.asnumpy())
    forms = {"operator": (symbol, params), "sampled": sampled(symbol, params, MAP)}
    if rung in ("integer", "depthwise"):
        forms["dilated"] = dilated(symbol, params)
        forms["training"] = for_training(symbol), params
    for name, pair in forms.items():
        off = abs(run(*pair, x) - wanted).max()
        assert off <= 1e-5 * abs(wanted).max(), (name, off)
    assert run(*dilated(symbol, params), x).shape == wanted.shape


def gradients(symbol: mx.sym.Symbol, params: dict, x: nd.NDArray, head: nd.NDArray):
    """Return the gradients of the sum of a net's output times a head."""
    arrays = {"data": x, **params}
    slots = {name: nd.zeros(value.shape) for name, value in arrays.items()}
    executor = symbol.bind(mx.cpu(), arrays, args_grad=slots)
    executor.forward(is_train=True)
    executor.backward([head])
    return {name: slot.asnumpy() for name, slot in slots.items()}


@pytest.mark.parametrize("rung", RUNGS_WITH_TAPS)
def test_gradients_are_central_differences(rung):
    symbol, params = net_of(rung)
    x, head = noise(*MAP), noise(MAP[0], WIDTH, *MAP[2:], seed=2)
    found = gradients(for_training(symbol), params, x, head)
    arrays, random = {"data": x, **params}, np.random.RandomState(3)
    step = 1e-2
    for name, value in arrays.items():
        if rung in ("integer", "depthwise") and (
            name.startswith("layer_distance") or name == "data"
        ):
            continue  # rounding has no slope: see the next test
        for _ in range(4):
            place = tuple(random.randint(n) for n in value.shape)
            sums = []
            for sign in (1, -1):
                moved = value.asnumpy()
                moved[place] += sign * step
                other = {**arrays, name: nd.array(moved)}
                out = run(symbol, other, other["data"])
                sums.append(float((out * head.asnumpy()).sum()))
            slope = (sums[0] - sums[1]) / (2 * step)
            scale = abs(found[name]).max()
            # A tap that crosses a cell within the step has another slope behind it.
            assert abs(slope - found[name][place]) <= 0.05 * scale + 1e-3, name


def test_the_slope_of_a_whole_distance_is_that_to_the_next_ones():
    """It is the difference of the results at the whole distances on both sides."""
    symbol, params = net_of("depthwise")
    params["layer_distance_weight"][:] = 0
    params["layer_distance_bias"][:] = 1.3
    x, head = noise(*MAP), noise(MAP[0], WIDTH, *MAP[2:], seed=2)
    found = gradients(for_training(symbol), params, x, head)["layer_distance_bias"]
    sums = []
    for distance in (1, 2):
        params["layer_distance_bias"][:] = distance
        sums.append(float((run(symbol, params, x) * head.asnumpy()).sum()))
    assert found[0] == pytest.approx(sums[1] - sums[0], rel=1e-4)
    assert abs(found[0]) > 1


@pytest.mark.parametrize("rung", RUNGS)
def test_channel_groups_pass_through(rung):
    """Channels before and behind can go; a masked net computes what a slim one does."""
    x = mx.sym.var("data")
    x = mx.sym.Convolution(x, num_filter=8, kernel=(3, 3), pad=(1, 1), name="before")
    x = deformable(x, 8, 8, "layer", rung=rung, bound=2)
    x = mx.sym.BatchNorm(x, fix_gamma=False, name="norm")
    symbol = mx.sym.Convolution(x, num_filter=3, kernel=(1, 1), name="last")
    shape = (1, 3, 6, 6)
    names, _ = infer_shapes(symbol, {"data": shape})
    random = np.random.RandomState(0)
    values = {n: nd.array(random.rand(*s)) for n, s in names.items() if n != "data"}
    values.update({f"norm_moving_{n}": nd.ones(8) for n in ("mean", "var")})
    net = block_of(symbol, values)
    graph = gc.trace(net, shape)
    free = {name for group in graph.groups if not group.frozen for name in group.layers}
    assert {"before", "layer_conv"} <= free
    plan = gc.delete(graph, {"*": 0.5}, "l1", multiple=1)
    small, masked = gc.slim(net, plan, graph=graph), gc.mask(net, plan, graph=graph)
    images = noise(*shape)
    for mode in (autograd.predict_mode, autograd.train_mode):
        with mode():
            own, other = small(images).asnumpy(), masked(images).asnumpy()
        assert abs(own - other).max() <= 1e-5 * abs(other).max()
    assert gc.count(gc.trace(small, shape)).macs < gc.count(graph).macs


@pytest.mark.parametrize(
    ("rung", "bound", "message"),
    [
        ("cubic", 4, "rung is 'cubic'; allowed: none, full"),
        ("square", 0, "bound is 0; allowed: a whole number from 1"),
        ("square", 2.5, "bound is 2.5; allowed: a whole number from 1"),
    ],
)
def test_a_rung_and_a_bound_that_do_not_exist_are_refused(rung, bound, message):
    with pytest.raises(ValueError, match=message):
        deformable(mx.sym.var("data"), 4, 4, "layer", rung=rung, bound=bound)
