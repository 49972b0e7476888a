from __future__ import annotations

import hashlib
import json
import shutil
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from gluon_compress.deployment.reference import Right

from gluon_compress import models
from gluon_compress.data.images import read_image
from gluon_compress.deployment import (
    FORMATS,
    Predictor,
    deploy,
    formats,
    head_graph,
    prepared,
    read_inputs,
    whole_graph,
)
from gluon_compress.deployment.predictor import READS
from gluon_compress.graph import block_of, pair_of
from images import picture
from runtimes import EVERY, detector, missing


@pytest.fixture(scope="module")
def net():
    return detector()


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[Path]:
    import cv2

    folder = tmp_path_factory.mktemp("photos")
    for seed in range(4):
        image = cv2.resize(picture(seed % 3, seed), (90 + 40 * seed, 120))
        cv2.imwrite(str(folder / f"{seed}.png"), image)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def inputs(photos):
    return read_inputs(photos, 300)[0]


@pytest.fixture(scope="module")
def deployed(net, inputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("deployed") / "model"
    deploy(net, folder, "tiny", formats=EVERY, images=inputs, calibration="naive")
    return folder


def manifest_of(folder) -> dict:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def test_head_graph_is_the_raw_head_in_one_output(net, inputs):
    symbol, params = head_graph(net)
    assert symbol.list_outputs() == ["predictions_output"]
    scores, deltas = block_of(*pair_of(net))(mx.nd.array(inputs))
    expected = mx.nd.concat(scores, deltas, dim=2).asnumpy()
    found = block_of(symbol, params)(mx.nd.array(inputs)).asnumpy()
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    ops = json.loads(symbol.tojson())["nodes"]
    counts = [sum(n["op"] == op for n in ops) for op in ("BatchNorm", "Concat")]
    assert counts == [0, 1]


def test_whole_graph_finds_what_the_net_finds(net, inputs):
    found = block_of(*whole_graph(net))(mx.nd.array(inputs))
    for own, other in zip(found, net(mx.nd.array(inputs))):
        np.testing.assert_allclose(own.asnumpy(), other.asnumpy(), rtol=1e-3, atol=2e-3)


def without_best(ids):
    first, rest = (mx.sym.slice_axis(ids, 1, *ends) for ends in ((0, 1), (1, None)))
    return mx.sym.concat(first * 0 - 1, rest, dim=1)


def best_twice(rows):
    """Return rows in which the best takes the place of the second, too."""
    ends = (0, 1), (0, 1), (2, None)
    return mx.sym.concat(*(mx.sym.slice_axis(rows, 1, *e) for e in ends), dim=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ids, scores, boxes: (ids + 1, scores, boxes), "by "),
        (lambda ids, scores, boxes: (ids * 0 - 1, scores, boxes), "has lost [1-9]"),
        (lambda ids, scores, boxes: (without_best(ids), scores, boxes), "has lost 1 "),
        (lambda ids, scores, boxes: map(best_twice, (ids, scores, boxes)), "lost 1 "),
        (lambda ids, scores, boxes: (ids, scores * 0.9, boxes), "by 0.0"),
        (lambda ids, scores, boxes: (ids, scores, boxes * 0.5), "by "),
        (lambda ids, scores, boxes: (ids, scores, boxes + 0.3), "by 0.00"),
    ],
    ids=["classes", "none", "best", "twice", "scores", "halved", "moved"],
)
@pytest.mark.parametrize("seen", [True, False], ids=["images", "noise"])
def test_graph_with_nms_that_finds_anything_else_is_not_kept(
    net, inputs, tmp_path, monkeypatch, change, message, seen
):
    def changed(made):
        symbol, params = whole_graph(made)
        return mx.sym.Group(list(change(*symbol))), params

    module = sys.modules["gluon_compress.deployment.deploying"]
    monkeypatch.setattr(module, "whole_graph", changed)
    with pytest.raises(ValueError, match=f"detector-whole-symbol.json: .*{message}"):
        deploy(net, tmp_path / "edge", images=inputs if seen else None)
    assert not (tmp_path / "edge").exists()


