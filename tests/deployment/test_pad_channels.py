from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

from gluon_compress.deployment.pad_channels import pad_channels
from gluon_compress.graph import block_of
from gluon_compress.graph.symbols import take_apart

SHAPE = (2, 3, 6, 6)


def head(*widths: int, axes=(0, 2, 3, 1), read_twice: bool = False):
    """Return predictors of one map, transposed, as a symbol with random values."""
    y = mx.sym.Convolution(
        mx.sym.var("data"), num_filter=8, kernel=(3, 3), pad=(1, 1), name="first"
    )
    rows, extra = [], []
    for i, width in enumerate(widths):
        kernel = {"kernel": (3, 3), "pad": (1, 1)}
        z = mx.sym.Convolution(y, num_filter=width, name=f"predictor{i}", **kernel)
        rows.append(mx.sym.transpose(z, axes, name=f"last{i}").reshape((0, -1)))
        extra += [mx.sym.mean(z, axis=1).reshape((0, -1))] if read_twice else []
    symbol = mx.sym.concat(*rows, *extra, dim=1)
    shapes, _, _ = symbol.infer_shape(data=SHAPE)
    random = np.random.RandomState(0)
    names = zip(symbol.list_arguments(), shapes)
    values = {n: mx.nd.array(random.normal(size=s)) for n, s in names if n != "data"}
    return symbol, values


def widths_of(symbol) -> list[int]:
    nodes, _ = take_apart(symbol)
    return [int(n["attrs"]["num_filter"]) for n in nodes if n["op"] == "Convolution"]


def outputs(pair):
    images = mx.nd.array(np.random.RandomState(1).normal(size=SHAPE))
    return block_of(*pair)(images).asnumpy()


@pytest.mark.parametrize(
    ("given", "wide"),
    [((20, 32), [8, 32, 32]), ((33,), [8, 64]), ((64, 100), [8, 64, 128])],
)
def test_predictors_fill_their_blocks_and_predict_the_same(given, wide):
    pair = head(*given)
    padded = pad_channels(*pair)
    assert widths_of(padded[0]) == wide
    np.testing.assert_allclose(outputs(padded), outputs(pair), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "how", [{"axes": (0, 3, 2, 1)}, {"read_twice": True}], ids=["axes", "twice"]
)
def test_other_convolutions_keep_their_width(how):
    pair = head(20, **how)
    padded = pad_channels(*pair)
    assert widths_of(padded[0]) == [8, 20]
    np.testing.assert_array_equal(outputs(padded), outputs(pair))


def test_given_parameters_are_left_alone():
    symbol, params = head(20)
    before = {name: value.shape for name, value in params.items()}
    pad_channels(symbol, params)
    assert {name: value.shape for name, value in params.items()} == before
