"""Images that cannot be read: replaced in training, left out of what is measured."""

from __future__ import annotations

import errno
from functools import partial
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from gluon_compress.data import (
    Batches,
    BrokenImage,
    ImageFolder,
    Records,
    absent_classes,
    count_images,
    crop_val_sample,
    draw_subset,
    refuse_broken,
)
from gluon_compress.data import images as image_files
from gluon_compress.evaluate import coco_map, top1, voc_map
from images import NAMES, write_folder, write_records

BROKEN = (1, 2, 6)


def plain(image, label, *, rng):
    return image, label


def members(batches) -> list[list[int]]:
    """Return the labels of each batch: the indices of its samples."""
    return [[int(i) for i in labels.asnumpy()] for _, labels in batches]


class Damaged:
    """A set whose images and labels are their own index; some cannot be read."""

    classes = ("thing",)

    def __init__(self, count: int, broken=BROKEN, skipped: int = 0) -> None:
        self.count, self.bad, self.skipped = count, broken, skipped
        self.problems = [("a.jpg", "a.jpg: is not there")] * skipped

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple:
        if index in self.bad:
            raise BrokenImage(f"{index}.jpg: cannot be decoded")
        return np.full((4, 4, 3), index, np.uint8), index


def test_training_takes_the_next_image_in_place_of_a_broken_one():
    batches = Batches(Damaged(7), plain, 7, broken="replace", shuffle=False)
    assert members(batches) == [[0, 3, 3, 3, 4, 5, 0]]


@pytest.mark.parametrize("workers", [0, 2])
def test_measuring_leaves_broken_images_out(workers):
    batches = Batches(
        Damaged(7), plain, 2, shuffle=False, workers=workers, most_broken=0.5
    )
    assert members(batches) == [[0], [3], [4, 5]]


def test_a_batch_of_broken_images_is_none():
    batches = Batches(Damaged(4, (0, 1)), plain, 2, shuffle=False, most_broken=0.5)
    assert members(batches) == [[2, 3]]


def test_shuffled_batches_train_unless_told_otherwise():
    assert len(members(Batches(Damaged(7), plain, 7))[0]) == 7
    measuring = Batches(Damaged(7), plain, 7, broken="leave out", most_broken=0.5)
    assert sorted(members(measuring)[0]) == [0, 3, 4, 5]


def test_too_many_broken_images_are_refused_by_name():
    with pytest.raises(ValueError, match=r"[126]\.jpg: .* of 7 images .* share of 0.4"):
        list(Batches(Damaged(7), plain, 2, shuffle=False, most_broken=0.4))
    assert (
        len(list(Batches(Damaged(7), plain, 2, shuffle=False, most_broken=0.43))) == 3
    )


def test_images_that_were_skipped_before_count_too():
    data = Damaged(8, (0,), skipped=2)
    with pytest.raises(ValueError, match="a.jpg: .* 2 of 10 images"):
        refuse_broken(data, 0.1)
    with pytest.raises(ValueError, match=r"0\.jpg: .* 3 of 10 images"):
        list(Batches(data, plain, 2, shuffle=False, most_broken=0.2))
    assert len(list(Batches(data, plain, 2, shuffle=False, most_broken=0.3))) == 4


@pytest.mark.parametrize("workers", [0, 2])
def test_training_on_mostly_broken_images_is_refused(workers):
    broken = Damaged(5, (0, 2, 4))
    with pytest.raises(ValueError, match=r"\.jpg: .* 3 of 5 images .* share of 0.5"):
        list(Batches(broken, plain, 5, workers=workers))
    all_may_be = Batches(broken, plain, 5, workers=workers, most_broken=1)
    assert {i for batch in members(all_may_be) for i in batch} == {1, 3}


def test_nothing_to_train_on_is_an_error():
    with pytest.raises(ValueError, match=r"none of 2 images .* cannot be decoded"):
        list(Batches(Damaged(2, (0, 1)), plain, 2, most_broken=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"broken": "skip"}, "'skip'; allowed: replace, leave out"),
        ({"most_broken": 1.5}, "most_broken is 1.5; allowed: from 0 to 1"),
    ],
)
def test_settings_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        Batches(Damaged(3), plain, 1, **options)


