"""Images of several: where pixels and boxes go, and what decides it."""

from __future__ import annotations

import numpy as np
import pytest

from gluon_compress.data import ProgressiveBatches
from gluon_compress.data.batches import Batches
from gluon_compress.data.composing import (
    Composer,
    DetectionAugmentation,
    mixed,
    mosaic,
    window,
)

# White objects on grey, each known by the grey of its image.
GREYS = (40, 80, 120, 160)


def picture(grey: int, height: int, width: int, boxes: list) -> tuple:
    """Return an image with white boxes, and its label; classes are 0, 1, ..."""
    image = np.full((height, width, 3), grey, np.uint8)
    for x0, y0, x1, y1 in boxes:
        image[y0:y1, x0:x1] = 255
    rows = [(*box, i, 0) for i, box in enumerate(boxes)]
    return image, np.array(rows, np.float32).reshape(-1, 6)


def covers(image: np.ndarray, box: np.ndarray, *, slack: float = 2.0) -> bool:
    """Return whether a box is white inside, and its surroundings are not."""
    x0, y0, x1, y1 = box[:4]
    inner = image[
        int(np.ceil(y0 + slack)) : int(y1 - slack),
        int(np.ceil(x0 + slack)) : int(x1 - slack),
    ]
    left = image[int((y0 + y1) / 2), max(0, int(x0 - slack) - 1)]
    return inner.size == 0 or (inner.mean() > 240 and (x0 < 4 or left.mean() < 240))


def test_a_window_is_the_largest_of_its_shape_and_its_boxes_follow():
    item = picture(40, 100, 200, [(90, 40, 110, 60)])
    seen = set()
    for seed in range(40):
        image, label = window(*item, (50, 50), np.random.default_rng(seed))
        assert image.shape == (50, 50, 3)
        # The window is 100 x 100 of 200 x 100, so everything is half as large.
        if len(label):
            assert label[0, 3] - label[0, 1] == pytest.approx(10)
            assert label[0, 1] == pytest.approx(20)
            assert covers(image, label[0])
            seen.add(round(label[0, 0]))
    assert len(seen) > 5  # it is not always the same window


def test_windows_keep_boxes_whose_centre_is_inside_and_clip_them():
    # No window of 100 of 300 columns has both centres: 30 and 270.
    item = picture(40, 100, 300, [(0, 0, 60, 100), (240, 0, 300, 100)])
    ends = set()
    for seed in range(20):
        image, label = window(*item, (100, 100), np.random.default_rng(seed))
        assert len(label) <= 1
        for x0, y0, x1, y1, number, _ in label:
            assert (y0, y1) == (0, 100)
            assert x0 == 0 if number == 0 else x1 == 100
            assert 30 <= x1 - x0 <= 60
            assert image[50, int(x0) + 1, 0] == image[50, int(x1) - 2, 0] == 255
            ends.add((number, x0 if number else x1))
    assert len(ends) > 8


def test_windows_that_keep_all_objects_are_preferred():
    item = picture(40, 100, 250, [(0, 0, 60, 100)])
    kept = [
        len(window(*item, (100, 100), np.random.default_rng(seed))[1])
        for seed in range(40)
    ]
    # One of 151 windows in five keeps the centre: all of ten miss it one time in nine.
    assert sum(kept) > 28


