"""Families: classifiers and SSDs as nets of one, and a new one from outside."""

from __future__ import annotations

from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon, nd

import gluon_compress as gc
import heat_map
from gluon_compress import models
from gluon_compress.models import family_named, family_of
from runtimes import detector

CLASSES = ("cat", "dog")


def noise(*shape: int, seed: int = 0) -> mx.nd.NDArray:
    return nd.array(np.random.RandomState(seed).randn(*shape))


def arrays(outputs: Any) -> list[np.ndarray]:
    outputs = outputs.values() if isinstance(outputs, dict) else outputs
    outputs = outputs if isinstance(outputs, (list, tuple)) else [*outputs]
    return [output.asnumpy() for output in outputs]


def half(net) -> gc.Plan:
    return gc.delete(models.graph_of(net), {"*": 0.5}, "l1", multiple=1)


def train_a_step(net, labels) -> float:
    """Return the loss of a step on noise, after which parameters have moved."""
    family, (height, width) = family_of(net), models.input_size(net)
    block = family.training_net(net)
    batch = [noise(len(labels), 3, height, width)]
    batch += [nd.array(target) for target in family.targets(net)(labels)]
    trainer = gluon.Trainer(block.collect_params(), "sgd", {"learning_rate": 1e-4})
    before = [p.data().copy() for p in net.collect_params(".*weight").values()]
    with autograd.record():
        loss, _ = models.supervised_step(family.loss(net))(block, batch)
    loss.backward()
    trainer.step(1)
    after = [p.data() for p in net.collect_params(".*weight").values()]
    assert any((a != b).asnumpy().any() for a, b in zip(before, after))
    return float(loss.asscalar())


# An input that is not square.


@pytest.fixture(scope="module")
def wide():
    return detector(CLASSES, size=(300, 480))


def test_anchors_of_a_wide_ssd_cover_its_input(wide):
    family, step = family_of(wide), 16
    assert models.input_size(wide) == (300, 480)
    grid = family.loss_context(wide, family.map_names(wide))["anchors"]
    assert grid.maps[0] == (19, 30, 3)
    centers = grid.center_boxes[: 19 * 30 * 3, :2].reshape(19, 30, 3, 2)
    np.testing.assert_allclose(centers[0, :, 0, 0], (np.arange(30) + 0.5) * step)
    np.testing.assert_allclose(centers[:, 0, 0, 1], (np.arange(19) + 0.5) * step)


def test_targets_of_a_wide_ssd_are_beside_the_square(wide):
    """An object right of the first 300 pixels has anchors of its own."""
    label = np.float32([[400, 40, 460, 100, 1, 0]])
    classes, _ = family_of(wide).targets(wide)([label])
    grid = family_of(wide).loss_context(wide, ("map0",))["anchors"]
    found = grid.center_boxes[classes[0] > 0]
    assert (classes[0].max(), len(found) > 0) == (2, True)
    assert (abs(found[:, 0] - 430) < 40).all()


def test_a_wide_ssd_trains_prunes_and_comes_back_from_its_folder(wide, tmp_path):
    label = np.float32([[400, 40, 460, 100, 1, 0]])
    assert np.isfinite(train_a_step(wide, [label, label]))
    small = gc.slim(wide, half(wide))
    assert models.input_size(small) == (300, 480)
    manifest = models.save(small, tmp_path / "model", "small")
    assert manifest["anchors"]["size"] == [300, 480]
    assert manifest["input"]["shape"] == [1, 3, 300, 480]
    loaded = models.load(tmp_path / "model")
    assert models.input_size(loaded) == (300, 480)
    images = noise(2, 3, 300, 480)
    for own, other in zip(arrays(small(images)), arrays(loaded(images))):
        np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-4)
    masked = gc.mask(wide, half(wide))
    pair = [family_of(net).training_net(net)(images) for net in (masked, small)]
    for own, other in zip(*map(arrays, pair)):
        assert abs(own - other).max() <= 1e-5 * abs(other).max()


def test_one_number_is_a_square_in_configurations_and_manifests():
    net = models.build("ssd_300_mobilenet0.25_lite", CLASSES, size=128)
    assert models.input_size(net) == (128, 128)
    assert family_of(net).manifest(net)["anchors"]["size"] == 128


@pytest.mark.parametrize("size", [(300, 31), (1025, 300), (300, "480")])
def test_both_sides_of_a_size_are_checked(size):
    with pytest.raises(ValueError, match="size is .*32 to 1024"):
        models.build("ssd_300_mobilenet0.25_lite", CLASSES, size=size)


# Classifiers.


@pytest.fixture(scope="module")
def classifier():
    return models.build("mobilenet0.25", CLASSES, size=(32, 64), seed=1)


