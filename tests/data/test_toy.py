from __future__ import annotations

import json

import numpy as np
import pytest

from gluon_compress.data import VOCLayout
from gluon_compress.data.toy import CLASSES, make_toy

SMALL = {"images": 12, "size": 96}


def content(root) -> dict:
    return {
        str(f.relative_to(root)): f.read_bytes() for f in root.rglob("*") if f.is_file()
    }


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return make_toy(tmp_path_factory.mktemp("toy") / "made" / "set", **SMALL)


def test_it_is_read_as_any_other_set(toy):
    data = VOCLayout(toy, "trainval")
    assert data.classes == CLASSES
    assert data.problems == []
    assert sum(data.repairs.values()) == 0
    image, label = data[0]
    assert image.shape[1] == 96
    assert len(label) >= 1


def test_splits_divide_the_images(toy):
    def names(split: str) -> set[str]:
        data = VOCLayout(toy, split)
        return {data.path(i).stem for i in range(len(data))}

    assert names("train") | names("val") == names("trainval")
    assert not names("train") & names("val")
    assert not names("trainval") & names("test")
    assert len(names("trainval")) + len(names("test")) == SMALL["images"]


def test_same_seed_gives_the_same_bytes(toy, tmp_path):
    assert content(make_toy(tmp_path / "again", **SMALL)) == content(toy)


def test_other_seed_gives_other_images(toy, tmp_path):
    other = content(make_toy(tmp_path / "other", **SMALL, seed=1))
    name = "JPEGImages/000000.jpg"
    assert other[name] != content(toy)[name]


def test_complete_set_is_left_as_it_is(toy):
    before = {f: f.stat().st_mtime_ns for f in toy.rglob("*")}
    assert make_toy(toy, **SMALL) == toy
    assert {f: f.stat().st_mtime_ns for f in toy.rglob("*")} == before


def test_set_with_other_values_is_not_overwritten(toy):
    before = content(toy)
    with pytest.raises(ValueError, match='"images": 12.*"images": 13'):
        make_toy(toy, images=13, size=96)
    assert content(toy) == before


def test_foreign_folder_is_not_overwritten(tmp_path):
    (tmp_path / "letter").write_text("dear")
    with pytest.raises(ValueError, match="something other than"):
        make_toy(tmp_path, **SMALL)
    assert content(tmp_path) == {"letter": b"dear"}


def test_file_in_its_place_is_not_overwritten(tmp_path):
    (tmp_path / "set").write_text("dear")
    with pytest.raises(ValueError, match="something other than"):
        make_toy(tmp_path / "set", **SMALL)
    assert content(tmp_path) == {"set": b"dear"}


def test_empty_folder_is_filled(tmp_path):
    (tmp_path / "set").mkdir()
    assert len(VOCLayout(make_toy(tmp_path / "set", **SMALL), "test")) == 3


def test_set_that_lost_images_is_not_taken_for_whole(tmp_path):
    root = make_toy(tmp_path / "set", images=5, size=64)
    next((root / "JPEGImages").iterdir()).unlink()
    with pytest.raises(ValueError, match="images of the toy set are missing"):
        make_toy(root, images=5, size=64)


def test_interrupted_writing_leaves_nothing(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("gluon_compress.data.toy.write_json", stop)
    with pytest.raises(KeyboardInterrupt):
        make_toy(tmp_path / "set", images=5, size=64)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": 4}, "images is 4; allowed: from 5"),
        ({"size": 63}, "size is 63; allowed: from 64"),
        ({"seed": -1}, "seed is -1; allowed: from 0"),
    ],
)
def test_values_out_of_range_are_named(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        make_toy(tmp_path / "set", **options)


def test_note_says_how_it_was_made(toy):
    note = json.loads((toy / "toy.json").read_text())
    assert (note["images"], note["size"], note["seed"]) == (12, 96, 0)


def test_boxes_hold_what_stands_out(tmp_path):
    # The ground is soft, so most strong edges lie inside the boxes.
    data = VOCLayout(make_toy(tmp_path / "set", images=10, size=128), "trainval")
    inside = total = 0
    for image, label in (data[i] for i in range(len(data))):
        gray = image.astype(float).mean(axis=2)
        edges = np.abs(np.diff(gray, axis=1, prepend=gray[:, :1])) > 35
        held = np.zeros_like(edges)
        for xmin, ymin, xmax, ymax in np.rint(label[:, :4]).astype(int):
            held[max(ymin - 1, 0) : ymax + 2, max(xmin - 1, 0) : xmax + 2] = True
        inside, total = inside + (edges & held).sum(), total + edges.sum()
    assert total > 100
    assert inside >= 0.95 * total


def test_objects_are_of_all_classes_and_sizes(tmp_path):
    data = VOCLayout(make_toy(tmp_path / "set", images=60, size=64), "trainval")
    labels = np.vstack([data.label(i) for i in range(len(data))])
    assert set(labels[:, 4]) == set(range(5))
    sides = (labels[:, 2:4] - labels[:, :2]).max(axis=1) / 64
    assert sides.min() < 0.25
    assert sides.max() > 0.5
    assert 0 < labels[:, 5].mean() < 0.4
