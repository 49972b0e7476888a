"""Peaks become boxes."""

from __future__ import annotations

import numpy as np
import pytest

from gluon_compress.postprocess import CenterNetPostprocess
from gluon_compress.postprocess.centernet import CenterNetPostprocessSettings

SHAPES = {"heat_map": (1, 2, 4, 5), "box_sizes": (1, 2, 4, 5)}
SHAPES["center_offsets"] = SHAPES["box_sizes"]


def maps(*peaks: tuple) -> dict[str, np.ndarray]:
    """Return maps of two classes with peaks (class, row, column, logit)."""
    arrays = {n: np.full(s, -9, np.float32) for n, s in SHAPES.items()}
    arrays["box_sizes"][0] = [[[2.0]], [[3.0]]]
    arrays["center_offsets"][0] = [[[0.5]], [[0.25]]]
    for name, row, column, logit in peaks:
        arrays["heat_map"][0, name, row, column] = logit
    return arrays


def rows(results: tuple) -> np.ndarray:
    found = np.concatenate(results, axis=2)[0]
    return found[found[:, 0] >= 0]


def test_a_box_lies_around_its_peak_by_the_formula():
    """Of neighbours the higher one stays, whatever the other class has there."""
    given = maps((0, 1, 1, 2.0), (0, 1, 2, 1.0), (1, 1, 2, 0.0), (0, 3, 4, -3.0))
    found = rows(CenterNetPostprocess().decode(given))
    scores = 1 / (1 + np.exp([-2.0, 0.0, 3.0]))
    boxes = [[x - 1, y - 1.5, x + 1, y + 1.5] for x, y in ((1.5, 1.25), (2.5, 1.25))]
    boxes.append([3.5, 1.75, 5.5, 4.75])
    expected = np.column_stack([[0, 1, 0], scores, 4 * np.array(boxes)])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_limits_and_what_is_not_finite():
    settings = CenterNetPostprocessSettings(peaks=2, least_score=0.4)
    given = maps((0, 0, 0, 3.0), (0, 0, 4, 1.0), (1, 3, 0, 2.0), (1, 3, 4, -1.0))
    found = rows(CenterNetPostprocess(settings).decode(given))
    assert found[:, 0].tolist() == [0, 1]
    given["box_sizes"][0, 0, 3, 0] = np.inf
    given["heat_map"][0, 0, 0, 0] = np.nan
    assert rows(CenterNetPostprocess(settings).decode(given))[:, 0].tolist() == [0]


def test_equal_neighbours_all_stay_and_nothing_is_found_in_a_dark_map():
    found = rows(CenterNetPostprocess().decode(maps((0, 1, 1, 1.0), (0, 1, 2, 1.0))))
    assert len(found) == 2
    assert len(rows(CenterNetPostprocess().decode(maps()))) == 0


def test_a_mirrored_image_is_averaged_by_probability():
    own, other = maps((0, 1, 1, 2.0)), maps((0, 1, 3, 0.0))
    other["box_sizes"] += 2
    other["center_offsets"] += 7
    average = CenterNetPostprocess().averaged(own, other)
    found = rows(CenterNetPostprocess().decode(average))
    share = (1 / (1 + np.exp(-2.0)) + 0.5) / 2
    np.testing.assert_allclose(found, [[0, share, 0, -3, 12, 13]], rtol=1e-5)
    # Also where both are almost certain, or infinite.
    for logit, wanted in ((50.0, 50.0), (-50.0, -50.0), (np.inf, np.inf)):
        both = CenterNetPostprocess().averaged(*[maps((0, 1, 2, logit))] * 2)
        assert both["heat_map"][0, 0, 1, 2] == pytest.approx(wanted)


def compared(found: dict, wanted: dict) -> str:
    post = CenterNetPostprocess()
    results = [post.decode(each) for each in (found, wanted)]
    return post.compare(wanted, *results, tolerance=1e-4, side=20)[1]


def test_comparison_allows_for_rounding_and_nothing_else():
    peaks = (0, 1, 1, 2.0), (1, 2, 3, 0.5)
    wanted = maps(*peaks)
    assert compared(maps(*peaks), wanted) == ""
    near = maps((0, 1, 1, 2.0001), (1, 2, 3, 0.5))
    assert compared(near, wanted) == ""
    # Of two neighbours with almost equal scores either may be the peak.
    pair = [maps((0, 1, 1, a), (0, 1, 2, b)) for a, b in ((2, 2.0001), (2.0001, 2))]
    assert compared(*pair) == ""
    for others in (peaks[:1], (*peaks, (0, 3, 4, 1.0)), ((1, 1, 1, 2.0), peaks[1])):
        assert "no other is near" in compared(maps(*others), wanted)
        assert "no other is near" in compared(wanted, maps(*others))


@pytest.mark.parametrize(
    ("changes", "classes", "place"),
    [
        ({}, "a", "classes"),
        ({"box_sizes": (1, 2, 4, 4)}, "ab", "shape of box_sizes"),
        ({"heat_map": (1, 2, 4)}, "ab", "outputs"),
        ({"predictions": (1, 2, 4, 5)}, "ab", "outputs"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(changes, classes, place):
    with pytest.raises(ValueError, match=f"^{place} "):
        CenterNetPostprocess().check({**SHAPES, **changes}, classes)
    CenterNetPostprocess().check(SHAPES, "ab")
