from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

from gluon_compress import build
from gluon_compress.deployment import Decoding, corner_boxes, detections, nms
from gluon_compress.models.ssd import anchors_of

CLASSES = 5


@pytest.fixture(scope="module")
def net():
    names = tuple("abcde")
    return build("ssd_300_mobilenet0.25_lite", names, width=0.25)


def of_gluoncv(net, predictions, how: Decoding):
    """Return the detections that GluonCV's own decoders and NMS make."""
    scores, deltas = (mx.nd.array(part) for part in np.split(predictions, [-4], axis=2))
    ids, shares = net.cls_decoder(mx.nd.softmax(scores, axis=-1))
    boxes = net.bbox_decoder(deltas, mx.nd.array(how.anchors[None]))
    rows = [
        mx.nd.concat(ids[:, :, i : i + 1], shares[:, :, i : i + 1], boxes, dim=2)
        for i in range(scores.shape[2] - 1)
    ]
    return mx.nd.contrib.box_nms(
        mx.nd.concat(*rows, dim=1),
        overlap_thresh=how.nms_thresh,
        topk=how.nms_topk,
        valid_thresh=how.least_score,
        id_index=0,
        score_index=1,
        coord_start=2,
    ).asnumpy()[:, : how.post_nms]


@pytest.mark.parametrize("background", [0, 3, 6, 20])
@pytest.mark.parametrize("limits", [(400, 100), (100, 100), (400, 20), (60, 400)])
def test_detections_are_those_of_gluoncv(net, background, limits):
    anchors = anchors_of(net).asnumpy()[0]
    random = np.random.RandomState(background)
    shape = (2, len(anchors), CLASSES + 5)
    predictions = random.normal(0, 1.5, shape).astype(np.float32)
    predictions[..., 0] += background
    predictions[1, :500, 3] += 4  # many boxes of one class
    how = Decoding(anchors, nms_topk=limits[0], post_nms=limits[1])
    found = np.concatenate(detections(predictions, how), axis=2)
    expected = of_gluoncv(net, predictions, how)
    assert found.shape == (2, limits[1], 6)
    np.testing.assert_array_equal(found[..., 0], expected[..., 0])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3)
    if background == 20:
        assert (found[..., 0] == -1).mean() > 0.5


def test_an_image_without_a_detection_has_empty_rows():
    how = Decoding(np.ones((7, 4), np.float32), post_nms=9)
    predictions = np.zeros((1, 7, CLASSES + 5), np.float32)
    predictions[..., 0] = 50
    ids, scores, boxes = detections(predictions, how)
    assert ids.shape == scores.shape == (1, 9, 1)
    assert boxes.shape == (1, 9, 4)
    assert all((part == -1).all() for part in (ids, scores, boxes))


@pytest.mark.parametrize(("least", "count"), [(0, 7), (0.5, 1), (1, 0)])
def test_least_score_goes_from_all_to_none(least, count):
    anchors = np.arange(28, dtype=np.float32).reshape(7, 4) * 50 + 1  # far apart
    predictions = np.zeros((1, 7, 6), np.float32)
    predictions[0, 3, 1] = 5
    how = Decoding(anchors, nms_thresh=1, post_nms=9, least_score=least)
    _, scores, _ = detections(predictions, how)
    assert (scores >= 0).sum() == count


def test_an_empty_batch_has_no_detection():
    how = Decoding(np.ones((7, 4), np.float32), post_nms=9)
    ids, scores, boxes = detections(np.zeros((0, 7, CLASSES + 5), np.float32), how)
    assert (len(ids), len(scores), len(boxes)) == (0, 0, 0)


def test_corner_boxes_follow_the_equation():
    anchors = np.array([[100, 50, 20, 40]], np.float32)
    deltas = np.array([[1, -2, 0.5, 0]], np.float32)
    x, y = 100 + 1 * 0.1 * 20, 50 - 2 * 0.1 * 40
    width, height = 20 * np.exp(0.5 * 0.2), 40
    corners = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    found = corner_boxes(deltas, anchors, (0.1, 0.1, 0.2, 0.2))
    np.testing.assert_allclose(found, [corners], rtol=1e-6)


def one_by_one(boxes, labels, overlap):
    """NMS as it is defined: the best first, each against all that stayed."""
    stayed: list[int] = []
    for i, (box, label) in enumerate(zip(boxes, labels)):
        for j in stayed:
            low, high = (
                np.maximum(box[:2], boxes[j][:2]),
                np.minimum(box[2:], boxes[j][2:]),
            )
            shared = np.prod(np.clip(high - low, 0, None))
            areas = [np.prod(b[2:] - b[:2]) for b in (box, boxes[j])]
            if label == labels[j] and shared > overlap * (sum(areas) - shared):
                break
        else:
            stayed.append(i)
    return stayed


@pytest.mark.parametrize("count", [0, 1, 2, 63, 64, 65, 200])
@pytest.mark.parametrize("kinds", [1, 3, 50])
@pytest.mark.parametrize("overlap", [0.1, 0.45, 0.9])
def test_nms_is_the_same_as_box_by_box(count, kinds, overlap):
    random = np.random.RandomState(count)
    centres, halves = (
        random.uniform(0, 60, (count, 2)),
        random.uniform(2, 25, (count, 2)),
    )
    boxes = np.concatenate([centres - halves, centres + halves], 1).astype(np.float32)
    labels = random.randint(0, kinds, count)
    expected = one_by_one(boxes, labels, overlap)
    assert nms(boxes, labels, overlap).tolist() == expected
    assert nms(boxes, labels, overlap, limit=5).tolist() == expected[:5]


def test_nms_keeps_classes_apart_wherever_their_boxes_lie():
    boxes = np.array([[280, 280, 330, 330], [-51, -51, -1, -1]], np.float32)
    assert nms(boxes, np.array([0, 1]), 0.45).tolist() == [0, 1]


@pytest.mark.parametrize(
    "box",
    [
        [5, 5, 5, 5],
        [5, 5, 5, 9],
        [5, 5, 5 + 1e-9, 5 + 1e-9],
        [0, 0, np.inf, np.inf],
        [-np.inf, 0, np.inf, 9],
        [np.nan, 0, 9, 9],
    ],
    ids=str,
)
def test_boxes_that_overlap_nothing_stay(box):
    boxes = np.array([box, [0, 0, 9, 9], box, [0, 0, 9, 8.9]], np.float32)
    assert nms(boxes, np.zeros(4), 0.45).tolist() == [0, 1, 2]


def test_nms_of_boxes_of_any_size():
    boxes = np.array([[0, 0, 1, 1], [1, 1, 2, 2], [1.1, 1, 2, 2]], np.float32)
    for scale in (1e-4, 1e4, 1e19, 1e37):
        assert nms(boxes * np.float32(scale), np.zeros(3), 0.45).tolist() == [0, 1]
