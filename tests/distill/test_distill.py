from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon, nd

from gluon_compress import distill
from gluon_compress.distill import (
    bounded_box_loss,
    box_loss,
    channel_loss,
    feature_loss,
    hint_loss,
    imitation_loss,
    imitation_masks,
    losses_of,
    needs_taps,
    score_loss,
    soft_target_loss,
    weighted_score_loss,
)
from gluon_compress.distill.ssd import OUTPUTS
from gluon_compress.models.ssd import AnchorGrid
from gluon_compress.models.taps import adapt
from gluon_compress.recipe.detection import DetectorDistillation as Distillation
from gluon_compress.train import Options, Schedule, fit

LOSSES = losses_of("ssd")
# The nets here give lists.
distil_step = partial(distill.distil_step, output_names=OUTPUTS)
ALL = {"scores": 1.0, "boxes": 1.0, "features": 1.0}


def normal(seed: int, *shape, scale: float = 2.0) -> np.ndarray:
    return np.random.RandomState(seed).normal(0, scale, shape).astype(np.float32)


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    powers = np.exp(np.float64(logits) / temperature)
    return powers / powers.sum(-1, keepdims=True)


def foreground(logits: np.ndarray) -> np.ndarray:
    return 1 - softmax(logits)[..., 0]


# --- losses -----------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_score_loss_by_formula(temperature):
    student, teacher = normal(1, 2, 5, 4), normal(2, 2, 5, 4)
    own, target = (softmax(z, temperature) for z in (student, teacher))
    divergence = (target * np.log(target / own)).sum(-1)
    weight = np.maximum(foreground(student), foreground(teacher))
    expected = temperature**2 * (weight * divergence).sum() / foreground(teacher).sum()
    loss = score_loss(nd.array(student), nd.array(teacher), temperature)
    assert foreground(teacher).sum() > 1
    assert loss.asscalar() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_score_loss_has_the_gradient_of_softened_classes(temperature):
    # T^2 w (p_s - p_t) / (T sum f): the weight is a constant.
    student, teacher = normal(1, 2, 5, 4), normal(2, 2, 5, 4)
    logits = nd.array(student)
    logits.attach_grad()
    with autograd.record():
        score_loss(logits, nd.array(teacher), temperature).backward()
    weight = np.maximum(foreground(student), foreground(teacher))[..., None]
    difference = softmax(student, temperature) - softmax(teacher, temperature)
    expected = temperature * weight * difference / foreground(teacher).sum()
    assert logits.grad.asnumpy() == pytest.approx(expected, rel=1e-3, abs=1e-6)


def smooth_l1(x: np.ndarray) -> np.ndarray:
    return np.where(abs(x) < 1, x**2 / 2, abs(x) - 0.5)


def test_box_loss_by_formula():
    student, teacher, scores = (
        normal(1, 2, 5, 4),
        normal(2, 2, 5, 4),
        normal(3, 2, 5, 3),
    )
    weight = foreground(scores)
    distance = smooth_l1(np.float64(student - teacher)).sum(-1)
    expected = (weight * distance).sum() / weight.sum()
    loss = box_loss(nd.array(student), nd.array(teacher), nd.array(scores))
    assert weight.sum() > 1
    assert loss.asscalar() == pytest.approx(expected, rel=1e-5)


def test_soft_target_loss_by_formula():
    rs = np.random.RandomState(3)
    student, teacher = rs.randn(4, 5), rs.randn(4, 5)
    for temperature in (1.0, 3.0):
        own, wanted = (
            np.exp(x / temperature) / np.exp(x / temperature).sum(axis=1, keepdims=True)
            for x in (student, teacher)
        )
        expected = temperature**2 * (wanted * np.log(wanted / own)).sum(axis=1).mean()
        found = soft_target_loss(nd.array(student), nd.array(teacher), temperature)
        assert found.asscalar() == pytest.approx(expected, rel=1e-5)


def test_feature_loss_by_formula():
    student, teacher = normal(1, 2, 3, 4, 5), normal(2, 2, 3, 4, 5)
    own, target = (
        z / np.linalg.norm(z, axis=1, keepdims=True) for z in (student, teacher)
    )
    expected = ((own - target) ** 2).sum(1).mean()
    loss = feature_loss(nd.array(student), nd.array(teacher))
    assert loss.asscalar() == pytest.approx(expected, rel=1e-5)


def test_feature_loss_is_blind_to_length_and_four_for_opposites():
    features = nd.array(normal(1, 2, 3, 4, 5))
    assert feature_loss(features * 7, features).asscalar() == pytest.approx(0, abs=1e-5)
    assert feature_loss(-features, features).asscalar() == pytest.approx(4, rel=1e-5)


