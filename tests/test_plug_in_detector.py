"""A detector from outside needs two rows to go all the way; a loss is one more."""

from __future__ import annotations

import json
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

import gluon_compress as gc
import heat_map
from gluon_compress import models, pipeline, zoo
from gluon_compress.detector import load_detector
from gluon_compress.models import family_of
from gluon_compress.plan import Plan
from gluon_compress.recipe import load_recipe, parse_recipe
from gluon_compress.recipe.schema import recipe_schema
from gluon_compress.storage.atomic import read_json
from gluon_compress.train import Options
from images import few_toys
from runtimes import missing

QUIET = Options(progress=False)
SIZE = (96, 128)
STEPS = {"epochs": 1, "batch_size": 4, "learning_rate": 0.01}
RECIPE = {
    "paper": "none, a test",
    "command": "pytest",
    "hours": 0.01,
    "expected": {},
    "task": "detection",
    "model": {"name": "heat_tiny", "channels": 24},
    "data": {"kind": "voc", "train": "train", "test": "test", "size": list(SIZE)},
    "train": STEPS,
    "compression": [
        {
            "algorithm": "prune",
            "budget": {"macs_ratio": 0.6},
            "multiple": 1,
            "effects": 1,
            "train": STEPS,
            "recalibrate": 2,
        },
    ],
    "finetune": STEPS,
    "distillation": {"losses": {"heat": 1, "features": 1, "hints": 1}, "stride": 1},
    "evaluate": {"peaks": 7},
}
FORMATS = [name for name in ("mxnet", "onnx") if not missing(name)]
RUNTIMES = [
    runtime
    for format_name, runtimes in (
        ("mxnet", ("mxnet",)),
        ("onnx", ("onnxruntime", "opencv")),
    )
    if format_name in FORMATS
    for runtime in runtimes
]