def test_graph_with_nms_may_keep_either_of_equals(tmp_path):
    name = "ssd_300_mobilenet0.25"  # untrained: thousands of boxes nearly as good
    net = models.build(name, ("cat", "dog"), width=0.25)
    written = deploy(net, tmp_path / "edge")["formats"]["mxnet"]
    assert 0 <= written["whole_difference"] < 1e-3


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_was_compared_with_the_net(deployed, name):
    if missing(name):
        pytest.skip(f"{missing(name)} not installed")
    facts = manifest_of(deployed)["formats"][name]
    assert 0 <= facts["difference"] <= FORMATS[name].tolerance
    assert all((deployed / file).stat().st_size > 0 for file in facts["files"])


def test_manifest_names_every_file_and_its_sum(deployed):
    manifest = manifest_of(deployed)
    present = {path.name for path in deployed.iterdir()} - {"manifest.json"}
    assert set(manifest["files"]) == present
    assert manifest["kind"] == "ssd-deployed"
    assert manifest["outputs"] == [{"name": "predictions", "shape": [1, 1917, 8]}]
    assert manifest["nms"]["least_score"] == 0.01
    assert np.load(deployed / "anchors.npy").shape == (1917, 4)


@pytest.mark.parametrize("pair", READS, ids="-".join)
def test_predictor_finds_what_the_net_finds(deployed, net, inputs, pair):
    if not set(READS[pair]) & set(EVERY) or missing(pair[0]):
        pytest.skip(f"{pair[0]} not installed")
    predictor = Predictor(deployed, pair[0], precision=pair[1])
    expected = [output.asnumpy() for output in net(mx.nd.array(inputs[:1]))]
    found = predictor.detect(inputs[:1])
    assert [part.shape for part in found] == [part.shape for part in expected]
    if pair[1] == "int8":  # rounding moves scores; how far, the manifest says
        assert np.abs(found[1][0, :20] - expected[1][0, :20]).max() < 0.2
    else:
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-3, atol=1e-4)


def test_boxes_are_in_pixels_of_images_of_any_size(deployed, net):
    small = picture(0, 1)
    wide = np.repeat(np.repeat(small, 3, axis=0), 5, axis=1)
    predictor = Predictor(deployed)
    one, other = predictor([small]), predictor([wide])
    for image, (ids, scores, boxes) in ((small, one[0]), (wide, other[0])):
        assert len(ids) == len(scores) == len(boxes) > 0
        outputs = net(mx.nd.array(prepared(image, 300)))
        expected = [output.asnumpy()[0] for output in outputs]
        valid = expected[0][:, 0] >= 0
        scale = np.array([image.shape[1], image.shape[0]] * 2) / 300
        np.testing.assert_allclose(boxes, expected[2][valid] * scale, atol=0.1)


