"""Which anchors belong to an object by ATSS, against a plain program of its steps."""

from __future__ import annotations

import numpy as np
import pytest

from gluon_compress import models
from gluon_compress.boxes import corner_from_center, iou
from gluon_compress.models.ssd.adaptive_matching import match_adaptively
from gluon_compress.models.ssd.anchors import anchor_grid
from gluon_compress.recipe.detection import DetectionRecipe
from recipes import RECIPE


@pytest.fixture(scope="module")
def grid():
    net = models.build("ssd_300_mobilenet0.25_lite", ("cat", "dog"), size=96)
    return net, anchor_grid(net)


def boxes(seed: int, count: int) -> np.ndarray:
    rng = np.random.RandomState(seed)
    corner = rng.uniform(0, 60, (count, 2))
    return np.hstack([corner, corner + rng.uniform(3, 36, (count, 2))])


def by_hand(objects: np.ndarray, anchors: np.ndarray, maps: tuple) -> dict:
    """Return the anchors of each object that the algorithm chooses, one by one."""
    chosen: dict[int, tuple[float, int]] = {}
    for number, box in enumerate(objects):
        middle, first, candidates = (box[:2] + box[2:]) / 2, 0, []
        for height, width, each in maps:
            cells = []
            for cell in range(height * width):
                anchor = anchors[first + cell * each]
                away = np.hypot(*((anchor[:2] + anchor[2:]) / 2 - middle))
                cells.append((round(away, 6), cell))
            for _, cell in sorted(cells)[:9]:
                candidates += range(first + cell * each, first + (cell + 1) * each)
            first += height * width * each
        values = iou(box[None], anchors[candidates])[0]
        least = values.mean() + np.sqrt(values.var() * len(values) / (len(values) - 1))
        for anchor, value in zip(candidates, values):
            x, y = (anchors[anchor][:2] + anchors[anchor][2:]) / 2
            inside = box[0] < x < box[2] and box[1] < y < box[3]
            better = value > chosen.get(anchor, (0.0, 0))[0]
            if value >= least and inside and better:
                chosen[anchor] = (value, number)
    return {anchor: number for anchor, (_, number) in chosen.items()}


@pytest.mark.parametrize("seed", range(5))
def test_anchors_are_those_of_the_algorithm(grid, seed):
    anchors = corner_from_center(grid[1].center_boxes)
    objects = boxes(seed, 4)
    matches = match_adaptively(objects, anchors, iou(objects, anchors), grid[1].maps)
    expected = by_hand(objects, anchors, grid[1].maps)
    left = {a: int(n) for a, n in enumerate(matches) if n >= 0}
    lonely = set(range(4)) - set(expected.values())
    assert {
        a: n for a, n in left.items() if n not in lonely
    }.items() <= expected.items()
    assert set(expected) <= set(left)
    assert set(left.values()) == set(range(4))
    for number in lonely:
        (anchor,) = [a for a, n in left.items() if n == number]
        overlaps = iou(objects[number][None], anchors)[0]
        assert overlaps[anchor] == overlaps.max()


def test_every_object_has_an_anchor_even_if_it_is_tiny(grid):
    anchors = corner_from_center(grid[1].center_boxes)
    objects = np.array([[1.0, 1, 2, 2], [1, 1, 2, 2], [90, 3, 91, 4]])
    matches = match_adaptively(objects, anchors, iou(objects, anchors), grid[1].maps)
    assert sorted(matches[matches >= 0]) == [0, 1, 2]


def test_objects_outside_or_without_an_area_have_none(grid):
    anchors = corner_from_center(grid[1].center_boxes)
    objects = np.array([[5.0, 5, 5, 20], [500, 500, 520, 520]])
    matches = match_adaptively(objects, anchors, iou(objects, anchors), grid[1].maps)
    assert (matches == -1).all()


def test_targets_have_the_chosen_anchors(grid):
    net, layout = grid
    family = models.family_of(net)
    label = np.hstack([boxes(1, 3), [[0, 0], [1, 0], [1, 0]]]).astype(np.float32)
    classes, deltas = family.targets(net, assignment="atss")([label])
    anchors = np.asfortranarray(
        corner_from_center(layout.center_boxes.astype(np.float32))
    )
    overlaps = iou(label[:, :4], anchors)
    matches = match_adaptively(label[:, :4], anchors, overlaps, layout.maps)
    expected = np.where(matches >= 0, label[matches, 4] + 1, 0)
    assert np.array_equal(classes[0], expected)
    assert (np.abs(deltas[0]).max(axis=1) > 0).sum() == (matches >= 0).sum()
    plain, _ = family.targets(net)([label])
    assert not np.array_equal(plain, classes)


def test_assignments_that_there_are_not_are_refused(tiny_nets):
    with pytest.raises(ValueError, match="assignment is 'best'; allowed: iou, atss"):
        DetectionRecipe(**{**RECIPE, "assignment": "best"})
