"""Box geometry: by hand, by formula, and bit for bit where training depends on it."""

from __future__ import annotations

import numpy as np
import pytest

from gluon_compress import boxes

STDS = np.float32([0.1, 0.1, 0.2, 0.2])


def random_corners(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 200, (count, 2))
    return np.hstack([low, low + rng.uniform(4, 90, (count, 2))]).astype(np.float32)


def test_overlaps_of_many_boxes_are_those_of_few(monkeypatch):
    low = np.random.RandomState(0).uniform(0, 50, (40, 2))
    corners = np.float32(np.hstack([low, low + 20]))
    expected = boxes.iou(corners[:30], corners)
    monkeypatch.setattr(boxes, "IN_CACHE", 7 * len(corners))
    np.testing.assert_array_equal(boxes.iou(corners[:30], corners), expected)


def test_formats_by_hand():
    corners, centers = np.float32([[10, 20, 30, 60]]), np.float32([[20, 40, 20, 40]])
    np.testing.assert_array_equal(boxes.center_from_corner(corners), centers)
    np.testing.assert_array_equal(boxes.corner_from_center(centers), corners)


def test_iou_by_hand():
    square = np.float32([[0, 0, 10, 10]])
    others = [[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [2, 2, 7, 12]]
    expected = [[1, 50 / 150, 0, 40 / 110]]
    found = boxes.iou(square, np.float32(others))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_iou_of_whole_numbers():
    assert boxes.iou(np.array([[0, 0, 4, 4]]), np.array([[0, 0, 4, 2]])) == 0.5


def test_best_overlaps_are_those_of_all_pairs(monkeypatch):
    boxes_a, boxes_b = random_corners(40, 1), random_corners(7, 2)
    overlaps = boxes.iou(boxes_a, boxes_b)
    for pairs in (1, 20, 1 << 18):
        monkeypatch.setattr(boxes, "IN_CACHE", pairs)
        best, most = boxes.best_overlaps(boxes_a, boxes_b)
        np.testing.assert_array_equal(best, overlaps.argmax(axis=1))
        np.testing.assert_array_equal(most, overlaps.max(axis=1))
    assert [len(part) for part in boxes.best_overlaps(boxes_a[:0], boxes_b)] == [0, 0]


def test_iou_is_symmetric_and_keeps_float32():
    first, second = random_corners(7, 0), random_corners(9, 1)
    found = boxes.iou(first, second)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, boxes.iou(second, first).T)


def test_iou_does_not_depend_on_the_memory_order():
    first, second = random_corners(7, 0), random_corners(9, 1)
    found = boxes.iou(first, np.asfortranarray(second))
    np.testing.assert_array_equal(found, boxes.iou(first, second))


def test_deltas_by_formula():
    anchor, box = np.float32([[0, 0, 10, 20]]), np.float32([[2, 4, 22, 24]])
    shift = [(12 - 5) / 10 / 0.1, (14 - 10) / 20 / 0.1]
    sizes = [np.log(20 / 10) / 0.2, np.log(20 / 20) / 0.2]
    found = boxes.encode_deltas(box, anchor)
    np.testing.assert_allclose(found, [[*shift, *sizes]], rtol=1e-6)


def test_decoding_undoes_encoding():
    corners, anchors = random_corners(20, 0), random_corners(20, 1)
    stds = (0.3, 0.2, 0.1, 0.4)
    deltas = boxes.encode_deltas(corners, anchors, stds)
    found = boxes.decode_deltas(deltas, boxes.center_from_corner(anchors), stds)
    np.testing.assert_allclose(boxes.corner_from_center(found), corners, rtol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_targets_are_encoded_bit_for_bit_as_before(seed):
    """Trainings repeat only while float32 operations keep their order."""
    corners, anchors = random_corners(50, seed), random_corners(50, seed + 9)
    half = np.float32(0.5)
    size, own = corners[:, 2:] - corners[:, :2], anchors[:, 2:] - anchors[:, :2]
    shift = corners[:, :2] + size * half - (anchors[:, :2] + own * half)
    expected = np.hstack([shift / own, np.log(size / own)]) / STDS
    found = boxes.encode_deltas(corners, anchors)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("seed", range(5))
def test_overlaps_are_computed_bit_for_bit_as_before(seed):
    corners, anchors = random_corners(50, seed), random_corners(60, seed + 9)
    low = np.maximum(corners[:, None, :2], anchors[:, :2])
    high = np.minimum(corners[:, None, 2:], anchors[:, 2:])
    common = np.maximum(high - low, 0).prod(axis=2)
    areas = [(c[:, 2:] - c[:, :2]).prod(axis=1) for c in (corners, anchors)]
    expected = common / (areas[0][:, None] + areas[1] - common)
    np.testing.assert_array_equal(boxes.iou(corners, anchors), expected)


@pytest.mark.parametrize("seed", range(5))
def test_boxes_are_decoded_bit_for_bit_as_before(seed):
    anchors = boxes.center_from_corner(random_corners(50, seed))
    rng = np.random.default_rng(seed)
    deltas = rng.standard_normal((50, 4)).astype(np.float32)
    scaled = deltas * STDS
    centres = scaled[:, :2] * anchors[:, 2:] + anchors[:, :2]
    halves = np.exp(scaled[:, 2:]) * anchors[:, 2:] / 2
    expected = np.concatenate([centres - halves, centres + halves], axis=1)
    found = boxes.corner_from_center(boxes.decode_deltas(deltas, anchors))
    np.testing.assert_array_equal(found, expected)


def greedy(corners: np.ndarray, labels: np.ndarray, max_iou: float) -> list[int]:
    overlaps, stays = boxes.iou(corners, corners), []
    for i, label in enumerate(labels):
        rivals = [j for j in stays if labels[j] == label]
        if not any(overlaps[i, j] > max_iou for j in rivals):
            stays.append(i)
    return stays


@pytest.mark.parametrize("seed", range(5))
def test_nms_is_greedy_within_each_class(seed):
    corners = random_corners(80, seed).astype(np.float64)
    labels = np.random.default_rng(seed).integers(0, 3, 80)
    found = boxes.nms(corners, labels, 0.3)
    assert found.tolist() == greedy(corners, labels, 0.3)
    limited = boxes.nms(corners, labels, 0.3, limit=5)
    np.testing.assert_array_equal(limited, found[:5])


def test_empty_and_infinite_boxes_survive_nms():
    corners = np.float32([[1, 1, 1, 9], [1, 1, 1, 9], [0, 0, np.inf, 1], [0, 0, 9, 9]])
    assert boxes.nms(corners, np.zeros(4), 0.1).tolist() == [0, 1, 2, 3]


def test_nms_of_nothing():
    assert boxes.nms(np.zeros((0, 4)), np.zeros(0), 0.5).tolist() == []


@pytest.mark.parametrize(
    ("other", "area", "touching"),
    [
        ((5, 5, 15, 15), True, True),
        ((10, 0, 20, 10), False, True),
        ((11, 0, 20, 10), False, False),
    ],
)
def test_boxes_intersect(other, area, touching):
    box = (0, 0, 10, 10)
    assert boxes.intersects(box, other) is area
    assert boxes.intersects(other, box, touching=True) is touching


def test_a_box_contains_another():
    assert boxes.contains((0, 0, 10, 10), (0, 2, 10, 8))
    assert not boxes.contains((0, 0, 10, 10), (0, 2, 10.5, 8))