def with_manifest(deployed, folder, content: dict) -> Path:
    """Return a copy of a deployed folder with another manifest."""
    shutil.copytree(deployed, folder)
    (folder / "manifest.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_mean_and_std_are_those_of_the_manifest(deployed, photos, tmp_path):
    mean, std = [0.1, 0.5, 0.9], [1, 0.5, 0.25]
    content = {**manifest_of(deployed), "mean": mean, "std": std}
    folder = with_manifest(deployed, tmp_path / "other", content)
    predictor, usual = Predictor(folder), Predictor(deployed)
    image = read_image(photos[0])
    pixels = prepared(image, 300, lambda views: views.transpose(0, 3, 1, 2) / 255)
    right = (pixels[0] - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    np.testing.assert_allclose(predictor.prepared(image)[0], right, atol=1e-6)
    _, expected, _ = predictor.detect(right[None])
    for _, scores, _ in (predictor([image])[0], next(predictor.stream(photos))[1]):
        np.testing.assert_allclose(scores, expected[0, : len(scores), 0], atol=1e-4)
    ((_, other, _),) = usual([image])
    assert np.abs(other - expected[0, : len(other), 0]).max() > 1e-3


def test_images_of_other_kinds_are_taken(deployed):
    image = picture(1, 2)
    grey = image[..., :1]
    alpha = np.concatenate([image, np.full_like(grey, 9)], axis=2)
    deep = image.astype(np.uint16) * 257
    predictor = Predictor(deployed)
    same = predictor([image, alpha, deep])
    for ids, scores, boxes in same[1:]:
        np.testing.assert_array_equal(ids, same[0][0])
        np.testing.assert_allclose(scores, same[0][1], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(boxes, same[0][2], rtol=1e-3, atol=1e-2)
    flat, cube = predictor([grey[..., 0], grey])
    np.testing.assert_array_equal(flat[1], cube[1])
    assert predictor([]) == []


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4,), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
    ids=["two", "float", "line", "empty"],
)
def test_what_is_no_image_is_refused(deployed, image):
    with pytest.raises(ValueError, match="an image of shape"):
        Predictor(deployed)([image])


def test_int8_files_are_small(deployed):
    sizes = {
        name: facts["bytes"] for name, facts in manifest_of(deployed)["files"].items()
    }
    float32 = sizes["tiny-0000.params"]
    # A tiny net has much beside its weights: the rest is not counted here.
    assert sizes["tiny-int8-0000.params"] < 0.35 * float32


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


@pytest.mark.skipif("onnx-dynamic" not in EVERY, reason="onnx is not installed")
def test_batches_are_the_same_as_images_one_by_one(deployed, inputs):
    predictor = Predictor(deployed, "onnxruntime", threads=1)
    together = predictor.predictions(inputs[:3])
    alone = [predictor.predictions(inputs[i : i + 1]) for i in range(3)]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-3, atol=1e-4)


@pytest.mark.skipif("onnx" not in EVERY, reason="onnx is not installed")
def test_batch_that_the_export_was_not_made_for_is_refused(deployed, inputs):
    predictor = Predictor(deployed, "opencv")
    with pytest.raises(ValueError, match="a batch of 2 images; .* made for 1"):
        predictor.predictions(inputs[:2])
    assert len(predictor([picture(0, 0), picture(1, 1)])) == 2
    with pytest.raises(ValueError, match="a batch of shape .1, 3, 20, 20."):
        predictor.predictions(inputs[:1, :, :20, :20])


def spoilt(write, layer: str):
    """Return a writer that is wrong about one layer's bias."""

    def wrong(graph, folder):
        params, bias = dict(graph.params), f"{layer}_bias"
        if bias in params:
            params[bias] = params[bias] + 0.5
        return write(replace(graph, params=params), folder)

    return wrong


@pytest.mark.parametrize("name", [n for n in EVERY if "int8" not in n])
def test_file_that_departs_is_refused_with_its_first_wrong_layer(
    net, inputs, tmp_path, monkeypatch, name
):
    layers = [n["name"] for n in json.loads(head_graph(net)[0].tojson())["nodes"]]
    layer = next(n for n in layers if n.endswith("conv7_fwd"))
    how = FORMATS[name]
    monkeypatch.setitem(FORMATS, name, replace(how, write=spoilt(how.write, layer)))
    folder = tmp_path / "model"
    with pytest.raises(
        ValueError, match=f"{how.runtime} differs .*first layer"
    ) as error:
        deploy(net, folder, formats=[name], images=inputs)
    assert f"{layer!r}" in str(error.value)
    assert not folder.exists()
    assert not list(tmp_path.iterdir())


def imprecise(offset: float):
    """Return a detector whose float32 output is off: it subtracts large numbers."""
    made = detector()
    params = dict(made.collect_params().items())
    stem = next(n for n in params if n.endswith("batchnorm7_running_mean"))
    names = [stem.replace("running_mean", end) for end in ("gamma", "running_var")]
    gamma, var = (params[name].data() for name in names)
    params[stem].set_data(params[stem].data() + offset)
    shift = params[stem.replace("running_mean", "beta")]
    shift.set_data(shift.data() + offset * gamma / (var + 1e-5).sqrt())
    return made


