"""Images that show the same."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest

from gluon_compress.data.duplicates import Duplicate, Fingerprint, duplicates


def scene(seed: int) -> np.ndarray:
    """Return an image with large structures, as photographs have them."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(60, 200, (6, 8)).astype(np.uint8)
    grey = cv2.resize(coarse, (160, 120), interpolation=cv2.INTER_CUBIC)
    return cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)


def prints(*images) -> list[Fingerprint]:
    return [Fingerprint.of(image) for image in images]


def stored_again(image: np.ndarray, scale: float, quality: int) -> np.ndarray:
    resized = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return cv2.imdecode(cv2.imencode(".jpg", resized, options)[1], 1)


@pytest.mark.parametrize(("scale", "quality"), [(1.0, 95), (0.6, 90), (1.0, 50)])
def test_resized_and_compressed_copies_are_equal(scale, quality):
    copy = stored_again(scene(0), scale, quality)
    pairs = duplicates(prints(scene(0), scene(1), copy))
    assert pairs == [Duplicate(0, 2, equal=True)]


def test_slightly_moved_views_are_alike_but_not_equal():
    moved = np.roll(scene(0), 2, axis=0)
    assert duplicates(prints(scene(0), moved)) == [Duplicate(0, 1, equal=False)]


def test_other_images_are_no_duplicates():
    assert duplicates(prints(*map(scene, range(40)))) == []


def test_flat_images_of_other_colours_are_no_duplicates():
    # All flat images have the same hash.
    flat = [np.full((20, 30, 3), value, np.uint8) for value in (0, 120, 250)]
    assert duplicates(prints(*flat)) == []


def test_each_image_is_named_once_with_the_most_similar_earlier_one():
    almost = np.clip(scene(0).astype(int) + 6, 0, 255).astype(np.uint8)
    pairs = duplicates(prints(almost, scene(0), scene(0), scene(0)))
    assert [(p.first, p.second) for p in pairs] == [(0, 1), (1, 2), (1, 3)]


def test_no_image_is_no_duplicate():
    assert duplicates([]) == []


def test_the_nearest_is_that_of_all_pairs():
    rng = np.random.default_rng(0)
    images = [
        np.clip(scene(i % 3).astype(int) + rng.integers(-20, 20), 0, 255)
        for i in range(40)
    ]
    fingerprints = prints(*(image.astype(np.uint8) for image in images))
    small = [f.small.astype(int) for f in fingerprints]
    expected = {}
    for second, print_ in enumerate(fingerprints):
        for first in range(second):
            gap = np.abs(small[first] - small[second])
            bits = bin(fingerprints[first].bits ^ print_.bits).count("1")
            if gap.mean() <= 6 and gap.max() <= 40 and bits < 8:
                best = expected.get(second, (256, 0))
                expected[second] = min(best, (int(gap.max()), first))
    pairs = {p.second: p.first for p in duplicates(fingerprints)}
    # A copy stands for its original, which nothing resembles more than by its margin.
    assert 0 < len(pairs) == len(expected)
    for second, first in pairs.items():
        gap = np.abs(small[first] - small[second]).max()
        assert gap <= expected[second][0] + 2


def test_thousands_of_copies_take_no_longer_than_other_images():
    black = prints(np.zeros((8, 8, 3), np.uint8))[0]
    noisy = np.random.default_rng(0).integers(0, 2, (1500, 16, 16, 3), np.uint8)
    copies = [Fingerprint(black.bits, small) for small in noisy]
    start = time.process_time()
    pairs = duplicates(copies)
    assert time.process_time() - start < 3  # 50 s when each was compared with all
    assert [pair.first for pair in pairs] == [0] * 1499