@pytest.fixture(scope="module")
def rows():
    """Register family, postprocess and a loss: all that is added to the package."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield heat_map.register(monkeypatch)


@pytest.fixture(scope="module")
def place(rows, tmp_path_factory) -> Path:
    """Return a folder with data, a recipe and a run of it."""
    folder = tmp_path_factory.mktemp("plug_in")
    few_toys(folder / "toy", 24, train=8, test=6)
    data = {**RECIPE["data"], "root": str(folder / "toy")}
    (folder / "recipe.json").write_text(json.dumps({**RECIPE, "data": data}))
    recipe = load_recipe(folder / "recipe.json")
    pipeline.run(recipe, folder / "run", options=QUIET, facts={"commit": "abc"})
    return folder


@pytest.fixture(scope="module")
def deployed(place) -> Path:
    net = models.load(place / "run/compact/model")
    gc.deploy(net, place / "edge", "heat", formats=FORMATS)
    return place / "edge"


def photos(place) -> list[str]:
    return sorted(map(str, (place / "toy" / "JPEGImages").glob("*.jpg")))[:2]


@pytest.mark.slow
def test_a_recipe_trains_prunes_distils_and_reports(place):
    results = read_json(place / "run/result.json")
    stages = results["stages"]
    assert list(stages) == ["full", "1_prune", "compact"]
    assert stages["compact"]["macs"] <= 0.6 * stages["full"]["macs"]
    assert all(0 <= stage["mAP"] <= 1 for stage in stages.values())
    log = (place / "run/compact/log.jsonl").read_text().splitlines()
    parts = {"center", "size", "heat", "features", "hints"}
    assert set(json.loads(log[0])["parts"]) == parts
    page = (place / "run/report/index.html").read_text()
    assert "heat_tiny" in page
    assert "detections_compact.png" in page


@pytest.mark.slow
def test_what_a_recipe_sets_reaches_the_net(place):
    full, compact = (
        models.load(place / "run" / name / "model") for name in ("full", "compact")
    )
    assert family_of(full).map_widths(full) == (24,)
    assert family_of(compact).map_widths(compact) < (24,)
    assert models.input_size(compact) == SIZE
    config = family_of(compact).config_of(compact)
    assert config == heat_map.HeatMapConfig(full.classes, SIZE, peaks=7)
    plan = Plan.load(place / "run/plan.json")
    assert models.cost_of(gc.slim(full, plan)) == models.cost_of(compact)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_deployed_folder_finds_what_the_net_finds(place, deployed, runtime):
    manifest = read_json(deployed / "manifest.json")
    assert manifest["input"]["shape"] == [1, 3, *SIZE]
    assert manifest["postprocess"] == {
        "kind": "peaks",
        "peaks": 7,
        "least_score": 0.01,
    }
    detector = load_detector(place / "run/compact/model")
    edge = load_detector(deployed, runtime=runtime)
    batch = np.random.RandomState(0).randn(1, 3, *SIZE).astype(np.float32)
    for own, other in zip(detector.detect(batch), edge.detect(batch)):
        np.testing.assert_allclose(own, other, rtol=1e-3, atol=1e-3)
    predictor = gc.Predictor(deployed, runtime)
    _, (ids, scores, boxes) = next(iter(predictor.stream(photos(place))))
    assert len(ids) == len(scores) == len(boxes)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", [None, *RUNTIMES])
def test_commands_evaluate_and_draw(place, deployed, call, tmp_path, runtime):
    model = place / "run/compact/model" if runtime is None else deployed
    options = () if runtime is None else ("--runtime", runtime)
    where = ("--data", place / "toy", "--out", tmp_path / "measured")
    status, out, error = call("evaluate", model, *options, *where)
    assert (status, error) == (0, "")
    measured = read_json(tmp_path / "measured/result.json")["mAP"]
    run = read_json(place / "run/compact/result.json")["mAP"]
    assert measured == pytest.approx(run, abs=0.02)
    drawn = ("--out", tmp_path / "drawn", "--threshold", "0.01")
    status, out, error = call("detect", model, *options, *photos(place), *drawn)
    assert (status, error) == (0, "")
    listed = read_json(tmp_path / "drawn/detections.json")["images"]
    assert [Path(one["file"]).name for one in listed] == [
        Path(file).name for file in photos(place)
    ]


@pytest.mark.slow
def test_the_export_command_writes_both_kinds_of_folders(place, call, tmp_path):
    model = place / "run/full/model"
    checkpoint = place / "run/full/last.ckpt"
    again = ("--out", tmp_path / "again", "--checkpoint", checkpoint)
    status, _, error = call("export", model, *again)
    assert (status, error) == (0, "")
    gc.check(tmp_path / "again")
    edge = ("--out", tmp_path / "edge", "--formats", "mxnet", "--images")
    status, _, error = call("export", model, *edge, place / "toy" / "JPEGImages")
    assert (status, error) == (0, "")


@pytest.mark.slow
def test_the_zoo_releases_it_and_gives_it_back(place, tmp_path, monkeypatch):
    home = tmp_path / "model_zoo"
    weights = zoo.release(place / "run/compact/model", home, "heat_toy", kind="float32")
    net = models.load(place / "run/compact/model")
    entry = zoo.Entry(
        name="heat_toy",
        kind="heatmap",
        classes=net.classes,
        data="toy",
        size=SIZE,
        **{k: models.cost_of(net)[k] for k in ("params", "macs", "bytes")},
        licence="MIT",
        command="pytest",
        hours=0.01,
        metric=zoo.Metric(name="mAP", value=0.5, on="toy test"),
        weights=weights,
    )
    zoo.add(entry, home)
    monkeypatch.setattr(zoo.index, "_PLACES", (tmp_path,))
    assert gc.list_models() == ["heat_toy"]
    again = gc.get_model("heat_toy", pretrained=True)
    images = mx.nd.random.uniform(shape=(1, 3, *SIZE))
    for own, other in zip(net(images), again(images)):
        np.testing.assert_array_equal(own.asnumpy(), other.asnumpy())
    other = gc.get_model("heat_toy", pretrained=True, classes=["cat", "dog"])
    assert other.classes == ("cat", "dog")
    assert other(images)[0].shape[1] == 2
    trunk = gc.get_model("heat_toy", pretrained_base=True)
    assert family_of(trunk) is family_of(net)
    with pytest.raises(ValueError, match="did you mean heat_to"):
        gc.get_model("heat_toi")


@pytest.mark.slow
def test_it_is_trained_further_on_other_classes(place):
    content = read_json(place / "recipe.json")
    start = str(place / "run/compact/model")
    content.update(model={"name": "heat_tiny", "start": start}, finetune=None)
    content.update(compression=[], distillation=None)
    task = pipeline.task_of(parse_recipe(content))
    net, _ = task.build(("cat", "dog"))
    assert net.classes == ("cat", "dog")
    assert family_of(net).input_size(net) == SIZE


def recipe_with(**changes) -> dict:
    data = {**RECIPE["data"], "root": "toy"}
    return {**RECIPE, "data": data, **changes}


def test_its_settings_are_checked_and_in_the_schema(rows):
    recipe = parse_recipe(recipe_with(distillation={}))
    assert (recipe.model.channels, recipe.evaluate.peaks) == (24, 7)
    assert recipe.distillation.losses == {"hints": 1.0}
    assert parse_recipe(recipe.to_json()) == recipe
    text = json.dumps(recipe_schema())
    assert all(name in text for name in ("channels", "peaks", "nms_thresh"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"name": "heat_tiny", "sizes": [1, 2]}}, "model.sizes: no such key"),
        ({"model": {"name": "heat_tiny", "channels": 0}}, "model.channels is 0"),
        ({"evaluate": {"nms_thresh": 0.5}}, "evaluate.nms_thresh: no such key"),
        ({"distillation": {"losses": {"boxes": 1}}}, "distillation.losses is "),
    ],
)
def test_settings_of_other_families_are_refused(rows, changes, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        parse_recipe(recipe_with(**changes))


def test_it_is_planned_without_data(rows):
    plan, costs = pipeline.decide(parse_recipe(recipe_with()), ("cat", "dog"))
    assert plan.net == "heat_tiny"
    assert costs["compact"]["macs"] <= 0.6 * costs["full"]["macs"]


@pytest.mark.slow
def test_its_data_is_checked_and_it_has_no_anchors_to_fit(place, call):
    status, out, error = call("check-data", "--recipe", place / "recipe.json")
    assert (status, error) == (0, "")
    assert "medium" in out
    assert "anchor" not in out
    status, _, error = call("anchors", "--recipe", place / "recipe.json")
    assert status == 2
    assert "has no anchors to fit" in error