def test_net_that_rounds_much_is_held_against_its_exact_output(inputs, tmp_path):
    made = imprecise(3000)
    images = inputs[:2]
    outputs = block_of(*head_graph(made))(mx.nd.array(images)).asnumpy()
    expected = np.concatenate(
        [o.asnumpy() for o in block_of(*pair_of(made))(mx.nd.array(images))], axis=2
    )
    off = np.abs(outputs - expected).max() / np.abs(expected).max()
    assert off > 1e-5  # what is refused of other nets
    written = deploy(made, tmp_path / "edge", images=images)["formats"]["mxnet"]
    assert written["difference"] <= written["allowed"]
    assert off / 2 < written["allowed"] < 4 * off
    assert Predictor(tmp_path / "edge")([np.zeros((9, 9, 3), np.uint8)])


def test_file_that_departs_by_more_than_the_net_rounds_is_refused(
    inputs, tmp_path, monkeypatch
):
    made, how = imprecise(3000), FORMATS["mxnet"]
    names = head_graph(made)[0].list_arguments()
    (bias,) = [name for name in names if name.endswith("conv7_fwd_bias")]
    wrong = spoilt(how.write, bias[: -len("_bias")])
    monkeypatch.setitem(FORMATS, "mxnet", replace(how, write=wrong))
    with pytest.raises(ValueError, match=r"differs .* allowed: .*e-0[45]; the first"):
        deploy(made, tmp_path / "edge", images=inputs)


def test_fold_that_departs_is_named(net, inputs, tmp_path, monkeypatch):
    def wrong(made):
        symbol, params = head_graph(made)
        name = next(n for n in params if n.endswith("conv7_fwd_bias"))
        return symbol, {**params, name: params[name] + 0.5}

    monkeypatch.setattr(
        sys.modules["gluon_compress.deployment.deploying"], "head_graph", wrong
    )
    with pytest.raises(ValueError, match="it is the folding of BatchNorm that departs"):
        deploy(net, tmp_path / "edge", images=inputs)


def test_output_that_only_float32_cannot_hold_is_no_reason_to_accept_anything():
    data, large = mx.sym.var("data"), mx.sym.var("large")
    symbol = mx.sym.broadcast_mul(mx.sym.broadcast_mul(data, large), large) * 1e-30
    image, params = (
        np.ones((1, 1, 2, 2), np.float32),
        {"large": mx.nd.ones((1, 1, 1, 1))},
    )
    params["large"] *= 1e30
    right, how = Right(symbol, params, image), FORMATS["mxnet"]
    assert np.isinf(right.outputs).all()
    np.testing.assert_allclose(right.exact, 1e30)
    for found in (right.outputs, right.exact * 1.01, right.exact + np.nan):
        off, allowed = right.departure(found, how)
        assert allowed <= 1e-3
        assert not off <= allowed


def test_earlier_folder_survives_a_failure(net, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    deploy(net, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def broken(graph, place):
        raise ValueError("the disk is full")

    how = replace(FORMATS["mxnet"], write=broken)
    monkeypatch.setitem(FORMATS, "mxnet", how)
    with pytest.raises(ValueError, match="the disk is full"):
        deploy(net, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"formats": ["tensorrt"]}, "format 'tensorrt'; allowed: mxnet, onnx"),
        ({"formats": ["int8"]}, "int8 needs images to calibrate on"),
        ({"formats": ["onnx-int8"]}, "int8 needs images to calibrate on"),
        ({"images": np.zeros((2, 3, 30, 30), np.float32)}, "images are .2, 3, 30, 30."),
        ({"images": np.zeros((0, 3, 300, 300), np.float32)}, "images are .0, 3, 300"),
        ({"name": "a/b"}, "export name 'a/b'"),
    ],
    ids=["format", "int8", "onnx-int8", "size", "none", "name"],
)
def test_deploy_refuses(net, tmp_path, given, message):
    if missing((given.get("formats") or ["mxnet"])[0]):
        pytest.skip("onnx is not installed")
    with pytest.raises(ValueError, match=message):
        deploy(net, tmp_path / "model", **given)
    assert not list(tmp_path.iterdir())


