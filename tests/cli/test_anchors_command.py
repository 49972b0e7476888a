"""The command that fits anchors, and recipes that leave anchors to their images."""

from __future__ import annotations

import importlib
import json

import cv2
import numpy as np
import pytest

from gluon_compress import pipeline
from gluon_compress.models.ssd import config_of
from gluon_compress.recipe import load_recipe
from gluon_compress.storage.atomic import read_json
from recipes import QUIET, RECIPE
from refusals import assert_refused
from tiny_nets import DETECTOR

pytestmark = pytest.mark.usefixtures("tiny_nets")

MODEL = ("--model", DETECTOR)
BOX = "<xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax>"


def write_voc(root, images: int, objects: int, *, side: int = 100, name: str = "cat"):
    """Write images with small squares in VOC layout; every split lists all of them."""
    rng = np.random.default_rng(0)
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for number in range(images):
        pixels = rng.integers(0, 255, (side, side, 3)).astype(np.uint8)
        cv2.imwrite(str(root / "JPEGImages" / f"{number}.png"), pixels)
        corners = rng.integers(1, max(side - 8, 2), (objects, 2))
        rows = "".join(
            f"<object><name>{name}</name><bndbox>"
            f"{BOX.format(x, y, x + 7, y + 7)}</bndbox></object>"
            for x, y in corners
        )
        path = root / "Annotations" / f"{number}.xml"
        path.write_text(f"<annotation>{rows}</annotation>")
    for split in ("trainval", "test"):
        names = "\n".join(map(str, range(images)))
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text(names)
    return root


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_voc(tmp_path_factory.mktemp("anchors") / "small", 6, 8)


def test_recipe_gets_anchors_that_fit_and_a_picture(call, images, tmp_path):
    out = tmp_path / "mine.json"
    status, printed, error = call("anchors", "--images", images, *MODEL, "--out", out)
    assert (status, error) == (0, "")
    recipe = load_recipe(out)
    # Objects are 7 of 100 pixels, 21 of 300.
    assert 15 <= recipe.model.sizes[0] <= 28
    assert recipe.model.ratios is None
    assert recipe.data.folder() == images
    recalls = next(row for row in printed.splitlines() if "recall at" in row)
    before, after = map(float, recalls.split("|")[2:4])
    assert before < after > 0.9
    assert cv2.imread(str(tmp_path / "mine.png")).shape[2] == 3


def test_recipe_keeps_what_it_says_of_everything_else(call, images, tmp_path):
    path = tmp_path / "recipe.json"
    data = {"kind": "voc", "root": str(images), "train": "trainval", "test": "test"}
    path.write_text(json.dumps({**RECIPE, "data": data}))
    for _ in range(2):  # its own files may be replaced
        status, *_ = call("anchors", "--recipe", path, "--ratios", "--out", path)
        assert status == 0
    content = read_json(path)
    assert set(content["model"]) == {*RECIPE["model"], "sizes", "ratios"}
    assert {**content, "model": RECIPE["model"]} == {**RECIPE, "data": data}


def test_fewer_objects_than_shapes_of_anchors_are_refused(call, tmp_path):
    images = write_voc(tmp_path / "few", 1, 3)
    out = tmp_path / "mine.json"
    ended = call("anchors", "--images", images, *MODEL, "--out", out)
    assert_refused(ended, str(images), "trainval", " 3 ", " 30")
    assert not out.exists()


def test_image_of_one_pixel_is_left_out_and_named(call, images, tmp_path):
    tiny = write_voc(tmp_path / "tiny", 5, 8)
    file = tiny / "JPEGImages" / "3.png"
    cv2.imwrite(str(file), np.zeros((1, 1, 3), np.uint8))
    status, output, _ = call("anchors", "--images", tiny, *MODEL)
    assert status == 0
    assert f"skipped {file}: the image has 1 x 1 pixels" in output
    assert "32 objects in 4 images" in output
    for number in (0, 1, 2):
        cv2.imwrite(str(file.with_name(f"{number}.png")), np.zeros((1, 1, 3), np.uint8))
    assert_refused(call("anchors", "--images", tiny, *MODEL), "1 of the 5", "1 x 1")


