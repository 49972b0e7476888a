"""Fake quantisers compute what ONNX's QuantizeLinear and DequantizeLinear do."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd

from gluon_compress.graph import annotate, block_of, pair_of, trace
from gluon_compress.graph.symbols import put_together, take_apart
from gluon_compress.quantization.cpu import feature_in
from gluon_compress.quantization.quantisers import (
    QuantiserGrid,
    activation_grid,
    activation_quantiser,
    half_even,
    in_float64,
    least_error_scales,
    quantisers_of,
    weight_grid,
    weight_quantiser,
    weight_scales,
)
from nets import SHAPE, chain, ready

KINDS = ("fixed", "moving", "learned")


def quantised(grid: QuantiserGrid, kind: str):
    """Return the input of a net of nothing else, quantised."""
    symbol = mx.sym.identity(mx.sym.var("data"), name="all")
    new = activation_quantiser(grid, kind=kind, size=9)
    return annotate((symbol, {}), outputs={"data": new}, shape=(1, 9))


def reference(x: np.ndarray, scale: float, low: int, high: int) -> np.ndarray:
    """Do as the ONNX standard says: round halves to even, then saturate."""
    return np.clip(np.round(x / np.float32(scale)), low, high) * np.float32(scale)


def test_halves_are_rounded_to_even():
    x = np.float32([-255.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5, 254.5, 0.49999997])
    (y,) = half_even(mx.sym.var("x")).eval(x=mx.nd.array(x))
    assert np.array_equal(y.asnumpy(), np.round(x))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("low", "high"), [(-3, 252), (0, 255), (-127, 127), (0, 3)])
def test_values_are_those_of_the_standard(kind, low, high):
    scale, random = float(np.float32(0.037)), np.random.RandomState(0)
    ties = (random.randint(low - 5, high + 5, 500) + 0.5) * np.float32(scale)
    x = np.concatenate([random.normal(0, 200 * scale, 500), ties]).astype(np.float32)
    net = quantised(QuantiserGrid(scale, low, high), kind)
    y = block_of(*pair_of(net))(mx.nd.array(x.reshape(1, -1))).asnumpy()[0]
    assert np.array_equal(y, reference(x, scale, low, high))
    assert np.array_equal(y, QuantiserGrid(scale, low, high)(x))


def test_the_gradient_passes_within_the_range_alone():
    x = mx.nd.array([[-9.0, -0.26, 0.1, 0.24, 9.0]])
    block = block_of(*pair_of(quantised(QuantiserGrid(0.1, -4, 3), "fixed")))
    x.attach_grad()
    with autograd.record():
        y = block(x)
    y.backward()
    assert np.array_equal(x.grad.asnumpy(), [[0, 1, 1, 1, 0]])


def test_the_gradient_of_a_learned_scale_is_lsq():
    """Esser et al. 2020, equation 3, and the factor of section 2.2."""
    x = np.float32([[-9.0, -0.26, 0.13, 0.24, 9.0, 0.31, -0.38, 0.02, 0.2]])
    net = quantised(QuantiserGrid(0.1, -4, 3), "learned")
    block = block_of(*pair_of(net))
    scale = block.collect_params()["data_scale"]
    scale.grad_req = "write"
    with autograd.record():
        y = block(mx.nd.array(x))
    y.backward()
    v = x / np.float32(0.1)
    inside = (v > -4) & (v < 3)
    slope = np.where(inside, np.round(v) - v, np.clip(v, -4, 3)).sum()
    expected = slope / np.sqrt(9 * 4)
    assert scale.grad().asscalar() == pytest.approx(expected, rel=1e-5)


def test_ranges_become_grids():
    tenth = float(np.float32(0.1))
    assert activation_grid(0, 25.5, 8, "asymmetric") == QuantiserGrid(tenth, 0, 255)
    grid = activation_grid(-1, 3, 8, "asymmetric")
    assert (grid.low, grid.high) == (-64, 191)
    grid = activation_grid(-1, 2, 8, "symmetric")
    assert (grid.low, grid.high) == (-128, 127)
    assert grid.scale == pytest.approx(2 / 127)
    grid = activation_grid(0, 2, 4, "signed")
    assert (grid.low, grid.high, grid.scale) == (-7, 7, pytest.approx(2 / 7))
    grid = activation_grid(2, 4, 2, "asymmetric")  # zero is always a level
    assert (grid.low, grid.high, grid.scale) == (0, 3, pytest.approx(4 / 3))


def test_weights_have_levels_about_zero():
    assert weight_grid(8) == (-127, 127)
    assert weight_grid(8, narrow=63) == (-63, 63)
    assert weight_grid(4, narrow=63) == (-7, 7)
    assert weight_grid(2) == (-1, 1)
    weight = np.float32([[0.5, -1.27], [0, 0]])
    assert weight_scales(weight, 127) == pytest.approx([0.01, 1.0])


def test_scales_of_few_bits_have_less_error_than_those_of_the_largest_weight():
    weight = np.random.RandomState(0).normal(size=(5, 200)).astype(np.float32)

    def error(scale):
        levels = np.clip(np.rint(weight / scale[:, None]), -7, 7)
        return np.square(levels * scale[:, None] - weight).sum(axis=1)

    best = least_error_scales(weight, 7)
    assert np.all(error(best) < error(weight_scales(weight, 7)))


@pytest.mark.parametrize("learned", [False, True])
def test_a_quantised_weight_is_read_back(learned):
    net = ready(chain())
    graph = trace(net, SHAPE)
    name = next(n for n in graph.params if "conv" in n)
    value = graph.params[name].asnumpy()
    scale = weight_scales(value, 63)
    new = weight_quantiser(scale, -63, 63, axis=0, size=value.size, learned=learned)
    made = annotate(net, weights={name: new}, shape=SHAPE)
    nodes, _ = take_apart(pair_of(made)[0])
    (row,) = quantisers_of(nodes, pair_of(made)[1])
    assert (row.target, row.low, row.high, row.bits) == (name, -63, 63, 7)
    assert np.array_equal(row.scale, scale)
    parameter = made.collect_params()[f"{name}_scale"]
    assert (parameter.grad_req == "write") == learned


def test_quantisers_round_in_float64_too():
    symbol, params = pair_of(quantised(QuantiserGrid(0.1, 0, 255), "fixed"))
    nodes, heads = take_apart(symbol)
    block = block_of(put_together(in_float64(nodes), heads), params)
    block.cast("float64")
    y = block(mx.nd.array([[0.26, 1.04]], dtype="float64")).asnumpy()
    assert y == pytest.approx(np.array([[0.3, 1.0]]), abs=1e-7)


def test_the_cpu_is_asked_for_dot_products():
    assert feature_in("flags : sse4_2 avx2 avx_vnni\n") == "avx_vnni"
    assert feature_in("Features : fp asimd asimddp") == "asimddp"
    assert feature_in("flags : sse4_2 avx2") == ""
