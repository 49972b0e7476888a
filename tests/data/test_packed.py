from __future__ import annotations

import numpy as np
import pytest

from gluon_compress.data.packed import Rows, Texts
from gluon_compress.storage.reading import Unreadable

TEXTS = (
    [],
    [""],
    ["one"],
    ["same", "same"],
    ["data/a.png", "data/ä.png", "data/", "data/\udc80.png", "data/日本.png"],
)


@pytest.mark.parametrize("number", range(len(TEXTS)))
def test_texts_are_as_they_were(number):
    texts = TEXTS[number]
    packed = Texts.of(texts)
    assert list(packed) == texts
    assert packed[:2] == texts[:2]
    assert [packed[-1 - i] for i in range(len(texts))] == texts[::-1]
    assert list(Texts.from_kept("x", *packed.kept("x"))) == texts
    with pytest.raises(IndexError):
        packed[len(texts)]


def test_rows_are_as_they_were():
    rng = np.random.default_rng(0)
    items = [rng.random((count, 6)).astype(np.float32) for count in (0, 3, 0, 1)]
    rows = Rows.of(items, 6)
    assert len(rows) == 4
    for got, item in zip(rows, items):
        np.testing.assert_array_equal(got, item)
    assert Rows.of([], 6).rows.shape == (0, 6)


BYTES = np.frombuffer("aä".encode(), np.uint8)
UNSOUND = {
    "inside of a letter": (BYTES, [2, 3]),
    "falling": (BYTES, [3, 1, 3]),
    "negative": (BYTES, [-1, 3]),
    "short": (BYTES, [2]),
    "beyond": (BYTES, [9]),
    "no end": (BYTES, []),
    "no text": (np.full(3, 255, np.uint8), [3]),
    "numbers": (np.zeros(3, np.int32), [3]),
}


@pytest.mark.parametrize("case", UNSOUND)
def test_arrays_of_no_texts_are_refused(case):
    content, ends = UNSOUND[case]
    with pytest.raises(Unreadable):
        Texts(content, np.array(ends, np.int64), "")