# ---------------------------------------------------------------- every metric


@pytest.fixture
def folder(tmp_path):
    """Return images of three classes; of the first one, two of three are broken."""
    root = write_folder(tmp_path, val=3)
    for name in ("0.png", "1.png"):
        (root / "val" / "blue" / name).write_bytes(b"<html>404</html>")
    return ImageFolder(root / "val")


def test_labels_of_a_subset_are_known_without_pixels(folder):
    subset = draw_subset(folder, len(folder))
    assert absent_classes(subset, [*folder.classes, "pink"]) == ["pink"]
    assert folder.broken == 0  # none was read


def measured(dataset, most=0.3):
    sample = partial(crop_val_sample, size=32)
    return Batches(dataset, sample, 4, shuffle=False, most_broken=most)


def always_green(images):
    return np.tile([0.0, 1.0, 0.0], (len(images), 1))


def test_top1_is_of_the_images_that_can_be_read(folder):
    assert top1(always_green, measured(folder)) == 3 / 7
    assert count_images(folder) == {"images": 7, "skipped": 2}


def test_top1_of_records_is_of_those_that_can_be_read(tmp_path):
    root = write_records(tmp_path, val=3)
    content = bytearray((root / "val.rec").read_bytes())
    first = content.index(b"IDAT")
    content[first : first + 40] = bytes(40)  # of the first image
    (root / "val.rec").write_bytes(content)
    data = Records(root / "val.rec", NAMES)
    assert top1(always_green, measured(data)) == 3 / 8
    assert count_images(data) == {"images": 8, "skipped": 1}


def test_a_link_to_nothing_is_left_out_and_counted(folder):
    root = Path(folder._images.files[0]).parents[1]
    (root / "red" / "moved.png").symlink_to(root / "gone.png")
    data = ImageFolder(root)
    assert top1(always_green, measured(data)) == 3 / 7
    assert count_images(data) == {"images": 7, "skipped": 3}


def test_a_disk_that_fails_while_reading_breaks_one_image(folder, monkeypatch):
    def failing(file, source):
        if source.endswith("red/2.png"):
            raise OSError(errno.EIO, "Input/output error")
        return header(file, source)

    header = image_files._header
    monkeypatch.setattr(image_files, "_header", failing)
    assert top1(always_green, measured(folder, most=0.4)) == 3 / 6
    assert "red/2.png: cannot be read: Input/output" in folder.problems[-1][1]


def test_records_that_go_after_they_were_listed_are_broken(tmp_path):
    root = write_records(tmp_path, val=1)
    data = Records(root / "val.rec", NAMES)
    (root / "val.rec").unlink()
    with pytest.raises(ValueError, match=r"val\.rec: cannot be read: .* 1 of 3 images"):
        top1(always_green, measured(data))


def test_a_subset_is_measured_as_the_set_is(folder):
    assert top1(always_green, measured(draw_subset(folder, 9))) == 3 / 7


@pytest.mark.parametrize("metric", [partial(voc_map, size=4, metric="voc10"), coco_map])
def test_map_is_of_the_images_that_can_be_read(metric):
    def with_box(image, label, *, rng):
        return image, np.array([[0, 0, 3, 3, 0, 0]], np.float32)

    def only_in_the_first(images):
        first = images[:, :1, :1, 0].asnumpy().reshape(-1, 1, 1) == 0
        boxes = mx.nd.array([[[0, 0, 3, 3]]]).broadcast_axes(0, len(images))
        return np.where(first, 0, -1), np.where(first, 0.9, -1), boxes

    batches = Batches(
        Damaged(4, (2, 3)),
        with_box,
        2,
        shuffle=False,
        most_broken=0.5,
        normalized=lambda images: np.stack(images).transpose(0, 3, 1, 2),
    )
    assert metric(only_in_the_first, batches, ["a"])["mAP"] == pytest.approx(0.5, 0.02)
