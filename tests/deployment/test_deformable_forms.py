"""Deformable convolutions in every runtime, each in a form that it has."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

import gluon_compress as gc
from center_net import SIZE, small_detector
from gluon_compress import models
from gluon_compress.deployment import FORMATS, quantised_packed
from gluon_compress.deployment.deformable import form_for
from gluon_compress.deployment.deployable import Deployable
from gluon_compress.deployment.folding import fold
from gluon_compress.deployment.formats import InferenceGraph
from gluon_compress.quantization.levels import levels_of
from gluon_compress.quantization.packing import read_packed
from gluon_compress.storage.atomic import read_json
from runtimes import missing

NAMES = ("mxnet", "onnx", "onnx-dynamic", "openvino", "ncnn")
INSTALLED = [name for name in NAMES if not missing(name)]
FORMS = {
    "depthwise": {"mxnet": "deformable", "onnx": "dilated", "openvino": "dilated"},
    "full": {"mxnet": "deformable", "onnx": "deformable", "openvino": "sampled"},
}
for _forms in FORMS.values():
    _forms.update({"onnx-dynamic": _forms["onnx"], "ncnn": "sampled"})


@pytest.mark.parametrize("rung", FORMS)
def test_runtimes_compute_what_the_net_does(rung, tmp_path):
    """``deploy`` compares all outputs, to 1e-4 of their scale, and all boxes."""
    net = small_detector(rung)
    gc.deploy(net, tmp_path / "edge", "small", formats=INSTALLED)
    manifest = read_json(tmp_path / "edge/manifest.json")
    assert manifest["postprocess"]["kind"] == "centernet"
    for name, entry in manifest["formats"].items():
        assert entry["deformable"] == FORMS[rung][name], name
        assert entry["difference"] <= 1e-4, name
        if entry["deformable"] != "dilated" and "opset" in entry:
            assert entry["opset"] == 19
    assert "whole_difference" in manifest["formats"]["mxnet"]
    batch = np.random.RandomState(1).randn(1, 3, *SIZE).astype(np.float32)
    wanted = models.family_of(net).results(net, mx.nd.array(batch))
    # Of files that it does not run, a runtime would say so in words of its own.
    with pytest.raises(ValueError, match="opencv has no .*; allowed: mxnet, onnx"):
        gc.Predictor(tmp_path / "edge", "opencv")
    for name in INSTALLED:
        runtime = FORMATS[name].runtime
        found = gc.Predictor(tmp_path / "edge", runtime).detect(batch)
        np.testing.assert_allclose(found[1], wanted[1], atol=1e-4, err_msg=name)


def test_a_quantised_net_is_stored_once_and_runs_in_integers(tmp_path):
    """Its weight is packed in 4 bits; turned filters of the dilated form are levels."""
    net = small_detector()
    images = [mx.nd.array(np.random.RandomState(2).randn(2, 3, *SIZE))]
    small = gc.quantize(net, {"weights": {"bits": 4}, "batches": 1}, [images])
    formats = [n for n in ("packed", "packed-gz", "onnx-int8") if not missing(n)]
    manifest = gc.deploy(small, tmp_path / "edge", "small", formats=formats)
    entries = manifest["formats"]
    assert entries["packed-gz"]["difference"] == entries["packed"]["difference"]
    stored = read_packed(tmp_path / "edge/small-packed.bin")
    weights = [name for name in stored if name.startswith("neck0_conv")]
    assert weights == ["neck0_conv_weight"]
    found = levels_of(stored["neck0_conv_weight"])
    assert found is not None
    assert found.bits == 4
    if "onnx-int8" in entries:
        assert entries["onnx-int8"]["deformable"] == "dilated"


def test_a_runtime_without_a_form_is_refused_in_one_line():
    net = small_detector("square")
    made = Deployable.of(net)
    graph = InferenceGraph("small", *made.graph, (1, 3, *SIZE), np.zeros(0))
    with pytest.raises(
        ValueError, match="opencv has no form of .*allowed: mxnet, onnx"
    ):
        form_for(graph, "opencv")
    assert form_for(graph, "ncnn") == "sampled"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "published"), [("a", 0.76e6), ("d", 2.90e6)])
def test_codenet_in_4_bits_takes_what_is_published(name, published, tmp_path):
    """With scales and biases, which the published figures leave out.

    Weights are random, so levels are distributed as those of normal numbers.
    """
    net = models.build(f"codenet_{name}", size=32)
    images = [mx.nd.array(np.random.RandomState(0).randn(2, 3, 32, 32))]
    small = gc.quantize(net, {"weights": {"bits": 4}, "batches": 1}, [images])
    graph = fold(*models.family_of(small).inference_graph(small))
    quantised_packed.save(*graph, tmp_path / "net", ".bin.gz")
    assert (tmp_path / "net.bin.gz").stat().st_size <= published
