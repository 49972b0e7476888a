from __future__ import annotations

import json
import re
import shutil

import cv2
import mxnet as mx
import numpy as np
import pytest

from gluon_compress import (
    Budget,
    delete,
    export,
    models,
    pipeline,
    select,
    slim,
    trace,
)
from gluon_compress.data import Preprocess
from gluon_compress.data.toy import CLASSES
from gluon_compress.detection_errors import (
    DETECTIONS,
    judge,
    load_detections,
    mean_precision,
)
from gluon_compress.distill import losses_of
from gluon_compress.model_folder import load_symbol
from gluon_compress.models.ssd import VOC_CLASSES, raw_head
from gluon_compress.pipeline.run import origin_of
from gluon_compress.pipeline.stages import Stage, compress, finetune, warn_of_limits
from gluon_compress.plan import Constraints, Plan
from gluon_compress.recipe import DetectionRecipe, load_recipe, parse_recipe
from gluon_compress.storage.atomic import read_json
from gluon_compress.train import Options
from images import few_toys, write_folder
from recipes import QUIET, RECIPE, TRAIN, job_of, quick_run, recipe_in
from refusals import assert_refused
from tiny_nets import DETECTOR, MAPS, Tiny

pytestmark = pytest.mark.usefixtures("tiny_nets")
STAGES = ("full", "1_prune", "2_delete", "compact")
ENDS = ("full", "compact")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with the recipe, its data and a run of it."""
    folder = tmp_path_factory.mktemp("pipeline")
    # A few steps are enough to go through every stage.
    few_toys(folder / "toy", 24, train=8, test=6)
    recipe = recipe_in(folder)
    quick_run(recipe, folder / "run", facts={"commit": "abc"})
    return folder


def times_of(run) -> dict:
    """Return when the result of each stage was written."""
    return {path: path.stat().st_mtime_ns for path in run.glob("*/result.json")}


@pytest.fixture(scope="module")
def resumed(place):
    """Resume that run, which adds a report; return the times of before."""
    before = times_of(place / "run")
    pipeline.run(recipe_in(place), place / "run", resume=True, options=QUIET)
    return before


@pytest.fixture(scope="module")
def reported(place, resumed):
    """Return the folder of the report of that run."""
    return place / "run" / "report"


def copy(place, tmp_path):
    shutil.copytree(place / "run", tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.slow
def test_every_stage_has_a_result_a_model_and_its_origin(place):
    for stage in STAGES:
        result = read_json(place / "run" / stage / "result.json")
        net = models.load(place / "run" / stage / "model")
        assert result["commit"] == "abc"
        assert result["data"]["train"] == {"images": 8, "skipped": 0, "repairs": {}}
        assert models.cost_of(net)["macs"] == result["macs"]
        assert 0 <= result["mAP"] <= 1


@pytest.mark.slow
def test_detections_of_every_stage_are_kept_for_the_report(place, reported):
    for stage in STAGES:
        images = load_detections(place / "run" / stage / DETECTIONS)
        result = read_json(place / "run" / stage / "result.json")
        mean = mean_precision(judge(images), len(CLASSES), metric=result["metric"])
        assert mean == pytest.approx(result["mAP"])
    page = (reported / "index.html").read_text()
    for title in ("Kinds of errors", "What compact lost of what full finds"):
        assert title in page
    assert (reported / "confusion.png").exists()


@pytest.mark.slow
def test_compact_net_meets_the_budget_and_lost_its_branch_channels(place):
    results = read_json(place / "run" / "result.json")["stages"]
    assert list(results) == list(STAGES)
    assert results["1_prune"]["macs"] <= 0.6 * results["full"]["macs"]
    full, compact = (
        models.load(place / "run" / name / "model") for name in ("full", "compact")
    )
    widths = raw_head.map_widths(full)[3:]
    assert raw_head.map_widths(compact)[3:] == tuple(w // 2 for w in widths)


@pytest.mark.slow
def test_plan_on_disk_is_what_was_cut(place):
    plan = Plan.load(place / "run" / "1_prune" / "plan.json")
    full = models.load(place / "run" / "full" / "model")
    graph = models.graph_of(full)
    plan.check(graph)
    assert plan.net == DETECTOR
    assert plan.made_by["commit"] == "abc"
    groups = read_json(place / "run" / "1_prune" / "result.json")["groups"]
    assert sum(g["kept"] for g in groups) < sum(g["width"] for g in groups)


@pytest.mark.slow
def test_one_plan_holds_what_all_rows_left_of_the_full_net(place):
    plan = Plan.load(place / "run" / "plan.json")
    full, compact = (models.load(place / "run" / n / "model") for n in ENDS)
    assert models.cost_of(slim(full, plan)) == models.cost_of(compact)
    first, second = (
        Plan.load(place / "run" / name / "plan.json") for name in STAGES[1:3]
    )
    assert plan.keep["expand_conv0"] == second.keep["expand_conv0"]
    trunk = [name for name in plan.keep if name.startswith("tiny_")]
    assert [plan.keep[name] for name in trunk] == [first.keep[name] for name in trunk]


@pytest.mark.slow
def test_training_moved_every_trained_stage(place):
    for stage in ("full", "1_prune", "compact"):
        log = (place / "run" / stage / "log.jsonl").read_text().splitlines()
        assert [json.loads(line)["kind"] for line in log].count("step") == 2
    parts = json.loads(log[0])["parts"]
    assert set(parts) == {"class", "box", "scores", "boxes", "features"}


@pytest.mark.slow
def test_results_hold_what_was_validated_on_the_way(place):
    stages = read_json(place / "run" / "result.json")["stages"]
    for stage in ("full", "compact"):
        log = (place / "run" / stage / "log.jsonl").read_text().splitlines()
        found = [json.loads(line) for line in log]
        judged = {str(f["epoch"]): f["mAP"] for f in found if f["kind"] == "validation"}
        assert stages[stage]["validated"] == judged != {}
    assert "validated" not in stages["2_delete"]


@pytest.mark.slow
def test_report_holds_tables_and_pictures(reported):
    page = (reported / "index.html").read_text()
    for name in (
        "curves",
        "parts",
        "plan_1_prune",
        "detections_full",
        "detections_compact",
    ):
        assert (reported / f"{name}.png").exists()
        assert f"{name}.png" in page


@pytest.mark.slow
def test_resume_of_a_finished_run_changes_nothing(place, resumed):
    assert len(resumed) == len(STAGES)
    assert times_of(place / "run") == resumed


@pytest.mark.slow
def test_resume_after_an_interruption_gives_the_same_net(place, tmp_path):
    out = copy(place, tmp_path)
    for stage in STAGES[2:]:  # the rows before are tested with classifiers
        shutil.rmtree(out / stage)
    (out / "result.json").unlink()
    quick_run(recipe_in(place), out, resume=True)
    one, other = (
        models.load(folder / "compact" / "model").collect_params()
        for folder in (place / "run", out)
    )
    for name, parameter in one.items():
        same = other[name].data().asnumpy()
        np.testing.assert_array_equal(parameter.data().asnumpy(), same)


def test_only_the_taps_that_a_recipe_names_are_compared(tmp_path):
    few_toys(tmp_path / "toy", 12, train=4, test=4)
    distillation = {"losses": {"imitation": 1, "hints": 1}, "taps": ["map4", "map1"]}
    recipe = recipe_in(tmp_path, distillation=distillation)
    job = job_of(recipe, tmp_path / "run")
    full, _ = job.task.build(job.classes)
    lesson = job.task.lesson(full, full, QUIET.ctx)
    outputs = lesson.block(mx.nd.ones((1, 3, 300, 300)))
    sides = [outputs[name].shape[2] for name in ("map4", "map1")]
    assert sides == [3, 10]  # each second cell
    batch = next(iter(job.batches(full, recipe.finetune).epoch(0)))
    loss, parts = lesson.step_loss(lesson.block, batch)
    assert np.isfinite(loss.asscalar())
    assert set(parts) == {"class", "box", "imitation", "hints"}


def test_a_tap_that_does_not_exist_is_refused_before_training(tmp_path):
    few_toys(tmp_path / "toy", 12, train=4, test=4)
    distillation = {"losses": {"hints": 1}, "taps": ["map1", "map9"]}
    recipe = recipe_in(tmp_path, distillation=distillation)
    job = job_of(recipe, tmp_path / "run")
    with pytest.raises(ValueError, match="tap 'map9'; allowed: map0, map1, .*map5"):
        job.task.build(job.classes)


def test_taps_that_no_loss_compares_are_refused(tmp_path):
    few_toys(tmp_path / "toy", 12, train=4, test=4)
    distillation = {"losses": {"scores": 1, "hints": 0}, "taps": ["map1"]}
    recipe = recipe_in(tmp_path, distillation=distillation)
    job = job_of(recipe, tmp_path / "run")
    with pytest.raises(ValueError, match=r"taps is \['map1'\]; .*features, hints"):
        job.task.build(job.classes)


@pytest.mark.slow
def test_adapters_of_every_loss_are_gone_from_the_compact_net(place, tmp_path):
    # A student without an equal width, so that nothing works unless it is adapted.
    student = {**RECIPE["model"], "width": 0.25, "extras": [16, 16, 16]}
    distillation = {"losses": dict.fromkeys(losses_of("ssd"), 0.1)}
    recipe = recipe_in(place, student=student, distillation=distillation)
    job = job_of(recipe, tmp_path)
    full, net = job.task.build(job.classes)
    lesson = job.task.lesson(net, full, QUIET.ctx)
    assert any("adapter" in name for name in lesson.block.collect_params())
    finetune(job, net, full, tmp_path / "compact")
    log = (tmp_path / "compact" / "log.jsonl").read_text().splitlines()
    assert set(json.loads(log[0])["parts"]) == {"class", "box", *losses_of("ssd")}
    job.task.save(net, tmp_path / "model", "compact")
    symbol, values = load_symbol(tmp_path / "model")
    names = [*values, *symbol.get_internals().list_outputs()]
    assert not [name for name in names if "adapter" in name]
    assert set(values) <= set(net.collect_params())
    ids, _, corner_boxes = models.load(tmp_path / "model")(mx.nd.ones((1, 3, 300, 300)))
    assert ids.shape[:2] == corner_boxes.shape[:2] == (1, 100)


def test_student_with_other_anchors_than_its_teacher_is_refused_at_once(tmp_path):
    few_toys(tmp_path / "toy", 5)
    student = {**RECIPE["model"], "steps": [8, 16, 32, 64, 100, 299]}
    recipe = recipe_in(tmp_path, student=student)
    job = job_of(recipe, tmp_path / "run")
    with pytest.raises(ValueError, match="anchor steps: the teacher has .* 300.* 299"):
        job.task.build(job.classes)


@pytest.mark.slow
def test_devices_take_their_shares_of_a_batch(place, tmp_path):
    two = Options(progress=False, ctx=(mx.cpu(0), mx.cpu(1)))
    job = job_of(recipe_in(place), tmp_path, two)
    full, _ = job.task.build(job.classes)
    student, _ = job.task.build(job.classes)
    _, notes = finetune(job, student, full, tmp_path / "compact")
    assert notes["steps"] == 2
    used = [p.list_ctx() for p in student.collect_params().values()]
    assert all(devices == list(two.ctx) for devices in used)


@pytest.mark.slow
def test_detector_is_built_on_a_trunk_that_was_pruned_as_a_classifier(place, tmp_path):
    classifier = Tiny(classes=4)
    classifier.initialize()
    classifier(mx.nd.zeros((1, 3, 64, 64)))
    shape = (1, 3, 64, 64)
    plan = delete(trace(classifier, shape), {"*": 0.5}, "random", multiple=1)
    export(slim(classifier, plan, shape=shape), tmp_path / "trunk", shape=shape)
    student = {**RECIPE["model"], "width": 1, "trunk": str(tmp_path / "trunk")}
    recipe = recipe_in(place, student=student, compression=[])
    results = quick_run(recipe, tmp_path / "run")
    assert list(results["stages"]) == ["full", "compact"]
    compact = models.load(tmp_path / "run" / "compact" / "model")
    assert raw_head.map_widths(compact)[:3] == tuple(width // 2 for width in MAPS)


def test_measuring_and_training_follow_the_preprocess_of_the_net(tmp_path, monkeypatch):
    few_toys(tmp_path / "toy", 12, train=4, test=4)
    recipe = recipe_in(tmp_path)
    job = job_of(recipe, tmp_path / "run")
    net, _ = job.task.build(job.classes)
    family = models.family_of(net)
    preprocess = Preprocess(height=300, width=300, keep_ratio=True, mean=(0, 0.5, 1))
    monkeypatch.setattr(family, "preprocess", lambda net: preprocess)
    given, results = [], family.results
    monkeypatch.setattr(
        family, "results", lambda net, x: given.append(x.asnumpy()) or results(net, x)
    )
    # In a wide image, so that there is a rest.
    image, label = np.full((60, 120, 3), 200, np.uint8), np.ones((1, 6), np.float32)
    label[0, 2:] = 50, 50, 0, 0
    job.evaluate(net, [(image, label)])
    np.testing.assert_array_equal(given[0], preprocess(image)[0])
    batches = job.task.batches([(image, label)], net, recipe.train)
    views = [next(batches.epoch(number))[0].asnumpy() for number in range(4)]
    assert all((view[:, :, -1, -1] == 0).any() for view in views)


def test_files_that_are_left_out_are_named(tmp_path, caplog):
    few_toys(tmp_path / "toy", 20)
    broken = tmp_path / "toy" / "JPEGImages" / "000000.jpg"
    broken.write_bytes(b"no picture")
    job = job_of(recipe_in(tmp_path), tmp_path / "run")
    assert len(job.splits.train) == 12
    assert f"train: left out: {broken}" in caplog.text


def test_size_that_the_net_cannot_have_is_one_line(tmp_path, call):
    few_toys(tmp_path / "toy", 12, train=4, test=2)
    recipe_in(tmp_path)
    place = tmp_path / "recipe.json"
    content = read_json(place)
    content["data"]["size"] = 256
    place.write_text(json.dumps(content))
    ended = call("run_pipeline", "--recipe", place, "--out", tmp_path / "run")
    assert_refused(ended, "size is 256; allowed: 257 to 512 pixels")
    assert ended[1] == ""
    assert not (tmp_path / "run").exists()


def test_class_named_as_the_mean_is_refused_before_training(tmp_path):
    few_toys(tmp_path / "toy", 12, train=4, test=2)
    (tmp_path / "toy" / "classes.txt").write_text("\n".join([*CLASSES, "mAP"]))
    with pytest.raises(ValueError, match="class 'mAP': results and logs"):
        pipeline.run(recipe_in(tmp_path), tmp_path / "run", options=QUIET)
    assert not (tmp_path / "run").exists()


def pascal_in(folder, classes) -> DetectionRecipe:
    """Make a tiny Pascal VOC of 2007, and return a recipe for it."""
    few_toys(folder / "VOC2007", 12, train=4, test=2)
    for place in (folder / "VOC2007" / "Annotations").iterdir():
        text = re.sub("<name>.*?</name>", "<name>cat</name>", place.read_text())
        place.write_text(text)
    data = {"kind": "gluoncv_voc", "root": str(folder), "train": "train"}
    content = {**RECIPE, "data": {**data, "classes": classes}}
    (folder / "recipe.json").write_text(json.dumps(content))
    return load_recipe(folder / "recipe.json")


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (None, VOC_CLASSES),
        (list(reversed(VOC_CLASSES)), tuple(reversed(VOC_CLASSES))),
        ("names", ("owl", "cat")),
    ],
)
def test_classes_of_pascal_voc_are_those_named_or_its_own(
    tmp_path, monkeypatch, classes, expected
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names").write_text("owl\ncat\n")
    job = job_of(pascal_in(tmp_path, classes), tmp_path / "run")
    assert job.classes == expected
    ids = job.splits.train.label(0)[:, 4]
    assert set(ids) == {expected.index("cat")}


def test_classes_that_pascal_voc_does_not_have_are_refused(tmp_path):
    recipe = pascal_in(tmp_path, ["dog"])
    with pytest.raises(ValueError, match=r"\.xml: class 'cat'; allowed: dog"):
        pipeline.run(recipe, tmp_path / "run", options=QUIET)
    assert not (tmp_path / "run").exists()


def broken_inside(root, split: str, number: int) -> None:
    """Replace the pixels of an image of a split; its header stays sound."""
    name = (root / "ImageSets" / "Main" / f"{split}.txt").read_text().split()[number]
    file = root / "JPEGImages" / f"{name}.jpg"
    data = bytearray(cv2.imencode(".png", cv2.imread(str(file)))[1].tobytes())
    data[60:80] = bytes(20)
    file.write_bytes(bytes(data))


def test_what_is_measured_leaves_broken_images_out(tmp_path, monkeypatch, caplog):
    few_toys(tmp_path / "toy", 24, train=6, val=3, test=6)
    for split in ("train", "val", "test"):
        broken_inside(tmp_path / "toy", split, 1)
    content = {**RECIPE["data"], "val": "val", "most_broken": 0.4}
    job = job_of(recipe_in(tmp_path, data=content), tmp_path / "run")
    net = models.build(DETECTOR, CLASSES, extras=(32, 32, 32))
    counts: list[int] = []

    def nothing(net, images):
        counts.append(len(images))
        none = -np.ones((len(images), 1, 6))
        return none[..., :1], none[..., :1], none[..., 2:]

    monkeypatch.setattr(type(models.family_of(net)), "results", staticmethod(nothing))
    stage = Stage(job, tmp_path)
    assert job.evaluate(net)["mAP"] == job.validate(net)["mAP"] == 0
    assert stage.accuracy(net, training_images=6) == 0
    assert counts == [5, 2, 5]
    training = job.batches(net, job.recipe.train).epoch(0)
    measured, trained = (
        sum(len(images) for images, *_ in batches)
        for batches in (stage.batches(net, 2), training)
    )
    assert measured < trained == 8  # the last batch is filled up
    images = {n: c for n, c in origin_of(job)["data"].items() if isinstance(c, dict)}
    assert {n: (c["images"], c["skipped"]) for n, c in images.items()} == {
        "train": (5, 1),
        "val": (2, 1),
        "test": (5, 1),
    }
    for place in ("evaluation", "validation"):
        assert f"{place}: left out: " in caplog.text
    assert caplog.text.count("left out: ") == 3  # each file once


def test_images_that_others_replace_in_training_are_named(tmp_path, caplog):
    write_folder(tmp_path / "images", train=2, val=1)
    file = tmp_path / "images" / "train" / "blue" / "0.png"
    file.write_bytes(b"<html>404</html>")
    content = {**TRAIN, "data": {**TRAIN["data"], "root": str(tmp_path / "images")}}
    content["train"] = {"epochs": 2, "batch_size": 6, "learning_rate": 0.01}
    content["data"].update(early_epochs=0, size=32)
    result = quick_run(parse_recipe(content, "recipe"), tmp_path / "run")
    assert result["data"]["train"]["skipped"] == 1
    assert caplog.text.count(f"training: others took the place: {file}") == 1


def test_too_many_broken_images_are_refused_before_training(tmp_path):
    few_toys(tmp_path / "toy", 20, train=4, test=4)
    name = (tmp_path / "toy/ImageSets/Main/test.txt").read_text().split()[0]
    (tmp_path / "toy" / "JPEGImages" / f"{name}.jpg").write_bytes(b"<html>404</html>")
    data = {**RECIPE["data"], "most_broken": 0.1}
    recipe = recipe_in(tmp_path, data=data)
    with pytest.raises(ValueError, match=rf"{name}\.jpg: .*1 of 4 images.* 0\.1 "):
        pipeline.run(recipe, tmp_path / "run", options=QUIET)
    assert not (tmp_path / "run").exists()


def crowded(root, objects: int) -> None:
    """Give an image of the training split so many objects."""
    name = (root / "ImageSets/Main/train.txt").read_text().split()[0]
    corners = [(1 + 2 * (i % 30), 1 + 9 * (i // 30)) for i in range(objects)]
    boxes = "".join(
        f"<object><name>ring</name><bndbox><xmin>{x}</xmin><ymin>{y}</ymin>"
        f"<xmax>{x + 5}</xmax><ymax>{y + 5}</ymax></bndbox></object>"
        for x, y in corners
    )
    file = root / "Annotations" / f"{name}.xml"
    file.write_text(f"<annotation>{boxes}</annotation>")


@pytest.mark.parametrize(
    ("evaluate", "limits"),
    [
        ({}, (300, 1200)),
        ({"post_nms": 120}, (120, 480)),
        ({"nms_topk": 900}, (300, 900)),
        ({"nms_topk": 120}, (300, 120)),
    ],
)
def test_limits_of_nms_fit_the_data_where_a_recipe_leaves_them(
    tmp_path, caplog, monkeypatch, evaluate, limits
):
    monkeypatch.setattr("gluon_compress.evaluate._said", set())
    few_toys(tmp_path / "toy", 12, train=4, test=2)
    crowded(tmp_path / "toy", 150)
    job = job_of(recipe_in(tmp_path, evaluate=evaluate), tmp_path / "run")
    net, _ = job.task.build(job.classes)
    assert (net.post_nms, net.nms_topk) == limits
    warn_of_limits(net, job.splits)
    lines = [r.getMessage() for r in caplog.records if "post_nms" in r.getMessage()]
    if min(limits) >= 150:
        assert not lines
    else:
        (line,) = lines
        assert line.startswith("train: 150 objects in an image")
        assert "120" in line


def test_repairs_of_each_split_are_one_line(tmp_path, caplog):
    few_toys(tmp_path / "toy", 12, train=4, test=2)
    folder = tmp_path / "toy" / "ImageSets" / "Main"
    first = (folder / "train.txt").read_text().split()[0]
    with open(folder / "train.txt", "a") as file:
        file.write(f"{first}\n")
    place = tmp_path / "toy" / "Annotations" / f"{first}.xml"
    box = "<xmin>-9</xmin><ymin>5</ymin><xmax>20</xmax><ymax>2</ymax>"
    added = f"<object><name>ring</name><bndbox>{box}</bndbox></object></annotation>"
    place.write_text(place.read_text().replace("</annotation>", added))
    job_of(recipe_in(tmp_path), tmp_path / "run")
    lines = [m for m in caplog.messages if "repairs" in m]
    assert lines == ["train: repairs: listed twice 1, swapped 1, clipped 1"]


@pytest.mark.slow
def test_channels_are_judged_on_the_images_where_asked(place, tmp_path):
    row = {**RECIPE["compression"][0], "criterion": "taylor", "batches": 2}
    recipe = recipe_in(place, compression=[{**row, "train": None}])
    job = job_of(recipe, tmp_path)
    net, _ = job.task.build(job.classes)
    small = compress(job, net, recipe.compression[0], tmp_path).net
    decision = Plan.load(tmp_path / "plan.json")
    assert decision.made_by["criterion"] == "taylor"
    by_weight = select(
        models.graph_of(net),
        Budget(macs=0.6 * macs(net)),
        "l1",
        selection="uniform",
        constraints=Constraints(multiple=1, groups=["tiny_*"]),
    )
    assert [len(k) for k in by_weight.keep.values()] == [
        len(k) for k in decision.keep.values()
    ]
    assert dict(decision.keep) != dict(by_weight.keep)
    assert macs(small) <= 0.6 * macs(net)


def macs(net) -> int:
    return models.cost_of(net)["macs"]


def test_set_without_objects_is_refused_before_training(tmp_path):
    few_toys(tmp_path / "toy", 5)
    for file in (tmp_path / "toy" / "Annotations").iterdir():
        file.write_text("<annotation></annotation>")
    with pytest.raises(ValueError, match="'train' have no object"):
        pipeline.run(recipe_in(tmp_path), tmp_path / "run", options=QUIET)
    assert not (tmp_path / "run").exists()


def test_folder_of_another_run_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    few_toys(tmp_path / "in" / "toy", 5)
    recipe = recipe_in(tmp_path / "in")
    with pytest.raises(ValueError, match="is not empty; --resume"):
        pipeline.run(recipe, tmp_path, options=QUIET)
    with pytest.raises(ValueError, match="holds no recipe"):
        pipeline.run(recipe, tmp_path, resume=True, options=QUIET)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "thesis.tex"]


def test_results_do_not_go_where_the_images_are(tmp_path):
    recipe = recipe_in(tmp_path)
    with pytest.raises(ValueError, match="is the folder of the data"):
        pipeline.run(recipe, tmp_path / "toy", options=QUIET)
    assert not (tmp_path / "toy").exists()


@pytest.mark.slow
def test_changed_recipe_does_not_go_on(place, tmp_path):
    out = copy(place, tmp_path)
    changed = recipe_in(place, seed=7)
    with pytest.raises(ValueError, match="'seed' differs from the recipe given"):
        pipeline.run(changed, out, resume=True, options=QUIET)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"compression": [{"algorithm": "delete", "keep": {"no_such": 0.5}}]},
            "no_such",
        ),
        (
            {"compression": [{"algorithm": "delete", "keep": {"expand_*": 0.001}}]},
            r"'expand_\*' keeps 0.001 of 'expand_.*', whose width is 16: less than one",
        ),
        (
            {"compression": [{"algorithm": "prune", "budget": {"macs": 10}}]},
            "budget",
        ),
    ],
)
def test_what_cannot_work_is_found_before_training(tmp_path, changes, message):
    few_toys(tmp_path / "toy", 5)
    recipe = recipe_in(tmp_path, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        pipeline.run(recipe, tmp_path / "run", options=QUIET)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_training_images_are_composed_and_measured_ones_are_not(tmp_path):
    few_toys(tmp_path / "toy", 12, train=4, test=4)
    made = {}
    for share in (0, 1):
        augmentation = {"mosaic": share, "plain_epochs": 1}
        train = {**RECIPE["train"], "epochs": 2}
        recipe = recipe_in(tmp_path, train=train, augmentation=augmentation)
        job = job_of(recipe, tmp_path / "run")
        full, _ = job.task.build(job.classes)
        for broken in ("replace", "leave out"):
            batches = job.task.batches(
                job.splits.train, full, recipe.train, broken=broken
            )
            for epoch in (0, 1):
                images = next(iter(batches.epoch(epoch)))[0].asnumpy()
                made[share, broken, epoch] = images
    for broken, epoch, differs in (
        ("replace", 0, True),
        ("replace", 1, False),  # the last epoch is plain
        ("leave out", 0, False),
    ):
        same = np.array_equal(made[0, broken, epoch], made[1, broken, epoch])
        assert same is not differs


def test_several_teachers_teach_what_each_of_them_does_if_they_are_equal(tmp_path):
    few_toys(tmp_path / "toy", 12, train=4, test=4)
    recipe = recipe_in(tmp_path)
    full, _ = job_of(recipe, tmp_path / "run").task.build(CLASSES)
    models.save(full, tmp_path / "a", "a")
    parts = []
    for teachers in ({"teacher": "a"}, {"teachers": ["a", "a"]}):
        folders = {
            key: str(tmp_path / value)
            if key == "teacher"
            else [str(tmp_path / v) for v in value]
            for key, value in teachers.items()
        }
        distillation = {"losses": {"scores": 1, "boxes": 1}, **folders}
        recipe = recipe_in(tmp_path, distillation=distillation)
        job = job_of(recipe, tmp_path / "run")
        student, _ = job.task.build(job.classes)
        teacher = job.task.teacher(student, job.classes)
        lesson = job.task.lesson(student, teacher, QUIET.ctx)
        batch = next(iter(job.batches(student, recipe.finetune).epoch(0)))
        _, figures = lesson.step_loss(lesson.block, batch)
        parts.append({name: float(v.asscalar()) for name, v in figures.items()})
    assert parts[0] == pytest.approx(parts[1], rel=1e-4, abs=1e-6)
