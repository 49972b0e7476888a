from __future__ import annotations

import random

import mxnet as mx
import numpy as np
import pytest
from gluoncv.data.transforms.experimental.image import random_color_distort
from gluoncv.data.transforms.presets.ssd import (
    SSDDefaultTrainTransform,
    SSDDefaultValTransform,
)

from gluon_compress.data import crop_train_sample, crop_val_sample
from gluon_compress.data.detection_transforms import (
    detection_train_sample,
    detection_val_sample,
)
from gluon_compress.data.normalization import MEAN, STD, normalize
from gluon_compress.data.preprocess import Preprocess

SIZE = 60
FILL = (124, 116, 104)  # 255 times ImageNet's mean colour
COUNT = 250
SLACK = 0.6  # pixels, levels
LABEL = np.float32(
    [[10, 12, 50, 60, 0, 0], [60, 30, 110, 75, 1, 0], [20, 65, 45, 82, 2, 1]]
)


def scene(seed: int = 0, height: int = 90, width: int = 120) -> np.ndarray:
    """Return mid-toned noise that colours can change without leaving 0..255 much."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(70, 150, (height // 6, width // 6, 3))
    return np.kron(coarse, np.ones((6, 6, 1))).astype(np.uint8)


@pytest.mark.parametrize(
    "image",
    [mx.nd.array(scene(), dtype="uint8"), scene().tolist(), scene() / 255, scene()[:0]],
    ids=["MXNet", "list", "float", "empty"],
)
@pytest.mark.parametrize("sample", [crop_train_sample, crop_val_sample])
def test_what_is_no_image_is_refused_at_once(image, sample):
    detection = {crop_train_sample: detection_train_sample}
    other = detection.get(sample, detection_val_sample)
    for one, label in ((sample, 1), (other, LABEL)):
        with pytest.raises(ValueError, match="^an image"):
            one(image, label, SIZE, np.random.default_rng(0))


def samples(image, label, count: int) -> list:
    return [
        detection_train_sample(image, label, SIZE, np.random.default_rng([7, i]))
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def views() -> list:
    return samples(scene(), LABEL, COUNT)


@pytest.fixture(scope="module")
def gluoncv_views() -> list:
    """Return what GluonCV makes of the same image: (image 0..255, label)."""
    np.random.seed(11)
    random.seed(11)
    transform = SSDDefaultTrainTransform(SIZE, SIZE, mean=MEAN, std=STD)
    made, image = [], mx.nd.array(scene(), dtype="uint8")
    for _ in range(COUNT):
        view, label = transform(image, LABEL)
        view = view.asnumpy().transpose(1, 2, 0) * STD + MEAN
        made.append((255 * view, label))
    return made


FIGURES = {
    "boxes kept": lambda view, label: len(label),
    "first class": lambda view, label: label[0, 4],
    "width": lambda view, label: (label[:, 2] - label[:, 0]).mean(),
    "height": lambda view, label: (label[:, 3] - label[:, 1]).mean(),
    "aspect": lambda view, label: np.log(
        (label[0, 2] - label[0, 0]) / (label[0, 3] - label[0, 1])
    ),
    "left": lambda view, label: label[0, 0],
    "top": lambda view, label: label[0, 1],
    "right": lambda view, label: label[-1, 2],
    "touches": lambda view, label: (label[:, :4] == 0).mean(),
    "canvas": lambda view, label: (np.abs(view - FILL).max(axis=2) < 1).mean(),
    "mean": lambda view, label: view.mean(),
    "spread": lambda view, label: view.std(),
    "red": lambda view, label: view[..., 0].mean() - view[..., 1].mean(),
    "grain": lambda view, label: np.abs(np.diff(view.astype(int), axis=1)).mean(),
}


@pytest.mark.parametrize("name", FIGURES)
def test_distribution_is_that_of_gluoncv(name, views, gluoncv_views):
    ours, theirs = (
        np.array([FIGURES[name](*view) for view in set_])
        for set_ in (views, gluoncv_views)
    )
    # Two samples of this size from one distribution differ by more than this once in
    # a hundred thousand times (Kolmogorov, Smirnov). Values that many views share are
    # rounded differently by the two, hence the slack.
    allowed = 2.4 * (2 / COUNT) ** 0.5
    slack = 0.0 if name in ("boxes kept", "first class") else SLACK
    for value in np.quantile(theirs, np.linspace(0.02, 0.98, 25)):
        below = (theirs <= value).mean()
        assert (ours <= value - slack).mean() - allowed <= below
        assert below <= (ours <= value + slack).mean() + allowed
    assert abs(ours.mean() - theirs.mean()) < 4.5 * theirs.std() / COUNT**0.5


def test_half_are_mirrored(views):
    # The first object lies left of the second one.
    pairs = [label for _, label in views if {0, 1} <= set(label[:, 4])]
    assert len(pairs) > COUNT / 3
    mirrored = np.mean([label[0, 0] > label[1, 0] for label in pairs])
    assert abs(mirrored - 0.5) < 0.1


def test_boxes_follow_the_pixels():
    # Dark objects on white stay darker than the canvas around, whatever the colours.
    image = np.full((90, 120, 3), 255, np.uint8)
    image[20:60, 30:90] = 0
    label = np.float32([[30, 20, 90, 60, 0, 0]])
    for view, boxes in samples(image, label, 300):
        rows, columns = np.where(view.max(axis=2) < 76)
        edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        pixel = max(1.0, SIZE / 40)  # of the image, in the largest view
        np.testing.assert_allclose(boxes[0, :4], edges, atol=1.01 * pixel)


def test_boxes_lie_within_the_view(views):
    for _, label in views:
        assert (label[:, :4] >= 0).all()
        assert (label[:, :4] <= SIZE).all()
        assert (label[:, :2] < label[:, 2:4]).all()


def test_canvas_has_the_mean_colour_untouched(views):
    image = np.full((90, 120, 3), 250, np.uint8)
    corners = [view[0, 0] for view, _ in samples(image, LABEL, 200)]
    on_canvas = [c for c in corners if np.abs(c.astype(int) - FILL).max() == 0]
    assert len(on_canvas) > 20


@pytest.mark.parametrize("expansion", [1.0, 1.5])
def test_canvas_is_as_large_as_stated(expansion):
    image, whole = np.full((90, 120, 3), 250, np.uint8), np.float32([[0, 0, 120, 90]])
    sides = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        _, label = detection_train_sample(image, whole, SIZE, rng, expansion)
        sides.append(label[0, 2:] - label[0, :2])
    assert SIZE / expansion - 1 <= np.min(sides)
    assert (np.min(sides) < SIZE / 1.2) == (expansion > 1)


def test_other_columns_go_with_their_box(views):
    for _, label in views[:50]:
        assert all(row[5] == (row[4] == 2) for row in label)


def test_same_generator_state_gives_the_same_view():
    first, again = (samples(scene(), LABEL, 20) for _ in range(2))
    for (a, b), (c, d) in zip(first, again):
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, d)


def test_given_arrays_are_not_changed():
    image, label = scene(), LABEL.copy()
    before = image.copy()
    image.flags.writeable = label.flags.writeable = False
    samples(image, label, 30)
    np.testing.assert_array_equal(image, before)


def test_view_is_uint8_of_the_size(views):
    assert {(view.shape, view.dtype) for view, _ in views} == {
        ((SIZE, SIZE, 3), np.dtype(np.uint8))
    }
    assert {label.dtype for _, label in views} == {np.dtype(np.float32)}


def test_image_without_objects_is_seen_too():
    for view, label in samples(scene(), np.zeros((0, 6), np.float32), 200):
        assert view.shape == (SIZE, SIZE, 3)
        assert label.shape == (0, 6)


@pytest.mark.parametrize("shape", [(1, 1), (2, 300), (300, 2), (5, 5)])
def test_tiny_images_work(shape):
    height, width = shape
    image = np.full((height, width, 3), 99, np.uint8)
    label = np.float32([[0, 0, width, height, 0, 0]])
    for view, boxes in samples(image, label, 60):
        assert view.shape == (SIZE, SIZE, 3)
        assert np.isfinite(boxes).all()
        assert len(boxes) == 1


# ---------------------------------------------------------------- colours


def test_colours_change_as_in_gluoncv():
    """Compare one colour's distribution: mean and covariance of its three channels."""
    colour = np.uint8([140, 110, 90])
    image = np.broadcast_to(colour, (8, 8, 3)).copy()
    label = np.float32([[0, 0, 8, 8, 0, 0]])
    ours = []
    for view, boxes in samples(image, label, 700):
        x, y = (boxes[0, :2] + boxes[0, 2:4]) // 2
        ours.append(view[int(y), int(x)])
    np.random.seed(3)
    random.seed(3)
    source = mx.nd.array(colour.reshape(1, 1, 3))
    theirs = [random_color_distort(source).asnumpy()[0, 0] for _ in range(700)]
    ours, theirs = np.array(ours, float), np.clip(theirs, 0, 255)
    np.testing.assert_allclose(ours.mean(axis=0), theirs.mean(axis=0), atol=5)
    np.testing.assert_allclose(np.cov(ours.T), np.cov(theirs.T), rtol=0.2, atol=90)