def test_other_calibrations_are_refused(net, inputs, tmp_path):
    how = {"formats": ["int8"], "images": inputs, "calibration": "most"}
    with pytest.raises(ValueError, match="calibration 'most'; allowed: entropy, naive"):
        deploy(net, tmp_path / "model", **how)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"runtime": "tvm"}, "runtime 'tvm'; allowed: mxnet, onnxruntime"),
        ({"runtime": "ncnn", "precision": "int8"}, "precision 'int8' of ncnn"),
        ({"runtime": "mxnet", "threads": 2}, "OMP_NUM_THREADS"),
    ],
    ids=["runtime", "precision", "threads"],
)
def test_predictor_refuses(deployed, given, message):
    with pytest.raises(ValueError, match=message):
        Predictor(deployed, **given)


def test_runtime_whose_format_was_not_exported_is_refused(net, tmp_path):
    deploy(net, tmp_path / "model")
    with pytest.raises(ValueError, match="opencv reads the format onnx; .* has mxnet"):
        Predictor(tmp_path / "model", "opencv")


def test_model_folder_and_deployed_folder_are_told_apart(net, deployed, tmp_path):
    models.save(net, tmp_path / "model", "net")
    with pytest.raises(ValueError, match="kind is 'ssd'; allowed: 'ssd-deployed'"):
        Predictor(tmp_path / "model")
    with pytest.raises(ValueError, match="kind is 'ssd-deployed'; allowed: 'ssd'"):
        models.load(deployed)


def test_altered_missing_or_newer_files_are_refused(net, tmp_path):
    folder = tmp_path / "model"
    deploy(net, folder, "tiny")
    params, manifest = folder / "tiny-0000.params", folder / "manifest.json"
    whole = params.read_bytes()
    params.write_bytes(whole[:-1] + b"x")
    with pytest.raises(ValueError, match=r"tiny-0000\.params: altered or cut short"):
        Predictor(folder)
    params.unlink()
    with pytest.raises(ValueError, match=r"tiny-0000\.params: this file .* is missing"):
        Predictor(folder)
    params.write_bytes(whole)
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(ValueError, match="format is 2; this version reads 1"):
        Predictor(folder)


