from __future__ import annotations

import dataclasses
import json

import pytest

from gluon_compress.recipe import (
    Delete,
    Prune,
    Recipe,
    Schedule,
)

RECIPE = {
    "paper": "arXiv:1905.01787",
    "command": "scripts/run_pipeline.py --recipe recipe.json --out runs/x",
    "hours": 0.2,
    "expected": {"mAP": 0.6},
    "model": {"name": "ssd_300_resnet50_v1d"},
    "data": {"kind": "voc", "root": "data", "classes": ["a", "b"]},
    "train": {"epochs": 3},
    "finetune": {"epochs": 4, "mode": "step", "milestones": [2, 3]},
    "compression": [
        {"algorithm": "prune", "budget": {"macs": 2.31e9}, "train": {"epochs": 2}},
        {"algorithm": "delete", "keep": {"expand*": 0.5}},
    ],
    "distillation": {"losses": {"scores": 2}},
}


def changed(path: str, value) -> dict:
    """Return the recipe with the value at a dotted path replaced."""
    recipe = json.loads(json.dumps(RECIPE))
    at = recipe
    *way, last = path.split(".")
    for step in way:
        at = at[int(step)] if isinstance(at, list) else at[step]
    at[last] = value
    return recipe


def load(folder, content) -> Recipe:
    (folder / "recipe.json").write_text(json.dumps(content))
    return Recipe.load(folder / "recipe.json")


def test_sections_become_data_classes(tmp_path):
    recipe = load(tmp_path, RECIPE)
    prune, delete = recipe.compression
    assert isinstance(prune, Prune)
    assert isinstance(delete, Delete)
    assert prune.train == Schedule(epochs=2)
    assert recipe.data.classes == ("a", "b")


def test_saved_recipe_loads_equal(tmp_path):
    recipe = load(tmp_path, RECIPE)
    recipe.save(tmp_path / "again.json")
    assert Recipe.load(tmp_path / "again.json") == recipe


def test_recipe_cannot_be_changed(tmp_path):
    recipe = load(tmp_path, RECIPE)
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.seed = 1


