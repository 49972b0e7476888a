from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from gluon_compress import detector as loading
from gluon_compress import models
from gluon_compress.data import Preprocess
from gluon_compress.data.images import read_image
from gluon_compress.deployment import RUNTIMES, Predictor, deploy
from gluon_compress.deployment.formats import formats_of, runtimes_and_precisions
from images import picture
from runtimes import EVERY, SIZE, missing

PAIRS = runtimes_and_precisions()


def manifest_of(folder) -> dict:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def with_manifest(deployed, folder, content: dict) -> Path:
    """Return a copy of a deployed folder with another manifest."""
    shutil.copytree(deployed, folder)
    (folder / "manifest.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def skip_without(runtime: str, precision: str) -> None:
    if not set(formats_of(runtime, precision)) & set(EVERY) or missing(runtime):
        pytest.skip(f"{runtime} not installed, or {precision} of quantised nets only")


# Detectors.


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_every_runtime_finds_what_the_net_finds(deployed, net, photos, pair):
    skip_without(*pair)
    predictor = Predictor(deployed, pair[0], precision=pair[1])
    assert (predictor.height, predictor.width) == SIZE
    image = read_image(photos[0])
    batch, placement = predictor.preprocess(image)
    expected = [output.asnumpy() for output in net(mx.nd.array(batch))]
    results = predictor.detect(batch)
    assert [part.shape for part in results] == [part.shape for part in expected]
    ((ids, scores, boxes),) = predictor([image])
    if pair[1] == "int8":  # rounding moves scores; how far, the manifest says
        assert np.abs(scores[:20] - expected[1][0, :20, 0]).max() < 0.2
        return
    valid = expected[0][0, :, 0] >= 0
    np.testing.assert_array_equal(ids, expected[0][0, valid, 0])
    np.testing.assert_allclose(scores, expected[1][0, valid, 0], rtol=1e-3, atol=1e-4)
    in_image = placement.to_image(expected[2][0, valid])
    np.testing.assert_allclose(boxes, in_image, rtol=1e-3, atol=0.1)


def test_boxes_are_in_pixels_of_images_of_any_size(deployed, net, preprocess):
    small = picture(0, 1)
    wide = np.repeat(np.repeat(small, 3, axis=0), 5, axis=1)
    predictor = Predictor(deployed)
    for image, (ids, scores, boxes) in zip((small, wide), predictor([small, wide])):
        assert len(ids) == len(scores) == len(boxes) > 0
        outputs = net(mx.nd.array(preprocess(image)[0]))
        expected = [output.asnumpy()[0] for output in outputs]
        valid = expected[0][:, 0] >= 0
        scale = np.array([image.shape[1] / 480, image.shape[0] / 300] * 2)
        np.testing.assert_allclose(boxes, expected[2][valid] * scale, atol=0.1)


# Classifiers.


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_every_runtime_classifies_as_the_net_does(deployed_classifier, photos, pair):
    skip_without(*pair)
    predictor = Predictor(deployed_classifier, pair[0], precision=pair[1])
    gluon = loading.load_predictor(deployed_classifier.parent / "model")
    assert predictor.classes == gluon.classes == ("blue", "green", "red")
    assert (predictor.height, predictor.width) == (gluon.height, gluon.width)
    images = [read_image(file) for file in photos]
    for (ids, shares), (right, expected) in zip(predictor(images), gluon(images)):
        np.testing.assert_allclose(shares.sum(), 1, rtol=1e-5)
        if pair[1] == "int8":
            assert np.abs(shares - expected).max() < 0.1
        else:
            np.testing.assert_array_equal(ids, right)
            np.testing.assert_allclose(shares, expected, rtol=1e-3, atol=1e-4)


def test_classifiers_stream_files(deployed_classifier, photos):
    predictor = Predictor(deployed_classifier)
    for file, (ids, shares) in predictor.stream(photos):
        ((expected_ids, expected),) = predictor([read_image(file)])
        np.testing.assert_array_equal(ids, expected_ids)
        np.testing.assert_allclose(shares, expected, rtol=1e-4)


# Images and batches.


def test_mean_and_std_are_those_of_the_manifest(deployed, photos, tmp_path):
    mean, std = [0.1, 0.5, 0.9], [1, 0.5, 0.25]
    content = manifest_of(deployed)
    content["preprocess"].update(mean=mean, std=std)
    predictor = Predictor(with_manifest(deployed, tmp_path / "other", content))
    image = read_image(photos[0])
    plain = Preprocess(height=300, width=480, mean=(0, 0, 0), std=(1, 1, 1))
    right = plain(image)[0][0] - np.reshape(mean, (3, 1, 1))
    right = right / np.reshape(std, (3, 1, 1))
    np.testing.assert_allclose(predictor.preprocess(image)[0][0], right, atol=1e-6)
    _, expected, _ = predictor.detect(right[None])
    for _, scores, _ in (predictor([image])[0], next(predictor.stream(photos))[1]):
        np.testing.assert_allclose(scores, expected[0, : len(scores), 0], atol=1e-4)
    ((_, usual, _),) = Predictor(deployed)([image])
    assert np.abs(usual - expected[0, : len(usual), 0]).max() > 1e-3


@pytest.mark.parametrize(
    "images",
    [
        [np.zeros((4, 4, 3), np.float32)],
        [mx.nd.zeros((400, 500, 3))],
        mx.nd.zeros((2, 400, 500, 3)),
        np.zeros((40, 50, 3), np.uint8),
        np.array([None, None]),
        "photo.jpg",
        None,
    ],
    ids=["float", "mxnet", "batch", "one", "objects", "text", "none"],
)
def test_what_are_no_images_is_refused_in_one_line(deployed, images):
    predictor = Predictor(deployed)
    with pytest.raises(ValueError, match="image.*allowed") as error:
        predictor(images)
    assert len(str(error.value)) < 200
    assert "\n" not in str(error.value)


def test_no_images_have_no_results(deployed):
    assert Predictor(deployed)([]) == []


@pytest.mark.skipif("onnx-dynamic" not in EVERY, reason="onnx is not installed")
def test_batches_are_the_same_as_images_one_by_one(deployed, inputs):
    predictor = Predictor(deployed, "onnxruntime", threads=1)
    together = predictor.outputs(inputs[:3])["predictions"]
    alone = [predictor.outputs(inputs[i : i + 1])["predictions"] for i in range(3)]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-3, atol=1e-4)


