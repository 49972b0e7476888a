"""A run becomes a model of the zoo: a whole one, measured as it is shipped."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import mxnet as mx
import numpy as np
import pytest

from gluon_compress import models, pipeline, zoo
from gluon_compress.recipe import load_recipe
from gluon_compress.storage.atomic import read_json, write_json
from gluon_compress.zoo import index
from images import NAMES, few_toys, write_folder
from recipes import RECIPE, TRAIN
from tiny_nets import DETECTOR, NAME
from tools.card import training

pytestmark = pytest.mark.usefixtures("tiny_nets")

ROOT = Path(__file__).resolve().parents[2]
LICENCE = ("--licence", "MIT")


def finished(folder, recipe, save) -> None:
    """Write what a run of a recipe leaves of its last stage."""
    name = pipeline.task_of(recipe).metric
    made = folder / "run"
    manifest = save(made / "compact" / "model")
    net = pipeline.task_of(recipe).load(made / "compact" / "model")
    figures = {**pipeline.judge(recipe, net), "params": 5, "macs": 6, "bytes": 7}
    assert name in figures
    speed = {"median_ms": 3.25, "threads": "1"}
    whole = {
        "stages": {"full": {name: 0.9}, "compact": figures},
        "latency": {"compact": speed},
        "hardware": {"cpu": "a processor", "threads": 1},
    }
    write_json(made / "result.json", whole)
    recipe.save(made / "recipe.json")
    (made / "plan.json").write_text("{}")
    assert manifest["name"] == "compact"


@pytest.fixture
def classified(tmp_path):
    """Return the folder of a classifier's run."""
    write_folder(tmp_path / "images", train=1, val=3)
    data = {**TRAIN["data"], "root": str(tmp_path / "images")}
    (tmp_path / "recipe.json").write_text(json.dumps({**TRAIN, "data": data}))
    recipe = load_recipe(tmp_path / "recipe.json")
    net = models.build(NAME, NAMES, size=48)
    finished(tmp_path, recipe, lambda place: models.save(net, place, "compact"))
    return tmp_path / "run"


@pytest.fixture
def detected(tmp_path):
    """Return the folder of a detector's run."""
    few_toys(tmp_path / "toy", images=5, train=2, test=2)
    data = {**RECIPE["data"], "kind": "voc", "root": str(tmp_path / "toy")}
    (tmp_path / "recipe.json").write_text(json.dumps({**RECIPE, "data": data}))
    recipe = load_recipe(tmp_path / "recipe.json")
    names = pipeline.task_of(recipe).open_data().train.classes
    net = models.build(DETECTOR, names, extras=(32, 32, 32))
    finished(tmp_path, recipe, lambda place: models.save(net, place, "compact"))
    return tmp_path / "run"


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Return the folder of an empty zoo that is the package's own."""
    monkeypatch.setattr(index, "_PLACES", (tmp_path,))
    return tmp_path / "model_zoo"


def test_classifier_is_released(call, classified, own):
    how = ("--name", "colours", "--of", "Colours", "--zoo", own, *LICENCE)
    status, output, _ = call("release", classified, *how)
    assert (status, output.strip()) == (0, str(own / "colours"))
    entry = zoo.read()["colours"]
    assert (entry.kind, entry.classes, entry.size) == ("classifier", tuple(NAMES), 48)
    assert (entry.params, entry.macs, entry.bytes) == (5, 6, 7)
    assert (entry.metric.name, entry.metric.on) == ("top1", "Colours val")
    whole = read_json(own / "colours" / "result.json")
    assert whole["released"] == {"float16": entry.metric.value}
    assert zoo.get_model("colours", pretrained=True).classes == tuple(NAMES)


def test_detector_is_released(call, detected, own):
    options = ("--name", "toys", "--zoo", own, *LICENCE)
    status, _, error = call("release", detected, *options)
    assert (status, error) == (0, "")
    entry = zoo.read()["toys"]
    assert (entry.kind, entry.data, entry.metric.on) == ("ssd", "toy", "toy test")
    assert sorted(p.name for p in (own / "toys").iterdir()) == [
        "README.md",
        "accuracy.json",
        "manifest.json",
        "plan.json",
        "recipe.json",
        "result.json",
        "toys-0000.params",
        "toys-symbol.json",
    ]
    assert zoo.get_model("toys", pretrained=True)
    card = (own / "toys" / "README.md").read_text("utf-8")
    assert "    .venv/bin/python scripts/detect.py model_zoo/toys IMAGES" in card
    assert "scripts/evaluate.py model_zoo/toys --data " in card
    accuracy = read_json(own / "toys" / "accuracy.json")
    means = [row["voc07"] for row in accuracy["classes"].values()]
    means = [value for value in means if value is not None]
    assert np.mean(means) == pytest.approx(entry.metric.value, abs=1e-4)
    assert f"suggested score threshold is **{accuracy['threshold']:.2f}**" in card
    assert "largest on these images themselves" in card
    assert "No trunk: all weights were random at first." in card


def test_card_has_the_figures(call, classified, own):
    call("release", classified, "--name", "colours", "--zoo", own, *LICENCE)
    card = (own / "colours" / "README.md").read_text("utf-8")
    entry = zoo.read()["colours"]
    for words in (
        f"{100 * entry.metric.value:.1f} on images val",
        "3.2 ms, batch 1, 1 thread of a processor",
        "float16",
        "MIT",
        'gc.get_model("colours", pretrained=True)',
    ):
        assert words in card


