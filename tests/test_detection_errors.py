"""Kinds of errors of a detector, on boxes made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from gluon_compress.detection_errors import (
    ImageDetections,
    average_precision,
    confusion,
    gains,
    judge,
    load_detections,
    mean_precision,
    per_image,
    precision_recall,
    save_detections,
)
from gluon_compress.evaluate import voc_map

# With VOC's extra pixel, 100 x 100 pixels each.
CAT, DOG, FAR = (0, 0, 99, 99), (200, 0, 299, 99), (0, 200, 99, 299)
OFF = (70, 0, 169, 99)  # shares 30 of 100 columns with CAT: IoU 30 / 170
BARELY = (95, 0, 194, 99)  # IoU 5 / 195, below 0.1
SIZE = 400


def image(objects, detections) -> ImageDetections:
    """Return an image of (box, class[, difficult]) and (box, class, score)."""
    label = [
        [*box, *(rest if len(rest) == 2 else (*rest, 0))] for box, *rest in objects
    ]
    rows = [(class_id, score, box) for box, class_id, score in detections]
    ids, scores, boxes = zip(*rows) if rows else ((), (), ())
    return ImageDetections(
        np.array(label, float).reshape(-1, 6),
        np.array(ids, int),
        np.array(scores, float),
        np.array(boxes, float).reshape(-1, 4),
    )


@pytest.mark.parametrize(
    ("box", "class_id", "kind", "target"),
    [
        (CAT, 0, "right", 0),
        (OFF, 0, "place", 0),
        (CAT, 1, "class", 0),
        (OFF, 1, "both", -1),
        (BARELY, 0, "background", -1),
        (FAR, 0, "background", -1),
    ],
)
def test_each_detection_has_its_kind(box, class_id, kind, target):
    judged = judge([image([(CAT, 0)], [(box, class_id, 0.9)])])
    assert judged.kind.tolist() == [kind]
    assert judged.target.tolist() == [target]


def test_worse_detection_of_the_same_object_is_a_duplicate():
    judged = judge([image([(CAT, 0)], [(CAT, 0, 0.5), (CAT, 0, 0.9)])])
    assert judged.scores.tolist() == [0.9, 0.5]
    assert judged.kind.tolist() == ["right", "duplicate"]
    assert judged.found.tolist() == [0.9]


def test_difficult_objects_are_neither_found_nor_missed():
    judged = judge([image([(CAT, 0, 1), (DOG, 1, 1)], [(CAT, 0, 0.9)])])
    assert judged.kind.tolist() == ["ignored"]
    assert sum(judged.counts().values()) == 0


def test_missed_are_objects_that_nothing_comes_near():
    judged = judge(
        [image([(CAT, 0), (DOG, 1), (FAR, 0)], [(OFF, 0, 0.9), (DOG, 0, 0.8)])]
    )
    # CAT is found in the wrong place, DOG as the wrong class.
    assert judged.missed.tolist() == [False, False, True]
    assert judged.counts() == {
        "class": 1,
        "place": 1,
        "both": 0,
        "duplicate": 0,
        "background": 0,
        "missed": 1,
    }


def test_errors_are_counted_from_a_score_on():
    images = [
        image([(CAT, 0)], [(CAT, 0, 0.3), (FAR, 0, 0.2)]),
        image([], [(CAT, 1, 0.9)]),
    ]
    judged = judge(images)
    assert judged.errors_of_images(2).tolist() == [1, 1]
    assert judged.at(0.25).errors_of_images(2).tolist() == [0, 1]
    assert judged.at(0.5).errors_of_images(2).tolist() == [1, 1]
    assert judged.at(0.5).missed.tolist() == [True]


def test_precision_and_recall_follow_the_scores():
    objects = [(CAT, 0), (DOG, 0), (FAR, 0)]
    found = [(CAT, 0, 0.9), ((300, 300, 399, 399), 0, 0.8), (DOG, 0, 0.7)]
    precision, recall = precision_recall(judge([image(objects, found)]), 0)
    np.testing.assert_allclose(precision, [1, 1 / 2, 2 / 3])
    np.testing.assert_allclose(recall, [1 / 3, 1 / 3, 2 / 3])
    # Precision 1 up to a recall of 1/3, 2/3 up to 2/3, then 0.
    area = 1 / 3 + 1 / 3 * 2 / 3
    assert average_precision(precision, recall) == pytest.approx(area)
    points = (4 * 1 + 3 * 2 / 3) / 11  # recalls of 0 to 0.3, and 0.4 to 0.6
    assert average_precision(precision, recall, "voc07") == pytest.approx(points)


def test_gains_are_what_each_kind_costs_alone():
    # A wrong detection before the right one halves the precision of the class.
    def gain(wrong) -> dict:
        images = [image([(CAT, 0)], [(wrong, 0, 0.9), (CAT, 0, 0.8)])]
        return gains(judge(images), 1)

    none = dict.fromkeys(
        ("class", "place", "both", "duplicate", "background", "missed"), 0.0
    )
    assert gain(FAR) == {**none, "background": 0.5}
    # The best of two detections is out of place: without it, nothing is wrong.
    assert gain(OFF) == {**none, "place": 0.5}
    alone = [image([(CAT, 0), (DOG, 1)], [(OFF, 0, 0.9), (DOG, 1, 0.8)])]
    assert gains(judge(alone), 2) == {**none, "place": 0.5}
    swapped = [image([(CAT, 0), (DOG, 1)], [(CAT, 1, 0.9), (DOG, 1, 0.8)])]
    # Class 0 has AP 0, class 1 has 1/2.
    assert gains(judge(swapped), 2) == {**none, "class": 0.75}
    missed = [image([(CAT, 0), (FAR, 0)], [(CAT, 0, 0.9)])]
    assert gains(judge(missed), 1) == {**none, "missed": 0.5}


@pytest.mark.parametrize("metric", ["voc07", "voc10"])
def test_map_without_a_fix_is_the_one_that_is_measured(metric):
    rng = np.random.default_rng(0)
    detected = []
    for _ in range(6):
        corners = rng.uniform(0, 300, (2, 5, 2))
        labels = np.concatenate(
            [
                corners,
                corners + rng.uniform(40, 99, (2, 5, 2)),
                rng.integers(0, 3, (2, 5, 1)),
                rng.random((2, 5, 1)) < 0.2,
            ],
            axis=2,
        )
        boxes = np.repeat(labels[..., :4], 3, axis=1) + rng.normal(0, 12, (2, 15, 4))
        ids = np.repeat(labels[..., 4:5], 3, axis=1)
        ids = np.where(rng.random(ids.shape) < 0.3, rng.integers(-1, 3, ids.shape), ids)
        detected.append(((ids, rng.random((2, 15, 1)), boxes), labels))
    names = ("a", "b", "c")
    measured = voc_map(lambda r: r, detected, names, size=SIZE, metric=metric)
    judged = judge(per_image(detected, SIZE))
    assert mean_precision(judged, 3, metric=metric) == pytest.approx(measured["mAP"])
    for number, name in enumerate(names):
        curve = precision_recall(judged, number)
        assert average_precision(*curve, metric) == pytest.approx(measured[name])


def test_confusion_counts_every_object_and_detection_once():
    images = [
        image([(CAT, 0), (DOG, 1)], [(CAT, 0, 0.9), (DOG, 0, 0.8), (FAR, 1, 0.7)]),
        image([(CAT, 1), (FAR, 0)], []),
    ]
    # Rows: cat, dog, no object; columns: cat, dog, nothing.
    expected = [[1, 0, 1], [1, 0, 1], [0, 1, 0]]
    assert confusion(judge(images), 2).tolist() == expected


def test_images_that_were_left_out_keep_their_numbers():
    results = np.full((3, 2, 1), -1.0), np.zeros((3, 2, 1)), np.zeros((3, 2, 4))
    images = per_image([(results, np.full((3, 1, 6), -1.0))], SIZE, [0, 2])
    assert [one.number for one in images] == [1, 3, 4]
    assert [len(one.ids) + len(one.label) for one in images] == [0, 0, 0]


@pytest.mark.parametrize("images", [[], [image([], [])], [image([(CAT, 0)], [])]])
def test_nothing_found_is_no_error_of_this_module(images):
    judged = judge(images)
    assert judged.counts()["missed"] == sum(len(one.label) for one in images)
    gain = gains(judged, 1)["background"]
    assert gain == 0 if judged.counted.any() else np.isnan(gain)


def test_detections_come_back_from_their_file(tmp_path):
    images = [
        image([(CAT, 0)], [(OFF, 1, 0.5), (FAR, 0, 0.25)]),
        image([], []),
        image([(DOG, 1, 1)], []),
    ]
    path = tmp_path / "detections.npz"
    save_detections(path, images)
    for stored, given in zip(load_detections(path), images):
        for key in ("label", "ids", "scores", "corner_boxes", "number"):
            np.testing.assert_array_equal(getattr(stored, key), getattr(given, key))
    save_detections(path, [])
    assert load_detections(path) == []


def test_other_files_are_refused_by_name(tmp_path):
    whole = tmp_path / "whole.npz"
    save_detections(whole, [image([(CAT, 0)], [(CAT, 0, 0.5)])])
    arrays = dict(np.load(whole))
    broken = {
        "cut.npz": whole.read_bytes()[:-40],
        "text.npz": b"text",
        "empty.npz": b"",
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
    np.savez(tmp_path / "few.npz", **{**arrays, "ids": arrays["ids"][:0]})
    np.savez(tmp_path / "negative.npz", **{**arrays, "objects": np.array([-1, 2])})
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    np.savez(tmp_path / "objects.npz", **{**arrays, "ids": np.array([{}])})
    for path in sorted(tmp_path.glob("*.npz")):
        if path != whole:
            with pytest.raises(ValueError, match=str(path)):
                load_detections(path)
    with pytest.raises(ValueError, match="missing.npz"):
        load_detections(tmp_path / "missing.npz")
