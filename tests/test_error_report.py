"""What the report says of the errors of two nets."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from gluon_compress.data import Preprocess
from gluon_compress.detection_errors import save_detections
from gluon_compress.report.error_report import ErrorReport
from test_detection_errors import CAT, DOG, FAR, SIZE, image

CLASSES = ("cat", "dog")
# The second net loses the dog of the first image, and finds the cat of the second.
FULL = [
    image([(CAT, 0), (DOG, 1)], [(CAT, 0, 0.9), (DOG, 1, 0.8)]),
    image([(CAT, 0)], [(FAR, 0, 0.9)]),
]
COMPACT = [
    image([(CAT, 0), (DOG, 1)], [(CAT, 0, 0.9), (DOG, 1, 0.3)]),
    image([(CAT, 0)], [(CAT, 0, 0.9)]),
]


PREPROCESS = Preprocess(height=SIZE, width=SIZE)


class Images:
    """The images of the detections, half as large as the net's input."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        grey = np.full((SIZE // 2, SIZE // 2, 3), 120, np.uint8)
        return grey, COMPACT[index].label * np.array([0.5] * 4 + [1, 1])


@pytest.fixture
def errors(tmp_path):
    files = {}
    for name, images in {"full": FULL, "compact": COMPACT}.items():
        files[name] = tmp_path / f"{name}.npz"
        save_detections(files[name], images)
    return ErrorReport(files, CLASSES, metric="voc10", threshold=0.4)


def test_tables_compare_the_nets(errors):
    kinds, sizes, lost = (table.cells for table in errors.tables())
    background = next(row for row in kinds if row[0].startswith("background"))
    # Without the wrong cat, the AP of cats is the same 1/2: it comes second.
    assert background[1:] == ["0.0", "1", "0.0", "0"]
    missed = next(row for row in kinds if row[0].startswith("missed"))
    assert missed[1:] == ["25.0", "1", "0.0", "1"]
    assert sizes[-1] == ["large", "3", "2 (67%)", "2 (67%)"]
    assert sizes[1] == ["small", "0", "0", "0"]
    assert lost[1:] == [
        ["cat", "1", "0", "1", "0"],
        ["dog", "0", "1", "0", "0"],
        ["all", "1", "1", "1", "0"],
    ]


def test_pictures_show_what_was_lost(errors, tmp_path):
    test = Images()
    pictures = list(errors.pictures(test, PREPROCESS, tmp_path))
    names = [picture.file for picture in pictures]
    assert names == [
        "precision_recall.png",
        "errors.png",
        "confusion.png",
        "worst.png",
        "lost.png",
    ]
    for name in names:
        assert cv2.imread(str(tmp_path / name)) is not None
    assert "1 in all" in pictures[-1].caption
    assert all(picture.alt for picture in pictures)


def test_one_net_alone_has_lost_nothing(errors, tmp_path):
    alone = ErrorReport({"full": tmp_path / "full.npz"}, CLASSES)
    assert len(list(alone.tables())) == 2
    names = [p.file for p in alone.pictures(Images(), PREPROCESS, tmp_path)]
    assert "lost.png" not in names


def test_nets_that_saw_other_images_are_not_compared(tmp_path):
    files = {}
    for name, images in {"full": FULL, "compact": COMPACT[1:]}.items():
        files[name] = tmp_path / f"{name}.npz"
        numbered = [replace(one, number=i) for i, one in enumerate(images)]
        save_detections(files[name], numbered)
    titles = [table.title for table in ErrorReport(files, CLASSES).tables()]
    assert titles == ["Kinds of errors", "Objects found, by size"]
