"""Nets of several stages: a graph each in the deployed folder, run in turn."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from mxnet import nd

import gluon_compress as gc
from gluon_compress.deployment import runtimes
from gluon_compress.detector import load_detector, predictor_of
from gluon_compress.models import family_of
from gluon_compress.storage.artifacts import checksums

CLASSES = ("cat", "dog")
TINY = {
    "size": (64, 96),
    "sizes": (8, 16, 32, 64, 96),
    "fpn_channels": 32,
    "rpn_channels": 16,
    "head_channels": 32,
    "rpn_pre_nms": 60,
    "rpn_post_nms": 16,
    "post_nms": 8,
}
RUNTIMES = ("mxnet", "onnxruntime")


@pytest.fixture(scope="module")
def net():
    """Return a Mask R-CNN whose scores are apart: the largest of nets with stages."""
    net = gc.build(
        "mask_rcnn_fpn_mobilenet0.25", CLASSES, seed=1, short=60, width=0.5, **TINY
    )
    for parameter in net.collect_params(".*(class|rpn)_scores?_weight").values():
        parameter.set_data(40 * parameter.data())
    return net


@pytest.fixture(scope="module")
def folder(net, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages") / "deployed"
    gc.deploy(net, folder, "net", formats=("mxnet", "onnx"))
    return folder


@pytest.fixture(scope="module")
def image():
    random = np.random.RandomState(0)
    return (255 * random.rand(62, 93, 3)).astype(np.uint8)


def test_each_stage_has_files_and_a_difference(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [*manifest["stages"]] == ["heads", "mask"]
    assert manifest["stages"]["mask"]["inputs"][-1] == {
        "name": "regions",
        "shape": [8, 9],
    }
    for name in ("mxnet", "onnx"):
        entry = manifest["formats"][name]
        assert [*entry["stages"]] == ["heads", "mask"]
        assert all(value < 1e-4 for value in entry["stage_differences"].values())
    preprocess = manifest["preprocess"]
    assert (preprocess["short"], preprocess["unit"]) == (60, None)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_runtimes_find_what_gluon_finds_on_the_same_input(net, folder, image, runtime):
    predictor = gc.Predictor(folder, runtime)
    inputs, placement = predictor.preprocess(image)
    assert inputs.shape == (1, 3, 64, 96)
    family = family_of(net)
    expected = family.outputs(net, nd.array(inputs))
    outputs = predictor.outputs(inputs)
    assert [*outputs] == [*expected]
    for name, array in expected.items():
        scale = abs(array).max()
        np.testing.assert_allclose(
            outputs[name], array, atol=1e-4 * scale, err_msg=name
        )
    found = predictor([image, image])
    for ids, scores, boxes in found:
        wanted = predictor_of(net)([image])[0]
        assert len(ids) == len(wanted[0]) > 0
        np.testing.assert_allclose(scores, wanted[1], atol=1e-3)
        np.testing.assert_allclose(boxes, wanted[2], atol=0.05)


def test_a_detector_is_loaded_from_the_folder(folder, image):
    detector = load_detector(folder, runtime="onnxruntime")
    ids, _, boxes = detector.find(image, threshold=0.0)
    assert len(ids) == len(boxes) > 0


@pytest.mark.parametrize("name", ["openvino", "ncnn", "int8", "onnx-dynamic", "packed"])
def test_formats_of_one_graph_are_refused(net, tmp_path, name):
    with pytest.raises(
        ValueError, match=f"format '{name}' is of one graph.*mxnet, onnx"
    ):
        gc.deploy(net, tmp_path / "deployed", formats=("mxnet", name))
    assert not (tmp_path / "deployed").exists()


@pytest.mark.parametrize("name", ["openvino", "opencv", "ncnn"])
def test_runtimes_without_stages_are_refused(folder, name):
    with pytest.raises(ValueError, match=f"{name} does not run nets of several stages"):
        gc.Predictor(folder, name)


def changed(folder, target, change):
    """Return a copy of a folder with another manifest, which has the right sums."""
    copy = shutil.copytree(folder, target)
    manifest = json.loads((copy / "manifest.json").read_text())
    change(manifest)
    (copy / "manifest.json").unlink()
    manifest["files"] = checksums(copy)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


CHANGES = [
    (lambda m: m.pop("stages"), "stages is .*allowed: heads, mask"),
    (lambda m: m["stages"].pop("heads"), "stages is .*allowed: heads, mask"),
    (lambda m: m["stages"].update(more=m["stages"]["mask"]), "stages is"),
    (
        lambda m: m["formats"]["mxnet"]["stages"].pop("mask"),
        "formats.mxnet.stages is .*allowed: files of heads, mask",
    ),
    (
        lambda m: m["formats"]["onnx"]["stages"].update(mask=["other.onnx"]),
        "formats.onnx.files",
    ),
    (
        lambda m: m["stages"]["heads"]["inputs"][4].update(shape=[16, 8]),
        "net-heads.*rcnn_|net-heads.*shape",
    ),
    (lambda m: m["stages"]["heads"]["inputs"].pop(), "'regions'"),
    (lambda m: m.update(classes=["cat"]), "classes is"),
    (lambda m: m["postprocess"].update(sizes=[8, 16]), "postprocess.sizes"),
    (lambda m: m["postprocess"].update(ratios=[1.0]), "the shape of rpn_scores"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_manifests_that_do_not_fit_are_refused(folder, tmp_path, change, message):
    copy = changed(folder, tmp_path / "copy", change)
    with pytest.raises(ValueError, match=message):
        gc.Predictor(copy, "mxnet")


def test_files_of_a_stage_are_checked(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    with open(copy / "net-heads.onnx", "ab") as file:
        file.write(b"more")
    with pytest.raises(ValueError, match="net-heads.onnx"):
        gc.Predictor(copy, "onnxruntime")


def test_a_stage_that_differs_is_not_deployed(net, tmp_path, monkeypatch):
    """A runtime that adds something to what the heads give."""

    class Wrong(runtimes.ONNXRuntime):
        def __call__(self, *batch):
            results = super().__call__(*batch)
            return [r + (r.ndim == 2) for r in results]

    row = runtimes.Runtime(Wrong, runtimes.RUNTIMES["onnxruntime"].formats, staged=True)
    monkeypatch.setitem(runtimes.RUNTIMES, "onnxruntime", row)
    with pytest.raises(ValueError, match="net-heads.onnx: onnxruntime differs"):
        gc.deploy(net, tmp_path / "deployed", "net", formats=("onnx",))
    assert not (tmp_path / "deployed").exists()


def test_latency_is_of_all_stages(net):
    both = gc.deployment.latencies_in_turn([net, net], seconds=0)
    assert all(latency.median_ms > 0 for latency in both)
