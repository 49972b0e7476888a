from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from gluoncv import model_zoo
from mxnet.gluon import HybridBlock, nn

from gluon_compress import Plan, count, mask, measure_latency, slim, trace
from gluon_compress.models import NamedBlock
from nets import NETS, SHAPE, Wired, chain, conv, ready, shared


def macs(layer, shape=(1, 4, 9, 9)) -> int:
    return count(trace(layer, shape)).macs


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        # out channels x out pixels x (in channels / groups) x kernel
        (lambda: nn.Conv2D(6, 3, padding=1), 6 * 81 * 4 * 9),
        (lambda: nn.Conv2D(6, 3, padding=1, use_bias=False), 6 * 81 * 4 * 9),
        (lambda: nn.Conv2D(6, 3, strides=2), 6 * 16 * 4 * 9),
        (lambda: nn.Conv2D(6, 3, dilation=2), 6 * 25 * 4 * 9),
        (lambda: nn.Conv2D(6, (1, 3)), 6 * 9 * 7 * 4 * 3),
        (lambda: nn.Conv2D(6, 3, padding=1, groups=2), 6 * 81 * 2 * 9),
        (lambda: nn.Conv2D(4, 3, padding=1, groups=4), 4 * 81 * 9),
        (lambda: nn.Conv2D(8, 3, padding=1, groups=4), 8 * 81 * 9),
        # in pixels x in channels x (out channels / groups) x kernel
        (lambda: nn.Conv2DTranspose(6, 2, strides=2), 81 * 4 * 6 * 4),
        (
            lambda: nn.Conv2DTranspose(6, 4, strides=2, groups=2, in_channels=4),
            81 * 4 * 3 * 16,
        ),
        (lambda: nn.Dense(5), 5 * 4 * 81),
        (lambda: nn.Dense(5, flatten=False), 4 * 9 * 5 * 9),
        (lambda: nn.GlobalAvgPool2D(), 0),
        (lambda: nn.BatchNorm(), 0),
    ],
)
def test_macs_of_a_layer(layer, expected):
    assert macs(layer()) == expected


@pytest.mark.parametrize(
    ("function", "shape", "expected"),
    [
        # (L, C) x (C, L): every pair of rows meets along C.
        (lambda F, x: F.batch_dot(x, x, transpose_b=True), (2, 5, 7), 5 * 5 * 7),
        (lambda F, x: F.batch_dot(x, x, transpose_a=True), (2, 5, 7), 7 * 7 * 5),
        (lambda F, x: F.dot(x, x, transpose_b=True), (1, 7), 7),
    ],
)
def test_macs_of_matrix_products(function, shape, expected):
    assert macs(nn.HybridLambda(function), shape) == expected


def test_convolution_of_one_and_three_axes():
    assert macs(nn.Conv1D(6, 3), (1, 4, 9)) == 6 * 7 * 4 * 3
    assert macs(nn.Conv3D(6, 3), (1, 4, 5, 5, 5)) == 6 * 27 * 4 * 27


def test_params_and_bytes():
    cost = count(trace(chain(), SHAPE))
    convolutions, scales = 8 * 3 * 9 + 6 * 8 * 9, 2 * (8 + 6)
    assert cost.params == convolutions + scales + 5 * 6 + 5
    # Running statistics are stored, but not trained.
    assert cost.bytes == 4 * (cost.params + 2 * (8 + 6))


def test_activations_are_what_multiplying_layers_put_out():
    assert count(trace(chain(), SHAPE)).activations == 8 * 64 + 6 * 64 + 5


@pytest.mark.parametrize("name", ["chain", "shuffle", "deconvolution", "few_groups"])
def test_figures_are_for_one_sample(name):
    net = NETS[name]()
    one, four = (count(trace(net, (n, *SHAPE[1:]))) for n in (1, 4))
    figures = ("macs", "params", "bytes", "activations")
    assert [getattr(one, f) for f in figures] == [getattr(four, f) for f in figures]


def test_shared_layer_multiplies_twice_and_is_stored_once():
    rows = [row for row in count(trace(shared(), SHAPE)).rows if row.name == "conv1"]
    assert [row.macs for row in rows] == [8 * 64 * 8 * 9] * 2
    assert [row.params for row in rows] == [8 * 8 * 9 + 8, 0]


def test_rows_are_layers_in_order_and_add_up():
    cost = count(trace(chain(), SHAPE))
    assert [(row.name, row.op) for row in cost.rows] == [
        ("conv0", "Convolution"),
        ("batchnorm0", "BatchNorm"),
        ("conv1", "Convolution"),
        ("batchnorm1", "BatchNorm"),
        ("dense0", "FullyConnected"),
    ]
    assert cost.rows[0].output == (1, 8, 8, 8)
    assert sum(row.macs for row in cost.rows) == cost.macs