def test_default_objects_are_not_shared(tmp_path):
    recipe = load(tmp_path, changed("distillation", {}))
    other = load(tmp_path, changed("distillation", {}))
    assert recipe.distillation.losses is not other.distillation.losses


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("train.epochs", 0, r"train\.epochs is 0; allowed: a whole number from 1"),
        ("train.epochs", 2.5, r"train\.epochs is 2\.5"),
        ("train.epochs", True, r"train\.epochs is True"),
        ("train.epoch", 3, r"train\.epoch: no such key; allowed: epochs, batch_size"),
        ("train.learning_rate", -0.1, r"train\.learning_rate is -0\.1; .*above 0"),
        ("train.learning_rate", float("nan"), r"learning_rate is nan"),
        ("train.mode", "poly", r"train\.mode is 'poly'; allowed: cosine, step"),
        ("train.mode", "step", r"train\.milestones is \[\]"),
        ("finetune.milestones", [3, 2], r"finetune\.milestones is \[3, 2\]"),
        ("finetune.milestones", [2, 9], r"rising epochs below 4"),
        ("model", [], r"model is \[\]; allowed: an object"),
        ("model.sizes", [1, 3, 2], r"model\.sizes is \[1, 3, 2\]; allowed: rising"),
        (
            "model",
            {"name": "x", "steps": [8], "sizes": [1, 2, 3]},
            r"model\.sizes is \[1, 2, 3\]; allowed: 2 rising numbers, one more",
        ),
        (
            "model",
            {"name": "x", "ratios": [[1], [1]], "steps": [8]},
            r"model\.steps is \[8\]; allowed: 2 numbers, one for each map as in ratios",
        ),
        ("model.extras", [512, "256"], r"model\.extras\[1\] is '256'"),
        ("data.kind", "imagenet", r"data\.kind is 'imagenet'; allowed: voc, toy"),
        ("data.classes", 3, r"data\.classes is 3"),
        ("data.difficult", "no", r"data\.difficult is 'no'; allowed: true or false"),
        (
            "data",
            {"kind": "coco", "root": "x", "difficult": False},
            r"data\.difficult is False; allowed: true with kind 'coco', which keeps",
        ),
        ("compression.0.algorithm", "amc", r"\[0\]\.algorithm is 'amc'; .*prune, del"),
        ("compression.0.algorithm", ["a"], r"compression\[0\]\.algorithm is \['a'\]"),
        ("compression.0.train.epochs", 0, r"compression\[0\]\.train\.epochs is 0"),
        ("compression.0.budget", {}, r"budget is {}; allowed: at least one of macs"),
        ("compression.0.budget.flops", 1, r"budget\.flops: no such key; .*macs"),
        ("compression.0.budget.macs_ratio", 0.5, r"macs_ratio is 0\.5; .*no macs"),
        ("compression.1.keep", 0.5, r"compression\[1\]\.keep is 0\.5"),
        ("compression.1.keep", {}, r"\[1\]\.keep is {}; allowed: a pattern of group"),
        ("compression.1.keep", {"a": 0}, r"compression\[1\]\.keep\.a is 0"),
        ("compression", {}, r"compression is {}; allowed: a list"),
        ("distillation.losses", {"logits": 1}, r"losses\.logits: no such key"),
        (
            "distillation.losses",
            {},
            r"distillation\.losses is {}; allowed: a weight above 0 of any of scores, "
            r"boxes, features, .*channels$",
        ),
        ("distillation.losses", {"scores": 0, "hints": 0.0}, r"losses is {'scores': 0"),
        (
            "distillation.taps",
            ["map1", "map0", "map1"],
            r"distillation\.taps is \['map1', 'map0', 'map1'\]; allowed: each name",
        ),
        ("distillation.temperature", 0, r"distillation\.temperature is 0"),
        ("evaluate", {"metric": "coco"}, r"evaluate\.metric is 'coco'"),
        ("student", {"width": 1}, r"student\.name: this key is missing"),
        ("format", 2, r"format is 2; allowed: 1"),
        ("paper", "", r"paper is ''"),
        ("note", "x", r"note: no such key"),
    ],
)
def test_wrong_value_is_named_with_place_and_file(tmp_path, path, value, message):
    with pytest.raises(ValueError, match=r"recipe\.json: .*" + message) as caught:
        load(tmp_path, changed(path, value))
    assert "\n" not in str(caught.value)


def test_missing_key_is_named(tmp_path):
    content = {k: v for k, v in RECIPE.items() if k != "hours"}
    with pytest.raises(ValueError, match="hours: this key is missing"):
        load(tmp_path, content)


def test_values_given_in_python_are_checked_too():
    with pytest.raises(ValueError, match="epochs is 0"):
        Schedule(epochs=0)


def test_data_root_starts_here_or_at_the_variable(tmp_path, monkeypatch):
    data = load(tmp_path, RECIPE).data
    monkeypatch.delenv("GLUON_COMPRESS_DATA", raising=False)
    assert str(data.folder()) == "data"
    monkeypatch.setenv("GLUON_COMPRESS_DATA", str(tmp_path))
    assert data.folder() == tmp_path / "data"


def test_data_of_another_layout_is_found_by_its_name(tmp_path, monkeypatch):
    data = load(tmp_path, changed("data.root", "../shared/data/bccd")).data
    monkeypatch.setenv("GLUON_COMPRESS_DATA", str(tmp_path / "sets"))
    assert data.folder() == tmp_path / "sets" / "bccd"
    (tmp_path / "shared" / "data" / "bccd").mkdir(parents=True)
    (tmp_path / "sets").mkdir()
    assert data.folder().resolve() == tmp_path / "shared" / "data" / "bccd"


def test_absolute_data_root_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("GLUON_COMPRESS_DATA", "/elsewhere")
    data = load(tmp_path, changed("data.root", "/abs/voc")).data
    assert str(data.folder()) == "/abs/voc"
