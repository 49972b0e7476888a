from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from gluon_compress import models
from gluon_compress.deployment import FORMATS, RUNTIMES, Predictor, deploy, formats
from gluon_compress.deployment.deployable import Deployable
from gluon_compress.deployment.file_checks import CHECKS
from gluon_compress.deployment.reference_outputs import ReferenceOutputs
from gluon_compress.graph import block_of, pair_of
from gluon_compress.storage.reading import Unreadable
from runtimes import ANCHORS, EVERY, SIZE, classifier, detector, missing

TESTS = Path(__file__).resolve().parents[1]


def manifest_of(folder) -> dict:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def deployable(net):
    return Deployable.of(net)


# What is deployed.


def test_detectors_are_deployed_as_one_folded_graph_of_one_output(
    net, deployable, inputs
):
    symbol, params = deployable.graph
    assert deployable.output_shapes == {"predictions": (1, ANCHORS, 8)}
    scores, deltas = block_of(*pair_of(net))(mx.nd.array(inputs))
    expected = mx.nd.concat(scores, deltas, dim=2).asnumpy()
    outputs = block_of(symbol, params)(mx.nd.array(inputs)).asnumpy()
    assert np.abs(outputs - expected).max() < 1e-5 * np.abs(expected).max()
    nodes = json.loads(symbol.tojson())["nodes"]
    counts = [sum(n["op"] == op for n in nodes) for op in ("BatchNorm", "Concat")]
    assert counts == [0, 1]


def test_results_graph_finds_what_the_net_finds(net, deployable, inputs):
    results = block_of(*deployable.results_graph)(mx.nd.array(inputs))
    for one, other in zip(results, net(mx.nd.array(inputs))):
        np.testing.assert_allclose(one.asnumpy(), other.asnumpy(), rtol=1e-3, atol=2e-3)


def test_nms_without_a_limit_is_not_deployed(tmp_path):
    net = detector(size=64)
    limits = {"nms_thresh": 0.45, "nms_topk": 400, "post_nms": 100}
    for name, value in (("nms_topk", -1), ("post_nms", -1), ("nms_thresh", 0)):
        net.set_nms(**{**limits, name: value})
        with pytest.raises(ValueError, match=f"{name} is .*; allowed: "):
            deploy(net, tmp_path / "edge")
    assert not list(tmp_path.iterdir())


# What is written.


def of_quantised(name: str) -> bool:
    return FORMATS[name].needs_quantisers


@pytest.mark.parametrize("name", [n for n in FORMATS if not of_quantised(n)])
@pytest.mark.parametrize("kind", ["deployed", "deployed_classifier"])
def test_every_format_was_compared_with_the_net(request, kind, name):
    if missing(name):
        pytest.skip(f"{missing(name)} not installed")
    folder = request.getfixturevalue(kind)
    entry = manifest_of(folder)["formats"][name]
    assert 0 <= entry["difference"] <= FORMATS[name].tolerance
    assert all((folder / file).stat().st_size > 0 for file in entry["files"])


def test_manifest_of_a_detector(deployed):
    manifest = manifest_of(deployed)
    present = {path.name for path in deployed.iterdir()} - {"manifest.json"}
    assert set(manifest["files"]) == present
    assert manifest["kind"] == "ssd-deployed"
    assert manifest["outputs"] == [{"name": "predictions", "shape": [1, ANCHORS, 8]}]
    preprocess = manifest["preprocess"]
    assert (preprocess["height"], preprocess["width"]) == SIZE
    assert not preprocess["keep_ratio"]
    assert manifest["postprocess"] == {
        "kind": "ssd",
        "stds": [0.1, 0.1, 0.2, 0.2],
        "nms_thresh": 0.45,
        "nms_topk": 400,
        "post_nms": 100,
        "least_score": 0.01,
    }
    assert np.load(deployed / "anchors.npy").shape == (ANCHORS, 4)
    assert manifest["cost"]["macs"] > 0


def test_manifest_of_a_classifier(deployed_classifier):
    manifest = manifest_of(deployed_classifier)
    assert manifest["kind"] == "classifier-deployed"
    assert manifest["outputs"] == [{"name": "class_scores", "shape": [1, 3]}]
    assert manifest["postprocess"] == {"kind": "softmax", "top_k": 5}
    preprocess = manifest["preprocess"]
    assert (preprocess["height"], preprocess["width"]) == (32, 48)
    assert (preprocess["keep_ratio"], preprocess["crop"]) == (True, 0.875)


