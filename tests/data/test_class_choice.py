"""Classes of one's choice: what is left out of each kind of data set, and counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gluon_compress.data import (
    ClassificationData,
    DetectionData,
    ImageFolder,
    VOCLayout,
    count_images,
    describe_counts,
)
from gluon_compress.data.class_choice import ClassChoice
from images import few_toys, write_folder

# Names of the objects of each image; "-" before one marks it as difficult.
IMAGES = {
    "a": ["cat", "chair"],
    "b": ["chair", "sofa"],
    "c": [],
    "d": ["-dog"],
    "e": ["chair", "cat", "cat"],
}
IGNORED = {"objects": {"chair": 3, "sofa": 1}, "images": 2}


def write_voc(root: Path, **splits: str) -> Path:
    """Write ``IMAGES`` in VOC layout; a split is a text of their names."""
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    for name, objects in IMAGES.items():
        path = root / "JPEGImages" / f"{name}.png"
        Image.new("RGB", (8, 8)).save(path)
        rows = [
            f"<object><name>{each.strip('-')}</name>"
            f"<difficult>{int(each.startswith('-'))}</difficult><bndbox><xmin>1</xmin>"
            "<ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></object>"
            for each in objects
        ]
        xml = f"<annotation>{''.join(rows)}</annotation>"
        (root / "Annotations" / f"{name}.xml").write_text(xml)
    for split, names in splits.items():
        listing = root / "ImageSets" / "Main" / f"{split}.txt"
        listing.write_text("\n".join(names))
    return root


@pytest.fixture
def voc(tmp_path):
    return write_voc(tmp_path / "set", train="abcde", test="bd")


def test_objects_of_other_classes_are_ignored_and_counted(voc):
    data = VOCLayout(voc, "train", ["dog", "cat"], others="ignore")
    ids = [data.label(i)[:, 4].tolist() for i in range(len(data))]
    assert [data.path(i).stem for i in range(len(data))] == ["a", "d", "e"]
    assert ids == [[1], [0], [1, 1]]
    counts = count_images(data)
    assert (counts["images"], counts["ignored"]) == (3, IGNORED)
    (line,) = describe_counts(counts)
    assert "chair 3, sofa 1" in line
    assert line.endswith(": 2")


def test_an_image_of_a_difficult_object_is_not_without_objects(voc):
    data = VOCLayout(voc, "train", ["cat", "dog"], others="ignore", difficult=False)
    assert [len(data.label(i)) for i in range(len(data))] == [1, 0, 2]


def test_another_class_is_refused_with_the_way_out(voc):
    with pytest.raises(ValueError, match='a.xml: class \'chair\'.*"others": "ignore"'):
        VOCLayout(voc, "train", ["cat", "dog"])


def test_a_class_of_another_split_may_be_missing(voc):
    data = VOCLayout(voc, "test", ["cat", "dog"], others="ignore")
    assert count_images(data)["absent"] == ["cat"]
    assert "no object of cat" in describe_counts(count_images(data))


def test_a_class_that_is_nowhere_is_refused_unless_a_net_has_it(voc):
    with pytest.raises(ValueError, match=r"train\.txt: class 'cow'.*cat, chair, dog"):
        VOCLayout(voc, "train", ["cat", "cow"], others="ignore")
    names = ["cat", "cow"]
    assert len(VOCLayout(voc, "train", names, others="ignore", absent=True)) == 2


def test_a_split_without_any_of_the_classes_is_refused(voc):
    with pytest.raises(ValueError, match=r"test\.txt: none of 2 images .* cat"):
        VOCLayout(voc, "test", ["cat"], others="ignore")


def test_the_word_is_checked_and_so_are_names(voc):
    with pytest.raises(ValueError, match="'skip'; allowed: error, ignore"):
        VOCLayout(voc, "train", others="skip")
    with pytest.raises(ValueError, match="class 'cat' is there twice"):
        ClassChoice(["cat", "cat"], "ignore")


def test_toy_shapes_of_some_classes(tmp_path, monkeypatch):
    root = few_toys(tmp_path / "toy", 12)
    monkeypatch.setattr("gluon_compress.data.detection.make_toy", lambda root: root)
    everything = VOCLayout(root, "trainval")
    settings = DetectionData(
        kind="toy", root=str(root), classes=("ring", "cross"), others="ignore"
    )
    data = settings.open("trainval")
    counts = count_images(data)
    holds = [(np.isin(everything.label(i)[:, 4], (1, 2))).any() for i in range(9)]
    assert data.classes == ("ring", "cross")
    assert counts["images"] == sum(holds)
    assert counts["ignored"]["images"] == 9 - sum(holds)
    assert set(counts["ignored"]["objects"]) <= {"circle", "square", "triangle"}


def test_folders_of_some_classes(tmp_path):
    root = write_folder(tmp_path, train=2)
    data = ImageFolder(root / "train", ["red", "blue"], others="ignore")
    assert data.labels == [1, 1, 0, 0]
    assert count_images(data)["ignored"] == {"objects": {"green": 2}, "images": 2}
    with pytest.raises(ValueError, match="class 'pink' is nowhere"):
        ImageFolder(root / "train", ["red", "pink"], others="ignore")


def test_a_class_may_lack_images_to_validate_on(tmp_path):
    write_folder(tmp_path, train=1, val=1)
    (tmp_path / "val" / "red" / "0.png").unlink()
    settings = ClassificationData(
        kind="folder", root=str(tmp_path), classes=("red", "blue"), others="ignore"
    )
    assert len(settings.open("val", settings.open("train").classes)) == 1


def test_records_have_no_names_to_choose_by():
    with pytest.raises(ValueError, match="others is 'ignore'; allowed: error"):
        ClassificationData(kind="record", root="x", classes=("a", "b"), others="ignore")


@pytest.mark.data
def test_real_photographs_of_six_of_twenty_classes(shared_data):
    root = shared_data / "voc12_animals"
    settings = DetectionData(kind="voc", root=str(root), others="ignore")
    for split, images, chairs in (("train", 1697, 107), ("val", 1200, 79)):
        counts = count_images(settings.open(split))
        assert (counts["images"], counts["ignored"]["images"]) == (images, 0)
        assert counts["ignored"]["objects"]["chair"] == chairs