@pytest.mark.skipif("onnx" not in EVERY, reason="onnx is not installed")
def test_batch_that_the_export_was_not_made_for_is_refused(deployed, inputs):
    predictor = Predictor(deployed, "opencv")
    assert predictor.max_batch == 1
    with pytest.raises(ValueError, match="a batch of 2 images; .* made for 1"):
        predictor.outputs(inputs[:2])
    assert len(predictor([picture(0, 0), picture(1, 1)])) == 2
    with pytest.raises(ValueError, match="a batch of shape .1, 3, 20, 20."):
        predictor.outputs(inputs[:1, :, :20, :20])


def test_stream_finds_what_calls_find_and_goes_on_after_broken_files(
    deployed, photos, tmp_path
):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    predictor = Predictor(deployed)
    files = [photos[0], broken, photos[1], tmp_path / "none.png", photos[2]]
    rows = list(predictor.stream(files))
    assert [file for file, _ in rows] == files
    for file, result in rows:
        if file in photos:
            (expected,) = predictor([read_image(file)])
            for one, other in zip(result, expected):
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
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

    rows = Predictor(deployed).stream(endless())
    for count in (1, 2, 3):
        next(rows)
        assert len(asked) == count + 1
    rows.close()


# Runtimes and files.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": "tvm"}, "runtime 'tvm'; allowed: mxnet, onnxruntime"),
        ({"runtime": "opencv", "precision": "int8"}, "precision 'int8' of opencv"),
        ({"runtime": "mxnet", "threads": 2}, "OMP_NUM_THREADS"),
        ({"runtime": "onnxruntime", "threads": 0}, "threads is 0; allowed: at least 1"),
    ],
    ids=["runtime", "precision", "mxnet", "threads"],
)
def test_predictor_refuses(deployed, options, message):
    with pytest.raises(ValueError, match=message):
        Predictor(deployed, **options)


def test_runtime_whose_format_was_not_exported_is_refused(net, tmp_path):
    deploy(net, tmp_path / "edge")
    with pytest.raises(
        ValueError, match="opencv reads the format onnx or web; .* has mxnet"
    ):
        Predictor(tmp_path / "edge", "opencv")


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
    if not set(RUNTIMES[runtime].formats) & set(EVERY):
        pytest.skip("its format could not be written")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"pip install 'gluon_compress\[{extra}\]'"):
        Predictor(deployed, runtime)


def test_altered_missing_or_newer_files_are_refused(net, tmp_path):
    folder = tmp_path / "edge"
    deploy(net, folder, "tiny")
    params, manifest = folder / "tiny-0000.params", folder / "manifest.json"
    content = params.read_bytes()
    params.write_bytes(content[:-1] + b"x")
    with pytest.raises(ValueError, match=r"tiny-0000\.params: altered or cut short"):
        Predictor(folder)
    params.unlink()
    with pytest.raises(ValueError, match=r"tiny-0000\.params: this file .* is missing"):
        Predictor(folder)
    params.write_bytes(content)
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(ValueError, match="format is 2"):
        Predictor(folder)


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
    with pytest.raises(ValueError, match=rf"{name}: ") as it:
        Predictor(folder, runtime)
    assert "\n" not in str(it.value)


def test_arrays_that_cannot_be_read_are_named(deployed, tmp_path):
    folder = with_sums(deployed, tmp_path / "edge", "anchors.npy", b"no array")
    with pytest.raises(ValueError, match=r"anchors\.npy: "):
        Predictor(folder)


def test_model_folder_and_deployed_folder_are_told_apart(net, deployed, tmp_path):
    models.save(net, tmp_path / "model", "net")
    with pytest.raises(ValueError, match="kind is 'ssd'; allowed: .* deployed"):
        Predictor(tmp_path / "model")
    with pytest.raises(ValueError, match="kind is 'ssd-deployed'; allowed: "):
        models.load(deployed)
