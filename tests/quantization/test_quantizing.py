"""Where quantisers go, which ranges they get, and what is refused."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import HybridBlock, nn

import gluon_compress as gc
from gluon_compress.graph import pair_of, trace
from gluon_compress.graph.symbols import take_apart
from gluon_compress.prune import mask
from gluon_compress.quantization import QuantizationSettings, quantize, quantized
from gluon_compress.quantization.placement import place
from gluon_compress.quantization.quantisers import quantisers_of
from gluon_compress.quantization.ranges import COLLECTORS
from gluon_compress.quantization.settings import ActivationSettings
from nets import (
    NETS,
    SHAPE,
    batch,
    chain,
    concat,
    conv,
    depthwise,
    difference,
    flat,
    flatten_dense,
    ready,
    residual,
    shared,
)


def tensors(make, **settings) -> list[list[str]]:
    """Return the structural names of the tensors that share a scale."""
    graph = trace(ready(make()), SHAPE)
    placement = place(graph, QuantizationSettings(**settings))
    names = graph.grouping.names
    return [[names[i] for i in members] for members, _ in placement.tensors]


def bits(make, **settings) -> dict[str, tuple[int, int]]:
    placement = place(trace(ready(make()), SHAPE), QuantizationSettings(**settings))
    return {r.layer.name: (r.weight_bits, r.input_bits) for r in placement.layers}


def test_nothing_is_quantised_between_a_layer_and_its_activation():
    names = tensors(chain)
    assert names[0] == ["data"]
    assert [name.rstrip("0123456789") for (name,) in names[1:3]] == ["relu", "relu"]


def test_both_inputs_of_a_sum_are_quantised_unless_a_runtime_needs_one():
    both, one = tensors(residual), tensors(residual, sums="one")
    missing = [name for name in both if name not in one]
    assert missing == [["batchnorm2"]]


def test_the_parts_of_a_concatenation_share_a_scale():
    assert sorted(map(len, tensors(concat))) == [1, 1, 3]


def test_what_hands_values_on_stands_for_its_source():
    names = [name for members in tensors(flatten_dense) for name in members]
    assert not any("pool" in name or "flatten" in name for name in names)


def test_outputs_are_quantised_on_request():
    assert ["dense0"] not in tensors(chain)
    assert ["dense0"] in tensors(chain, outputs=True)


def test_first_and_last_layers_and_patterns_have_bits_of_their_own():
    few = {"weights": {"bits": 4}, "activations": {"bits": 4}}
    assert bits(chain, **few) == {"conv0": (8, 8), "conv1": (4, 4), "dense0": (8, 8)}
    some = bits(chain, mixed={"conv1": {"weights": 2}}, first=None)
    assert some == {"conv1": (2, 8), "dense0": (8, 8)}
    assert list(bits(chain, target=("conv*",), ignored=("conv0",))) == ["conv1"]


@pytest.mark.parametrize("name", ["residual", "concat", "depthwise", "squeeze_excite"])
def test_a_quantised_net_is_near_the_net_and_nearer_with_more_bits(name):
    net, x = ready(NETS[name]()), batch()
    expected = net(x)
    off = [
        difference(
            expected, quantize(net, {"weights": {"bits": n}}, [(x,)], shape=SHAPE)(x)
        )
        for n in (8, 4, 2)
    ]
    assert off[0] < 0.05
    assert off[0] < off[1] < off[2]


def test_every_tensor_has_its_range(tmp_path):
    net, x = ready(residual()), batch()
    made = quantize(net, None, [(x,)], shape=SHAPE)
    symbol, params = pair_of(made)
    rows = {q.target: q for q in quantisers_of(take_apart(symbol)[0], params)}
    row, images = rows["data"], x.asnumpy()
    levels = (images.max() - images.min()) / 255
    assert row.scale[0] == pytest.approx(levels, rel=1e-5)
    assert row.low * row.scale[0] == pytest.approx(images.min(), abs=levels)


def test_ranges_by_each_method():
    values = np.random.RandomState(0).normal(size=(20, 1000)).astype(np.float32)
    values[0, 0], values[1, 1] = 60, -40
    found = {}
    for name, collector in COLLECTORS.items():
        made = collector(ActivationSettings(init=name, percentile=99.0), 8)
        made.add(values[:10])
        made.add(values[10:])
        found[name] = made.range()
    assert found["min-max"] == (-40, 60)
    mean = (values.min(axis=1).mean(), values.max(axis=1).mean())
    assert found["mean"] == pytest.approx(mean, rel=1e-6)
    percentiles = np.percentile(values, [1, 99])
    assert found["percentile"] == pytest.approx(percentiles, rel=0.05)
    low, high = found["entropy"]
    assert -40 <= low < -2
    assert 2 < high < 40


def test_equalisation_changes_nothing_in_float32():
    from gluon_compress.quantization.corrections import equalized

    for make in (chain, depthwise):
        net, x = ready(make()), batch()
        other = equalized(net, trace(net, SHAPE))
        assert difference(net(x), other(x)) < 1e-5
        before, after = (trace(n, SHAPE).params for n in (net, other))
        assert any(
            np.abs(before[n].asnumpy() - after[n].asnumpy()).max() > 1e-3
            for n in before
        )


def test_bias_correction_removes_the_mean_error_of_the_last_layer():
    net, x = ready(chain()), batch()
    config = {"weights": {"bits": 2}, "last": 2, "activations": {"init": "min-max"}}
    config["target"] = ("dense0",)
    plain = quantize(net, config, [(x,)], shape=SHAPE)
    right = quantize(net, {**config, "correct_bias": True}, [(x,)], shape=SHAPE)
    expected = flat(net(x))[0].mean(axis=0)
    off = [np.abs(flat(n(x))[0].mean(axis=0) - expected).max() for n in (plain, right)]
    assert off[1] < 0.1 * off[0]


def test_a_layer_that_is_called_twice_has_one_quantiser_of_its_weight():
    net, x = ready(shared()), batch()
    made = quantized(net, QuantizationSettings(), [(x,)], shape=SHAPE)
    assert np.isfinite(flat(made.net(x))[0]).all()


REFUSED = [
    ({"weights": {"bits": 3}}, "weights.bits is 3; allowed: 2, 4, 8"),
    ({"activations": {"scheme": "odd"}}, "activations.scheme is 'odd'; allowed: asym"),
    ({"activations": {"percentile": 40}}, "activations.percentile is 40; allowed"),
    ({"ignored": ["conv7"]}, "ignored: pattern 'conv7' matches no layer; layers are"),
    ({"mixed": {"x": {"weights": 4}}}, "mixed: pattern 'x' matches no layer"),
    ({"ignored": ["*"]}, "no layer is left to quantise"),
    ({"budget": {}}, "budget.bytes is None; allowed: a number above 0, or bit_op"),
    ({"bit": 3}, "bit: no such key"),
    ([8], "the content is [8]; allowed: an object"),
    ({"budget": {"bytes": 1000}}, "allowed: null without a loss"),
]


@pytest.mark.parametrize(("config", "message"), REFUSED)
def test_bad_settings_are_one_line(config, message):
    with pytest.raises(ValueError, match="^") as error:
        quantize(ready(chain()), config, [(batch(),)], shape=SHAPE)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) <= 300


def test_bad_data_is_one_line():
    net = ready(chain())
    with pytest.raises(ValueError, match="batches: there is none"):
        quantize(net, None, [], shape=SHAPE)
    spoilt = batch()
    spoilt[0, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="batch 2: 'data' gives NaN or infinity"):
        quantize(net, None, [(batch(),), (spoilt,)], shape=SHAPE)
    with pytest.raises(ValueError, match="'data' is 0.5 everywhere in 1 batches"):
        quantize(net, None, [(mx.nd.full(SHAPE, 0.5),)], shape=SHAPE)


def test_nets_that_cannot_be_quantised_are_named():
    net, x = ready(chain()), batch()
    made = quantize(net, None, [(x,)], shape=SHAPE)
    with pytest.raises(ValueError, match="the net has quantisers; allowed: a net in"):
        quantize(made, None, [(x,)], shape=SHAPE)
    with pytest.raises(ValueError, match="the net has channel masks; allowed: what"):
        quantize(mask(net, None, shape=SHAPE), None, [(x,)], shape=SHAPE)


class Two(HybridBlock):
    """Two inputs, of which the symbol names the second first."""

    def __init__(self) -> None:
        super().__init__()
        with self.name_scope():
            self.a, self.b = conv(6), conv(6)

    def hybrid_forward(self, F, left, right):
        return self.b(right) + self.a(left)


@pytest.mark.parametrize("target", ["*", "*conv1"])
def test_each_of_two_inputs_has_its_own_range(target):
    net, left = Two(), batch()
    right = 50 + 10 * batch(seed=2)
    net.initialize(mx.init.Xavier())
    expected = net(left, right)
    shapes = {"data1": SHAPE, "data0": SHAPE}
    config = {"target": [target], "correct_bias": True, "first": 8, "last": 8}
    made = quantize(net, config, [(left, right)], shape=shapes)
    assert difference(expected, made(left, right)) < 0.02
    symbol, params = pair_of(made)
    rows = {q.target: q for q in quantisers_of(take_apart(symbol)[0], params)}
    largest = right.max().asscalar()
    assert rows["data1"].scale[0] * 255 == pytest.approx(largest, rel=1e-3)


def test_biases_of_dense_layers_on_sequences_are_corrected():
    net = nn.HybridSequential()
    net.add(nn.Dense(6, flatten=False, in_units=5), nn.Dense(3, flatten=False))
    net.initialize(mx.init.Xavier())
    x = mx.nd.array(np.random.RandomState(0).normal(size=(4, 7, 5)))
    expected = net(x)
    config = {"weights": {"bits": 2}, "first": 2, "last": 2, "correct_bias": True}
    made = quantize(net, config, [(x,)], shape=(1, 7, 5))
    means = [y.asnumpy().mean(axis=(0, 1)) for y in (expected, made(x))]
    assert means[1] == pytest.approx(means[0], abs=0.02)


BATCHES = [
    ("text", "batch: data is 'text'; allowed: an array"),
    (3, "allowed: an array (N, 3, 8, 8)"),
    (mx.nd.ones((2, 4, 8, 8)), "the shape of data is [2, 4, 8, 8]; allowed: an array"),
    (mx.nd.ones((2, 3, 4, 4)), "the net does not take a batch of shape (2, 3, 4, 4)"),
]


@pytest.mark.parametrize(("array", "message"), BATCHES, ids=range(len(BATCHES)))
def test_batches_that_the_net_does_not_take_are_one_line(array, message):
    with pytest.raises(ValueError, match="^") as error:
        quantize(ready(flatten_dense()), None, [(array,)], shape=SHAPE)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_nets_in_other_types_are_refused():
    net = ready(chain())
    net.cast("float16")
    with pytest.raises(
        ValueError, match="weight of 'conv0' is float16; allowed: float"
    ):
        quantize(net, None, [(batch(),)], shape=SHAPE)


def test_quantize_is_public():
    assert gc.quantize is quantize