def test_images_without_objects_count_as_one_object():
    # Background certain to the last digit: a plain mean would divide by zero.
    scores, student = np.zeros((1, 3, 3), np.float32), normal(1, 1, 3, 3)
    scores[..., 0] = 200
    deltas, other = nd.array(normal(2, 1, 3, 4)), nd.array(normal(3, 1, 3, 4))
    assert box_loss(other, deltas, nd.array(scores)).asscalar() == 0
    divergence = -np.log(softmax(student)[..., 0])
    expected = (foreground(student) * divergence).sum()
    loss = score_loss(nd.array(student), nd.array(scores), 1.0)
    assert loss.asscalar() == pytest.approx(expected, rel=1e-5)


# --- losses of detectors ----------------------------------------------------------


def gradient(loss, student: np.ndarray) -> np.ndarray:
    values = nd.array(student)
    values.attach_grad()
    with autograd.record():
        loss(values).backward()
    return values.grad.asnumpy()


def mined(student: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Mark the positives and, 3 to 1, the negatives that a student fails most at."""
    chosen = classes > 0
    for row, logits, label in zip(chosen, student, classes):
        loss = -np.log(softmax(logits)[:, 0])
        order = sorted(np.flatnonzero(label == 0), key=lambda a: -loss[a])
        row[order[: 3 * (label > 0).sum()]] = True
    return chosen


CLASSES = np.zeros((2, 12), np.float32)
CLASSES[0, [1, 5]] = 1, 3
CLASSES[1, 7] = 2


@pytest.mark.parametrize(("temperature", "background"), [(1.0, 1.5), (3.0, 0.5)])
def test_weighted_score_loss_by_formula(temperature, background):
    student, teacher = normal(1, 2, 12, 4), normal(2, 2, 12, 4)
    weights = np.array([background, 1, 1, 1])
    own, target = (softmax(z, temperature) for z in (student, teacher))
    cross = -(weights * target * np.log(own)).sum(-1)
    chosen = mined(student, CLASSES)
    assert chosen.sum() == 3 + 9
    loss = weighted_score_loss(
        nd.array(student),
        nd.array(teacher),
        nd.array(CLASSES),
        temperature=temperature,
        background=background,
    )
    expected = temperature**2 * cross[chosen].mean()
    assert loss.asscalar() == pytest.approx(expected, rel=1e-5)


def test_weighted_score_loss_moves_the_mined_anchors_alone():
    student, teacher = normal(1, 2, 12, 4), normal(2, 2, 12, 4)
    found = gradient(
        lambda z: weighted_score_loss(z, nd.array(teacher), nd.array(CLASSES)), student
    )
    assert np.array_equal(found.any(-1), mined(student, CLASSES))


@pytest.mark.parametrize("anchors", [12, 5])
def test_weighted_score_loss_takes_as_many_negatives_where_all_are_equal(anchors):
    teacher, classes = normal(2, 2, anchors, 4), np.zeros((2, anchors), np.float32)
    classes[0, [1, 4]] = 1, 3
    found = gradient(
        lambda z: weighted_score_loss(z, nd.array(teacher), nd.array(classes)),
        np.zeros((2, anchors, 4), np.float32),
    )
    chosen = found.any(-1)
    assert chosen[0, [1, 4]].all()
    assert list(chosen.sum(1)) == [min(anchors, 2 + 6), 0]


def test_weight_one_of_the_background_pulls_towards_the_teacher_exactly():
    teacher = normal(2, 2, 12, 4)

    def largest(background):
        found = gradient(
            lambda z: weighted_score_loss(
                z, nd.array(teacher), nd.array(CLASSES), background=background
            ),
            teacher,
        )
        return abs(found).max()

    assert largest(1.0) < 1e-6
    assert largest(1.5) > 1e-3


def test_bounded_box_loss_by_formula():
    student, teacher, targets = (normal(i, 2, 12, 4) for i in (1, 2, 3))
    margin, total, active = 5.0, 0.0, 0
    for i, a in np.argwhere(CLASSES > 0):
        own = ((student[i, a] - targets[i, a]) ** 2).sum()
        bound = ((teacher[i, a] - targets[i, a]) ** 2).sum()
        if own + margin > bound:
            total, active = total + own, active + 1
    assert 0 < active < 3  # both sides of the bound are met
    arrays = [nd.array(a) for a in (student, teacher, targets, CLASSES)]
    loss = bounded_box_loss(*arrays, margin=margin)
    assert loss.asscalar() == pytest.approx(total / 3, rel=1e-5)


@pytest.mark.parametrize(
    ("margin", "own", "expected"),
    [
        (0.0, 1.0, 0.0),  # better than the teacher, whose error is 4
        (0.0, 3.0, 9.0),  # worse
        (0.0, 2.0, 0.0),  # as good
        (2.0, 1.0, 0.0),  # better by 3
        (3.5, 1.0, 1.0),  # not by as much as asked
    ],
)
def test_a_student_that_beats_its_teacher_by_the_margin_is_left_alone(
    margin, own, expected
):
    targets, classes = nd.zeros((1, 1, 4)), nd.ones((1, 1))
    teacher = nd.array([[[2.0, 0, 0, 0]]])
    student = np.array([[[own, 0, 0, 0]]], np.float32)

    def loss(deltas):
        return bounded_box_loss(deltas, teacher, targets, classes, margin=margin)

    assert loss(nd.array(student)).asscalar() == expected
    assert gradient(loss, student)[0, 0, 0] == (2 * own if expected else 0)


@pytest.mark.parametrize("name", ["weighted_scores", "bounded_boxes", "imitation"])
def test_a_batch_without_objects_teaches_nothing(name):
    classes = np.zeros((2, 12), np.float32)
    deltas = nd.array(normal(3, 2, 12, 4))
    if name == "weighted_scores":
        scores = nd.array(normal(1, 2, 12, 4)), nd.array(normal(2, 2, 12, 4))
        loss = weighted_score_loss(*scores, nd.array(classes))
    elif name == "bounded_boxes":
        loss = bounded_box_loss(deltas, deltas + 1, deltas + 2, nd.array(classes))
    else:
        taps = nd.array(normal(1, 2, 3, 2, 2)), nd.array(normal(2, 2, 3, 2, 2))
        loss = imitation_loss(taps[:1], taps[1:], [nd.zeros((2, 2, 2))])
    assert loss.asscalar() == 0


def test_hint_loss_by_formula():
    student, teacher = normal(1, 2, 3, 4, 5), normal(2, 2, 3, 4, 5)
    expected = ((student - teacher) ** 2).sum() / (2 * 3 * 4 * 5)
    loss = hint_loss(nd.array(student), nd.array(teacher))
    assert loss.asscalar() == pytest.approx(expected, rel=1e-5)


def test_imitation_loss_by_formula():
    shapes = ((2, 3, 4, 5), (2, 6, 2, 2))
    students = [normal(i, *shape) for i, shape in enumerate(shapes)]
    teachers = [normal(i + 5, *shape) for i, shape in enumerate(shapes)]
    near = [np.zeros((2, 4, 5), np.float32), np.zeros((2, 2, 2), np.float32)]
    near[0][0, 1, 2] = near[0][1, 3, 4] = near[1][1, 0, 1] = 1
    cells = [(0, 0, 1, 2), (0, 1, 3, 4), (1, 1, 0, 1)]
    expected = sum(
        ((students[k][b, :, i, j] - teachers[k][b, :, i, j]) ** 2).sum()
        for k, b, i, j in cells
    ) / (2 * 3)
    loss = imitation_loss(
        *([nd.array(a) for a in p] for p in (students, teachers, near))
    )
    assert loss.asscalar() == pytest.approx(expected, rel=1e-5)


def test_imitation_moves_cells_near_objects_alone():
    near = np.zeros((1, 4, 5), np.float32)
    near[0, 1, 2:4] = 1
    teacher = [nd.array(normal(2, 1, 3, 4, 5))]
    found = gradient(
        lambda tap: imitation_loss([tap], teacher, [nd.array(near)]),
        normal(1, 1, 3, 4, 5),
    )
    assert np.array_equal(found.all(1), near == 1)
    assert np.array_equal(found.any(1), near == 1)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_channel_loss_by_formula(temperature):
    student, teacher = normal(1, 2, 3, 4, 5), normal(2, 2, 3, 4, 5)
    expected = 0.0
    for image in range(2):
        for channel in range(3):
            own, target = (
                softmax(tap[image, channel].ravel(), temperature)
                for tap in (student, teacher)
            )
            expected += (target * np.log(target / own)).sum()
    expected *= temperature**2 / 3 / 2
    loss = channel_loss(nd.array(student), nd.array(teacher), temperature)
    assert loss.asscalar() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_channel_loss_has_the_gradient_of_its_formula(temperature):
    # T^2 / (B K) times (q_s - q_t) / T, as for any softened cross-entropy.
    student, teacher = normal(1, 2, 3, 4, 5), normal(2, 2, 3, 4, 5)
    own, target = (
        softmax(tap.reshape(2, 3, 20), temperature).reshape(2, 3, 4, 5)
        for tap in (student, teacher)
    )
    found = gradient(
        lambda tap: channel_loss(tap, nd.array(teacher), temperature), student
    )
    expected = temperature / (2 * 3) * (own - target)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("loss", [hint_loss, feature_loss, channel_loss])
def test_gradients_of_feature_losses_equal_differences(loss):
    student, teacher = normal(1, 1, 2, 2, 3), nd.array(normal(2, 1, 2, 2, 3))
    found, step = gradient(lambda tap: loss(tap, teacher), student), 0.01
    for at in np.ndindex(student.shape):
        values = []
        for sign in (1, -1):
            moved = student.copy()
            moved[at] += sign * step
            values.append(loss(nd.array(moved), teacher).asscalar())
        slope = (values[0] - values[1]) / (2 * step)
        assert found[at] == pytest.approx(slope, rel=0.02, abs=1e-3)


def test_imitation_has_the_gradient_of_its_formula():
    student, teacher = normal(1, 1, 3, 4, 5), normal(2, 1, 3, 4, 5)
    near = np.zeros((1, 4, 5), np.float32)
    near[0, 1, 2:4] = 1
    found = gradient(
        lambda tap: imitation_loss([tap], [nd.array(teacher)], [nd.array(near)]),
        student,
    )
    expected = near[:, None] * (student - teacher) / 2  # of two cells
    assert found == pytest.approx(expected, rel=1e-5)


def test_channel_loss_asks_where_and_not_how_much():
    tap = nd.array(normal(1, 2, 3, 4, 5))
    offset = nd.array(normal(2, 2, 3, 1, 1))
    loss = channel_loss(nd.broadcast_add(tap, offset), tap)
    assert loss.asscalar() == pytest.approx(0, abs=1e-5)


def test_channel_loss_of_one_cell_is_zero():
    taps = nd.array(normal(1, 2, 3, 1, 1)), nd.array(normal(2, 2, 3, 1, 1))
    assert channel_loss(*taps).asscalar() == 0


# --- cells near objects -----------------------------------------------------------

# Two maps of a picture of 40 pixels: 4 x 4 cells with two anchors, and one cell.
FINE = [
    (5 + 10 * x, 5 + 10 * y, s, s) for y in range(4) for x in range(4) for s in (8, 12)
]
ANCHORS = AnchorGrid(
    np.array([*FINE, (20, 20, 40, 40)], np.float32), ((4, 4, 2), (1, 1, 1))
)


def targets_of(*objects: tuple) -> tuple:
    """Return the targets of one image whose objects (center boxes) have one anchor."""
    classes = np.zeros((1, 33), np.float32)
    deltas = np.zeros((1, 33, 4), np.float32)
    for anchor, box in objects:
        x, y, width, height = ANCHORS.center_boxes[anchor]
        classes[0, anchor] = 1
        deltas[0, anchor] = (
            (box[0] - x) / width / 0.1,
            (box[1] - y) / height / 0.1,
            np.log(box[2] / width) / 0.2,
            np.log(box[3] / height) / 0.2,
        )
    return classes, deltas


def marked(masks: list) -> list:
    return [[tuple(map(int, cell)) for cell in np.argwhere(m[0])] for m in masks]


def test_cell_with_the_only_anchor_that_fits_is_near():
    # Anchor 11: 12 pixels around the middle of row 1, column 1. The object is its box;
    # the next cells' anchors overlap it by 2 x 12 of 264 pixels, their 8s by 0.
    targets = targets_of((11, (15, 15, 12, 12)))
    assert marked(imitation_masks(*targets, ANCHORS, 0.5)) == [[(1, 1)], []]


def test_cells_reach_as_far_as_the_share_says():
    # Between two cells: both overlap by 7 x 12 of 204 pixels, 0.41; those behind not.
    targets = targets_of((11, (20, 15, 12, 12)))
    assert marked(imitation_masks(*targets, ANCHORS, 1.0)) == [[(1, 1), (1, 2)], []]
    # Their neighbours above and below by 7 x 2 of 274, an eighth of that; the 8s less.
    wider = marked(imitation_masks(*targets, ANCHORS, 0.12))
    rows = [(i, j) for i in (0, 1, 2) for j in (1, 2)]
    assert wider[0] == rows


def test_a_map_is_near_an_object_only_where_its_anchors_fit():
    # 36 x 36 of 40 x 40 is 0.81; an anchor of 12 x 12 within it 144 / 1296 = 0.11.
    targets = targets_of((32, (20, 20, 36, 36)))
    assert marked(imitation_masks(*targets, ANCHORS, 0.5)) == [[], [(0, 0)]]


def test_cells_near_any_object_count_and_each_image_has_its_own():
    both = targets_of((1, (5, 5, 12, 12)), (31, (35, 35, 12, 12)))
    none = targets_of()
    batch = [np.concatenate(pair) for pair in zip(both, none)]
    masks = imitation_masks(*batch, ANCHORS, 0.5)
    assert marked(masks) == [[(0, 0), (3, 3)], []]
    assert [m.shape for m in masks] == [(2, 4, 4), (2, 1, 1)]
    assert not any(m[1].any() for m in masks)


def test_cell_stands_for_those_that_are_left_out():
    random = np.random.RandomState(0)
    maps, count = ((7, 8, 1), (5, 5, 1)), 7 * 8 + 25
    boxes = np.hstack([random.uniform(0, 80, (count, 2)), np.full((count, 2), 9.0)])
    classes = (random.rand(3, count) > 0.97).astype("float32")
    deltas = np.zeros((3, count, 4), "float32")
    whole, small = imitation_masks(classes, deltas, AnchorGrid(boxes, maps))
    thin, same = imitation_masks(classes, deltas, AnchorGrid(boxes, maps, stride=2))
    assert thin.shape == (3, 4, 4)
    assert 0 < thin.sum() <= whole.sum()
    np.testing.assert_array_equal(same, small)
    for image, row, column in np.ndindex(thin.shape):
        block = whole[image, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert thin[image, row, column] == block.max()


def test_near_cells_equal_a_slow_search():
    rng = np.random.default_rng(3)
    boxes = np.hstack([rng.uniform(8, 32, (3, 2)), rng.uniform(6, 30, (3, 2))])
    targets = targets_of(*zip((3, 14, 32), boxes))

    def overlap(a, b):
        (ax, ay, aw, ah), (bx, by, bw, bh) = a, b
        width = min(ax + aw / 2, bx + bw / 2) - max(ax - aw / 2, bx - bw / 2)
        height = min(ay + ah / 2, by + bh / 2) - max(ay - ah / 2, by - bh / 2)
        common = max(width, 0) * max(height, 0)
        return common / (aw * ah + bw * bh - common)

    near = set()
    for box in boxes:
        found = [overlap(anchor, box) for anchor in ANCHORS.center_boxes]
        near |= {i // 2 for i, v in enumerate(found) if v >= 0.4 * max(found)}
    expected = [[divmod(i, 4) for i in sorted(near - {16})], [(0, 0)] * (16 in near)]
    assert marked(imitation_masks(*targets, ANCHORS, 0.4)) == expected


def test_anchors_that_do_not_fill_the_maps_are_named():
    with pytest.raises(
        ValueError, match=r"need boxes of shape \(33, 4\), not \(32, 4\)"
    ):
        AnchorGrid(np.zeros((32, 4)), ((4, 4, 2), (1, 1, 1)))


# --- the step ---------------------------------------------------------------------


def outputs(seed: int, *, anchors: int = 6, widths: tuple = (2, 3)) -> list:
    """Return scores, deltas and one tap of each width, as arrays."""
    taps = [nd.array(normal(seed + i, 2, w, 4, 4)) for i, w in enumerate(widths)]
    return [
        nd.array(normal(seed + 10, 2, anchors, 3)),
        nd.array(normal(seed + 20, 2, anchors, 4)),
        *taps,
    ]


def zero_loss(own, batch) -> tuple:
    return (own[0] * 0).sum(), {"class": nd.zeros(1)}


def step_of(student: list, teacher: list, weights: dict, **options) -> tuple:
    step = distil_step(
        lambda images: teacher, ["low", "high"], zero_loss, weights=weights, **options
    )
    loss, parts = step(lambda images: student, [nd.zeros(1)])
    return loss.asscalar(), {name: part.asscalar() for name, part in parts.items()}


def test_a_student_that_equals_its_teacher_loses_nothing():
    loss, parts = step_of(outputs(1), outputs(1), ALL)
    assert set(parts) == {"class", "scores", "boxes", "features"}
    assert [loss, *parts.values()] == pytest.approx([0] * 5, abs=1e-6)


def test_the_loss_is_the_weighted_sum_of_its_parts():
    student, teacher = outputs(1), outputs(5)
    weights = {"scores": 2.0, "boxes": 0.5, "features": 3.0}
    settings = {"temperature": 4.0}
    loss, parts = step_of(student, teacher, weights, settings=settings)
    assert parts["scores"] == score_loss(student[0], teacher[0], 4.0).asscalar()
    assert parts["boxes"] == box_loss(student[1], teacher[1], teacher[0]).asscalar()
    taps = [feature_loss(s, t).asscalar() for s, t in zip(student[2:], teacher[2:])]
    assert parts["features"] == pytest.approx(sum(taps) / 2)
    assert loss == pytest.approx(sum(w * parts[n] for n, w in weights.items()))


def every_part(student: list, teacher: list, weights: dict, settings: dict) -> tuple:
    """Return loss and parts of a batch with the targets of ``BATCH``."""
    anchors = AnchorGrid(normal(7, 17, 4) ** 2 + 4, ((4, 4, 1), (1, 1, 1)))
    step = distil_step(
        lambda images: teacher,
        ["low", "high"],
        zero_loss,
        weights=weights,
        settings=settings,
        anchors=anchors,
    )
    loss, parts = step(lambda images: student, BATCH)
    near = imitation_masks(
        *(t.asnumpy() for t in BATCH[1:]), anchors, settings.get("near", 0.5)
    )
    named = {name: part.asscalar() for name, part in parts.items()}
    return loss.asscalar(), named, [nd.array(mask) for mask in near]


BATCH = [nd.zeros((2, 1)), nd.zeros((2, 17)), nd.array(normal(9, 2, 17, 4, scale=0.3))]
BATCH[1][0, 3] = BATCH[1][1, 8] = 1
TAPPED = [nd.array(normal(i, 2, 3, n, n)) for i, n in ((1, 4), (2, 1), (3, 4), (4, 1))]


def test_every_loss_has_its_settings_and_its_weight():
    student, teacher = (
        outputs(1, anchors=17, widths=()),
        outputs(5, anchors=17, widths=()),
    )
    student, teacher = [*student, *TAPPED[:2]], [*teacher, *TAPPED[2:]]
    settings = {"temperature": 3, "background": 2, "margin": 900}
    settings.update(near=0.7, channel_temperature=2)
    weights = {name: 0.25 * (i + 1) for i, name in enumerate(LOSSES)}
    loss, parts, near = every_part(student, teacher, weights, settings)
    classes, deltas = BATCH[1:]
    taps = list(zip(student[2:], teacher[2:]))
    expected = {
        "scores": score_loss(student[0], teacher[0], 3),
        "boxes": box_loss(student[1], teacher[1], teacher[0]),
        "features": sum(feature_loss(*pair) for pair in taps) / 2,
        "weighted_scores": weighted_score_loss(
            student[0], teacher[0], classes, temperature=3, background=2
        ),
        "bounded_boxes": bounded_box_loss(
            student[1], teacher[1], deltas, classes, margin=900
        ),
        "hints": sum(hint_loss(*pair) for pair in taps) / 2,
        "imitation": imitation_loss(student[2:], teacher[2:], near),
        "channels": sum(channel_loss(*pair, 2) for pair in taps) / 2,
    }
    assert set(expected) == set(LOSSES) == set(parts) - {"class"}
    for name, value in expected.items():
        assert value.asscalar() > 0, name
        assert parts[name] == pytest.approx(value.asscalar(), rel=1e-6), name
    assert loss == pytest.approx(sum(w * parts[n] for n, w in weights.items()))


def test_an_equal_student_loses_nothing_but_the_entropy_and_what_labels_say():
    own = [*outputs(1, anchors=17, widths=()), *TAPPED[:2]]
    _, parts, _ = every_part(own, own, dict.fromkeys(LOSSES, 1.0), {})
    others = set(LOSSES) - {"weighted_scores", "bounded_boxes"}
    assert [parts[name] for name in others] == pytest.approx([0] * 6, abs=1e-5)
    assert parts["bounded_boxes"] == 0  # not better than its teacher, not worse either


def test_the_teacher_runs_once_however_many_losses_there_are():
    calls = []

    def teacher(images):
        calls.append(images)
        return [*outputs(5, anchors=17, widths=()), *TAPPED[2:]]

    student = [*outputs(1, anchors=17, widths=()), *TAPPED[:2]]
    anchors = AnchorGrid(normal(7, 17, 4) ** 2 + 4, ((4, 4, 1), (1, 1, 1)))
    weights = dict.fromkeys(LOSSES, 1.0)
    step = distil_step(
        teacher, ["low", "high"], zero_loss, weights=weights, anchors=anchors
    )
    step(lambda images: student, BATCH)
    assert len(calls) == 1


@pytest.mark.parametrize("name", LOSSES)
def test_taps_are_needed_by_the_losses_on_features_alone(name):
    on_maps = ("features", "hints", "imitation", "channels")
    assert needs_taps({name: 1.0, "scores": 1.0}) == (name in on_maps)
    assert not needs_taps({name: 0.0})


def defaults() -> dict:
    """Return the settings of all losses of detectors, as they are by default."""
    return {k: v for loss in LOSSES.values() for k, v in vars(loss.Config()).items()}


def test_a_recipe_knows_the_losses_and_their_settings():
    losses = dict.fromkeys(LOSSES, 1.0)
    assert Distillation(losses=losses).losses.keys() == set(LOSSES)
    with pytest.raises(ValueError, match="logits"):
        Distillation(losses={"logits": 1.0})
    assert Distillation(losses=losses).loss_settings == defaults()


def test_the_base_loss_is_kept_and_its_parts_are_left_alone():
    own = {"class": nd.array([5.0])}
    step = distil_step(
        lambda images: outputs(5),
        ["low", "high"],
        lambda outputs, batch: (nd.array([7.0]) + batch[1], own),
        weights={"scores": 0.0, "boxes": 1.0},
    )
    loss, parts = step(lambda images: outputs(1), [nd.zeros(1), nd.array([2.0])])
    assert loss.asscalar() == pytest.approx(9 + parts["boxes"].asscalar())
    assert set(parts) == {"class", "boxes"}
    assert set(own) == {"class"}


class Head(gluon.nn.HybridBlock):
    """One convolution a map and per-cell scores and deltas, as a detector's head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        with self.name_scope():
            self.tap = gluon.nn.Conv2D(width, 3, padding=1, in_channels=2)
            self.norm = gluon.nn.BatchNorm(in_channels=width)
            self.adapter = gluon.nn.Conv2D(4, 1, in_channels=width)
            self.scores = gluon.nn.Conv2D(3, 1, in_channels=width)
            self.deltas = gluon.nn.Conv2D(4, 1, in_channels=width)

    def hybrid_forward(self, F, x):
        tap = F.relu(self.norm(self.tap(x)))
        scores, deltas = (
            F.transpose(head(tap), (0, 2, 3, 1)).reshape((0, -1, size))
            for head, size in ((self.scores, 3), (self.deltas, 4))
        )
        return scores, deltas, self.adapter(tap)


def head(width: int, seed: int) -> Head:
    net = Head(width)
    mx.random.seed(seed)
    net.initialize(mx.init.Normal(0.5))
    net.hybridize()
    return net


IMAGES = nd.array(normal(0, 4, 2, 5, 5))


def test_the_teacher_gets_no_gradient_and_stays_as_it_was():
    teacher, student = head(8, 1), head(4, 2)
    before = {n: p.data().asnumpy() for n, p in teacher.collect_params().items()}
    step = distil_step(teacher, ["map"], zero_loss, weights=ALL)
    with autograd.record():
        loss, _ = step(student, [IMAGES])
    loss.backward()
    for name, parameter in teacher.collect_params().items():
        assert np.array_equal(parameter.data().asnumpy(), before[name])
        if parameter.grad_req != "null":
            assert not parameter.grad().asnumpy().any()
    moved = [student.scores, student.deltas, student.adapter, student.tap]
    assert all(block.weight.grad().asnumpy().any() for block in moved)


def test_the_teacher_runs_in_inference_form():
    modes = []

    def teacher(images):
        modes.append((autograd.is_training(), autograd.is_recording()))
        return outputs(5)

    step = distil_step(teacher, ["low", "high"], zero_loss, weights=ALL)
    with autograd.record():
        step(lambda images: outputs(1), [nd.zeros(1)])
        assert autograd.is_training()
    assert modes == [(False, False)]


def test_a_distilled_student_comes_closer_to_its_teacher(tmp_path):
    class Batches:
        def __len__(self) -> int:
            return 20

        def epoch(self, number: int, start: int = 0):
            for i in range(start, 20):
                yield (nd.array(normal(100 * number + i, 4, 2, 5, 5)),)

    def distances() -> list:
        own, target = student(IMAGES), teacher(IMAGES)
        pairs = zip(own[:2], target[:2])
        far = [nd.abs(s - t).mean().asscalar() for s, t in pairs]
        return [*far, feature_loss(own[2], target[2]).asscalar()]

    teacher, student = head(8, 1), head(6, 2)
    before = distances()
    step = distil_step(teacher, ["map"], zero_loss, weights=ALL)
    schedule = Schedule(epochs=3, learning_rate=0.05, clip_norm=5.0)
    fit(student, Batches(), step, schedule, tmp_path, options=Options(progress=False))
    for old, new in zip(before, distances()):
        assert new < 0.7 * old


# --- bad input --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "taps", "options", "message"),
    [
        ({"logits": 1.0}, ["a"], {}, "'logits'; allowed: scores, boxes, "),
        ({"scores": -1.0}, ["a"], {}, "weight of 'scores' is -1.0; allowed: from 0"),
        ({"features": 1.0}, [], {}, "'features' needs at least one tap"),
        ({"hints": 1.0}, [], {}, "'hints' needs at least one tap"),
        ({"imitation": 1.0}, ["a"], {}, "'imitation' needs the anchors"),
        (
            {"imitation": 1.0},
            ["a"],
            {"anchors": ANCHORS},
            "one tap for each map of the anchors: maps 2, taps 1",
        ),
    ],
)
def test_wrong_settings_are_named(weights, taps, options, message):
    with pytest.raises(ValueError, match=message):
        distil_step(None, taps, None, weights=weights, **options)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0),
        ("background", 0),
        ("margin", -1),
        ("near", 0),
        ("near", 1.5),
        ("channel_temperature", 0),
    ],
)
def test_wrong_constants_are_named(name, value):
    taps, anchors = ["low", "high"], {"anchors": ANCHORS}
    weights = dict.fromkeys(LOSSES, 1.0)
    with pytest.raises(ValueError, match=f"{name} is {value}; allowed: a number"):
        distil_step(
            None, taps, None, weights=weights, settings={name: value}, **anchors
        )