def test_a_mosaic_has_its_images_at_its_corners_and_each_box_on_its_object():
    sizes = ((120, 90), (60, 200), (100, 100), (75, 100))
    items = [
        picture(grey, h, w, [(w // 3, h // 3, w // 2, h // 2)])
        for grey, (h, w) in zip(GREYS, sizes)
    ]
    found, meetings = 0, set()
    for seed in range(30):
        image, label = mosaic(items, (120, 160), np.random.default_rng(seed))
        assert image.shape == (120, 160, 3)
        assert image.dtype == np.uint8
        corners = image[[0, 0, -1, -1], [0, -1, 0, -1], 0]
        for value, grey in zip(corners, GREYS):
            assert value in (grey, 255)
        for row in label:
            assert covers(image, row)
            assert (row[:4] >= 0).all()
            assert (row[[2, 3]] <= (160, 120)).all()
        found += len(label)
        meetings.add(int((image[0, :, 0] != GREYS[1]).sum()))
    assert found > 100  # of 120; windows without their object are rare
    assert len(meetings) > 5


def test_boxes_of_a_mosaic_stay_in_their_quadrant():
    """Objects that fill their images are clipped where the images meet."""
    items = [picture(grey, 50, 50, [(0, 0, 50, 50)]) for grey in GREYS]
    _, label = mosaic(items, 100, np.random.default_rng(3))
    assert len(label) == 4
    x, y = label[0, 2:4]
    expected = [(0, 0, x, y), (x, 0, 100, y), (0, y, x, 100), (x, y, 100, 100)]
    assert np.allclose(label[:, :4], expected)
    assert 30 <= x <= 70
    assert 30 <= y <= 70


def test_a_mixture_is_a_blend_of_the_first_and_a_window_of_the_second():
    first = picture(0, 60, 80, [(10, 10, 30, 30)])
    second = picture(200, 120, 160, [(20, 20, 60, 60)])
    shares = []
    for seed in range(40):
        image, label = mixed(first, second, np.random.default_rng(seed))
        assert image.shape == (60, 80, 3)
        assert label[:, :4].tolist() == [[10, 10, 30, 30], [10, 10, 30, 30]]
        shares.append(1 - image[50, 70, 0] / 200)
        inner = image[15, 15, 0]
        assert inner == 255  # white in both
    assert 0.45 < np.mean(shares) < 0.55
    # The deviation of a Beta distribution with 8 and 8: 1 / sqrt(4 * 17).
    assert 0.08 < np.std(shares) < 0.17
    assert first[0].max() == 255  # the originals are left alone
    assert first[0][50, 70, 0] == 0


def test_images_without_objects_and_of_one_pixel_are_composed():
    empty, dot = picture(9, 30, 40, []), picture(90, 1, 1, [])
    rng = np.random.default_rng(0)
    image, label = mosaic([empty, dot, dot, empty], 40, rng)
    assert (image.shape, label.shape) == ((40, 40, 3), (0, 6))
    image, label = mixed(empty, dot, rng)
    assert (image.shape, label.shape) == ((30, 40, 3), (0, 6))


# ---------------------------------------------------------------- in batches


class Pictures:
    """Eight images of two sizes, with an object each."""

    classes = ("thing",)

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple:
        return picture(10 * index, 40, 40 + 20 * (index % 2), [(5, 5, 25, 25)])


def shrunk(image, label, *, rng):
    """Return a sample of one size, which depends on random numbers."""
    return image[:32, :32], label + rng.random()


def batches(mosaic=0.0, mixup=0.0, **options) -> Batches:
    settings = DetectionAugmentation(mosaic=mosaic, mixup=mixup)
    compose = Composer(settings, 32) if settings.composes else None
    return Batches(Pictures(), shrunk, 2, compose=compose, seed=3, **options)


def arrays(made) -> list:
    return [array.asnumpy() for batch in made for array in batch]


def alike(first: list, second: list) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second))


def test_composed_batches_depend_on_seed_epoch_and_index_alone():
    made = arrays(batches(0.7, 0.5).epoch(2))
    assert alike(made, arrays(batches(0.7, 0.5, workers=0).epoch(2)))
    assert alike(made[4:], arrays(batches(0.7, 0.5).epoch(2, 2)))  # resumed
    assert not alike(made, arrays(batches(0.7, 0.5).epoch(3)))


def test_images_that_are_not_composed_are_as_without_it():
    plain = [labels.asnumpy() for _, labels in batches().epoch(0)]
    some = [labels.asnumpy() for _, labels in batches(0.5).epoch(0)]
    same = [
        np.array_equal(a[i, :1], b[i, :1])
        for a, b in zip(plain, some)
        for i in range(2)
    ]
    assert 1 <= sum(same) <= 7


def test_shares_are_those_of_the_settings():
    calls = []
    settings = DetectionAugmentation(mosaic=0.5, mixup=0.25)
    composer, item = Composer(settings, 16), picture(1, 8, 8, [])
    for seed in range(400):
        drawn = []

        def draw(drawn=drawn):
            drawn.append(1)
            return item

        composer(item, draw, np.random.default_rng(seed))
        calls.append(len(drawn))
    assert sum(count >= 3 for count in calls) == pytest.approx(200, abs=40)
    assert sum(count in (1, 4) for count in calls) == pytest.approx(100, abs=35)


def test_the_last_epochs_are_plain():
    progressive = ProgressiveBatches(batches(1.0), batches(), 2)
    for number, expected in ((1, batches(1.0)), (2, batches())):
        assert alike(arrays(progressive.epoch(number)), arrays(expected.epoch(number)))


@pytest.mark.parametrize("value", [-0.1, 1.1, "often"])
def test_shares_that_are_no_shares_are_refused(value):
    with pytest.raises(ValueError, match="mosaic"):
        DetectionAugmentation(mosaic=value)
