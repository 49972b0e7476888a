"""Several detectors as one teacher."""

from __future__ import annotations

import numpy as np
import pytest
from mxnet import nd

from gluon_compress.distill import score_loss, ssd_ensemble
from gluon_compress.recipe.detection import DetectorDistillation

NEEDED = {"losses": {"scores": 1}}


def outputs(seed: int, *, scale: float = 2.0) -> dict:
    rng = np.random.RandomState(seed)
    return {
        "class_scores": nd.array(rng.normal(0, scale, (2, 5, 4))),
        "box_deltas": nd.array(rng.normal(0, 1, (2, 5, 4))),
    }


def softmax(logits: nd.NDArray) -> np.ndarray:
    powers = np.exp(logits.asnumpy().astype(np.float64))
    return powers / powers.sum(-1, keepdims=True)


def taught(*given: dict) -> dict:
    return ssd_ensemble([lambda images, each=each: each for each in given])(None)


def test_probabilities_are_the_mean_of_the_teachers():
    given = [outputs(seed) for seed in range(3)]
    expected = np.mean([softmax(each["class_scores"]) for each in given], axis=0)
    actual = softmax(taught(*given)["class_scores"])
    assert np.allclose(actual, expected, atol=1e-6)


def test_boxes_are_those_of_the_teachers_that_see_an_object():
    given = [outputs(seed) for seed in range(3)]
    weights = [1 - softmax(each["class_scores"])[..., :1] for each in given]
    deltas = [each["box_deltas"].asnumpy() for each in given]
    expected = sum(w * d for w, d in zip(weights, deltas)) / sum(weights)
    assert np.allclose(taught(*given)["box_deltas"].asnumpy(), expected, atol=1e-5)


def test_equal_teachers_teach_what_each_of_them_does():
    alone = outputs(1)
    both = taught(alone, alone)
    student = outputs(2)["class_scores"]
    for temperature in (1.0, 2.0):
        one, two = (
            float(score_loss(student, each["class_scores"], temperature).asscalar())
            for each in (alone, both)
        )
        assert one == pytest.approx(two, rel=1e-4)
    assert np.allclose(
        alone["box_deltas"].asnumpy(), both["box_deltas"].asnumpy(), atol=1e-5
    )


def test_certain_teachers_give_finite_numbers():
    for made in taught(outputs(1, scale=500.0), outputs(2, scale=500.0)).values():
        assert np.isfinite(made.asnumpy()).all()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"teachers": ["a"]}, "teachers.*two or more"),
        ({"teachers": ["a", "b"], "teacher": "c"}, "teacher.*null where there are"),
        ({"teachers": ["a", "b"], "losses": {"hints": 1}}, "losses.*none on feature"),
    ],
)
def test_teachers_that_cannot_teach_together_are_refused(changes, named):
    with pytest.raises(ValueError, match=named):
        DetectorDistillation(**{**NEEDED, **changes})
    assert DetectorDistillation(**NEEDED, teachers=["a", "b"]).teacher is None