def test_a_setting_that_no_loss_has_is_named():
    with pytest.raises(ValueError, match="'warmth'; allowed: .*temperature"):
        distil_step(None, [], None, weights={}, settings={"warmth": 2})


def test_settings_may_be_any_object_that_holds_them():
    recipe = SimpleNamespace(temperature=4.0, taps=None)
    student, teacher = outputs(1), outputs(5)
    _, parts = step_of(student, teacher, {"scores": 1.0}, settings=recipe)
    assert parts["scores"] == score_loss(student[0], teacher[0], 4.0).asscalar()


def test_outputs_may_come_by_name():
    names = ("class_scores", "box_deltas", "low", "high")
    student, teacher = outputs(1), outputs(5)
    expected = step_of(student, teacher, ALL)[1]

    def first(own, batch) -> tuple:
        return (own["class_scores"] * 0).sum(), {"class": nd.zeros(1)}

    step = distil_step(
        lambda images: dict(zip(names, teacher)), names[2:], first, weights=ALL
    )
    _, parts = step(lambda images: dict(zip(names, student)), [nd.zeros(1)])
    assert {name: part.asscalar() for name, part in parts.items()} == expected


def test_an_output_that_a_loss_needs_and_a_net_lacks_is_named():
    teacher = {"class_scores": nd.ones((1, 2, 3))}
    step = distil_step(lambda images: teacher, [], None, weights={"boxes": 1.0})
    with pytest.raises(ValueError, match="teacher gives no 'box_deltas'"):
        step(lambda images: outputs(1, widths=()), [nd.zeros(1)])


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        ({"anchors": 5}, {}, r"class_scores: the student gives \(2, 5, 3\), the teach"),
        (
            {"widths": (2, 4)},
            {},
            r"high: the student gives \(2, 4, 4, 4\), the teacher",
        ),
        ({"widths": (2,)}, {}, "the student gives 3"),
        ({}, {"widths": ()}, "the teacher gives 2"),
    ],
)
def test_outputs_that_do_not_match_are_named(student, teacher, message):
    with pytest.raises(ValueError, match=message):
        step_of(outputs(1, **student), outputs(5, **teacher), ALL)


# --- adapters ---------------------------------------------------------------------


def test_adapters_bring_taps_to_the_widths():
    taps = [mx.sym.var("a"), mx.sym.var("b")]
    adapted = mx.sym.Group(adapt(taps, [5, 6]))
    _, shapes, _ = adapted.infer_shape(a=(1, 2, 3, 3), b=(1, 3, 4, 4))
    assert shapes == [(1, 5, 3, 3), (1, 6, 4, 4)]


def test_every_tap_needs_a_width():
    with pytest.raises(ValueError, match="2 taps need as many widths, not 1"):
        adapt([mx.sym.var("a"), mx.sym.var("b")], [5])
