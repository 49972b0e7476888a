from __future__ import annotations

import json

import pytest

from benchmarks import large_data_worker
from benchmarks.large_data import PAGE, page_of
from benchmarks.large_sets import CLASSES, FOLDERS, WRITERS

IMAGES = 40


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    for layout, (write, _) in WRITERS.items():
        write(folder / layout, IMAGES)
    return folder


@pytest.mark.parametrize("layout", WRITERS)
def test_a_set_has_the_images_and_classes_it_should(layout, sets):
    dataset = large_data_worker.open_set(layout, sets / layout)
    assert len(dataset) == IMAGES
    assert not dataset.problems
    image, label = dataset[IMAGES - 1]
    if layout in ("voc", "coco"):
        assert image.shape == (48, 64, 3)
        assert set(dataset.classes) <= set(CLASSES)
        assert not any(dataset.repairs.values())
    else:
        assert label == IMAGES - 1
        assert dataset.classes[label] == f"class_{label:04}"


def test_layouts_of_detectors_hold_the_same_objects(sets):
    voc, coco = (large_data_worker.open_set(n, sets / n) for n in ("voc", "coco"))
    for index in range(IMAGES):
        ids, others = (
            [d.classes[int(i)] for i in d.label(index)[:, 4]] for d in (voc, coco)
        )
        assert ids == others
        assert (voc.label(index)[:, :4] == coco.label(index)[:, :4]).all()


def test_fewer_images_are_the_beginning_of_more(sets, tmp_path):
    write, _ = WRITERS["record"]
    write(tmp_path / "few", 10)
    few, more = (p / "train.rec" for p in (tmp_path / "few", sets / "record"))
    assert more.read_bytes().startswith(few.read_bytes())
    assert FOLDERS > IMAGES


@pytest.fixture(scope="module")
def figures(sets):
    """Return what the steps of the benchmark measure on these sets."""
    made = {}
    for layout in WRITERS:
        for name, step in (("first", "open"), ("again", "open"), ("batches", "batch")):
            task = layout, sets / layout, step, IMAGES
            made[f"{layout} {name}"] = large_data_worker.run(*task)
    for name, images in (("few", 32), ("all", 1000)):
        task = "coco", sets / "coco", "evaluate", images
        made[f"evaluate {name}"] = large_data_worker.run(*task)
    return made


def test_steps_use_the_images_they_are_asked_for(figures):
    assert figures["voc batches"]["used"] == IMAGES
    assert figures["evaluate few"]["used"] == 32
    assert figures["evaluate all"]["used"] == IMAGES
    assert 0.1 < figures["evaluate all"]["mAP"] < 1


def test_page_shows_what_was_measured(figures):
    result = {
        "figures": {**figures, "voc again": {**figures["voc again"], "cpu": 12.34}},
        "settings": {"package": "0" * 40},
        "hardware": {"cpu": "a processor"},
        "date": "2026-01-02T00:00",
    }
    page = page_of(json.loads(json.dumps(result)))
    assert "| 12.3 |" in " ".join(page.split())
    assert "before" not in page
    result["before"] = {"figures": figures, "settings": {"package": "1" * 40}}
    assert "111111111111" in page_of(result)
    assert PAGE.endswith(".md")