def test_manifest_names_the_versions_of_what_made_its_files(deployed):
    versions = manifest_of(deployed)["versions"]
    assert versions["onnxruntime"] == metadata.version("onnxruntime")
    assert {"mxnet", "numpy", "python", "onnx"} <= set(versions)


WRITE_AND_RUN = """
from pathlib import Path
import mxnet as mx, numpy as np
from gluon_compress.deployment.formats import FORMATS, InferenceGraph
from gluon_compress.deployment.runtimes import RUNTIMES
images = np.ones((1, 3, 4, 4), np.float32)
symbol = mx.sym.Convolution(mx.sym.var("data"), num_filter=2, kernel=(1, 1), name="c")
params = {"c_weight": mx.nd.ones((2, 3, 1, 1)), "c_bias": mx.nd.ones(2)}
graph = InferenceGraph("net", symbol, params, images.shape, images)
for name in ("onnx", "openvino"):
    FORMATS[name].write(graph, Path())
    files = [Path(f"net{ending}") for ending in FORMATS[name].files]
    print(RUNTIMES[FORMATS[name].runtime].open(files, 1)(images)[0].sum())
"""


@pytest.mark.skipif("openvino" not in EVERY, reason="openvino is not installed")
def test_nothing_is_gathered_for_the_makers_of_runtimes(tmp_path):
    """They keep numbers of their own in the user's home, and send what was done."""
    command = [sys.executable, "-W", "ignore", "-c", WRITE_AND_RUN]
    place = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(TESTS.parent)}
    place.pop("ORT_DISABLE_TELEMETRY", None)
    said = subprocess.check_output(command, cwd=tmp_path, env=place, text=True)
    assert [float(line) for line in said.split()] == [2 * 16 * (3 + 1)] * 2
    assert not (tmp_path / ".cache" / "Microsoft").exists()
    assert not (tmp_path / "intel").exists()


def test_int8_files_are_small(deployed):
    sizes = {
        name: facts["bytes"] for name, facts in manifest_of(deployed)["files"].items()
    }
    # A tiny net has much beside its weights: that is not counted here.
    assert sizes["tiny-int8-0000.params"] < 0.35 * sizes["tiny-0000.params"]


@pytest.mark.skipif("onnx" not in EVERY, reason="onnx is not installed")
@pytest.mark.parametrize(
    ("file", "batch"), [("tiny.onnx", 1), ("tiny-dynamic.onnx", 0)]
)
def test_onnx_states_its_opset_and_lists_no_weight_as_input(deployed, file, batch):
    import onnx

    model = onnx.load(str(deployed / file))
    assert [value.name for value in model.graph.input] == ["data"]
    assert [domain.version for domain in model.opset_import] == [13]
    first = model.graph.input[0].type.tensor_type.shape.dim[0]
    assert first.dim_value == batch
    assert bool(first.dim_param) != bool(batch)
    onnx.checker.check_model(model, full_check=True)


def test_earlier_folder_survives_a_failure(tmp_path, monkeypatch):
    folder, net = tmp_path / "edge", classifier()
    deploy(net, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def broken(graph, place):
        raise ValueError("the disk is full")

    monkeypatch.setitem(FORMATS, "mxnet", replace(FORMATS["mxnet"], write=broken))
    with pytest.raises(ValueError, match="the disk is full"):
        deploy(net, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"formats": ["tensorrt"]}, "format 'tensorrt'; allowed: mxnet, onnx"),
        ({"formats": ["int8"]}, "int8 needs images"),
        ({"formats": ["onnx-int8"]}, "int8 needs images"),
        ({"images": np.zeros((2, 3, 30, 30), np.float32)}, "images are .2, 3, 30, 30."),
        ({"images": np.zeros((0, 3, 300, 300), np.float32)}, "images are .0, 3, 300"),
        ({"name": "a/b"}, "export name 'a/b'"),
    ],
    ids=["format", "int8", "onnx-int8", "size", "none", "name"],
)
def test_deploy_refuses(net, tmp_path, options, message):
    if missing((options.get("formats") or ["mxnet"])[0]):
        pytest.skip("onnx is not installed")
    with pytest.raises(ValueError, match=message):
        deploy(net, tmp_path / "edge", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["int8", "onnx-int8"])
