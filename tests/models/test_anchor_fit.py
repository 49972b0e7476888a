"""Anchors that are fitted to objects."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gluon_compress import models
from gluon_compress.boxes import corner_from_center, iou
from gluon_compress.models.anchor_fit import recall
from gluon_compress.models.ssd import AnchorLayout, anchors_of, fit_anchors
from gluon_compress.models.ssd.anchors import layout_of
from gluon_compress.models.ssd.settings import SSDSettings
from gluon_compress.validation import parse

RATIOS = (1, 2, 0.5)
LAYOUT = AnchorLayout(
    sizes=(60, 120, 240),
    ratios=(RATIOS, RATIOS),
    steps=(8, 32),
    cells=((32, 32), (8, 8)),
)
SIZE = (256, 256)


def objects(width: float, height: float, count: int = 60, seed: int = 0) -> np.ndarray:
    """Return boxes of one size at random places."""
    corners = np.random.default_rng(seed).uniform(
        0, 256 - max(width, height), (count, 2)
    )
    return np.hstack([corners, corners + (width, height)])


@pytest.mark.parametrize(
    "name", ["ssd_300_mobilenet0.25", "ssd_300_mobilenet0.25_lite"]
)
def test_best_overlap_is_that_of_all_anchors_of_the_net(name):
    net = models.build(name, ("a",), size=(300, 260))
    anchors = corner_from_center(anchors_of(net).asnumpy()[0].astype(np.float64))
    rng = np.random.default_rng(0)
    sides = rng.uniform(4, 150, (40, 2))
    boxes = corner_from_center(np.hstack([rng.uniform(0, 260, (40, 2)), sides]))
    layout = layout_of(net)
    expected = iou(boxes, anchors).max(axis=1)
    np.testing.assert_allclose(layout.best_overlaps(boxes), expected, atol=1e-5)
    assert layout.count == sum(g.num_depth for g in net.anchor_generators)


def test_overlap_of_a_centred_square_is_the_ratio_of_areas():
    boxes = np.array([[28 - 15, 28 - 15, 28 + 15, 28 + 15]], float)  # a cell's centre
    assert LAYOUT.best_overlaps(boxes)[0] == pytest.approx(30**2 / 60**2)


@pytest.mark.parametrize(("width", "height"), [(24, 24), (14, 40), (100, 100)])
def test_objects_that_no_anchor_fits_get_one(width, height):
    boxes = objects(width, height)
    fitted = fit_anchors(LAYOUT, boxes, np.zeros(60), size=SIZE)
    assert recall(fitted.best_overlaps(boxes)) >= 0.9
    assert fitted == fit_anchors(LAYOUT, boxes, np.zeros(60), size=SIZE)


def test_few_objects_of_a_class_count_like_many_of_another():
    boxes = np.concatenate([objects(20, 20, 10), objects(70, 70, 500)])
    ids = np.repeat([0, 1], [10, 500])
    before = LAYOUT.best_overlaps(boxes)
    fitted = fit_anchors(LAYOUT, boxes, ids, size=SIZE, keys=("sizes",))
    after = fitted.best_overlaps(boxes)
    assert recall(before[ids == 0]) == 0
    assert recall(after[ids == 0]) >= 0.9
    assert recall(after[ids == 1]) >= recall(before[ids == 1])
    assert fitted.ratios == LAYOUT.ratios


def test_anchors_stay_where_objects_have_theirs():
    boxes = np.array([[28 - 30, 28 - 30, 28 + 30, 28 + 30]] * 20, float)
    assert fit_anchors(LAYOUT, boxes, np.zeros(20), size=SIZE) == LAYOUT


@pytest.mark.parametrize("seed", range(3))
def test_recall_never_falls_and_sizes_rise(seed):
    rng = np.random.default_rng(seed)
    sides = np.exp(rng.normal(3.5, 1, (80, 2))).clip(3, 250)
    boxes = corner_from_center(np.hstack([rng.uniform(0, 256, (80, 2)), sides]))
    ids = rng.integers(0, 3, 80)
    before, fitted = LAYOUT, fit_anchors(LAYOUT, boxes, ids, size=SIZE)
    now, then = fitted.best_overlaps(boxes), before.best_overlaps(boxes)
    assert recall(now) >= recall(then)
    means = [np.mean([recall(o[ids == k]) for k in range(3)]) for o in (then, now)]
    assert means[1] >= means[0] - 1e-9
    assert (np.diff(fitted.sizes) > 0).all()
    assert [len(row) for row in fitted.ratios] == [3, 3]


def test_fewer_objects_than_shapes_are_refused():
    assert LAYOUT.count == 8
    with pytest.raises(ValueError, match=r"\b7\b.*\b8\b"):
        fit_anchors(LAYOUT, objects(20, 20, 7), np.zeros(7), size=SIZE)


def test_anchors_to_be_decided_are_the_own_ones_of_the_model_until_then():
    settings = parse(SSDSettings, {"name": "ssd_300_mobilenet0.25", "sizes": "auto"})
    assert settings.undecided == ("sizes",)
    assert settings.build_options() == {}
    assert settings.to_json()["sizes"] == "auto"


@pytest.mark.parametrize("key", ["sizes", "ratios"])
@pytest.mark.parametrize("source", ["weights", "start"])
def test_anchors_of_a_loaded_net_are_not_decided_again(key, source):
    content = {"name": "ssd_300_mobilenet0.25", key: "auto", source: "a folder"}
    with pytest.raises(ValueError, match=key):
        parse(SSDSettings, content)


@pytest.mark.parametrize("sizes", ["automatic", [30], ["auto", 30], [60, 30]])
def test_wrong_sizes_are_named(sizes):
    content = {"name": "ssd_300_mobilenet0.25", "sizes": sizes}
    with pytest.raises(ValueError, match="^sizes is .*allowed: "):
        parse(SSDSettings, content)


def test_layout_follows_the_settings():
    settings = SSDSettings(
        name="ssd_300_mobilenet0.25", sizes=(10, 20, 30, 40, 50, 60, 70)
    )
    family = models.family_that_builds(settings.name)
    layout = family.anchor_layout(settings, (300, 260))
    assert layout.sizes == settings.sizes
    assert layout.cells[0] == (38, 33)
    own = family.anchor_layout(settings.replace(sizes=None), (300, 260))
    assert replace(own, sizes=settings.sizes) == layout
