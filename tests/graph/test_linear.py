from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

from gluon_compress.graph.linear import as_matrix
from gluon_compress.graph.operators import operator_of

LAYERS = {
    "plain": ("Convolution", (2, 4, 7, 6), {"kernel": (3, 3), "num_filter": 5}),
    "strided": (
        "Convolution",
        (2, 4, 9, 8),
        {"kernel": (3, 2), "num_filter": 6, "stride": (2, 3), "pad": (1, 0)},
    ),
    "dilated": (
        "Convolution",
        (1, 3, 11, 9),
        {"kernel": (3, 3), "num_filter": 4, "dilate": (2, 3), "pad": (2, 1)},
    ),
    "grouped": (
        "Convolution",
        (2, 6, 5, 5),
        {"kernel": (3, 3), "num_filter": 9, "num_group": 3, "pad": (1, 1)},
    ),
    "depthwise": (
        "Convolution",
        (2, 4, 6, 6),
        {"kernel": (3, 3), "num_filter": 8, "num_group": 4, "stride": (2, 2)},
    ),
    "in one dimension": (
        "Convolution",
        (3, 4, 9),
        {"kernel": (3,), "num_filter": 5, "stride": (2,)},
    ),
    "in three dimensions": (
        "Convolution",
        (1, 2, 4, 5, 6),
        {"kernel": (2, 3, 3), "num_filter": 3, "pad": (0, 1, 1)},
    ),
    "dense": ("FullyConnected", (3, 4, 2, 2), {"num_hidden": 5}),
    "dense on rows": (
        "FullyConnected",
        (2, 6, 4),
        {"num_hidden": 5, "flatten": False},
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_columns_times_the_matrix_are_the_layer(name):
    op, shape, attrs = LAYERS[name]
    symbol = getattr(mx.sym, op)(mx.sym.var("data"), name="layer", **attrs)
    executor = symbol.simple_bind(mx.cpu(), data=shape, grad_req="null")
    random = np.random.RandomState(0)
    values = {n: random.randn(*a.shape) for n, a in executor.arg_dict.items()}
    for key, value in values.items():
        executor.arg_dict[key][:] = value
    output = executor.forward()[0].asnumpy()
    form = operator_of(op).linear
    assert form is not None
    rows = form.rows(output)
    texts = {key: str(value) for key, value in attrs.items()}
    places = np.stack([random.permutation(rows.shape[1])[:7] for _ in rows])

    columns = form.columns(texts, values["data"], places)

    products = columns @ as_matrix(values["layer_weight"], texts).transpose(0, 2, 1)
    products = products.transpose(1, 0, 2).reshape(places.size, -1)
    expected = rows[np.arange(len(rows))[:, None], places].reshape(places.size, -1)
    np.testing.assert_allclose(
        products + values["layer_bias"], expected, rtol=1e-4, atol=1e-4
    )
