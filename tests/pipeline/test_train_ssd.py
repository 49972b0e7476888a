"""Detectors that are only trained: with a plan, with masks, with a teacher."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import mxnet as mx
import numpy as np
import pytest

from gluon_compress import delete, export, models, pipeline
from gluon_compress.cli.recipes import RUN, TRAIN, with_own_data
from gluon_compress.data.toy import CLASSES
from gluon_compress.models import ssd
from gluon_compress.models.ssd import raw_head
from gluon_compress.recipe import DetectionRecipe, load_recipe, parse_recipe
from gluon_compress.storage.atomic import read_json
from gluon_compress.train import Options
from images import few_toys
from recipes import make_runs_quick
from refusals import assert_refused
from tiny_nets import DETECTOR, Tiny

pytestmark = pytest.mark.usefixtures("tiny_nets")
QUIET = Options(progress=False)
MODEL = {"name": DETECTOR, "extras": [32, 32, 32]}
RECIPE = {
    "paper": "none, a test",
    "command": "pytest",
    "hours": 0.01,
    "expected": {},
    "model": MODEL,
    "data": {"kind": "voc", "root": "toy", "train": "train", "test": "test"},
    "train": {"epochs": 1, "batch_size": 4, "learning_rate": 0.01},
}


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        make_runs_quick(patch)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with a few images, a plan and a trained detector in it."""
    folder = tmp_path_factory.mktemp("train_ssd")
    few_toys(folder / "toy", 20, train=4, test=4)
    net = models.build(MODEL["name"], CLASSES, extras=(32, 32, 32))
    graph = models.graph_of(net)
    plan = delete(graph, {"*": 0.5}, multiple=1)
    replace(plan, net=DETECTOR).save(folder / "plan.json")
    models.save(net, folder / "teacher", "teacher")
    return folder


def recipe_in(place, **changes) -> DetectionRecipe:
    """Write a recipe and read it; ``model`` adds to what is there."""
    content = {**RECIPE, **changes, "model": {**MODEL, **changes.get("model", {})}}
    content["data"] = {**content["data"], "root": str(place / "toy")}
    (place / "recipe.json").write_text(json.dumps(content), encoding="utf-8")
    return load_recipe(place / "recipe.json")


def macs(folder) -> int:
    return models.cost_of(models.load(folder))["macs"]


@pytest.fixture(scope="module", params=[False, True], ids=["slim", "masks"])
def planned(request, place, tmp_path_factory):
    """Return a recipe with a plan, the folder of its run, and the results."""
    model = {"plan": str(place / "plan.json"), "masks": request.param}
    recipe = recipe_in(place, model=model, train={"epochs": 2, "batch_size": 4})
    out = tmp_path_factory.mktemp("planned") / "run"
    return recipe, out, pipeline.run(recipe, out, options=QUIET)


