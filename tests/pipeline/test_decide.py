"""Plans that a recipe makes without data, and the two of the paper's budgets."""

from __future__ import annotations

import json
from pathlib import Path

import mxnet as mx
import pytest

from gluon_compress import (
    Budget,
    Plan,
    build,
    count,
    delete,
    export,
    models,
    pipeline,
    select,
    slim,
    trace,
)
from gluon_compress.pipeline.stages import dry_run
from gluon_compress.plan import Constraints
from gluon_compress.recipe import load_recipe
from gluon_compress.storage.atomic import read_json
from tiny_nets import DETECTOR, NAME, Tiny

pytestmark = pytest.mark.usefixtures("tiny_nets")

ZOO = Path(__file__).parents[2] / "model_zoo"
SMALL = {
    "paper": "none, a test",
    "command": "pytest",
    "hours": 0.01,
    "expected": {},
    "model": {"name": DETECTOR, "extras": [32, 32, 32]},
    "data": {"kind": "voc", "root": "nowhere", "classes": ["cat", "dog"]},
    "train": {"epochs": 1},
    "compression": [
        {"algorithm": "delete", "keep": {"expand_*": 0.5}, "multiple": 4},
        {
            "algorithm": "prune",
            "criterion": "taylor",
            "budget": {"macs_ratio": 0.5},
            "groups": ["tiny_*"],
        },
    ],
    "finetune": {"epochs": 1},
}


def written(tmp_path, **changes) -> Path:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({**SMALL, **changes}), encoding="utf-8")
    return path


