"""The metric is checked against one written here, box by box, without GluonCV."""

from __future__ import annotations

import math
import time

import mxnet as mx
import numpy as np
import pytest

from gluon_compress.evaluate import (
    IOUS,
    METRICS,
    coco_map,
    precisions,
    strict_map,
    top1,
    voc_map,
)

SIZE = 100
CLASSES = ["a", "b", "c"]


def overlap(p, q) -> float:
    """Return the intersection over union of corner boxes whose ends are inside."""
    width = min(p[2], q[2]) - max(p[0], q[0]) + 1
    height = min(p[3], q[3]) - max(p[1], q[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (p, q)]
    return width * height / (sum(areas) - width * height)


def marks(images: list, kind: int, iou: float) -> tuple[list, int]:
    """Return hit or miss of each detection of a class, best first, and the objects.

    Images are pairs of detections (score, class, box) and objects (class, difficult,
    box).
    """
    found, taken = [], set()
    for number, (detections, _) in enumerate(images):
        found += [(s, number, box) for s, k, box in detections if k == kind]
    result = []
    for _, number, box in sorted(found, key=lambda f: -f[0]):
        objects = [(i, o) for i, o in enumerate(images[number][1]) if o[0] == kind]
        best = max(objects, key=lambda o: overlap(box, o[1][2]), default=None)
        if best is None or overlap(box, best[1][2]) < iou:
            result.append(False)
        elif not best[1][1]:  # detections of difficult objects do not count
            result.append((number, best[0]) not in taken)
            taken.add((number, best[0]))
    total = sum(k == kind and not hard for _, o in images for k, hard, _ in o)
    return result, total


def precision(hits: list, total: int, metric: str) -> float:
    """Return the average precision as VOC 2007 or VOC 2010 defines it."""
    if not total:
        return math.nan
    curve = [
        (sum(hits[: n + 1]) / total, sum(hits[: n + 1]) / (n + 1))
        for n in range(len(hits))
    ]

    def best(recall: float) -> float:
        return max((p for r, p in curve if r >= recall), default=0.0)

    if metric == "voc07":
        # Its thresholds are multiples of 0.1 in floating point, 0.6 is a little above.
        return sum(best(t) for t in 0.1 * np.arange(11)) / 11
    # Precision falls only where recall rises, by one object each time.
    return sum(best(n / total) for n in range(1, total + 1)) / total


def expected(images: list, metric: str, iou: float = 0.5) -> dict:
    found = {
        name: precision(*marks(images, kind, iou), metric)
        for kind, name in enumerate(CLASSES)
    }
    known = [v for v in found.values() if not math.isnan(v)]
    return {"mAP": sum(known) / len(known), **found}


def padded(rows: list, count: int, width: int) -> np.ndarray:
    array = np.full((count, width), -1.0, np.float32)
    for i, row in enumerate(rows):
        array[i] = row
    return array


def measured(images, batch=2, *, judge=voc_map, calls=None, **options) -> dict:
    """Give the images to ``voc_map`` in padded batches."""
    outputs, labels = [], []
    for detections, objects in images:
        rows = [(k, s, *box) for s, k, box in detections]
        outputs.append(padded(rows, 12, 6))
        rows = [(*box, k, hard) for k, hard, box in objects]
        labels.append(padded(rows, 9, 6))

    def detect(part):
        if calls is not None:
            calls.append(part)
        found = mx.nd.array(np.stack([outputs[i] for i in part]))
        return found[:, :, 0:1], found[:, :, 1:2], found[:, :, 2:6]

    numbers = range(len(images))
    parts = [numbers[i : i + batch] for i in range(0, len(images), batch)]
    batches = [(p, mx.nd.array(np.stack([labels[i] for i in p]))) for p in parts]
    return judge(detect, batches, CLASSES, size=SIZE, **options)


A, B, C = (10, 10, 29, 29), (50, 50, 69, 79), (5, 60, 34, 89)
NEAR_A = (12, 10, 31, 29)  # overlap 18 / 22 with A
EDGE_A = (10, 10, 29, 19)  # overlap exactly a half
OFF_A = (24, 10, 43, 29)  # overlap 6 / 34

# Each case: images, and what class a then reaches under both metrics.
CASES = {
    "perfect": ([([(0.9, 0, A)], [(0, 0, A)])], 1, 1),
    "close enough": ([([(0.9, 0, NEAR_A)], [(0, 0, A)])], 1, 1),
    "exactly half": ([([(0.9, 0, EDGE_A)], [(0, 0, A)])], 1, 1),
    "too far": ([([(0.9, 0, OFF_A)], [(0, 0, A)])], 0, 0),
    "nothing found": ([([], [(0, 0, A)])], 0, 0),
    "other class": ([([(0.9, 1, A)], [(0, 0, A)])], 0, 0),
    "miss first": ([([(0.9, 0, B), (0.8, 0, A)], [(0, 0, A)])], 1 / 2, 1 / 2),
    "miss last": ([([(0.8, 0, B), (0.9, 0, A)], [(0, 0, A)])], 1, 1),
    "found twice": (
        [([(0.9, 0, A), (0.8, 0, NEAR_A), (0.7, 0, B)], [(0, 0, A), (0, 0, B)])],
        (6 + 5 * 2 / 3) / 11,
        (1 + 2 / 3) / 2,
    ),
    "half found": ([([(0.9, 0, A)], [(0, 0, A), (0, 0, B)])], 6 / 11, 1 / 2),
    "difficult found": (
        [([(0.9, 0, B), (0.8, 0, A)], [(0, 0, A), (0, 1, B)])],
        1,
        1,
    ),
    "difficult found twice": (
        [([(0.9, 0, B), (0.8, 0, B), (0.7, 0, A)], [(0, 0, A), (0, 1, B)])],
        1,
        1,
    ),
    "difficult not found": ([([(0.8, 0, A)], [(0, 0, A), (0, 1, B)])], 1, 1),
    "in another image": (
        [([(0.9, 0, B)], [(0, 0, A)]), ([(0.8, 0, A)], [(0, 0, B)])],
        0,
        0,
    ),
    "over images": (
        [
            ([(0.9, 0, A)], [(0, 0, A)]),
            ([(0.8, 0, A)], []),
            ([(0.7, 0, B)], [(0, 0, B)]),
        ],
        (6 + 5 * 2 / 3) / 11,
        (1 + 2 / 3) / 2,
    ),
    "out of the frame": (
        [([(0.9, 0, (80, 80, 130, 130))], [(0, 0, (80, 80, 100, 100))])],
        1,
        1,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_hand_made_cases(name):
    images, voc07, voc10 = CASES[name]
    assert measured(images)["a"] == pytest.approx(voc07)
    assert measured(images, metric="voc10")["a"] == pytest.approx(voc10)


@pytest.mark.parametrize("name", sorted(set(CASES) - {"out of the frame"}))
@pytest.mark.parametrize("metric", ["voc07", "voc10"])
def test_the_computation_here_agrees_with_the_cases(name, metric):
    images, voc07, voc10 = CASES[name]
    value = voc07 if metric == "voc07" else voc10
    assert expected(images, metric)["a"] == pytest.approx(value)


def random_images(seed: int) -> list:
    """Return objects and detections, many near them; all scores are distinct."""
    rng = np.random.RandomState(seed)
    scores = list(rng.permutation(1000) / 1000)

    def box(low: float = 0.0):
        corner = rng.uniform(low, 60, 2)
        return (*corner, *(corner + rng.uniform(10, 39, 2)))

    def near(b):
        return tuple(np.clip(np.array(b) + rng.uniform(-4, 4, 4), 0, SIZE))

    images = []
    for _ in range(6):
        objects = [
            (rng.randint(3), int(rng.rand() < 0.25), box())
            for _ in range(rng.randint(0, 7))
        ]
        found = [(o[0], near(o[2])) for o in objects for _ in range(rng.randint(3))]
        found += [(rng.randint(3), box()) for _ in range(rng.randint(4))]
        detections = [(scores.pop(), *f) for f in found[:12]]
        images.append((detections, objects))
    return images


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("metric", "iou"), [("voc07", 0.5), ("voc10", 0.7)])
def test_random_cases(seed, metric, iou):
    images = random_images(seed)
    right = expected(images, metric, iou)
    for batch in (1, 4):
        figures = measured(images, batch, metric=metric, iou=iou)
        assert figures == pytest.approx(right, rel=1e-6, nan_ok=True)
        assert list(figures) == ["mAP", *CLASSES]
    assert 0.1 < right["mAP"] < 0.99


@pytest.mark.parametrize("metric", ["voc07", "voc10"])
@pytest.mark.parametrize("seed", range(4))
def test_several_overlaps_are_averaged(seed, metric):
    images = random_images(seed)
    found = measured(images, metric=metric, iou=IOUS)
    each = [expected(images, metric, iou) for iou in IOUS]
    assert found["mAP"] == pytest.approx(np.mean([e["mAP"] for e in each]))
    for name in CLASSES:
        mean = np.mean([e[name] for e in each])
        assert found[name] == pytest.approx(mean, nan_ok=True)


def test_overlaps_of_coco():
    assert IOUS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


@pytest.mark.parametrize("iou", [0, 1.1, (), (0.5, -1)])
def test_an_overlap_out_of_range_is_an_error(iou):
    with pytest.raises(ValueError, match="iou is .*; allowed: above 0 to 1"):
        measured(CASES["perfect"][0], iou=iou)


@pytest.mark.parametrize(("metric", "iou"), [("voc07", 0.5), ("voc10", 0.7)])
def test_precisions_are_those_of_the_metric_and_of_all_overlaps(metric, iou):
    images, calls = random_images(3), []
    found = measured(images, judge=precisions, calls=calls, metric=metric, iou=iou)
    one = measured(images, metric=metric, iou=iou)
    assert found["mAP"] == one.pop("mAP")
    assert found["classes"] == pytest.approx(one, nan_ok=True)
    assert (found["metric"], found["iou"]) == (metric, iou)
    strict = [expected(images, "voc10", i)["mAP"] for i in IOUS]
    assert found["voc_mAP_50_95"] == pytest.approx(np.mean(strict))
    assert len(calls) == 3  # each batch is looked at once


def test_a_class_without_objects_is_left_out_of_the_mean():
    images = [([(0.9, 0, A), (0.8, 1, B)], [(0, 0, A), (2, 0, C)])]
    figures = measured(images)
    assert math.isnan(figures["b"])
    assert (figures["a"], figures["c"]) == pytest.approx((1, 0))
    assert figures["mAP"] == pytest.approx(1 / 2)


def test_a_class_of_difficult_objects_alone_is_left_out():
    figures = measured([([(0.9, 1, B)], [(0, 0, A), (1, 1, B)])])
    assert math.isnan(figures["b"])
    assert figures["mAP"] == 0


@pytest.mark.parametrize("objects", [[], [(0, 1, A)]])
def test_nothing_to_find_is_an_error(objects):
    with pytest.raises(ValueError, match="no object"):
        measured([([(0.9, 0, A)], objects)])


def test_no_images_are_an_error():
    with pytest.raises(ValueError, match="no object"):
        measured([])


def test_a_label_of_no_class_is_an_error():
    with pytest.raises(ValueError, match="a label has class 3; allowed: 0 to 2"):
        measured([([], [(3, 0, A)])])


JUDGES = [voc_map, precisions, lambda *args, size: coco_map(*args)]


@pytest.mark.parametrize("judge", JUDGES)
@pytest.mark.parametrize("column", range(6))
def test_a_detection_that_is_not_a_number_is_an_error(judge, column):
    rows = np.array([[[0, 0.9, *A], [-1, -1, -1, -1, -1, -1], [0, 0.8, *A]]])
    rows[0, 2, column] = np.nan
    rows[0, 1, 2:] = np.nan  # padding may be anything
    found = rows[..., :1], rows[..., 1:2], rows[..., 2:]
    with pytest.raises(ValueError, match="1 of 2 detections .* not a number"):
        judge(lambda images: found, one_found()[1], ["a"], size=SIZE)


@pytest.mark.parametrize("judge", JUDGES)
def test_a_detection_of_no_class_at_all_is_an_error(judge):
    _, batches = one_found()
    found = np.full((1, 1, 1), np.inf), np.ones((1, 1, 1)), np.array([[A]])
    with pytest.raises(ValueError, match="1 of 1 detections .* not a number"):
        judge(lambda images: found, batches, ["a"], size=SIZE)


@pytest.mark.parametrize("scores", [np.zeros(3), np.zeros((2, 4)), np.zeros((3, 1, 4))])
def test_scores_that_are_no_rows_are_an_error(scores):
    with pytest.raises(ValueError, match="allowed: one row for each of 3 images"):
        top1(lambda images: scores, [(None, np.zeros(3))])


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("judge", JUDGES)
def test_a_label_that_is_not_a_number_is_an_error(judge, value):
    detect, [(images, label)] = one_found()
    label[0, 0, 2] = value
    with pytest.raises(ValueError, match="a label is not a number"):
        judge(detect, [(images, label)], ["a"], size=SIZE)


@pytest.mark.parametrize("judge", JUDGES)
def test_an_endless_box_hits_nothing(judge):
    _, batches = one_found()
    rows = np.array([[[-np.inf, -np.inf, np.inf, np.inf], A]])
    found = np.zeros((1, 2, 1)), np.array([[[0.9], [0.8]]]), rows
    figures = judge(lambda images: found, batches, ["a"], size=SIZE)
    assert 0.4 < figures["mAP"] <= 0.5 + 1e-6  # the second one hits


@pytest.mark.parametrize(
    ("judge", "limit"), [(voc_map, 120), (precisions, 120), (JUDGES[2], 100)]
)
def test_objects_beyond_the_number_of_detections_are_said_once(
    judge, limit, caplog, monkeypatch
):
    monkeypatch.setattr("gluon_compress.evaluate._said", set())
    corners = np.arange(150, dtype=float).reshape(-1, 1) * [1, 0, 1, 0] + [0, 0, 9, 9]
    label = np.hstack([corners, np.zeros((150, 2))])[None]
    found = np.zeros((1, 120, 1)), np.ones((1, 120, 1)), label[:, :120, :4]
    for _ in range(2):
        judge(lambda images: found, [(None, label)], ["a"], size=200)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "150 objects" in line
    assert f"{limit} detections" in line
    assert ("post_nms" in line) == (limit == 120)  # else it is COCO's own limit
    few = np.zeros((1, 1, 1)), np.ones((1, 1, 1)), label[:, :1, :4]
    label[0, 1:, 5] = 1  # difficult ones need not be found
    judge(lambda images: few, [(None, label)], ["a"], size=200)
    assert len(caplog.records) == 1


def test_a_class_named_as_the_mean_is_an_error():
    with pytest.raises(ValueError, match="class 'mAP' is named as the mean"):
        voc_map(tuple, [], ["a", "mAP"], size=SIZE)
    assert "map" in voc_map(*one_found(), ["map"], size=SIZE)


def one_found() -> tuple:
    """Return a detector that finds the one object, and its batch."""
    label = np.array([[[*A, 0, 0]]], float)
    found = np.zeros((1, 1, 1)), np.ones((1, 1, 1)), label[..., :4].copy()
    return (lambda images: found), [(None, label)]


def test_an_unknown_metric_is_an_error():
    with pytest.raises(ValueError, match="metric is 'coco'; allowed: voc07, voc10"):
        measured([([], [(0, 0, A)])], metric="coco")


def test_top1_is_the_share_of_right_guesses():
    scores = mx.nd.array([[1, 2, 0], [5, 1, 1], [0, 0, 1], [1, 0, 0], [0, 9, 1]])
    ids = mx.nd.array([1, 0, 0, 0, 2])
    batches = [(scores[:3], ids[:3]), (scores[3:], ids[3:])]
    assert top1(lambda images: images, batches) == 3 / 5


@pytest.mark.parametrize("index", range(4))
def test_top1_of_scores_that_are_no_numbers_is_an_error(index):
    scores = np.eye(4, 3)
    scores[index, 2] = np.nan
    with pytest.raises(ValueError, match="scores of 1 of 4 images"):
        top1(lambda images: scores, [(None, np.zeros(4))])


@pytest.mark.parametrize("number", [-1, 3, 0.5, np.nan])
def test_top1_of_a_label_of_no_class_is_an_error(number):
    with pytest.raises(ValueError, match="a label has class .*; allowed: 0 to 2"):
        top1(lambda images: np.eye(2, 3), [(None, np.array([0, number]))])


def test_top1_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="not one sample"):
        top1(lambda images: images, [])


# Sizes of two numbers, COCO's metric, and results of earlier versions.


def test_boxes_are_clipped_to_width_and_height():
    """The box reaches 20 pixels below an image of 40 x 100, as clipping finds out."""
    detections = np.array([[[0]]]), np.array([[[0.9]]]), np.array([[[0, 0, 99, 60]]])
    label = np.array([[[0, 0, 99, 39, 0, 0]]])
    for size, value in (((40, 100), 1), ((100, 100), 0)):
        batches = [(np.zeros((1, 3, *size)), label)]
        found = voc_map(lambda images: detections, batches, ["a"], size=size, iou=0.9)
        assert found["mAP"] == pytest.approx(value)


def coco(*images, classes=("a", "b")) -> dict:
    """Return ``coco_map`` of pairs of detections (id, score, box) and labels."""
    outputs, batches = [], []
    for detections, label in images:
        ids, scores, boxes = (
            zip(*detections) if detections else ([-1], [-1], [[-1] * 4])
        )
        arrays = (np.array(part, float) for part in (ids, scores, boxes))
        outputs.append(tuple(a.reshape(1, len(ids), -1) for a in arrays))
        batches.append((len(outputs) - 1, np.array([label], float).reshape(1, -1, 6)))
    return coco_map(lambda number: outputs[number], batches, classes)


SQUARE, LOW = [0, 0, 10, 10], [0, 0, 10, 7.2]  # overlap by 0.72


def test_coco_counts_overlaps_from_half_to_nearly_all():
    found = coco(([(0, 0.9, LOW)], [[*SQUARE, 0, 0]]))
    assert found == pytest.approx({"mAP": 0.5, "mAP_50": 1, "mAP_75": 0})


def test_coco_averages_over_classes_that_have_objects():
    first = [(0, 0.9, SQUARE), (1, 0.8, [50, 50, 60, 60])]
    found = coco((first, [[*SQUARE, 0, 0], [*SQUARE, 1, 0]]), classes="abc")
    assert found == pytest.approx({"mAP": 0.5, "mAP_50": 0.5, "mAP_75": 0.5})


def test_coco_ignores_difficult_objects_and_padding():
    label = [[*SQUARE, 0, 0], [50, 50, 60, 60, 0, 1], [-1] * 6]
    found = coco(([(0, 0.9, [50, 50, 60, 60]), (0, 0.8, SQUARE)], label), ([], []))
    assert found["mAP"] == pytest.approx(1)


def test_coco_of_no_detection_is_zero():
    assert coco(([], [[*SQUARE, 0, 0]]))["mAP"] == 0


def test_coco_needs_objects():
    with pytest.raises(ValueError, match="no object"):
        coco(([(0, 0.9, SQUARE)], []))


def test_results_of_before_are_read_too():
    assert strict_map({"mAP_50_95": 0.3}) == strict_map({"voc_mAP_50_95": 0.3}) == 0.3
    assert strict_map({"top1": 1.0}) is None


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "metric"), sorted(METRICS.items()))
def test_figures_are_those_of_gluoncvs_metric_bit_for_bit(name, metric, kind):
    rng = np.random.default_rng(len(name) + kind(0).itemsize)
    corners = np.sort(rng.uniform(-9, 110, (6, 30, 2, 2)), axis=2).reshape(6, 30, 4)
    rows = [corners, rng.integers(-1, 3, (6, 30, 1)), rng.random((6, 30, 1)) < 0.3]
    labels = np.concatenate(rows, axis=2).astype(np.float32)
    boxes = (corners[:, ::-1] + rng.normal(0, 4, corners.shape)).astype(kind)
    ids = rng.integers(-1, 4, (6, 30, 1)).astype(kind)  # 3: of no class
    scores = rng.choice([0.2, 0.5, 0.7], (6, 30, 1)).astype(kind)  # many are equal
    for iou in (0.25, 0.5):
        expected = metric(iou_thresh=iou, class_names=CLASSES)
        truth = labels[..., :4], labels[..., 4:5], labels[..., 5:6]
        expected.update(np.clip(boxes, 0, [SIZE] * 4), ids, scores, *truth)
        *values, mean = expected.get()[1]
        batches = [((i, s, b), m) for i, s, b, m in zip(ids, scores, boxes, labels)]
        figures = voc_map(
            lambda found: tuple(part[None] for part in found),
            [(found, label[None]) for found, label in batches],
            CLASSES,
            size=SIZE,
            metric=name,
            iou=iou,
        )
        assert 0 < mean < 1
        np.testing.assert_array_equal([*figures.values()], [mean, *values])


def test_a_thousand_objects_of_an_image_are_judged_at_once():
    corners = np.random.default_rng(0).uniform(0, 280, (1000, 2))
    boxes = np.hstack([corners, corners + 20])[None].astype(np.float32)
    label = np.concatenate([boxes, np.zeros((1, 1000, 2), np.float32)], axis=2)
    scores = np.linspace(1, 0.5, 1000).reshape(1, 1000, 1)
    found = np.zeros((1, 1000, 1)), scores, boxes
    start = time.process_time()
    figures = precisions(lambda images: found, [(None, label)], ["a"], size=300)
    assert time.process_time() - start < 2  # 4 s with all overlaps again each time
    assert figures["mAP"] == pytest.approx(1, abs=1e-12)
    assert figures["voc_mAP_50_95"] == pytest.approx(1, abs=1e-12)
