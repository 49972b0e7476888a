"""What a card says of a detector's accuracy."""

from __future__ import annotations

import numpy as np
import pytest

from gluon_compress.detection_errors import ImageDetections, judge
from tools.accuracy import accuracy_of, accuracy_text, best_threshold
from tools.origins import IMAGES, TRUNKS, origins, trunks_of

CLASSES = ("cat", "dog", "cow")
BOXES = [(0, 0, 20, 20), (40, 0, 60, 20), (0, 40, 20, 60), (40, 40, 60, 60)]


def image(objects: list, detections: list) -> ImageDetections:
    """Return an image; objects are (box, class), detections (box, class, score)."""
    label = [(*BOXES[box], number, 0) for box, number in objects]
    boxes, ids, scores = zip(*detections) if detections else ((), (), ())
    return ImageDetections(
        np.array(label, float).reshape(-1, 6),
        np.array(ids, int),
        np.array(scores, float),
        np.array([BOXES[b] for b in boxes], float).reshape(-1, 4),
    )


# Of two cats one is found; a dog is taken for a cat; there is a cat that is none.
IMAGES_SEEN = [
    image([(0, 0), (1, 1)], [(0, 0, 0.9), (1, 0, 0.6)]),
    image([(2, 0)], [(3, 0, 0.3)]),
]


def test_precision_and_recall_are_those_above_the_threshold():
    accuracy = accuracy_of(IMAGES_SEEN, CLASSES, "somewhere")
    # F1 of the best alone: precision 1 / 1, recall 1 / 3; with two, 1 / 2 and 1 / 3.
    assert accuracy["threshold"] == 0.9
    cat = accuracy["classes"]["cat"]
    assert (cat["precision"], cat["recall"], cat["objects"]) == (1.0, 0.5, 2)
    assert accuracy["classes"]["dog"]["recall"] == 0.0
    assert accuracy["classes"]["dog"]["precision"] is None
    assert accuracy["all"] == {"precision": 1.0, "recall": pytest.approx(1 / 3)}
    assert accuracy["threshold_on"] == accuracy["on"] == "somewhere"


def test_average_precisions_are_those_of_the_curves():
    accuracy = accuracy_of(IMAGES_SEEN, CLASSES, "somewhere")
    cat = accuracy["classes"]["cat"]
    # Right at once, up to a recall of a half: 6 of 11 points, half of the area. The
    # boxes are exact, so every IoU gives the same.
    assert cat["voc07"] == pytest.approx(6 / 11)
    assert cat["voc10"] == cat["voc10_50_95"] == pytest.approx(0.5)
    assert accuracy["classes"]["cow"]["voc07"] is None  # there is none


def test_the_threshold_may_be_chosen_on_other_images():
    others = [image([(0, 0)], [(0, 0, 0.4), (1, 0, 0.2)])]
    assert best_threshold(judge(others)) == 0.4
    options = {"chosen": others, "chosen_on": "elsewhere"}
    accuracy = accuracy_of(IMAGES_SEEN, CLASSES, "somewhere", **options)
    assert (accuracy["threshold"], accuracy["threshold_on"]) == (0.4, "elsewhere")
    assert accuracy["classes"]["cat"]["precision"] == 0.5  # one of two above 0.4
    text = accuracy_text(accuracy)
    assert "largest on elsewhere." in text
    assert "**0.40**" in text


def test_errors_and_confused_classes_are_counted_at_the_threshold():
    others = [image([(0, 0)], [(0, 0, 0.1)])]
    options = {"chosen": others, "chosen_on": "elsewhere"}
    accuracy = accuracy_of(IMAGES_SEEN, CLASSES, "somewhere", **options)
    counts = {kind: row["at_threshold"] for kind, row in accuracy["errors"].items()}
    assert counts == {
        **dict.fromkeys(counts, 0),
        "class": 1,
        "background": 1,
        "missed": 1,
    }
    assert accuracy["confused"] == [{"object": "dog", "taken_for": "cat", "count": 1}]
    text = accuracy_text(accuracy)
    assert "Most often it takes dog for cat (1)." in text
    assert "| cat " in text


def test_a_net_that_finds_nothing_has_a_card():
    accuracy = accuracy_of([image([(0, 0)], [])], CLASSES, "somewhere")
    assert accuracy["classes"]["cat"]["voc07"] == 0.0
    assert accuracy["all"] == {"precision": None, "recall": 0.0}
    assert "–" in accuracy_text(accuracy)


def test_what_a_net_has_seen_is_said_once():
    recipe = {"model": {"trunk": "runs/trunks/mobilenet1.0_imagenet"}, "student": None}
    trunks = trunks_of(recipe) * 2
    assert origins(trunks, TRUNKS) == [TRUNKS["mobilenet1.0_imagenet"]]
    short = origins(["model_zoo/resnet50_v1d_imagenette_short"], TRUNKS)
    assert short == [TRUNKS["imagenette"]]
    assert origins(["voc12_animals", "mine"], IMAGES) == [
        IMAGES["voc12_animals"],
        "`mine`: see its own terms.",
    ]
