from __future__ import annotations

import json

import numpy as np
import pytest

from gluon_compress.postprocess import POSTPROCESS, SoftmaxPostprocess

SCORES = {"class_scores": np.log(np.array([[1, 5, 2, 2], [4, 1, 1, 2]], np.float32))}


def test_the_best_classes_come_with_their_probabilities():
    ids, shares = SoftmaxPostprocess(top_k=3).decode(SCORES)
    assert ids.tolist() == [[1, 2, 3], [0, 3, 1]]  # equal ones in their order
    np.testing.assert_allclose(shares, [[0.5, 0.2, 0.2], [0.5, 0.25, 0.125]], rtol=1e-6)


def test_no_more_classes_are_returned_than_there_are():
    postprocess = SoftmaxPostprocess(top_k=9)
    (ids, shares), _ = postprocess.in_images(postprocess.decode(SCORES))
    assert sorted(ids) == [0, 1, 2, 3]
    np.testing.assert_allclose(shares.sum(), 1, rtol=1e-6)


def test_state_goes_to_a_manifest_and_back():
    section, arrays = SoftmaxPostprocess(top_k=3).state()
    kind = POSTPROCESS[json.loads(json.dumps(section))["kind"]]
    assert kind.from_state(kind.Settings(**section), arrays) == SoftmaxPostprocess(3)


def test_classes_that_do_not_fit_are_refused():
    SoftmaxPostprocess().check({"class_scores": (1, 4)}, "abcd")
    with pytest.raises(ValueError, match="^classes"):
        SoftmaxPostprocess().check({"class_scores": (1, 4)}, "abc")


@pytest.mark.parametrize(
    ("change", "wrong"), [(0.001, False), (0.02, False), (0.5, True)]
)
def test_another_class_is_wrong_only_beyond_the_tolerance(change, wrong):
    scores = np.array([[1, 1 + change, 0]], np.float32)
    expected = SoftmaxPostprocess().decode({"class_scores": scores})
    swapped = SoftmaxPostprocess().decode({"class_scores": scores[:, [1, 0, 2]]})
    _, problem = SoftmaxPostprocess().compare(
        {"class_scores": scores}, swapped, expected, tolerance=0.01
    )
    assert bool(problem) == wrong


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_no_finite_numbers_give_no_class(value):
    scores = SCORES["class_scores"].copy()
    scores[0, 1] = value
    postprocess = SoftmaxPostprocess()
    results = postprocess.decode({"class_scores": scores})
    assert all(np.isfinite(part).all() for part in results)
    (ids, shares), second = postprocess.in_images(results)
    assert (len(ids), len(shares), len(second[0])) == (0, 0, 4)