MISSING = object()
FILES, ONE = "formats/mxnet/files", "formats.mxnet.files"
PAIR = ["tiny-symbol.json", "tiny-0000.params"]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        *((key, MISSING, f"{key}: this key is missing") for key in ("mean", "nms")),
        ("files", MISSING, "key 'files' is missing"),
        ("formats", MISSING, "formats: this key is missing"),
        ("decode/stds", MISSING, "decode.stds: this key is missing"),
        ("nms/least_score", MISSING, "nms.least_score: this key is missing"),
        ("nms/least_score", 1.5, "nms.least_score is 1.5; allowed: a number from 0"),
        ("nms/nms_thresh", "0.45", "nms.nms_thresh is '0.45'; allowed: a number"),
        ("nms/nms_thresh", 7, "nms.nms_thresh is 7; allowed: a number above 0 to 1"),
        ("nms/nms_topk", -1, "nms.nms_topk is -1; allowed: a whole number from 1"),
        ("nms/topk", 9, "nms.topk: no such key; allowed: nms_thresh"),
        ("classes", "red", "classes is 'red'; allowed: a list"),
        ("classes", ["a", "b"], r"classes is .*; allowed: 3 names"),
        ("classes", ["a", "a", "b"], "classes is .* one is there twice"),
        ("input/shape", [1, 3, 512, 512], r"input.shape is .*; allowed: \[1, 3, 300"),
        ("input/resize", {"larger": "linear"}, "input.resize is .*'area'"),
        ("mean", [0.5, 0.5], "mean is .*; allowed: a list of 3"),
        ("std", [0.5, 0, 0.5], r"std\[1\] is 0; allowed: a number above 0"),
        ("formats", [], "formats is .*; allowed: an object"),
        ("formats/tflite", {}, "formats.tflite: no such key; allowed: mxnet"),
        (FILES, "tiny-symbol.json", f"{ONE} is 'tiny-symbol.json'; allowed: a list"),
        (FILES, PAIR[::-1], f"{ONE} is .*; allowed: names that end in -symbol.json"),
        (FILES, [f"../edge/{n}" for n in PAIR], f"{ONE} is .* sha256 is in files"),
        ("files", {}, "files is .*; allowed: one of them 'anchors.npy'"),
        ("files/tiny-0000.params", MISSING, f"{ONE} is .* whose sha256 is in files"),
        ("files/anchors.npy", None, "files.anchors.npy is None; allowed: an object"),
        ("files/tiny-0000.params", {"bytes": 1}, "files.tiny.*sha256: .* missing"),
    ],
)
def test_manifest_that_states_what_cannot_be_is_refused(
    deployed, tmp_path, path, value, message
):
    content = inner = manifest_of(deployed)
    *places, last = path.split("/")
    for place in places:
        inner = inner[place]
    inner[last] = value
    if value is MISSING:
        del inner[last]
    folder = with_manifest(deployed, tmp_path / "edge", content)
    with pytest.raises(ValueError, match=f"edge/manifest.json: {message}"):
        Predictor(folder)


@pytest.mark.parametrize(
    ("module", "runtime", "extra"),
    [
        ("onnxruntime", "onnxruntime", "onnx"),
        ("openvino", "openvino", "openvino"),
        ("ncnn", "ncnn", "ncnn"),
    ],
)
def test_missing_runtime_is_named_with_its_extra(
    deployed, monkeypatch, module, runtime, extra
):
    if not set(READS[runtime, "float32"]) & set(EVERY):
        pytest.skip("its format could not be written")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"pip install 'gluon_compress\[{extra}\]'"):
        Predictor(deployed, runtime)


def test_anchors_of_another_net_are_refused(deployed, tmp_path):
    content = manifest_of(deployed)
    content["outputs"][0]["shape"][1] -= 1
    folder = with_manifest(deployed, tmp_path / "edge", content)
    with pytest.raises(ValueError, match=r"anchors.npy: \(1917, 4\); allowed: \(1916"):
        Predictor(folder)


def test_manifest_of_before_may_not_say_how_images_are_resized(deployed, tmp_path):
    content = manifest_of(deployed)
    del content["input"]["resize"]
    assert Predictor(with_manifest(deployed, tmp_path / "edge", content)).size == 300


def test_manifest_may_say_more_than_a_predictor_reads(deployed, tmp_path):
    content = {**manifest_of(deployed), "remark": "of the north gate"}
    found = Predictor(with_manifest(deployed, tmp_path / "edge", content))
    assert found.classes == Predictor(deployed).classes


def with_sums(deployed, folder, name: str, content: bytes) -> Path:
    """Return a copy of a deployed folder with another file, whose sum is right."""
    manifest = manifest_of(deployed)
    manifest["files"][name]["sha256"] = hashlib.sha256(content).hexdigest()
    with_manifest(deployed, folder, manifest)
    (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("runtime", "name"),
    [
        ("mxnet", "tiny-0000.params"),
        ("onnxruntime", "tiny-dynamic.onnx"),
        ("openvino", "tiny.xml"),
        ("opencv", "tiny.onnx"),
    ],
)
def test_file_that_a_runtime_cannot_load_is_named(deployed, tmp_path, runtime, name):
    if name not in manifest_of(deployed)["files"]:
        pytest.skip(f"{name} could not be written")
    folder = with_sums(deployed, tmp_path / "edge", name, b"no net")
    with pytest.raises(ValueError, match=f"tiny.*: {runtime} cannot load it: .") as it:
        Predictor(folder, runtime)
    assert "\n" not in str(it.value)