def test_float32_is_kept_where_float16_costs_too_much(call, classified, own):
    worse = iter([0.0, None])
    honest = pipeline.judge

    def judge(recipe, net, **options):
        figures = honest(recipe, net, **options)
        changed = next(worse)
        return figures if changed is None else {"top1": figures["top1"] + 0.002}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "judge", judge)
        call("release", classified, "--name", "colours", "--zoo", own, *LICENCE)
    whole = read_json(own / "colours" / "result.json")
    assert list(whole["released"]) == ["float16", "float32"]
    stored = mx.nd.load(str(own / "colours" / "colours-0000.params"))
    assert {value.dtype for value in stored.values()} == {np.float32}


def test_failure_changes_nothing(call, classified, own, tmp_path):
    call("release", classified, "--name", "colours", "--zoo", own, *LICENCE)
    before = {p: p.read_bytes() for p in own.rglob("*") if p.is_file()}
    (tmp_path / "images").rename(tmp_path / "gone")
    again = ("--name", "colours", "--zoo", own, *LICENCE)
    status, _, error = call("release", classified, *again)
    assert status == 2
    assert len(error.splitlines()) == 1
    assert before == {p: p.read_bytes() for p in own.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("kind", "model", "start"),
    [
        ("ssd", {"trunk": "runs/t/full/model"}, "`runs/t/full/model`"),
        ("ssd", {}, "starts from random weights"),
        ("classifier", {}, "[recipe.json](recipe.json).\n"),
    ],
)
def test_card_says_what_an_untrained_model_starts_from(tmp_path, kind, model, start):
    (tmp_path / "recipe.json").write_text(json.dumps({"model": model}))
    entry = SimpleNamespace(kind=kind, weights=None, command="scripts/a.py", hours=2)
    assert start in training(entry, tmp_path) + "\n"


def recipe_of(root: str, hours: float, **nets: str) -> dict:
    return {"hours": hours, "data": {"root": root}, "model": nets}


def test_card_says_what_a_run_needs_before_it(tmp_path):
    start, teacher = "runs/set/start/full", "runs/set/teacher/full"
    rows = {
        "start": recipe_of("zoo", 0.4),
        "teacher": recipe_of("pets", 2, start=start),
    }
    folder = tmp_path / "set"
    (folder / "teacher").mkdir(parents=True)
    experiments = {name: {"recipe": recipe} for name, recipe in rows.items()}
    content = {"base": {}, "experiments": experiments}
    (folder / "experiments.json").write_text(json.dumps(content))
    took = [{"train_seconds": s, "hardware": {"threads": 2}} for s in (1800, 3600)]
    stages = {"full": took[0], "1_prune": {}, "compact": took[1]}
    result = json.dumps({"stages": stages})
    (folder / "teacher" / "result.json").write_text(result)
    (tmp_path / "own").mkdir()
    entry = SimpleNamespace(weights=True, command="a", hours=1, data="Pets")
    links = (
        "[set/start](../set/experiments.json) (about 0.4 hours), "
        "[set/teacher](../set/experiments.json) (1.5 hours on 2 threads)."
    )
    # What a teacher starts from counts, too.
    for recipe in (
        recipe_of("pets", 1, weights=start, teacher=teacher),
        recipe_of("pets", 1, teacher=teacher),
    ):
        (tmp_path / "own" / "recipe.json").write_text(json.dumps(recipe))
        text = training(entry, tmp_path / "own")
        assert links in text
        assert "DIR/zoo and DIR/pets" in text
        assert "--data DIR" in text


def test_card_names_no_net_that_the_zoo_cannot_make(tmp_path):
    recipe = recipe_of("pets", 1, weights="runs/mine/full/model")
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    entry = SimpleNamespace(weights=True, command="a", hours=1, data="Pets")
    assert "mine" not in training(entry, tmp_path)


def structure_of(symbol: Path) -> list[tuple]:
    """Return operators, names, settings and inputs of a symbol's nodes, and heads."""
    content = read_json(symbol)
    rows = [(None, "heads", {}, [head[:2] for head in content["heads"]])]
    for node in content["nodes"]:
        settings = {k: v for k, v in node.get("attrs", {}).items() if k[:2] != "__"}
        rows.append(
            (
                node["op"],
                node["name"],
                settings,
                [entry[:2] for entry in node["inputs"]],
            )
        )
    return rows


def test_structure_is_the_same_in_every_process(call, own, tmp_path):
    source = "model_zoo/ssd_300_resnet50_v1d_compact"
    options = ("--untrained", "--of", "VOC", "--zoo", tmp_path, *LICENCE)
    status, _, _ = call("release", ROOT / source, *options)
    assert status == 0
    again = tmp_path / "ssd_300_resnet50_v1d_compact"
    for file in ("recipe.json", "plan.json"):
        assert (again / file).read_bytes() == (ROOT / source / file).read_bytes()
    symbol = f"{again.name}-symbol.json"
    assert structure_of(again / symbol) == structure_of(ROOT / source / symbol)
    assert "Its backbone, `runs/" in (again / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("nowhere",), "nowhere/recipe.json: there is no such file"),
        (("nowhere", "--untrained"), "nowhere/recipe.json: there is no such file"),
    ],
)
def test_bad_input_is_one_line(call, own, given, message):
    status, _, error = call("release", *given, "--zoo", own, *LICENCE)
    assert status == 2
    assert message in error
    assert len(error.splitlines()) == 1
    assert not own.exists()