def test_all_rows_make_one_plan_for_the_whole_net(tmp_path):
    recipe = load_recipe(written(tmp_path))
    plan, costs = pipeline.decide(recipe, ("cat", "dog"))
    net = build(DETECTOR, ("cat", "dog"), extras=(32, 32, 32))
    graph = models.graph_of(net)
    plan.check(graph)
    assert plan.net == DETECTOR
    assert {n: c["macs"] for n, c in costs.items()} == {
        "full": count(graph).macs,
        "compact": count(graph, plan).macs,
    }
    assert count(models.graph_of(slim(net, plan))).macs == costs["compact"]["macs"]
    assert [len(plan.keep[f"expand_conv{i}"]) for i in range(3)] == [16] * 3
    # Half of what the deletion has left.
    assert costs["compact"]["macs"] < 0.5 * costs["full"]["macs"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "macs"), [("compact", 2.31e9), ("compact_s", 1.155e9)]
)
def test_plans_of_the_paper_meet_both_limits_closely(name, macs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no trunk is
    folder = ZOO / f"ssd_300_resnet50_v1d_{name}"
    recipe = load_recipe(folder / "recipe.json")
    plan, costs = pipeline.decide(recipe, recipe.data.classes)
    assert len(recipe.data.classes) == 20
    assert 0.97 * macs < costs["compact"]["macs"] <= macs
    assert 0.97 * 16.3e6 < costs["compact"]["bytes"] <= 16.3e6
    assert plan == Plan.load(folder / "plan.json")
    plan.save(tmp_path / "plan.json")
    assert (tmp_path / "plan.json").read_bytes() == (folder / "plan.json").read_bytes()
    # The file that is shipped holds names as well, and the shape of each value.
    symbol = mx.sym.load(str(folder / f"{folder.name}-symbol.json"))
    names = [*symbol.list_arguments(), *symbol.list_auxiliary_states()]
    heads = sum(68 + len(name) for name in names)
    assert costs["compact"]["bytes"] + heads <= 16.3e6


def test_compact_detectors_start_as_the_full_one_of_their_data_does():
    full, *others = (
        load_recipe(ZOO / f"ssd_300_resnet50_v1d_{name}" / "recipe.json")
        for name in ("voc", "compact", "compact_s")
    )
    assert full.model.trunk == "runs/resnet50_v1d_imagenet/full/model"
    for other in others:
        assert (other.model, other.data, other.train) == (
            full.model,
            full.data,
            full.train,
        )


@pytest.mark.parametrize("path", sorted(ZOO.glob("*_voc/recipe.json")), ids=str)
def test_recipe_that_was_not_run_says_what_it_starts_from(path):
    recipe = load_recipe(path)
    told = (
        "those of the trunk"
        if (recipe.student or recipe.model).trunk
        else "starts from random values"
    )
    assert told in recipe.expected["note"]


def test_detector_in_the_order_of_the_paper_keeps_its_budgets(tmp_path):
    pruned = load_recipe(ZOO / "resnet50_v1d_compact_imagenet" / "recipe.json")
    pruned = pruned.replace(model=pruned.model.replace(weights=None))
    task = pipeline.task_of(pruned)
    _, whole = task.build([str(number) for number in range(1000)])
    _, trunk = dry_run(task, whole)
    task.save(trunk, tmp_path / "trunk", "trunk")
    recipe = load_recipe(ZOO / "ssd_300_resnet50_v1d_compact_voc" / "recipe.json")
    student, how = recipe.student, {"trunk": tmp_path / "trunk"}
    assert Path(student.trunk).parts[1] == "resnet50_v1d_compact_imagenet"
    net = build(student.name, recipe.data.classes, extras=student.extras, **how)
    cost = count(models.graph_of(net))
    assert 0.97 * 2.31e9 < cost.macs <= 2.31e9
    assert 0.97 * 16.3e6 < cost.bytes <= 16.3e6


@pytest.mark.parametrize("student", [False, True])
def test_structure_needs_no_trunk_that_is_not_there_yet(
    tmp_path, monkeypatch, caplog, student
):
    monkeypatch.chdir(tmp_path)
    how = {"student": SMALL["model"] if student else None}
    how["compression"] = SMALL["compression"][:1]
    plain = load_recipe(written(tmp_path, **how))
    model = {**SMALL["model"], "trunk": "runs/later/full/model"}
    recipe = load_recipe(written(tmp_path, model=model, **how))
    found, costs = pipeline.decide(recipe, ("cat", "dog"))
    (record,) = caplog.records
    assert record.getMessage().startswith("runs/later/full/model: ")
    assert (found, costs) == pipeline.decide(plain, ("cat", "dog"))
    net, _ = pipeline.structure(recipe, ("cat", "dog"), found)
    assert count(models.graph_of(net)).macs == costs["compact"]["macs"]


def test_trunk_that_is_there_gives_its_values(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    classifier = Tiny(classes=4)
    classifier.initialize()
    classifier(mx.nd.zeros((1, 3, 64, 64)))
    shape = (1, 3, 64, 64)
    half = delete(trace(classifier, shape), {"*": 0.5}, multiple=1)
    export(slim(classifier, half, shape=shape), "trunk", shape=shape)
    rows = SMALL["compression"][:1]
    model = {**SMALL["model"], "trunk": "trunk"}
    recipe = load_recipe(written(tmp_path, model=model, compression=rows))
    _, costs = pipeline.decide(recipe, ("cat", "dog"))
    recipe = load_recipe(written(tmp_path, compression=rows))
    _, whole = pipeline.decide(recipe, ("cat", "dog"))
    assert costs["full"]["macs"] < 0.5 * whole["full"]["macs"]


def test_trunk_of_a_student_has_to_be_there(tmp_path):
    # It may have been pruned, and then it is another structure.
    student = {**SMALL["model"], "trunk": str(tmp_path / "later")}
    recipe = load_recipe(written(tmp_path, student=student))
    with pytest.raises(ValueError, match="later/manifest.json: there is no such file"):
        pipeline.decide(recipe, ("cat", "dog"))


def test_budget_that_the_branches_exceed_is_refused_with_the_reason(tmp_path):
    rows = [
        {"algorithm": "delete", "keep": {"expand_*": 0.5}},
        {
            "algorithm": "prune",
            "budget": {"bytes": 1e4},
            "groups": ["tiny_*"],
        },
    ]
    recipe = load_recipe(written(tmp_path, compression=rows))
    with pytest.raises(
        ValueError, match="budget of 10,000 bytes cannot be met"
    ) as told:
        pipeline.decide(recipe, ("cat", "dog"))
    assert "not among groups 'tiny_*': expand_trans_conv0" in str(told.value)


def test_budget_of_more_classes_gives_one_structure_to_all(tmp_path):
    """A net of two classes gets the widths that its twin of twenty gets."""
    row = {
        "algorithm": "prune",
        "budget": {"macs": 6e7, "bytes": 2e6},
        "groups": ["tiny_*"],
        "multiple": 4,
    }
    recipe = load_recipe(written(tmp_path, compression=[{**row, "classes": 20}]))
    plan, costs = pipeline.decide(recipe, ("cat", "dog"))
    net = build(DETECTOR, ("cat", "dog"), extras=(32, 32, 32))
    plan.check(models.graph_of(net))
    twin = models.graph_of(models.with_classes(net, [str(i) for i in range(20)]))
    constraints = Constraints(groups=row["groups"], multiple=4)
    there = select(twin, Budget(**row["budget"]), constraints=constraints)
    trunk = [name for name in plan.keep if name.startswith("tiny_")]
    assert [plan.keep[n] for n in trunk] == [there.keep[n] for n in trunk]
    assert 0.97 < count(twin, there).macs / 6e7 <= 1
    assert costs["compact"]["macs"] < count(twin, there).macs


def test_classes_of_a_classifier_are_refused(tmp_path):
    rows = [{"algorithm": "prune", "budget": {"macs_ratio": 0.5}, "classes": 20}]
    data = {"kind": "folder", "root": "x", "size": 32}
    model = {"name": NAME}
    path = written(tmp_path, data=data, model=model, compression=rows)
    with pytest.raises(
        ValueError, match="classes is 20; allowed: null for classifiers"
    ):
        pipeline.decide(load_recipe(path), ("cat", "dog"))


@pytest.mark.parametrize("kind", ["folder", "record", "voc"])
def test_kind_of_the_data_tells_the_recipe(tmp_path, kind):
    data = {"kind": kind, "root": "x", "classes": ["cat", "dog"]}
    model = SMALL["model"] if kind == "voc" else {"name": NAME}
    path = written(tmp_path, data=data, model=model)
    found = load_recipe(path)
    assert found.task == ("detection" if kind == "voc" else "classification")


@pytest.mark.parametrize("text", ["[]", "{", '{"data": 3}'])
def test_what_is_no_recipe_is_refused(tmp_path, text):
    path = tmp_path / "recipe.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="recipe.json"):
        load_recipe(path)


# The script.


def test_script_writes_the_plan_and_what_it_saves(tmp_path, call):
    out = tmp_path / "out"
    status, text, _ = call("plan", "--recipe", written(tmp_path), "--out", out)
    assert status == 0
    assert "GMACs" in text
    plan, costs = pipeline.decide(load_recipe(tmp_path / "recipe.json"), ("cat", "dog"))
    assert Plan.load(out / "plan.json") == plan
    result = read_json(out / "result.json")
    assert result["stages"] == costs
    assert result["classes"] == 2
    assert "commit" in result


def test_script_asks_for_classes_where_there_are_none(tmp_path, call):
    path = written(tmp_path, data={"kind": "voc", "root": "nowhere"})
    status, _, error = call("plan", "--recipe", path, "--out", tmp_path / "out")
    assert status == 2
    assert "has no list of classes; give --classes" in error
    assert not (tmp_path / "out").exists()
