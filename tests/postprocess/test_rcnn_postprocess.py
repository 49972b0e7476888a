"""What runs between the stages of a two-stage detector, by formula."""

from __future__ import annotations

import numpy as np
import pytest

from gluon_compress.postprocess import RCNNPostprocess
from gluon_compress.postprocess.rcnn import (
    BOXES,
    CLASSES,
    MAPS,
    PROPOSALS,
    RPN_DELTAS,
    RPN_SCORES,
    RCNNPostprocessSettings,
    paste_masks,
    regions_of,
)

SIZES = (8.0, 16.0, 32.0, 64.0, 128.0)
SETTINGS = RCNNPostprocessSettings(
    sizes=SIZES, ratios=(1.0,), rpn_pre_nms=6, rpn_post_nms=3, post_nms=4
)
INPUT = (64, 96)


@pytest.fixture
def postprocess() -> RCNNPostprocess:
    return RCNNPostprocess(SETTINGS)


def place_of(row: int, column: int) -> int:
    """Return the number of the anchor in a cell of the first map."""
    return row * (INPUT[1] // 4) + column


def test_anchors_are_squares_around_cells(postprocess):
    anchors = postprocess.anchors(*INPUT)
    cells = [16 * 24, 8 * 12, 4 * 6, 2 * 3, 1 * 2]
    assert anchors.shape == (sum(cells), 4)
    # GluonCV counts pixels from their corners: of 8 pixels around 1.5.
    np.testing.assert_allclose(anchors[0], [-2, -2, 5, 5])
    np.testing.assert_allclose(anchors[place_of(2, 3)], [10, 6, 17, 13])
    starts = np.cumsum([0, *cells[:-1]])
    sides = anchors[starts, 2] - anchors[starts, 0] + 1
    np.testing.assert_allclose(sides, SIZES)


def test_ratios_are_heights_over_widths():
    settings = SETTINGS.replace(ratios=(0.5, 2.0))
    anchors = RCNNPostprocess(settings).anchors(32, 32)
    sides = anchors[:2, 2:] - anchors[:2, :2] + 1
    # Of 4 x 4 pixels, rounded: 6 x 3 and 3 x 6; then of twice the size.
    np.testing.assert_allclose(sides, [[12, 6], [6, 12]])


def scored(*rows: tuple) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and deltas of one image: anchor, logit and deltas a row."""
    count = len(RCNNPostprocess(SETTINGS).anchors(*INPUT))
    scores, deltas = np.full((1, count, 1), -50.0), np.zeros((1, count, 4))
    for number, score, delta in rows:
        scores[0, number, 0], deltas[0, number] = score, delta
    return scores.astype(np.float32), deltas.astype(np.float32)


def test_proposals_are_the_best_boxes_that_overlap_no_better_one(postprocess):
    still, shifted = (0, 0, 0, 0), (0.1, 0, 0, 0)
    scores, deltas = scored(
        (place_of(5, 5), 2, still),
        (place_of(5, 6), 5, (-0.5, 0, 0, 0)),  # about the same box
        (place_of(9, 9), 4, shifted),
        (place_of(2, 20), 3, (0, 0, np.log(2), 0)),
    )
    boxes = postprocess.proposals(scores, deltas, INPUT)[0]
    anchors = postprocess.anchors(*INPUT)
    first = anchors[place_of(5, 6)] - [3.5, 0, 3.5, 0]
    second = anchors[place_of(9, 9)] + [0.7, 0, 0.7, 0]
    third = anchors[place_of(2, 20)] + [-3.5, 0, 3.5, 0]
    np.testing.assert_allclose(boxes, [first, second, third], rtol=1e-5)


def test_proposals_lie_in_the_input_and_have_an_area(postprocess):
    scores, deltas = scored(
        (place_of(0, 0), 9, (0, 0, 0, 0)),
        (place_of(0, 3), 8, (0, -9, 0, 0)),  # above the input
        (place_of(4, 4), 7, (np.nan, 0, 0, 0)),
        (place_of(6, 6), np.nan, (0, 0, 0, 0)),
        (place_of(8, 8), 6, (0, 0, 99, 0)),  # as far as the clip lets it grow
    )
    boxes = postprocess.proposals(scores, deltas, INPUT)[0]
    np.testing.assert_allclose(boxes[0], [0, 0, 5, 5])
    np.testing.assert_allclose(boxes[1], [0, 30, 96, 37])
    assert (boxes[2] != boxes[2]).sum() == 0


def test_a_region_is_read_from_the_map_of_its_size():
    sides = np.array([20, 100, 224, 448, 2000])  # with 112, 224, 448 pixels as limits
    boxes = np.zeros((1, 6, 4), np.float32)
    boxes[0, :5, 2:] = sides[:, None] - 1
    boxes[0, 5] = -1
    regions = regions_of(np.concatenate([boxes, boxes]))
    assert regions.shape == (12, 9)
    assert regions[:, 0].tolist() == [0] * 6 + [1] * 6
    levels = [np.flatnonzero(row).tolist() for row in regions[:6, 5:]]
    assert levels == [[0], [0], [2], [3], [3], []]


def outputs_of(proposals, logits, deltas) -> dict:
    arrays = {PROPOSALS: proposals, CLASSES: logits, BOXES: deltas}
    return {name: np.float32(array)[None] for name, array in arrays.items()}


def test_each_class_has_a_box_of_its_own(postprocess):
    proposals = [[10, 10, 30, 20], [40, 40, 60, 60], [-1, -1, -1, -1]]
    logits = [[0, 3, 0], [0, 0, 2], [0, 9, 9]]
    deltas = np.zeros((3, 2, 4))
    deltas[0, 0] = [1, 0, 0, 0]  # times 0.1 of 20 pixels
    deltas[1, 1] = [0, 0, 0, np.log(2) / 0.2]
    ids, scores, boxes = postprocess.decode(
        outputs_of(proposals, logits, deltas.reshape(3, 8))
    )
    assert ids[0, :, 0].tolist() == [0, 1, 0, 1]
    shares = np.exp(3) / (np.exp(3) + 2), np.exp(2) / (np.exp(2) + 2)
    np.testing.assert_allclose(scores[0, :2, 0], shares, rtol=1e-5)
    np.testing.assert_allclose(
        boxes[0, :2], [[12, 10, 32, 20], [40, 30, 60, 70]], rtol=1e-5
    )


def test_what_is_not_finite_is_no_detection(postprocess):
    proposals = [[10, 10, 30, 20]] * 2
    logits, deltas = [[0, 3, 0], [0, np.nan, 0]], np.zeros((2, 8))
    deltas[0, 0] = np.inf
    ids, scores, boxes = postprocess.decode(outputs_of(proposals, logits, deltas))
    assert np.isfinite(boxes).all()
    assert ids[0, :, 0].tolist() == [1, -1, -1, -1]


def test_differences_are_found(postprocess):
    outputs = outputs_of(
        [[10, 10, 30, 20], [40, 40, 60, 60]], [[0, 5, 0], [0, 0, 5]], np.zeros((2, 8))
    )
    found = postprocess.decode(outputs)
    settings = {"tolerance": 1e-4, "side": 96}
    assert postprocess.compare(outputs, found, found, **settings) == (0, "")
    fewer = [part.copy() for part in found]
    for part in fewer:
        part[0, 0] = -1
    assert (
        "1 boxes are missing"
        in postprocess.compare(outputs, fewer, found, **settings)[1]
    )
    moved = [part.copy() for part in found]
    moved[2][0, 0] += 1
    assert "differs from" in postprocess.compare(outputs, moved, found, **settings)[1]


SHAPES = {
    RPN_SCORES: (1, 512, 1),
    RPN_DELTAS: (1, 512, 4),
    **{name: (1, 8, 64 // s, 96 // s) for name, s in zip(MAPS, (4, 8, 16, 32))},
    CLASSES: (3, 3),
    BOXES: (3, 8),
}


@pytest.mark.parametrize(
    ("changes", "classes", "message"),
    [
        ({}, ("a", "b", "c"), "classes is .*allowed: 2 names"),
        ({BOXES: (3, 12)}, ("a", "b"), "the shape of box_deltas"),
        ({RPN_SCORES: (1, 500, 1)}, ("a", "b"), "the shape of rpn_scores"),
        ({MAPS[0]: None}, ("a", "b"), "outputs is .*map0"),
    ],
)
def test_outputs_that_do_not_fit_are_named(postprocess, changes, classes, message):
    postprocess.check(SHAPES, ("a", "b"))
    shapes = {n: s for n, s in {**SHAPES, **changes}.items() if s is not None}
    with pytest.raises(ValueError, match=message):
        postprocess.check(shapes, classes)


def test_masks_are_put_where_their_boxes_are():
    masks = np.zeros((2, 4, 4))
    masks[0, :, 2:] = 1  # the right half
    boxes = np.float32([[2, 1, 10, 5], [-1, -1, -1, -1]])
    pasted = paste_masks(masks, boxes, 8, 12)
    expected = np.zeros((8, 12), bool)
    expected[1:5, 6:10] = True
    assert (pasted[0] == expected).all()
    assert not pasted[1].any()
