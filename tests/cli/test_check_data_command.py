"""The command that checks data before any training."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest

from gluon_compress.data import make_toy
from gluon_compress.data.toy import CLASSES
from gluon_compress.storage.atomic import read_json
from recipes import RECIPE
from refusals import assert_refused
from tiny_nets import DETECTOR

pytestmark = pytest.mark.usefixtures("tiny_nets")

MODEL = ("--model", DETECTOR)


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    return make_toy(tmp_path_factory.mktemp("check") / "toy", images=24, size=80)


@pytest.fixture
def images(toys, tmp_path):
    """Return a copy of a small data set without faults, to break."""
    return shutil.copytree(toys, tmp_path / "toy")


def split(images, name: str) -> list[str]:
    return (images / "ImageSets" / "Main" / f"{name}.txt").read_text().split()


def annotation(images, split_name: str, number: int = 0):
    return images / "Annotations" / f"{split(images, split_name)[number]}.xml"


def picture(images, split_name: str, number: int = 0):
    return next((images / "JPEGImages").glob(f"{split(images, split_name)[number]}.*"))


def replace(path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def findings(out) -> list[tuple[str, str]]:
    return [(f["level"], f["text"]) for f in read_json(out / "result.json")["findings"]]


def test_sound_data_pass_and_are_counted(call, images, tmp_path):
    out = tmp_path / "out"
    status, printed, error = call(
        "check-data", "--images", images, *MODEL, "--out", out
    )
    assert (status, error) == (0, "")
    result = read_json(out / "result.json")
    assert result["classes"] == sorted(CLASSES)
    for name in ("trainval", "test"):
        xml = [
            p.read_text()
            for p in (
                annotation(images, name, i) for i in range(len(split(images, name)))
            )
        ]
        objects = result["splits"][name]["objects"]
        for label, row in objects.items():
            assert row["objects"] == sum(t.count(f"<name>{label}</name>") for t in xml)
            assert row["small"] + row["medium"] + row["large"] == row["objects"]
    page = (out / "index.html").read_text()
    assert "classes.png" in page
    assert "anchors.png" in page
    assert cv2.imread(str(out / "classes.png")) is not None
    assert not [text for level, text in findings(out) if level == "error"]


def test_misspelt_label_is_an_error_that_names_both(call, images, tmp_path):
    for label in CLASSES:
        path = annotation(images, "trainval")
        if f"<name>{label}</name>" in path.read_text():
            break
    replace(path, f"<name>{label}</name>", f"<name>{label}e</name>")
    out = tmp_path / "out"
    options = ("--images", images, *MODEL, "--out", out)
    ended = call("check-data", *options, "--classes", *CLASSES)
    assert_refused(ended, str(images), f"{label}e")
    slips = [t for level, t in findings(out) if level == "error" and "misspelling" in t]
    assert len(slips) == 1
    assert f"{label + 'e'!r}" in slips[0]
    assert f"{label!r}" in slips[0]


def test_image_of_training_in_test_is_an_error(call, images, tmp_path):
    shutil.copyfile(picture(images, "trainval", 2), picture(images, "test", 1))
    out = tmp_path / "out"
    names = [picture(images, "trainval", 2).name, picture(images, "test", 1).name]
    ended = call("check-data", "--images", images, *MODEL, "--out", out)
    assert_refused(ended, "trainval and test", *names)
    assert "duplicates.png" in (out / "index.html").read_text()


def test_files_that_cannot_be_used_are_errors(call, images, tmp_path):
    picture(images, "trainval").write_bytes(b"no image")
    tiny = picture(images, "test")
    cv2.imwrite(str(tiny), np.zeros((1, 1, 3), np.uint8))
    replace(annotation(images, "test"), "<width>", "<breadth>")
    replace(annotation(images, "test"), "</width>", "</breadth>")
    out = tmp_path / "out"
    status, *_ = call("check-data", "--images", images, *MODEL, "--out", out)
    errors = [text for level, text in findings(out) if level == "error"]
    assert status == 2
    assert any(str(picture(images, "trainval")) in text for text in errors)
    assert any(str(tiny) in text for text in errors)


def test_class_without_an_object_is_an_error(call, images):
    ended = call(
        "check-data", "--images", images, *MODEL, "--classes", *CLASSES, "unicorn"
    )
    assert_refused(ended, "unicorn")


def test_folder_without_images_is_refused_and_nothing_written(call, tmp_path):
    out = tmp_path / "out"
    ended = call("check-data", "--images", tmp_path / "none", *MODEL, "--out", out)
    assert_refused(ended, str(tmp_path / "none"))
    assert not out.exists()


def test_run_with_check_trains_nothing(call, images, tmp_path):
    path, out = tmp_path / "recipe.json", tmp_path / "run"
    data = {"kind": "voc", "root": str(images), "train": "trainval", "test": "test"}
    path.write_text(json.dumps({**RECIPE, "data": data}))
    status, printed, error = call("run", "--recipe", path, "--out", out, "--check")
    assert (status, error) == (0, "")
    assert not out.exists()
    assert (tmp_path / "run_check" / "index.html").exists()
    (tmp_path / "run_check" / "result.json").write_text('{"stages": {}}')
    ended = call("run", "--recipe", path, "--out", out, "--check")
    assert_refused(ended, str(tmp_path / "run_check"))