def test_int8_of_images_of_one_colour_is_refused(net, inputs, tmp_path, name):
    black = np.zeros_like(inputs)
    with pytest.raises(ValueError, match=f"{len(black)} images are of one colour"):
        deploy(net, tmp_path / "edge", formats=[name], images=black)
    assert not (tmp_path / "edge").exists()


def test_images_are_an_array_of_finite_numbers(net, inputs, tmp_path):
    for images in (mx.nd.array(inputs), inputs.tolist(), inputs * np.nan):
        with pytest.raises(ValueError, match="^images"):
            deploy(net, tmp_path / "edge", formats=["mxnet"], images=images)


def test_parameter_that_is_not_finite_is_named(tmp_path):
    broken = detector(size=SIZE)
    weight = broken.class_predictors[0].predictor.weight
    weight.set_data(weight.data() * np.nan)
    with pytest.raises(ValueError, match="finite numbers"):
        deploy(broken, tmp_path / "edge", formats=["mxnet"])


def test_other_calibrations_are_refused(net, inputs, tmp_path):
    options = {"formats": ["int8"], "images": inputs, "calibration": "most"}
    with pytest.raises(ValueError, match="calibration 'most'; allowed: entropy, naive"):
        deploy(net, tmp_path / "edge", **options)


def test_missing_converter_of_ncnn_is_named(net, tmp_path, monkeypatch):
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install --no-deps pnnx"):
        deploy(net, tmp_path / "edge", formats=["ncnn"])


# How files are checked.


def spoilt(write, layer: str):
    """Return a writer that is wrong about one layer's bias."""

    def wrong(graph, folder):
        params, bias = dict(graph.params), f"{layer}_bias"
        if bias in params:
            params[bias] = params[bias] + 0.5
        return write(replace(graph, params=params), folder)

    return wrong


def layer_of(deployable) -> str:
    """Return the name of a layer in the middle of the net."""
    nodes = json.loads(deployable.graph[0].tojson())["nodes"]
    return next(n["name"] for n in nodes if n["name"].endswith("trunk3_conv"))


@pytest.mark.parametrize("name", [n for n in ("mxnet", "onnx") if n in EVERY])
def test_file_that_departs_is_refused_with_its_first_wrong_layer(
    net, deployable, inputs, tmp_path, monkeypatch, name
):
    row, layer = FORMATS[name], layer_of(deployable)
    monkeypatch.setitem(FORMATS, name, replace(row, write=spoilt(row.write, layer)))
    with pytest.raises(
        ValueError, match=f"{row.runtime} differs .*first layer .*{layer!r}"
    ):
        deploy(net, tmp_path / "edge", formats=[name], images=inputs)
    assert not list(tmp_path.iterdir())


def with_graph(monkeypatch, change, field: str = "graph") -> None:
    """Make ``deploy`` see a graph of a net that is changed."""
    original = Deployable.of.__func__

    def changed(cls, net):
        deployable = original(cls, net)
        graph = change(*getattr(deployable, field))
        return replace(deployable, **{field: graph})

    monkeypatch.setattr(Deployable, "of", classmethod(changed))


def test_file_that_predictors_would_refuse_is_not_kept(net, tmp_path, monkeypatch):
    def refuse(files, shape):
        raise Unreadable("a layer that is not loaded")

    monkeypatch.setitem(CHECKS, "-symbol.json", refuse)
    with pytest.raises(ValueError, match="tiny-symbol.json: .* not loaded"):
        deploy(net, tmp_path / "edge", "tiny", formats=("mxnet",))
    assert not (tmp_path / "edge").exists()


def test_fold_that_departs_is_named(net, inputs, tmp_path, monkeypatch):
    def wrong(symbol, params):
        name = next(n for n in params if n.endswith("trunk3_conv_bias"))
        return symbol, {**params, name: params[name] + 0.5}

    with_graph(monkeypatch, wrong)
    with pytest.raises(ValueError, match="the folding of BatchNorm"):
        deploy(net, tmp_path / "edge", images=inputs)


def test_results_graph_that_finds_anything_else_is_not_kept(
    net, inputs, tmp_path, monkeypatch
):
    def none(symbol, params):
        ids, scores, boxes = symbol
        return mx.sym.Group([ids * 0 - 1, scores, boxes]), params

    with_graph(monkeypatch, none, "results_graph")
    message = r"tiny-whole-symbol.json: .*[1-9][0-9]* boxes are missing"
    with pytest.raises(ValueError, match=message):
        deploy(net, tmp_path / "edge", "tiny", images=inputs)
    assert not (tmp_path / "edge").exists()