@pytest.mark.parametrize(
    ("classes", "word"), [(("cat", "cat"), "'cat'"), (("cat", "unicorn"), "'unicorn'")]
)
def test_class_named_twice_or_not_there_is_refused(call, images, classes, word):
    ended = call("anchors", "--images", images, *MODEL, "--classes", *classes)
    assert_refused(ended, word)


def test_file_of_another_recipe_is_not_replaced(call, images, tmp_path):
    out = tmp_path / "mine.json"
    out.write_text("precious")
    ended = call("anchors", "--images", images, *MODEL, "--out", out)
    assert_refused(ended, str(out))
    assert out.read_text() == "precious"


def test_picture_of_something_else_is_not_replaced(call, images, tmp_path):
    (tmp_path / "mine.png").write_bytes(b"precious")
    out = tmp_path / "mine.json"
    ended = call("anchors", "--images", images, *MODEL, "--out", out)
    assert_refused(ended, "mine.png")
    assert (tmp_path / "mine.png").read_bytes() == b"precious"
    assert not out.exists()


def test_images_or_a_recipe_are_needed(call):
    assert_refused(call("anchors"), "--recipe", "--images")


@pytest.fixture
def untrained(monkeypatch):
    """Let runs end before their first training; return the nets that would train."""
    nets: list = []
    running = importlib.import_module("gluon_compress.pipeline.run")
    monkeypatch.setattr(running, "_run_stages", lambda job, full, _: nets.append(full))
    monkeypatch.setattr(running, "_with_speed", lambda job, results: {})
    monkeypatch.setattr(running, "write_report", lambda *_: None)
    return nets


def test_run_states_the_anchors_it_chose_and_keeps_them(untrained, images, tmp_path):
    data = {"kind": "voc", "root": str(images), "train": "trainval", "test": "test"}
    content = {
        **{key: RECIPE[key] for key in ("paper", "command", "hours", "expected")},
        "model": {**RECIPE["model"], "sizes": "auto"},
        "data": data,
        "train": RECIPE["train"],
    }
    path, out = tmp_path / "recipe.json", tmp_path / "run"
    path.write_text(json.dumps(content))
    recipe = load_recipe(path)
    pipeline.run(recipe, out, options=QUIET, facts={})
    sizes = load_recipe(out / "recipe.json").model.sizes
    assert 15 <= sizes[0] <= 28
    pipeline.run(recipe, out, resume=True, options=QUIET, facts={})
    assert [config_of(net).sizes for net in untrained] == [sizes] * 2
    assert load_recipe(out / "recipe.json").model.sizes == sizes


def test_run_warns_of_a_class_that_is_probably_misspelt(untrained, tmp_path, caplog):
    root = write_voc(tmp_path / "slip", 3, 12)
    path = root / "Annotations" / "0.xml"
    path.write_text(path.read_text().replace("<name>cat<", "<name>catt<", 1))
    data = {"kind": "voc", "root": str(root), "train": "trainval", "test": "test"}
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({**RECIPE, "data": data}))
    pipeline.run(load_recipe(recipe), tmp_path / "run", options=QUIET, facts={})
    warned = [r.getMessage() for r in caplog.records if "misspelling" in r.getMessage()]
    assert len(warned) == 1
    assert warned[0].index("'catt'") < warned[0].index("'cat'")


def test_run_without_enough_objects_for_auto_names_the_key(untrained, tmp_path):
    few = write_voc(tmp_path / "few", 1, 3)
    data = {"kind": "voc", "root": str(few), "train": "trainval", "test": "test"}
    model = {**RECIPE["model"], "sizes": "auto"}
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({**RECIPE, "model": model, "data": data}))
    with pytest.raises(ValueError, match=r"model\.sizes is 'auto'.* 3 "):
        pipeline.run(load_recipe(path), tmp_path / "run", options=QUIET, facts={})
    assert not (tmp_path / "run").exists()
