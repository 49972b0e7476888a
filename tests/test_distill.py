from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon, nd

from gluon_compress.distill import (
    adapt,
    box_loss,
    distil_step,
    feature_loss,
    score_loss,
)
from gluon_compress.recipe import Schedule
from gluon_compress.train import Options, fit

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
    loss, parts = step_of(student, teacher, weights, temperature=4.0)
    assert parts["scores"] == score_loss(student[0], teacher[0], 4.0).asscalar()
    assert parts["boxes"] == box_loss(student[1], teacher[1], teacher[0]).asscalar()
    taps = [feature_loss(s, t).asscalar() for s, t in zip(student[2:], teacher[2:])]
    assert parts["features"] == pytest.approx(sum(taps) / 2)
    assert loss == pytest.approx(sum(w * parts[n] for n, w in weights.items()))


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
        ({"logits": 1.0}, ["a"], {}, "'logits'; allowed: scores, boxes, features"),
        ({"scores": -1.0}, ["a"], {}, "weight of 'scores' is -1.0; allowed: from 0"),
        ({"features": 1.0}, [], {}, "'features' needs at least one tap"),
        (ALL, ["a"], {"temperature": 0}, "temperature is 0; allowed: above 0"),
    ],
)
def test_wrong_settings_are_named(weights, taps, options, message):
    with pytest.raises(ValueError, match=message):
        distil_step(None, taps, None, weights=weights, **options)


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        ({"anchors": 5}, {}, r"class scores: the student gives \(2, 5, 3\), the teach"),
        (
            {"widths": (2, 4)},
            {},
            r"high: the student gives \(2, 4, 4, 4\), the teacher",
        ),
        ({"widths": (2,)}, {}, "the student gives 3 and the teacher 4"),
        ({}, {"widths": ()}, "the student gives 4 and the teacher 2"),
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


def test_all_losses_count_alike_where_no_weights_are_given():
    def parts_with(taps):
        outputs = [nd.random.uniform(shape=(2, 6, 3)), nd.ones((2, 6, 4))]
        outputs += [nd.ones((2, 4, 3, 3)) for _ in taps]
        step = distil_step(lambda images: outputs, taps, zero_loss)
        return set(step(lambda images: outputs, [nd.zeros(1)])[1])

    assert parts_with([]) == {"class", "scores", "boxes"}
    assert parts_with(["map"]) == {"class", "scores", "boxes", "features"}