@pytest.mark.parametrize("values", [b"no array", None], ids=["bytes", "nan"])
def test_anchors_that_are_none_are_refused(deployed, tmp_path, values):
    if values is None:
        np.save(tmp_path / "a.npy", np.full((1917, 4), np.nan, np.float32))
        values = (tmp_path / "a.npy").read_bytes()
    folder = with_sums(deployed, tmp_path / "edge", "anchors.npy", values)
    with pytest.raises(ValueError, match=r"anchors\.npy: "):
        Predictor(folder)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"nms_topk": -1}, "nms.nms_topk is -1; allowed: a whole number from 1"),
        ({"post_nms": -1}, "nms.post_nms is -1; allowed: a whole number from 1"),
        ({"nms_thresh": 0}, "nms.nms_thresh is 0; allowed: a number above 0 to 1"),
    ],
    ids=["topk", "rows", "overlap"],
)
def test_nms_without_a_limit_is_not_deployed(tmp_path, limits, message):
    net = detector()
    net.set_nms(**{"nms_thresh": 0.45, "nms_topk": 400, "post_nms": 100, **limits})
    with pytest.raises(ValueError, match=message):
        deploy(net, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_manifest_names_the_versions_of_what_made_its_files(deployed):
    found = manifest_of(deployed)["versions"]
    assert found["onnxruntime"] == metadata.version("onnxruntime")
    assert {"mxnet", "numpy", "python", "onnx"} <= set(found)


def test_missing_converter_of_ncnn_is_named(net, tmp_path, monkeypatch):
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install --no-deps pnnx"):
        deploy(net, tmp_path / "model", formats=["ncnn"])


def test_images_that_cannot_be_read_are_skipped_and_named(photos, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(photos[0].read_bytes()[:60])
    found, skipped = read_inputs([photos[0], broken, tmp_path / "none.jpg"], 300)
    assert found.shape == (1, 3, 300, 300)
    assert [str(broken) in skipped[0], "none.jpg" in skipped[1]] == [True, True]
    with pytest.raises(ValueError, match="no image can be read"):
        read_inputs([broken], 300)
    assert len(read_inputs([broken, *photos], 300, most=1)[0]) == 1


def test_stream_finds_what_calls_find_and_goes_on_after_broken_files(
    deployed, photos, tmp_path
):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    predictor = Predictor(deployed)
    files = [photos[0], broken, photos[1], tmp_path / "none.png", photos[2]]
    found = list(predictor.stream(files))
    assert [file for file, _ in found] == files
    for file, result in found:
        if file in photos:
            (expected,) = predictor([read_image(file)])
            for own, other in zip(result, expected):
                np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-4)
        else:
            assert isinstance(result, ValueError)
            assert file.name in str(result)
    assert list(predictor.stream([])) == []


def test_stream_reads_one_image_ahead_and_no_more(deployed, photos):
    asked = []

    def endless():
        while True:
            asked.append(photos[len(asked) % 3])
            yield asked[-1]

    found = Predictor(deployed).stream(endless())
    for count in (1, 2, 3):
        next(found)
        assert len(asked) == count + 1
    found.close()


def test_one_image_in_place_of_a_list_is_refused(deployed):
    with pytest.raises(ValueError, match=r"shape \(40, 50, 3\); allowed: a list of im"):
        Predictor(deployed)(np.zeros((40, 50, 3), np.uint8))


@pytest.mark.parametrize("threads", [0, -1])
def test_less_than_one_thread_is_refused(deployed, threads):
    with pytest.raises(ValueError, match=f"threads is {threads}; allowed: at least 1"):
        Predictor(deployed, "onnxruntime", threads=threads)
