from __future__ import annotations

import json

import mxnet as mx
import numpy as np
import pytest

from gluon_compress import models
from gluon_compress.data import Placement
from gluon_compress.models.ssd import anchors_of
from gluon_compress.postprocess import POSTPROCESS, SSDPostprocess
from gluon_compress.postprocess.ssd import SSDPostprocessSettings

CLASSES = 5
AS_IT_IS = Placement(300, 300, 300, 300)


@pytest.fixture(scope="module")
def net():
    names = tuple("abcde")
    return models.build("ssd_300_mobilenet0.25_lite", names)


def of_gluoncv(net, predictions, postprocess):
    """Return the detections that GluonCV's own decoders and NMS make."""
    settings = postprocess.settings
    scores, deltas = (mx.nd.array(part) for part in np.split(predictions, [-4], axis=2))
    ids, shares = net.cls_decoder(mx.nd.softmax(scores, axis=-1))
    boxes = net.bbox_decoder(deltas, mx.nd.array(postprocess.anchors[None]))
    rows = [
        mx.nd.concat(ids[:, :, i : i + 1], shares[:, :, i : i + 1], boxes, dim=2)
        for i in range(scores.shape[2] - 1)
    ]
    return mx.nd.contrib.box_nms(
        mx.nd.concat(*rows, dim=1),
        overlap_thresh=settings.nms_thresh,
        topk=settings.nms_topk,
        valid_thresh=settings.least_score,
        id_index=0,
        score_index=1,
        coord_start=2,
    ).asnumpy()[:, : settings.post_nms]


@pytest.mark.parametrize(
    ("background", "limits"),
    [(0, (400, 100)), (3, (100, 100)), (6, (60, 400)), (20, (400, 20))],
)
def test_detections_are_those_of_gluoncv(net, background, limits):
    anchors = anchors_of(net).asnumpy()[0]
    random = np.random.RandomState(background)
    shape = (2, len(anchors), CLASSES + 5)
    predictions = random.normal(0, 1.5, shape).astype(np.float32)
    predictions[..., 0] += background
    predictions[1, :500, 3] += 4  # many boxes of one class
    settings = SSDPostprocessSettings(nms_topk=limits[0], post_nms=limits[1])
    postprocess = SSDPostprocess(anchors, settings)
    rows = np.concatenate(postprocess.decode({"predictions": predictions}), axis=2)
    expected = of_gluoncv(net, predictions, postprocess)
    assert rows.shape == (2, limits[1], 6)
    np.testing.assert_array_equal(rows[..., 0], expected[..., 0])
    np.testing.assert_allclose(rows, expected, rtol=1e-5, atol=1e-3)
    if background == 20:
        assert (rows[..., 0] == -1).mean() > 0.5


def far_apart(rows: int = 7) -> np.ndarray:
    return np.arange(4 * rows, dtype=np.float32).reshape(rows, 4) * 50 + 1


def test_separate_outputs_give_what_joined_ones_give():
    random = np.random.RandomState(0)
    predictions = random.normal(0, 1, (2, 7, 9)).astype(np.float32)
    separate = {
        "class_scores": predictions[..., :5],
        "box_deltas": predictions[..., 5:],
    }
    postprocess = SSDPostprocess(far_apart())
    pairs = zip(
        postprocess.decode(separate), postprocess.decode({"predictions": predictions})
    )
    for one, other in pairs:
        np.testing.assert_array_equal(one, other)


def test_an_image_without_a_detection_has_empty_rows():
    postprocess = SSDPostprocess(far_apart(), SSDPostprocessSettings(post_nms=9))
    predictions = np.zeros((1, 7, CLASSES + 5), np.float32)
    predictions[..., 0] = 50
    outputs = {"predictions": predictions}
    ids, scores, boxes = postprocess.decode(outputs)
    assert ids.shape == scores.shape == (1, 9, 1)
    assert boxes.shape == (1, 9, 4)
    assert all((part == -1).all() for part in (ids, scores, boxes))
    placement = Placement(height=30, width=30, rows=30, columns=30)
    ((ids, scores, boxes),) = postprocess.in_images(
        postprocess.decode(outputs), [placement]
    )
    assert ids.shape == scores.shape == (0,)
    assert boxes.shape == (0, 4)


