"""Law 8: exports of a quantised net compute what the net does, to a step of outputs."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

from gluon_compress.deployment import deploy
from gluon_compress.deployment.file_checks import check_files
from gluon_compress.deployment.folding import fold
from gluon_compress.deployment.formats import FORMATS, InferenceGraph
from gluon_compress.deployment.predictor import Predictor
from gluon_compress.deployment.quantised import QuantisedGraph, steps_between
from gluon_compress.deployment.runtimes import RUNTIMES
from gluon_compress.graph import block_of, pair_of
from gluon_compress.models.family import family_of
from gluon_compress.models.ssd.family import SSDFamily
from gluon_compress.quantization import quantize
from gluon_compress.sparsity import sparsify
from nets import NETS, SHAPE, batch, flat, ready
from runtimes import classifier, detector, missing

S = mx.sym
SEEDS = 4
NAMES = ("residual", "concat", "depthwise", "detector_head", "shared")
needs_onnx = pytest.mark.skipif(bool(missing("onnx-int8")), reason="no ONNX Runtime")
needs_openvino = pytest.mark.skipif(bool(missing("openvino")), reason="no OpenVINO")


class Random:
    """A net of random layers: residual sums, concatenations, depthwise, pooling."""

    def __init__(self, seed: int) -> None:
        self.dice, self.count = np.random.RandomState(seed), 0
        x, width = self.layer(S.var("data"), 8), 8
        for _ in range(4):
            kind = self.dice.randint(4)
            if kind == 0:
                y = self.layer(self.layer(x, 6), width, act=False)
                x = S.Activation(y + x, act_type="relu")
            elif kind == 1:
                x, width = S.concat(self.layer(x, 5), x, dim=1), width + 5
            elif kind == 2:
                x = self.layer(x, width, groups=width)
            else:
                kinds = ("max", "avg")
                how = {"kernel": (2, 2), "pool_type": kinds[self.dice.randint(2)]}
                x = S.Pooling(x, pad=(1, 1), stride=(1, 1), **how)
        x = S.Pooling(x, global_pool=True, kernel=(1, 1), pool_type="avg")
        self.symbol = S.FullyConnected(S.Flatten(x), num_hidden=7, name="out")

    def layer(self, x, width: int, groups: int = 1, act: bool = True):
        self.count += 1
        name, kernel = f"layer{self.count}", (3, 3) if groups > 1 else (1, 3)
        size = kernel[self.dice.randint(2)]
        how = {"kernel": (size, size), "pad": (size // 2, size // 2)}
        x = S.Convolution(x, num_filter=width, num_group=groups, name=name, **how)
        x = S.BatchNorm(x, name=f"norm{self.count}", fix_gamma=False)
        return S.Activation(x, act_type="relu") if act else x

    def pair(self):
        arguments, _, states = self.symbol.infer_shape(data=SHAPE)
        names = self.symbol.list_arguments() + self.symbol.list_auxiliary_states()
        params = {}
        for name, shape in zip(names, [*arguments, *states]):
            if name.endswith(("gamma", "var")):
                value = self.dice.uniform(0.5, 1.5, shape)
            elif name.endswith("weight"):
                value = self.dice.normal(0, np.prod(shape[1:]) ** -0.5, shape)
            else:
                value = self.dice.normal(0, 0.2, shape)
            if name != "data":
                params[name] = mx.nd.array(value)
        return self.symbol, params


def steps_of(net, folder, form: str, runtime: str, config: dict, seed: int = 0):
    """Return how many steps of an output a runtime is off the Gluon net."""
    x = batch(seed=seed)
    made = pair_of(quantize(net, config, [(x,)], shape=SHAPE))
    symbol, params = made
    expected = flat(block_of(symbol, params)(x))
    pair = fold(symbol, params, SHAPE)
    graph = InferenceGraph("net", *pair, SHAPE, np.zeros((0, *SHAPE[1:])))
    FORMATS[form].write(graph, folder)
    files = [folder / f"net{ending}" for ending in FORMATS[form].files]
    check_files(files, SHAPE)
    outputs = RUNTIMES[runtime].open(files)(x.asnumpy())
    return steps_between(outputs, expected)


CONFIGS = [
    {},
    {"weights": {"levels": "narrow"}, "activations": {"scheme": "symmetric"}},
    {"weights": {"bits": 4}, "outputs": True},
    {"weights": {"bits": 2}, "activations": {"bits": 4}, "equalize": True},
]


@needs_onnx
@pytest.mark.parametrize("seed", range(SEEDS))
def test_random_nets_in_onnx_runtime(seed, tmp_path):
    net, config = Random(seed).pair(), CONFIGS[seed % len(CONFIGS)]
    off = steps_of(net, tmp_path, "onnx-int8", "onnxruntime", config, seed)
    assert off < 0.01  # biases are whole steps: nothing moves to another level


@needs_onnx
@needs_openvino
@pytest.mark.parametrize("seed", range(SEEDS))
def test_random_nets_in_openvino(seed, tmp_path):
    """It adds what a convolution makes before rounding it: ``sums`` is ``one``."""
    net = Random(seed).pair()
    config = {**CONFIGS[seed % len(CONFIGS)], "sums": "one"}
    assert steps_of(net, tmp_path, "onnx-int8", "openvino", config, seed) <= 1


@needs_onnx
@pytest.mark.parametrize("name", NAMES)
def test_nets_of_every_structure_in_onnx_runtime(name, tmp_path):
    net = ready(NETS[name]())
    assert steps_of(net, tmp_path, "onnx-int8", "onnxruntime", {}) <= 1


def convolution(x, name: str, width: int, params: dict, channels: int):
    dice = np.random.RandomState(len(params))
    shape = (width, channels, 3, 3)
    params[f"{name}_weight"] = mx.nd.array(dice.normal(0, 0.2, shape))
    params[f"{name}_bias"] = mx.nd.array(dice.normal(0, 0.2, width))
    return S.Convolution(x, num_filter=width, kernel=(3, 3), pad=(1, 1), name=name)


@needs_onnx
def test_layers_that_stay_float32_keep_their_weights_in_onnx_runtime(tmp_path):
    """It would round weights of layers between quantised tensors by itself."""
    params: dict = {}
    x = S.relu(convolution(S.var("data"), "a", 8, params, 3))
    sizes = {"num_filter": 6, "kernel": (2, 2), "stride": (2, 2), "no_bias": True}
    up = S.Deconvolution(x, name="up", **sizes)
    params["up_weight"] = mx.nd.array(
        np.random.RandomState(9).normal(size=(8, 6, 2, 2))
    )
    y = convolution(x, "b", 8, params, 8)
    heads = [convolution(y + x, "c", 4, params, 8), convolution(up, "d", 4, params, 6)]
    net = S.Group(heads), params
    config = {"ignored": ["b"], "outputs": True}
    assert steps_of(net, tmp_path, "onnx-int8", "onnxruntime", config) < 0.01


@needs_onnx
def test_what_hands_values_on_leaves_layers_in_integers(tmp_path):
    import onnx

    params: dict = {}
    x = S.relu(convolution(S.var("data"), "a", 8, params, 3))
    x = S.pad(x, mode="constant", pad_width=(0, 0, 0, 0, 0, 1, 2, 0))
    x = S.relu(convolution(x, "b", 8, params, 8))
    x = S.UpSampling(x, scale=2, sample_type="nearest")
    net = S.concat(*S.split(convolution(x, "c", 4, params, 8), num_outputs=2), dim=1)
    for form in ("onnx-int8", "onnx-int4"):
        config = {"weights": {"bits": 4}}
        off = steps_of((net, params), tmp_path, form, "onnxruntime", config)
        assert off < 0.01
        model = onnx.load(str(tmp_path / f"net{FORMATS[form].files[0]}"))
        makers = {o: node for node in model.graph.node for o in node.output}
        layers = [node for node in model.graph.node if node.op_type == "Conv"]
        sources = [makers[name].op_type for one in layers for name in one.input]
        assert sources == ["DequantizeLinear"] * 9


@needs_onnx
def test_slopes_of_channels_in_onnx_runtime(tmp_path):
    params = {"slope_gamma": mx.nd.array(np.linspace(0.1, 0.8, 8))}
    x = convolution(S.var("data"), "a", 8, params, 3)
    net = S.LeakyReLU(x, act_type="prelu", name="slope"), params
    assert steps_of(net, tmp_path, "onnx-int8", "onnxruntime", {}) < 0.01


@needs_onnx
@pytest.mark.parametrize("bits", [4, 2])
def test_weights_of_four_bits_in_onnx_runtime(bits, tmp_path):
    config = {"weights": {"bits": bits}, "first": bits, "last": bits}
    net = ready(NETS["concat"]())
    assert steps_of(net, tmp_path, "onnx-int4", "onnxruntime", config) <= 1


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_packed_weights_in_mxnet(bits, tmp_path):
    config = {"weights": {"bits": bits}, "activations": {"bits": bits}}
    net = ready(NETS["concat"]())
    assert steps_of(net, tmp_path, "packed", "mxnet", config) <= 1


@pytest.mark.skipif(bool(missing("ncnn-int8")), reason="no ncnn")
@pytest.mark.parametrize(("name", "most"), [("chain", 3), ("flatten_dense", 1)])
def test_signed_ranges_in_ncnn(name, most, tmp_path):
    """It does not round what is averaged, as the last map of ``chain``."""
    config = {"activations": {"scheme": "signed"}}
    net = ready(NETS[name]())
    assert steps_of(net, tmp_path, "ncnn-int8", "ncnn", config) <= most
    text = (tmp_path / "net-int8.ncnn.param").read_text()
    assert sum(" 8=2" in line for line in text.splitlines()) == 3


@pytest.mark.skipif(bool(missing("ncnn-int8")), reason="no ncnn")
def test_layers_of_one_weight_and_unlike_ranges_stay_float32_in_ncnn(tmp_path):
    weight = S.var("twice_weight")
    first = S.Convolution(S.var("data"), num_filter=3, kernel=(1, 1), name="first")
    rows = {"kernel": (1, 1), "num_filter": 3, "no_bias": True, "weight": weight}
    once = S.relu(S.Convolution(first, name="once", **rows))
    symbol = S.Convolution(once * 30, name="again", **rows)
    dice = np.random.RandomState(0)
    shapes = {
        "first_weight": (3, 3, 1, 1),
        "first_bias": 3,
        "twice_weight": (3, 3, 1, 1),
    }
    params = {n: mx.nd.array(dice.normal(size=s)) for n, s in shapes.items()}
    config = {"activations": {"scheme": "signed"}}
    steps_of((symbol, params), tmp_path, "ncnn-int8", "ncnn", config)
    text = (tmp_path / "net-int8.ncnn.param").read_text()
    assert sum(" 8=2" in line for line in text.splitlines()) == 1


@needs_onnx
def test_the_file_has_integers_where_the_net_has_quantisers(tmp_path):
    import onnx

    net = ready(NETS["chain"]())
    steps_of(net, tmp_path, "onnx-int8", "onnxruntime", {})
    model = onnx.load(str(tmp_path / "net-int8.onnx"))
    types = {c.name: c.data_type for c in model.graph.initializer}
    readers = {i: node for node in model.graph.node for i in node.input}
    makers = {o: node for node in model.graph.node for o in node.output}
    layers = [n for n in model.graph.node if n.op_type in ("Conv", "Gemm")]
    assert len(layers) == 3
    for layer in layers:
        sources = [makers[name] for name in layer.input]
        assert all(source.op_type == "DequantizeLinear" for source in sources)
        assert types[sources[1].input[0]] == onnx.TensorProto.INT8
        assert types[sources[2].input[0]] == onnx.TensorProto.INT32
        if layer.op_type == "Conv":
            assert readers[layer.output[0]].op_type == "Relu"


def test_a_graph_keeps_the_grids_of_its_quantisers():
    net = quantize(ready(NETS["residual"]()), None, [(batch(),)], shape=SHAPE)
    graph = QuantisedGraph.of(*fold(*pair_of(net), SHAPE))
    assert len(graph.tensors) == 5
    assert len(graph.weights) == 4
    assert all(levels.high == 127 for levels in graph.weights.values())


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("make", [classifier, lambda: detector(size=(96, 128))])
def test_quantised_nets_are_deployed_and_predict(make, tmp_path):
    net = make()
    height, width = family_of(net).input_size(net)
    images = np.random.RandomState(0).uniform(-2, 2, (4, 3, height, width))
    images = images.astype(np.float32)
    made = quantize(net, {"weights": {"bits": 4}}, [(images,)])
    formats = ["onnx-int8", "onnx-int4", "packed", "int8", "mxnet"]
    manifest = deploy(made, tmp_path / "edge", formats=formats, images=images)
    for name in formats:
        entry = manifest["formats"][name]
        assert entry.get("own_ranges", name == "mxnet")
        assert entry["cpu_feature"] is not None
        assert entry["steps"] <= (4 if FORMATS[name].exact else 60)
    size = {n: f["bytes"] for n, f in manifest["files"].items()}
    assert size["detector-packed.bin"] < 0.25 * manifest["cost"]["bytes"]
    photo = np.random.RandomState(1).randint(0, 255, (90, 120, 3), np.uint8)
    for runtime, precision in (
        ("onnxruntime", "int8"),
        ("onnxruntime", "int4"),
        ("mxnet", "packed"),
        ("mxnet", "int8"),
    ):
        predictor = Predictor(tmp_path / "edge", runtime, precision=precision)
        assert all(np.isfinite(part).all() for part in predictor([photo])[0])


def test_a_step_of_a_quantiser_does_not_make_results_wrong(tmp_path, monkeypatch):
    net = detector(size=(96, 128))
    images = np.random.RandomState(0).uniform(-2, 2, (1, 3, 96, 128))
    images = images.astype(np.float32)
    made = quantize(net, None, [(images,)])
    own = SSDFamily.results

    def moved(self, net, batch):
        *parts, boxes = own(self, net, batch)
        return (*parts, boxes + 8)

    monkeypatch.setattr(SSDFamily, "results", moved)
    with pytest.raises(ValueError, match="whole"):
        deploy(net, tmp_path / "float32", formats=["mxnet"], images=images)
    manifest = deploy(made, tmp_path / "edge", formats=["mxnet"], images=images)
    assert manifest["formats"]["mxnet"]["whole_difference"] < 1e-4


@pytest.mark.parametrize("form", ["onnx-int4", "packed"])
def test_formats_for_quantised_nets_refuse_others(form, tmp_path):
    message = f"'{form}' (is for nets with quantisers|makes nothing smaller)"
    with pytest.raises(ValueError, match=message):
        deploy(classifier(), tmp_path / "edge", formats=[form])


def test_sparse_nets_are_deployed_without_their_zeros(tmp_path):
    net = classifier()
    sparse = sparsify(net, level=0.9)
    manifest = deploy(sparse, tmp_path / "edge", formats=["packed", "mxnet"])
    assert manifest["formats"]["packed"]["difference"] < 1e-5
    size = {n: f["bytes"] for n, f in manifest["files"].items()}
    assert size["detector-packed.bin"] < 0.25 * size["detector-0000.params"]
    photo = np.random.RandomState(1).randint(0, 255, (90, 120, 3), np.uint8)
    rows = [
        Predictor(tmp_path / "edge", "mxnet", precision=precision)([photo])[0]
        for precision in ("packed", "float32")
    ]
    assert rows[0][1] == pytest.approx(rows[1][1], abs=1e-5)


def test_steps_are_of_the_range_of_an_output():
    expected = np.float32([[0, 255]])
    assert steps_between([expected + 3], [expected]) == pytest.approx(3)