@pytest.mark.slow
def test_net_trains_in_the_structure_of_a_plan(place, planned):
    _, out, results = planned
    assert list(results["stages"]) == ["full"]
    stage = results["stages"]["full"]
    assert stage["steps"] == 2
    assert macs(out / "full" / "model") == stage["macs"] < 0.5 * macs(place / "teacher")
    # Masks or not, the same channels are there.
    widths = raw_head.map_widths(models.load(out / "full" / "model"))
    whole = raw_head.map_widths(models.load(place / "teacher"))
    assert widths == tuple(width // 2 for width in whole)


@pytest.mark.slow
def test_interrupted_training_is_gone_on_with(planned, tmp_path):
    recipe, out, _ = planned
    again = tmp_path / "again"
    shutil.copytree(out, again)
    for name in ("result.json", "full/result.json"):
        (again / name).unlink()
    shutil.rmtree(again / "full" / "model")
    pipeline.run(recipe, again, resume=True, options=QUIET)
    first, second = (
        next((folder / "full" / "model").glob("*.params")).read_bytes()
        for folder in (out, again)
    )
    assert first == second


@pytest.mark.slow
def test_another_detector_teaches_where_the_recipe_names_one(place, tmp_path):
    distillation = {"teacher": str(place / "teacher"), "losses": {"scores": 1}}
    recipe = recipe_in(place, distillation=distillation)
    pipeline.run(recipe, tmp_path / "run", options=QUIET)
    log = (tmp_path / "run" / "full" / "log.jsonl").read_text().splitlines()
    assert set(json.loads(log[0])["parts"]) == {"class", "box", "scores"}


@pytest.mark.slow
@pytest.mark.parametrize("classes", [("cat", "dog"), CLASSES])
def test_training_starts_from_a_detector(place, tmp_path, classes):
    sizes = (20, 60, 111, 162, 213, 264, 315)
    own = {"extras": (32, 32, 32), "sizes": sizes, "seed": 7}
    start = models.build(MODEL["name"], classes, **own)
    models.save(start, tmp_path / "start", "start")
    recipe = recipe_in(
        place,
        model={"start": str(tmp_path / "start"), "extras": None},
        train={"epochs": 1, "batch_size": 4, "learning_rate": 1e-9},
    )
    pipeline.run(recipe, tmp_path / "run", options=QUIET)
    found = models.load(tmp_path / "run" / "full" / "model")
    assert tuple(found.classes) == CLASSES
    assert ssd.config_of(found).sizes == sizes
    assert same(start.box_predictors, found.box_predictors)
    assert same(start.class_predictors, found.class_predictors) == (classes == CLASSES)


def same(these, those) -> bool:
    """Tell whether predictors have the same weights but for a step too small to see."""
    pairs = [
        [one.predictor.weight.data().asnumpy() for one in pair]
        for pair in zip(these, those)
    ]
    return all(a.shape == b.shape and np.allclose(a, b, atol=1e-6) for a, b in pairs)


def test_detector_to_start_from_has_branches_of_its_own(place):
    with pytest.raises(ValueError, match="model.start.*null where 'extras' is given"):
        recipe_in(place, model={"start": "runs/full"})


def test_detector_to_start_from_is_for_images_of_its_size(place, tmp_path):
    net = models.build(MODEL["name"], ("cat", "dog"), extras=(32, 32, 32), size=320)
    models.save(net, tmp_path / "start", "start")
    recipe = recipe_in(place, model={"start": str(tmp_path / "start"), "extras": None})
    with pytest.raises(ValueError, match="its images are 320 pixels, data.size is 300"):
        pipeline.run(recipe, tmp_path / "run", options=QUIET)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_script_starts_from_a_detector(place, tmp_path, call):
    recipe_in(place)  # whose extras the detector's own replace
    status, _, error = call(
        "train_ssd",
        *("--recipe", place / "recipe.json", "--out", tmp_path / "run", "--quiet"),
        *("--start", place / "teacher"),
    )
    assert (status, error) == (0, "")
    told = read_json(tmp_path / "run" / "recipe.json")["model"]
    assert (told["start"], told["extras"]) == (str(place / "teacher"), None)


def test_teacher_of_other_classes_is_refused_before_training(place, tmp_path):
    net = models.build(MODEL["name"], ("cat", "dog"), extras=(32, 32, 32))
    models.save(net, tmp_path / "teacher", "teacher")
    distillation = {"teacher": str(tmp_path / "teacher")}
    recipe = recipe_in(place, distillation=distillation)
    message = r"teacher: its classes are \['cat', 'dog'\], those of the data"
    with pytest.raises(ValueError, match=message):
        pipeline.run(recipe, tmp_path / "run", options=QUIET)
    assert not (tmp_path / "run").exists()


def test_teacher_with_other_anchors_is_refused_before_training(place, tmp_path):
    sizes = [20, 60, 111, 162, 213, 264, 315]
    distillation = {"teacher": str(place / "teacher")}
    recipe = recipe_in(place, model={"sizes": sizes}, distillation=distillation)
    with pytest.raises(ValueError, match=r"anchor sizes: the teacher has \(30"):
        pipeline.run(recipe, tmp_path / "run", options=QUIET)
    assert not (tmp_path / "run").exists()


def test_plan_of_another_net_is_refused_before_training(place, tmp_path):
    recipe = recipe_in(
        place, model={"name": "ssd_300_mobilenet0.5", "plan": str(place / "plan.json")}
    )
    message = "plan.json: net is 'ssd_300_tiny'; allowed: 'ssd_300_mobilenet0.5'"
    with pytest.raises(ValueError, match=message):
        pipeline.run(recipe, tmp_path / "run", options=QUIET)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"masks": True}}, "model.masks is True; allowed: true with a plan"),
        (
            {"distillation": {}},
            "distillation.teacher is None; allowed: a model folder without finetune",
        ),
        ({"student": MODEL}, "finetune is None; allowed: a schedule, since"),
        (
            {
                "student": {**MODEL, "plan": "p", "masks": True},
                "finetune": {"epochs": 1},
            },
            "student.masks is True; allowed: false",
        ),
    ],
)
def test_recipe_that_contradicts_itself_is_refused(place, changes, message):
    with pytest.raises(ValueError, match=message):
        recipe_in(place, **changes)


# The script.