@pytest.mark.slow
def test_results_graph_may_keep_either_of_equals(tmp_path):
    name = "ssd_300_mobilenet0.25"  # untrained: thousands of boxes nearly as good
    net = models.build(name, ("cat", "dog"))
    entry = deploy(net, tmp_path / "edge")["formats"]["mxnet"]
    assert 0 <= entry["whole_difference"] < 1e-3


def imprecise(offset: float):
    """Return a detector whose float32 output is off: it subtracts large numbers."""
    net = detector(size=SIZE)
    params = dict(net.collect_params().items())
    stem = "trunk3_bn_moving_mean"
    names = [stem.replace("moving_mean", end) for end in ("gamma", "moving_var")]
    gamma, var = (params[name].data() for name in names)
    params[stem].set_data(params[stem].data() + offset)
    shift = params[stem.replace("moving_mean", "beta")]
    shift.set_data(shift.data() + offset * gamma / (var + 1e-5).sqrt())
    return net


def test_net_that_rounds_much_is_compared_with_its_exact_output(inputs, tmp_path):
    net, images = imprecise(3000), inputs[:2]
    outputs = block_of(*Deployable.of(net).graph)(mx.nd.array(images)).asnumpy()
    raw = block_of(*pair_of(net))(mx.nd.array(images))
    expected = np.concatenate([o.asnumpy() for o in raw], axis=2)
    off = np.abs(outputs - expected).max() / np.abs(expected).max()
    assert off > 1e-5  # what is refused of other nets
    entry = deploy(net, tmp_path / "edge", images=images)["formats"]["mxnet"]
    assert entry["difference"] <= entry["allowed"]
    assert off / 2 < entry["allowed"] < 4 * off
    assert Predictor(tmp_path / "edge")([np.zeros((9, 9, 3), np.uint8)])


def test_file_that_departs_by_more_than_the_net_rounds_is_refused(
    deployable, inputs, tmp_path, monkeypatch
):
    net, row = imprecise(1000), FORMATS["mxnet"]
    layer = layer_of(Deployable.of(net))
    monkeypatch.setitem(FORMATS, "mxnet", replace(row, write=spoilt(row.write, layer)))
    with pytest.raises(ValueError, match=r"differs .* allowed: .*e-0[45]; the first"):
        deploy(net, tmp_path / "edge", images=inputs)


def test_output_that_only_float32_cannot_hold_is_no_reason_to_accept_anything():
    data, large = mx.sym.var("data"), mx.sym.var("large")
    symbol = mx.sym.broadcast_mul(mx.sym.broadcast_mul(data, large), large) * 1e-30
    params = {"large": mx.nd.ones((1, 1, 1, 1)) * 1e30}
    image = np.ones((1, 1, 2, 2), np.float32)
    reference, row = ReferenceOutputs(symbol, params, image), FORMATS["mxnet"]
    (single,), (double,) = reference.float32, reference.float64
    assert np.isinf(single).all()
    np.testing.assert_allclose(double, 1e30)
    for output in (single, double * 1.01, double + np.nan):
        off, allowed = reference.departure([output], row)
        assert allowed <= 1e-3
        assert not off <= allowed


@pytest.mark.skipif("ncnn" not in EVERY, reason="ncnn or pnnx is not installed")
def test_ncnn_takes_channels_apart(tmp_path):
    """Its converter loses the lengths of equal parts unless they are stated."""
    x = mx.sym.Convolution(mx.sym.var("data"), num_filter=6, kernel=(1, 1), name="conv")
    first, second, third = mx.sym.split(x, num_outputs=3)
    symbol, random = first - second * third, np.random.RandomState(0)
    params = {
        name: mx.nd.array(random.normal(size=size))
        for name, size in (("conv_weight", (6, 3, 1, 1)), ("conv_bias", (6,)))
    }
    batch = random.normal(size=(1, 3, 8, 8)).astype(np.float32)
    graph = formats.InferenceGraph("net", symbol, params, batch.shape, batch)
    FORMATS["ncnn"].write(graph, tmp_path)
    run = RUNTIMES["ncnn"].open(
        [tmp_path / f"net{e}" for e in FORMATS["ncnn"].files], 1
    )
    expected = block_of(symbol, params)(mx.nd.array(batch)).asnumpy()
    np.testing.assert_allclose(run(batch)[0], expected, rtol=1e-4, atol=1e-4)
