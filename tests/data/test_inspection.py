"""Class names that are probably misspelt, and objects of a data set."""

from __future__ import annotations

import time

import numpy as np
import pytest

from gluon_compress.data import objects_in
from gluon_compress.data.inspection import inspect, misspelt


@pytest.mark.parametrize(
    ("counts", "right", "pairs"),
    [
        ({"person": 300, "persn": 2}, (), [("persn", "person")]),
        ({"person": 300, "persn": 200}, (), []),
        ({"Cat": 50, "cat": 40}, (), [("cat", "Cat")]),
        (
            {"traffic light": 9, "traffic_light": 9},
            (),
            [("traffic light", "traffic_light")],
        ),
        ({"cat": 300, "cow": 1, "car": 200}, (), []),
        (
            {"platelet": 90, "platelets": 30},
            ("platelets",),
            [("platelet", "platelets")],
        ),
        ({"person": 300}, ("persn",), [("persn", "person")]),
        ({"cat": 3}, ("cat", "dog"), []),
        ({}, (), []),
    ],
)
def test_names_that_nearly_are_another_are_slips(counts, right, pairs):
    assert misspelt(counts, right) == pairs


class Images:
    """Two images, the second of which is tiny."""

    classes, problems = ("a", "b"), []
    sizes = ((40, 80), (1, 1))

    def __len__(self):
        return len(self.sizes)

    def path(self, index):
        return f"image {index}"

    def __getitem__(self, index):
        height, width = self.sizes[index]
        label = [[0, 0, width / 2, height / 2, index, 0]]
        return np.zeros((height, width, 3), np.uint8), np.array(label, np.float32)


def test_boxes_are_scaled_to_the_input():
    images = Images()
    images.sizes = ((40, 80), (30, 20))
    objects = objects_in(images, (100, 200))
    np.testing.assert_allclose(objects.corner_boxes, [[0, 0, 100, 50]] * 2)
    assert objects.ids.tolist() == [0, 1]
    assert objects.images == 2
    boxes, ids = inspect(images, "train").boxes((100, 200))
    np.testing.assert_allclose(boxes, objects.corner_boxes)
    assert ids.tolist() == [0, 1]


def test_some_images_of_many_are_drawn_by_seed():
    images = Images()
    images.sizes = tuple((10 + i, 10) for i in range(20))
    drawn = [objects_in(images, 100, seed=s, most_images=5) for s in (0, 0, 1)]
    assert [one.images for one in drawn] == [5, 5, 5]
    assert drawn[0].ids.tolist() == drawn[1].ids.tolist() != drawn[2].ids.tolist()


def test_image_of_one_pixel_is_named():
    with pytest.raises(ValueError, match="image 1.*1 x 1"):
        objects_in(Images(), 100)
    assert inspect(Images(), "train").tiny == (
        ("image 1", "the image has 1 x 1 pixels"),
    )


def test_a_thousand_class_names_are_compared_in_seconds():
    rng = np.random.default_rng(0)
    names = ["".join(rng.choice(list("abcdefghijklmnop"), 12)) for _ in range(400)]
    counts = {name: 10**6 >> (i // 40) for i, name in enumerate(names)}
    counts[names[0][:-1]] = 1
    start = time.process_time()
    assert misspelt(counts) == [(names[0][:-1], names[0])]
    assert time.process_time() - start < 3  # 3.5 s for all pairs