def test_what_pruning_makes_of_a_classifier_knows_classes_and_size(classifier):
    plan = half(classifier)
    for net in (gc.mask(classifier, plan), gc.slim(classifier, plan)):
        assert family_of(net).kind == "classifier"
        assert net.classes == family_of(net).classes_of(net) == CLASSES
        assert models.input_size(net) == (32, 64)
    more = models.with_classes(gc.slim(classifier, plan), ["a", "b", "c"])
    assert family_of(more).classes_of(more) == ("a", "b", "c")
    assert more(noise(1, 3, 32, 64)).shape == (1, 3)


def test_a_classifier_comes_back_from_its_folder(classifier, tmp_path):
    small = gc.slim(classifier, half(classifier))
    manifest = models.save(small, tmp_path / "model", "small")
    assert manifest["size"] == [32, 64]
    loaded = models.load(tmp_path / "model")
    assert family_of(loaded).config_of(loaded) == family_of(small).config_of(small)
    images = noise(2, 3, 32, 64)
    np.testing.assert_allclose(
        loaded(images).asnumpy(), small(images).asnumpy(), rtol=1e-4, atol=1e-6
    )


def test_a_classifier_trains_by_names(classifier):
    net = models.build("mobilenet0.25", CLASSES, size=32, seed=2)
    assert train_a_step(net, [0, 1, 1]) == pytest.approx(np.log(2), rel=0.5)


def test_maps_of_a_classifier_are_distilled_like_those_of_a_detector():
    teacher = models.build("mobilenet0.5", CLASSES, size=64, seed=1)
    student = models.build("mobilenet0.25", CLASSES, size=64, seed=2)
    family = family_of(student)
    taps = family.map_names(teacher)
    assert taps == ("map0", "map1", "map2")
    theirs = family.training_net(teacher, taps)
    widths = family.map_widths(teacher)
    ours = family.training_net(student, taps, adapters=widths, seed=3)
    weights = {"soft_targets": 1.0, "hints": 1.0}
    step = gc.distil_step(theirs, taps, family.loss(student), weights=weights)
    _, parts = step(ours, [noise(2, 3, 64, 64), nd.eye(2)])
    assert set(parts) == {"labels", "soft_targets", "hints"}
    assert all(part.asscalar() > 0 for part in parts.values())


def test_a_net_of_no_family_is_named():
    net = gluon.nn.Dense(3)
    with pytest.raises(ValueError, match="a Dense .*; allowed: nets that build"):
        family_of(net)
    with pytest.raises(
        ValueError, match="kind is 'cubist'; allowed: ssd, .*classifier"
    ):
        family_named("cubist")


# A detector without anchors, added from outside by one row.


@pytest.fixture
def heat(monkeypatch):
    """Return a net of a family from outside."""
    heat_map.register(monkeypatch)
    return gc.build("heat_tiny", CLASSES, seed=1)


LABELS = [np.float32([[20, 4, 36, 20, 0, 0]]), np.float32([[2, 10, 14, 30, 1, 0]])]


def test_a_new_family_is_built_by_name_and_by_the_zoo(heat):
    assert family_of(heat).kind == "heatmap"
    assert heat.classes == CLASSES
    assert models.input_size(gc.get_model("heat_tiny", classes=["a"])) == (32, 48)
    with pytest.raises(ValueError, match="did you mean heat_tiny"):
        gc.get_model("heat_tyni")


def test_a_new_family_is_traced_pruned_saved_and_loaded(heat, tmp_path):
    plan, images = half(heat), noise(2, 3, 32, 48)
    widths = {group.name: group.width for group in models.graph_of(heat).groups}
    assert sorted(widths.values()) == [2, 2, 2, 8, 16]
    small, masked = gc.slim(heat, plan), gc.mask(heat, plan)
    assert models.cost_of(small)["macs"] < models.cost_of(heat)["macs"]
    models.save(small, tmp_path / "model", "heat")
    loaded = models.load(tmp_path / "model")
    assert family_of(loaded).config_of(loaded) == family_of(heat).config_of(heat)
    expected = arrays(small(images))
    for net in (masked, loaded):
        for own, other in zip(arrays(net(images)), expected):
            np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-5)


def test_a_new_family_trains_and_is_evaluated(heat):
    family, images = family_of(heat), noise(2, 3, 32, 48)
    block = family.training_net(heat)
    batch = [images, *(nd.array(t) for t in family.targets(heat)(LABELS))]
    step = models.supervised_step(family.loss(heat))
    trainer = gluon.Trainer(block.collect_params(), "adam", {"learning_rate": 0.02})
    for _ in range(150):
        with autograd.record():
            loss, parts = step(block, batch)
        loss.backward()
        trainer.step(1)
    assert set(parts) == {"center", "size"}
    labels = np.stack([np.vstack([row, np.full((0, 6), -1)]) for row in LABELS])
    with autograd.train_mode():  # two images are all that its BatchNorm has seen
        outputs = block(images)
    found = family.postprocess(heat).decode(
        {k: v.asnumpy() for k, v in outputs.items()}
    )
    figures = gc.voc_map(
        lambda batch: found, [(images, labels)], CLASSES, size=(32, 48)
    )
    assert figures["mAP"] == pytest.approx(1)
    assert len(family.results(heat, images)) == 3
