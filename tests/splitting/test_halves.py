"""Folders of both halves: what is sent, what is found, what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import mxnet as mx
import numpy as np
import pytest

import gluon_compress as gc
from center_net import small_detector
from gluon_compress.deployment import FORMATS
from gluon_compress.models import family_of
from gluon_compress.splitting import open_head, open_tail, save_halves
from gluon_compress.splitting.halves import check_pair
from runtimes import INSTALLED, classifier, detector

MXNET = {"head_formats": ("mxnet",), "tail_formats": ("mxnet",)}
IMAGE = np.random.RandomState(3).randint(0, 255, (45, 60, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def net():
    return small_detector("depthwise")


@pytest.fixture(scope="module")
def folder(net, tmp_path_factory):
    folder = tmp_path_factory.mktemp("halves")
    save_halves(net, folder, at="pooling0", **MXNET)
    return folder


@pytest.fixture(scope="module")
def tail(folder):
    return open_tail(folder / "tail", runtime="mxnet")


@pytest.fixture(scope="module")
def message(folder):
    return open_head(folder / "head", runtime="mxnet").encode(IMAGE)


def found_by(net, image):
    """Return what the whole net finds in an image."""
    family = family_of(net)
    inputs, placement = family.preprocess(net)(image)
    results = family.results(net, mx.nd.array(inputs))
    return family.postprocess(net).in_images(results, [placement])[0]


def test_a_message_is_small_and_states_the_image(message):
    assert message.tensor == (16, 4, 8)
    assert len(message.payload) == 16 * 4 * 8
    assert (message.height, message.width) == IMAGE.shape[:2]
    assert message.step > 0


@pytest.mark.parametrize(
    ("make", "at"), [(detector, 8), (classifier, 3), (small_detector, "pooling0")]
)
def test_both_halves_find_what_the_net_finds(make, at, tmp_path):
    net = make()
    save_halves(net, tmp_path, at=at, bits=16, coding="deflate", **MXNET)
    head = open_head(tmp_path / "head", runtime="mxnet")
    tail = open_tail(tmp_path / "tail", runtime="mxnet")
    check_pair(head, tail)
    message = head.encode(IMAGE)
    found = tail.detect([message, message])
    for ours, again, theirs in zip(*found, found_by(net, IMAGE)):
        np.testing.assert_array_equal(ours, again)
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-2)


def test_more_bits_come_closer(net, tmp_path):
    wanted = found_by(net, IMAGE)[1]
    off = {}
    for bits in (4, 8, 16):
        save_halves(net, tmp_path, at="pooling0", bits=bits, **MXNET)
        head = open_head(tmp_path / "head", runtime="mxnet")
        message = head.encode(IMAGE)
        assert len(message.payload) == 16 * 4 * 8 * bits // 8
        ((_, scores, _),) = open_tail(tmp_path / "tail", runtime="mxnet").detect(
            [message]
        )
        count = min(len(scores), len(wanted))
        off[bits] = np.abs(scores[:count] - wanted[:count]).max()
    assert off[16] < off[8] < off[4]


# The other runtimes run a head with a filter, in ``test_filtering``.
@pytest.mark.parametrize("form", [f for f in ("mxnet", "onnx") if f in INSTALLED])
def test_a_runtime_changes_no_integer_by_more_than_one(
    form, net, folder, message, tail, tmp_path
):
    save_halves(
        net, tmp_path, at="pooling0", head_formats=(form,), tail_formats=("mxnet",)
    )
    head = open_head(tmp_path / "head", runtime=FORMATS[form].runtime)
    assert head.pair == tail.pair  # the net is the same, whatever the files
    sent = head.encode(IMAGE)
    assert sent.tensor == message.tensor
    assert sent.step == pytest.approx(message.step, rel=1e-4)
    first = np.frombuffer(sent.payload, np.uint8).astype(int)
    off = np.abs(first - np.frombuffer(message.payload, np.uint8))
    assert off.max() <= 1


@pytest.mark.skipif("onnx-dynamic" not in INSTALLED, reason="needs ONNX Runtime")
def test_the_tail_runs_in_onnx_runtime(net, message, tail, tmp_path):
    save_halves(
        net,
        tmp_path,
        at="pooling0",
        head_formats=("mxnet",),
        tail_formats=("onnx-dynamic",),
    )
    ours = open_tail(tmp_path / "tail", threads=1).detect([message])
    for a, b in zip(ours[0], tail.detect([message])[0]):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


def test_the_pair_is_of_the_content(net, folder, tmp_path):
    def pair(net, **settings):
        manifests = save_halves(
            net, tmp_path, **{"at": "pooling0", **settings}, **MXNET
        )
        pairs = {m["split"]["pair"] for m in manifests.values()}
        assert len(pairs) == 1
        return pairs.pop()

    first = pair(net)
    stored = json.loads((folder / "head" / "manifest.json").read_text())
    assert first == stored["split"]["pair"]
    other = small_detector("depthwise")
    last = list(other.collect_params().values())[-1]
    last.set_data(last.data() + 1)
    different = [
        pair(other),
        pair(net, bits=4),
        pair(net, coding="deflate"),
        pair(net, at="neck0_relu"),
    ]
    assert len({first, *different}) == 5


def test_halves_of_different_pairs_are_refused(folder, net, tmp_path):
    save_halves(net, tmp_path, at="pooling0", bits=4, **MXNET)
    head = open_head(tmp_path / "head", runtime="mxnet")
    with pytest.raises(ValueError, match="written together"):
        check_pair(head, open_tail(folder / "tail", runtime="mxnet"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tensor": (16, 4, 9)}, "tensor is"),
        ({"tensor": (1 << 40, 4, 8)}, "tensor is"),
        ({"payload": bytes(511)}, "payload is"),
        ({"payload": bytes(1 << 20)}, "payload is"),
        ({"payload": "text"}, "payload is"),
        ({"minimum": float("nan")}, "minimum is"),
        ({"minimum": -1e300}, "minimum and step"),
        ({"step": float("inf")}, "step is"),
        ({"step": -1.0}, "step is"),
        ({"step": 1e37}, "minimum and step"),
        ({"step": 1}, "step is"),
        ({"height": 0}, "height is"),
        ({"width": 1 << 40}, "width is"),
        ({"width": True}, "width is"),
        ({"height": 1 << 20, "width": 1 << 20}, "pixels"),
    ],
)
def test_a_message_that_does_not_fit_is_refused_in_one_line(
    tail, message, changes, words
):
    with pytest.raises(ValueError, match=words) as error:
        tail.detect([message, replace(message, **changes)])
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_anything_but_messages_is_refused(tail):
    assert tail.detect([]) == []
    with pytest.raises(ValueError, match="Message"):
        tail.detect([b"bytes"])


def test_an_image_the_head_cannot_take_is_refused(folder):
    head = open_head(folder / "head", runtime="mxnet")
    for image in (IMAGE[:0], IMAGE.astype(float), None):
        with pytest.raises(ValueError, match="an image"):
            head.encode(image)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "at is None"),
        ({"at": "nowhere"}, "at is 'nowhere'"),
        ({"at": "pooling0", "bits": 7}, "bits is 7"),
        ({"at": "pooling0", "bits": True}, "bits is True"),
        ({"at": "pooling0", "coding": "lzma"}, "coding is 'lzma'"),
        ({"at": "pooling0", "head_formats": ("onnx-int8",)}, "formats is 'onnx-int8'"),
        ({"at": "pooling0", "tail_formats": ()}, "formats is"),
        ({"at": "pooling0", "name": "../x"}, "name"),
        ({"at": "pooling0", "images": np.zeros((1, 3, 8, 8))}, "images are"),
        ({"at": "pooling0", "images": [1]}, "images is of type list"),
    ],
)
def test_a_wrong_setting_writes_nothing(net, tmp_path, settings, words):
    with pytest.raises(ValueError, match=words):
        save_halves(net, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("pair", "abc", "split.pair"),
        ("part", "tail", "split.part"),
        ("bits", 5, "split.bits"),
        ("coding", "zip", "split.coding"),
        ("tensor", {"name": "pooling0", "shape": [16, 4, 9]}, "outputs"),
        ("more", 1, "more"),
    ],
)
def test_a_manifest_that_states_what_is_not_so_is_refused(
    folder, tmp_path, key, value, words
):
    copy = tmp_path / "head"
    shutil.copytree(folder / "head", copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["split"][key] = value
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=words):
        open_head(copy, runtime="mxnet")


def test_folders_that_are_no_such_half_are_refused(folder, net, tmp_path):
    with pytest.raises(ValueError, match="split-head"):
        open_head(folder / "tail", runtime="mxnet")
    with pytest.raises(ValueError, match="split-tail"):
        open_tail(folder / "head", runtime="mxnet")
    with pytest.raises(ValueError, match="the folder has mxnet"):
        open_head(folder / "head", runtime="openvino")
    with pytest.raises(ValueError, match="threads is 0"):
        open_head(folder / "head", runtime="mxnet", threads=0)
    with pytest.raises(ValueError, match="manifest.json"):
        open_head(tmp_path, runtime="mxnet")


def test_a_truncated_file_is_refused(folder, tmp_path):
    copy = tmp_path / "tail"
    shutil.copytree(folder / "tail", copy)
    file = next(copy.glob("*.params"))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="sha256"):
        open_tail(copy, runtime="mxnet")


def test_pruned_nets_are_split():
    net = classifier()
    slim = gc.slim(net, gc.delete(gc.trace(net), {"*": 0.5}))
    points = gc.split(slim)
    assert points.macs < gc.split(net).macs
    assert [p.name for p in points] == [p.name for p in gc.split(net)]


def test_a_two_stage_detector_is_split_in_its_trunk(tmp_path):
    net = gc.build(
        "faster_rcnn_fpn_resnet18_v1b",
        ("a", "b", "c"),
        size=(64, 96),
        fpn_channels=8,
        rpn_channels=8,
        head_channels=16,
        rpn_post_nms=20,
    )
    form = "onnx" if "onnx" in INSTALLED else "mxnet"
    settings = {"head_formats": ("mxnet",), "bits": 16, "at": "resnetv1b_layers1_relu3"}
    with pytest.raises(ValueError, match="tail_formats is 'onnx-dynamic'"):
        save_halves(net, tmp_path, tail_formats=("onnx-dynamic",), **settings)
    save_halves(net, tmp_path, tail_formats=(form,), **settings)
    message = open_head(tmp_path / "head", runtime="mxnet").encode(IMAGE)
    tail = open_tail(tmp_path / "tail", runtime=FORMATS[form].runtime)
    family = family_of(net)
    inputs, place = family.preprocess(net).fixed(IMAGE)
    results = family.results(net, mx.nd.array(inputs))
    wanted = family.postprocess(net).in_images(results, [place])[0]
    for found in tail.detect([message, message]):
        np.testing.assert_allclose(found[1], wanted[1], rtol=1e-2, atol=1e-3)