def test_some_views_keep_their_colours():
    image = np.full((30, 30, 3), (140, 110, 90), np.uint8)
    label = np.float32([[0, 0, 30, 30, 0, 0]])
    seen = [view for view, _ in samples(image, label, 500)]
    same = np.mean([(view == (140, 110, 90)).all(axis=2).any() for view in seen])
    assert 0.02 < same < 0.12  # one in sixteen, when none of four changes happens


# ---------------------------------------------------------------- validation


@pytest.mark.parametrize("shape", [(90, 120), (30, 40), (50, 100)])
def test_validation_view_is_that_of_gluoncv(shape):
    image = scene(1, *(side // 6 * 6 for side in shape))
    view, label = detection_val_sample(image, LABEL, SIZE)
    theirs, boxes = SSDDefaultValTransform(SIZE, SIZE)(
        mx.nd.array(image, dtype="uint8"), LABEL
    )
    ours = normalize([view])[0]
    np.testing.assert_allclose(ours, theirs.asnumpy(), atol=2.1 / 255 / min(STD))
    np.testing.assert_allclose(label, boxes, rtol=1e-6)


def test_validation_boxes_by_formula():
    _, label = detection_val_sample(scene(), LABEL, SIZE)
    expected = LABEL.copy()
    expected[:, :4] *= [60 / 120, 60 / 90] * 2
    np.testing.assert_allclose(label, expected, rtol=1e-6)


def test_normalized_by_formula():
    images = np.stack([scene(0), scene(1)])
    expected = (images / 255 - MEAN) / STD
    ours = normalize(images)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected.transpose(0, 3, 1, 2), atol=1e-6)


def test_views_to_train_on_are_what_the_net_asks_for():
    settings = {"mean": (0.1, 0.5, 1), "keep_ratio": True, "height": 40, "width": 90}
    net, image = Preprocess(**settings), np.full((90, 120, 3), 250, np.uint8)
    corners = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        view, boxes = detection_train_sample(image, LABEL, net, rng)
        height, width = view.shape[:2]
        assert height == 40 or width == 90
        assert (boxes[:, [0, 1]] >= 0).all()
        assert (boxes[:, 2:4] <= (width, height)).all()
        corners.append(tuple(view[0, 0]))
    assert (26, 128, 255) in corners  # the canvas becomes zero


def test_size_alone_is_an_input_to_which_images_are_stretched():
    first, second = (
        detection_train_sample(scene(), LABEL, size, np.random.default_rng(3))
        for size in ((40, 72), Preprocess(height=40, width=72))
    )
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


@pytest.mark.parametrize("seed", range(3))
def test_views_that_are_not_square_hold_their_boxes(seed):
    view, boxes = detection_train_sample(
        scene(), LABEL, (40, 72), np.random.default_rng(seed)
    )
    assert view.shape == (40, 72, 3)
    assert (boxes[:, [0, 1]] >= 0).all()
    assert (boxes[:, 2] <= 72).all()
    assert (boxes[:, 3] <= 40).all()


def test_validation_stretches_an_image_to_both_sides():
    view, boxes = detection_val_sample(scene(), LABEL, (45, 240))
    assert view.shape == (45, 240, 3)
    expected = LABEL[:, :4] * np.tile([240 / 120, 45 / 90], 2)
    np.testing.assert_allclose(boxes[:, :4], expected, rtol=1e-6)


def test_classifiers_see_the_centre_that_covers_both_sides():
    image = np.zeros((100, 200, 3), np.uint8)
    image[:, 100:] = 255
    view, label = crop_val_sample(image, 3, (28, 14))
    assert (view.shape, label) == ((28, 14, 3), 3)
    assert view[:, :6].max() < 100 < view[:, 8:].min()
    view, _ = crop_train_sample(image, 3, (28, 56), np.random.default_rng(0))
    assert view.shape == (28, 56, 3)