@pytest.mark.parametrize(("least", "count"), [(0, 7), (0.5, 1), (1, 0)])
def test_least_score_goes_from_all_to_none(least, count):
    predictions = np.zeros((1, 7, 6), np.float32)
    predictions[0, 3, 1] = 5
    settings = SSDPostprocessSettings(nms_thresh=1, post_nms=9, least_score=least)
    postprocess = SSDPostprocess(far_apart(), settings)
    _, scores, _ = postprocess.decode({"predictions": predictions})
    assert (scores >= 0).sum() == count


def test_an_empty_batch_has_no_detection():
    postprocess = SSDPostprocess(far_apart())
    empty = {"predictions": np.zeros((0, 7, CLASSES + 5), np.float32)}
    assert [len(part) for part in postprocess.decode(empty)] == [0, 0, 0]


def test_boxes_are_in_pixels_of_each_image():
    # One anchor, 20 wide and 10 high around (40, 30), whose box is the anchor itself.
    postprocess = SSDPostprocess(np.array([[40, 30, 20, 10]], np.float32))
    predictions = np.array([[[0, 5, 0, 0, 0, 0]]] * 2, np.float32)
    placements = [
        Placement(height=120, width=400, rows=60, columns=80),
        Placement(height=60, width=90, rows=60, columns=90, top=2, left=5),
    ]
    results = postprocess.decode({"predictions": predictions})
    wide, cut = postprocess.in_images(results, placements)
    np.testing.assert_allclose(wide[2], [[30 * 5, 25 * 2, 50 * 5, 35 * 2]])
    np.testing.assert_allclose(cut[2], [[30 + 5, 25 + 2, 50 + 5, 35 + 2]])
    assert wide[0].tolist() == [0]
    np.testing.assert_allclose(wide[1], 1 / (1 + np.exp(-5)), rtol=1e-6)


def test_state_goes_to_a_manifest_and_back():
    settings = SSDPostprocessSettings(stds=(0.1, 0.2, 0.3, 0.4), nms_topk=7)
    section, arrays = SSDPostprocess(far_apart(), settings).state()
    section = json.loads(json.dumps(section))
    kind = POSTPROCESS[section["kind"]]
    back = kind.from_state(kind.Settings(**section), arrays)
    assert back.settings == settings
    np.testing.assert_array_equal(back.anchors, far_apart())
    assert list(arrays) == list(kind.arrays)


@pytest.mark.parametrize(
    "anchors",
    [np.full((7, 4), np.nan, np.float32), np.zeros((7, 4)), np.zeros(7, np.float32)],
    ids=["nan", "float64", "shape"],
)
def test_anchors_that_are_none_are_refused(anchors):
    with pytest.raises(ValueError, match=r"anchors\.npy"):
        SSDPostprocess.from_state(SSDPostprocessSettings(), {"anchors.npy": anchors})


@pytest.mark.parametrize(
    ("shape", "classes", "place"),
    [((1, 7, 8), "ab", "classes"), ((1, 6, 8), "abc", "anchors.npy")],
)
def test_outputs_that_do_not_fit_are_refused(shape, classes, place):
    postprocess = SSDPostprocess(far_apart())
    postprocess.check({"predictions": (1, 7, 8)}, "abc")
    with pytest.raises(ValueError, match=f"^{place}"):
        postprocess.check({"predictions": shape}, classes)


def judged(results, tolerance: float = 1e-3) -> str:
    """Return what is wrong with results, beside those of three boxes."""
    postprocess, outputs = three_boxes()
    expected = postprocess.decode(outputs)
    results = results(*(part.copy() for part in expected))
    worst, problem = postprocess.compare(
        outputs, results, expected, tolerance=tolerance, side=100
    )
    assert worst >= 0
    return problem