def test_text_is_a_table():
    lines = str(count(trace(chain(), SHAPE))).splitlines()
    words = ["layer", "operator", "output", "MACs", "params", "bytes"]
    assert lines[0].split() == words
    first = ["conv0", "Convolution", "8x8x8", "13,824", "216", "864"]
    assert lines[1].split() == first
    assert lines[-1].split()[0] == "total"
    assert len({len(line) for line in lines}) == 1


def test_masks_do_not_count():
    net = ready(NETS["concat"]())
    plan = Plan({"conv0": (1, 2), "conv1": (0,)})
    assert count(trace(mask(net, plan, shape=SHAPE), SHAPE)) == count(trace(net, SHAPE))


class Constants(HybridBlock):
    """A constant, such as anchors are, multiplies every channel."""

    def __init__(self):
        super().__init__()
        with self.name_scope():
            places = np.arange(64.0).reshape(1, 1, 8, 8)
            self.places = self.params.get_constant("places", places)
            self.stem, self.out = conv(8), nn.Dense(5)

    def hybrid_forward(self, F, x, places):
        return self.out(F.broadcast_mul(self.stem(x), places))


def test_constants_do_not_count():
    expected = 8 * 3 * 9 + 8 + 5 * 8 * 64 + 5
    cost = count(trace(Constants(), SHAPE))
    assert (cost.params, cost.bytes) == (expected, 4 * expected)


def test_constants_of_a_slim_net_do_not_count():
    net = Constants()
    net.initialize()
    net(mx.nd.zeros(SHAPE))
    small = slim(net, Plan({"constants0_conv0": (1, 4)}), shape=SHAPE)
    assert count(trace(small, SHAPE)).params == 2 * 3 * 9 + 2 + 5 * 2 * 64 + 5


def test_count_with_a_plan_is_by_what_stays():
    cost = count(trace(chain(), SHAPE), Plan({"conv0": (0, 3, 5), "conv1": (2, 4)}))
    assert cost.macs == 3 * 64 * 3 * 9 + 2 * 64 * 3 * 9 + 5 * 2
    assert cost.params == 3 * 3 * 9 + 2 * 3 * 9 + 2 * (3 + 2) + 5 * 2 + 5


def test_count_checks_the_plan():
    with pytest.raises(ValueError, match="group 'conv9' is not in the net"):
        count(trace(chain(), SHAPE), Plan({"conv9": (0,)}))


def test_resnet50_v1d_costs_what_is_published():
    net = model_zoo.get_model("resnet50_v1d", pretrained=False, pretrained_base=False)
    cost = count(trace(net, (1, 3, 224, 224)))
    assert cost.macs == pytest.approx(4.33e9, rel=0.01)
    assert cost.params == pytest.approx(25.6e6, rel=0.005)


class Clock:
    """A net that takes as many milliseconds as it is told."""

    def __init__(self, monkeypatch, milliseconds):
        self.now, self.left, self.calls = 0.0, list(milliseconds), 0
        monkeypatch.setattr("time.perf_counter", lambda: self.now)

    def __call__(self, x):
        self.calls += 1
        self.now += self.left.pop(0) / 1000
        return x


def test_latency_is_the_median_without_the_warmup(monkeypatch):
    run = Clock(monkeypatch, [500, 900, 3, 1, 2, 100, 2])
    found = measure_latency(run, SHAPE, repeats=5, warmup=2)
    assert found.median_ms == pytest.approx(2)
    assert (found.repeats, run.calls) == (5, 7)
    assert found.p10_ms <= found.median_ms <= found.p90_ms


def test_latency_waits_for_every_output(monkeypatch):
    waited = []
    monkeypatch.setattr(mx.nd.NDArray, "wait_to_read", lambda own: waited.append(own))
    net = Wired(lambda F, m, x: (m["a"](x), [m["b"](x)]), a=conv(2), b=conv(3))
    measure_latency(ready(net), SHAPE, repeats=2, warmup=1)
    assert [output.shape[1] for output in waited] == [2, 3] * 3


def test_latency_waits_for_outputs_by_name(monkeypatch):
    waited = []
    monkeypatch.setattr(mx.nd.NDArray, "wait_to_read", lambda own: waited.append(own))
    net = NamedBlock(ready(conv(2)), ["scores"])
    measure_latency(net, SHAPE, repeats=2, warmup=1)
    assert [output.shape[1] for output in waited] == [2] * 3


def test_threads_are_named(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    once = {"repeats": 1, "warmup": 0}
    assert measure_latency(lambda x: x, SHAPE, **once).threads == "3"
    named = measure_latency(lambda x: x, SHAPE, threads=7, **once)
    assert named.threads == "7"
    assert "median of 1, 7 threads" in str(named)


@pytest.mark.parametrize("wrong", [{"repeats": 0}, {"warmup": -1}])
def test_latency_needs_something_to_measure(wrong):
    with pytest.raises(ValueError, match="must be 1 or more"):
        measure_latency(lambda x: x, SHAPE, **wrong)