@pytest.mark.slow
def test_script_puts_options_in(place, tmp_path, call):
    recipe_in(place, seed=3)
    status, out, _ = call(
        "train_ssd",
        *("--recipe", place / "recipe.json", "--out", tmp_path / "run", "--quiet"),
        *("--plan", place / "plan.json", "--teacher", place / "teacher"),
        *("--images", place / "toy", "--train", "test", "--seed", "0"),
    )
    assert status == 0
    assert "full" in out
    saved = read_json(tmp_path / "run" / "recipe.json")
    assert saved["seed"] == 0
    assert saved["data"]["train"] == "test"
    assert saved["distillation"]["teacher"] == str(place / "teacher")
    result = read_json(tmp_path / "run" / "result.json")
    assert result["stages"]["full"]["macs"] < macs(place / "teacher")
    assert result["data"]["train"]["images"] == 4


@pytest.mark.slow
def test_script_trains_on_a_trunk(place, tmp_path, call):
    classifier = Tiny(classes=4)
    classifier.initialize()
    classifier(mx.nd.zeros((1, 3, 64, 64)))
    export(classifier, tmp_path / "trunk", shape=(1, 3, 64, 64))
    recipe_in(place)
    status, _, error = call(
        "train_ssd",
        *("--recipe", place / "recipe.json", "--out", tmp_path / "run", "--quiet"),
        *("--trunk", tmp_path / "trunk"),
    )
    assert (status, error) == (0, "")
    assert models.load(tmp_path / "run" / "full" / "model")


def test_trunk_that_is_not_there_is_refused_before_training(place, tmp_path):
    recipe = recipe_in(place, model={"trunk": str(tmp_path / "later")})
    with pytest.raises(ValueError, match="later/manifest.json: there is no such file"):
        pipeline.run(recipe, tmp_path / "run", options=QUIET)
    assert not (tmp_path / "run").exists()


def test_script_refuses_a_recipe_that_compresses(place, tmp_path, call):
    recipe_in(place, finetune={"epochs": 1})
    status, _, error = call(
        "train_ssd", "--recipe", place / "recipe.json", "--out", tmp_path / "run"
    )
    assert status == 2
    assert "recipe.json: compresses" in error


def test_script_names_an_unknown_kvstore(place, tmp_path, call):
    recipe_in(place)
    given = ("--recipe", place / "recipe.json", "--out", tmp_path / "run")
    refused = call("train_ssd", *given, "--kvstore", "foo")
    assert_refused(refused, "kvstore is 'foo'; allowed: device, local")
    assert not (tmp_path / "run").exists()


def test_script_names_a_missing_teacher(place, tmp_path, call):
    recipe_in(place)
    status, _, error = call(
        "train_ssd",
        *("--recipe", place / "recipe.json", "--out", tmp_path / "run"),
        *("--teacher", tmp_path / "nowhere"),
    )
    assert status == 2
    assert error.count("\n") == 1
    assert "nowhere" in error
    assert not (tmp_path / "run").exists()


# Images of one's own, in any recipe of a detector.


def test_own_images_come_with_their_own_classes(place, monkeypatch):
    monkeypatch.chdir(place)
    recipe_in(place)
    recipe = read_json(place / "recipe.json")
    recipe["data"].update(classes=["cell"], others="ignore")
    parser = RUN.parser()
    base = ["--recipe", "r.json", "--out", "runs/mine"]
    assert with_own_data(recipe, parser.parse_args(base)) == recipe
    args = parser.parse_args([*base, "--images", "pets", "--seed", "3"])
    changed = parse_recipe(with_own_data(recipe, args))
    assert changed.data.root == str(place / "pets")
    assert (changed.data.classes, changed.seed) == (None, 3)
    assert changed.data.others == "error"
    own = ["--images", "pets", "--classes", "cat", "dog", "--others", "ignore"]
    own += ["--resized", "scale"]
    data = parse_recipe(with_own_data(recipe, parser.parse_args([*base, *own]))).data
    assert (data.classes, data.others) == (("cat", "dog"), "ignore")
    assert data.resized == "scale"


def test_own_images_lie_in_the_current_folder(place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("GLUON_COMPRESS_DATA", str(tmp_path))
    recipe_in(place)
    recipe = read_json(place / "recipe.json")
    for folder in ("toy", "../" + place.name + "/toy", str(place / "toy")):
        given = ["--recipe", "r.json", "--out", "run", "--images", folder]
        args = TRAIN.parser().parse_args(given)
        assert parse_recipe(with_own_data(recipe, args)).data.folder() == place / "toy"


def test_missing_folder_of_images_is_named(place, tmp_path, call):
    recipe_in(place)
    status, _, error = call(
        "run_pipeline",
        *("--recipe", place / "recipe.json", "--out", tmp_path / "run"),
        *("--images", tmp_path / "nowhere"),
    )
    assert status == 2
    assert error.count("\n") == 1
    assert "nowhere" in error
    assert not (tmp_path / "run").exists()