def three_boxes():
    anchors = [[20, 20, 20, 20], [24, 20, 20, 20], [60, 60, 20, 20], [60, 20, 9, 9]]
    predictions = np.zeros((1, 4, 7), np.float32)
    predictions[0, :, 1] = 2, 1, 3, 2  # the second overlaps the first by two thirds
    return SSDPostprocess(np.array(anchors, np.float32)), {"predictions": predictions}


def without_best(ids, scores, boxes):
    ids[:, 0] = -1
    return ids, scores, boxes


def best_twice(ids, scores, boxes):
    for part in (ids, scores, boxes):
        part[:, 1] = part[:, 0]
    return ids, scores, boxes


def test_results_of_the_net_itself_are_right():
    assert judged(lambda *results: results) == ""


def test_small_differences_are_allowed():
    assert judged(lambda ids, scores, boxes: (ids, scores + 1e-3, boxes + 0.1)) == ""


@pytest.mark.parametrize(
    "change",
    [
        lambda ids, scores, boxes: (ids + 1, scores, boxes),
        without_best,
        best_twice,
        lambda ids, scores, boxes: (ids, scores * 0.9, boxes),
        lambda ids, scores, boxes: (ids, scores, boxes * 0.5),
        lambda ids, scores, boxes: (ids, scores, boxes + 0.4),
    ],
    ids=["classes", "best", "twice", "scores", "halved", "moved"],
)
def test_other_results_are_wrong(change):
    assert judged(change)


# Changes of the first of two anchors: its background and class score, and four deltas.
BROKEN = {
    "no number as a delta": {2: np.nan},
    "infinite delta": {3: -np.inf},
    "delta of an infinite width": {4: 1e4},
    "no number as a score": {1: np.nan},
    "infinite score": {1: np.inf},
    "no number as the background": {0: np.nan},
}


@pytest.mark.parametrize("change", BROKEN)
def test_what_is_no_finite_number_is_no_detection(change):
    predictions = np.tile(np.float32([0, 5, 0, 0, 0, 0]), (1, 2, 1))
    for place, value in BROKEN[change].items():
        predictions[0, 0, place] = value
    anchors = np.float32([[50, 50, 20, 20], [150, 150, 20, 40]])
    decoded = SSDPostprocess(anchors).decode({"predictions": predictions})
    assert all(np.isfinite(part).all() for part in decoded)
    ((ids, scores, boxes),) = SSDPostprocess.in_images(decoded, [AS_IT_IS])
    assert ids.tolist() == [0]
    np.testing.assert_allclose(boxes, [[140, 130, 160, 170]])
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-5)), rtol=1e-6)


def test_box_that_the_image_makes_infinite_is_no_detection():
    boxes = np.float32([[[0, 0, 3e38, 1], [0, 0, 2, 1]]])
    results = np.zeros((1, 2, 1)), np.ones((1, 2, 1)), boxes
    wide = Placement(300, 3000, 300, 300)
    ((ids, _, found),) = SSDPostprocess.in_images(results, [wide])
    assert ids.tolist() == [0]
    np.testing.assert_allclose(found, [[0, 0, 20, 1]])


@pytest.mark.parametrize(("topk", "post", "most"), [(5, 9, 5), (9, 5, 5), (9, 9, 7)])
def test_no_more_boxes_than_it_says(topk, post, most):
    settings = SSDPostprocessSettings(nms_topk=topk, post_nms=post)
    anchors = np.float32([[20 * i, 9, 8, 8] for i in range(7)])
    postprocess = SSDPostprocess(anchors, settings)
    predictions = np.zeros((1, 7, 6), np.float32)
    predictions[..., 1] = 5  # of the one class, on each of seven anchors
    ids, _, _ = postprocess.decode({"predictions": predictions})
    assert (ids >= 0).sum() == most <= postprocess.most_detections == min(topk, post)
