from __future__ import annotations

import json

import pytest

from gluon_compress.compression import DeleteSettings, PruneSettings
from gluon_compress.distill import LOSSES, DistillationLoss
from gluon_compress.recipe import Recipe, load_recipe, parse_recipe
from gluon_compress.train import Schedule
from gluon_compress.validation import Positive, Settings

NET = "ssd_300_resnet50_v1d"
RECIPE = {
    "paper": "arXiv:1905.01787",
    "command": "scripts/run_pipeline.py --recipe recipe.json --out runs/x",
    "hours": 0.2,
    "expected": {"mAP": 0.6},
    "model": {"name": NET},
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
    return load_recipe(folder / "recipe.json")


def test_sections_become_settings(tmp_path):
    recipe = load(tmp_path, RECIPE)
    prune, delete = recipe.compression
    assert isinstance(prune, PruneSettings)
    assert isinstance(delete, DeleteSettings)
    assert prune.train == Schedule(epochs=2)
    assert recipe.data.classes == ("a", "b")


def test_saved_recipe_loads_equal(tmp_path):
    recipe = load(tmp_path, RECIPE)
    recipe.save(tmp_path / "again.json")
    assert load_recipe(tmp_path / "again.json") == recipe


def test_recipe_cannot_be_changed(tmp_path):
    recipe = load(tmp_path, RECIPE)
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 1


def test_default_objects_are_not_shared(tmp_path):
    recipe = load(tmp_path, changed("distillation", {}))
    other = load(tmp_path, changed("distillation", {}))
    assert recipe.distillation.losses is not other.distillation.losses


@pytest.mark.parametrize(
    ("path", "value", "place", "allowed"),
    [
        ("train.epochs", 0, "train.epochs is 0", "whole number from 1"),
        ("train.epochs", 2.5, "train.epochs is 2.5", "whole number from 1"),
        ("train.epochs", True, "train.epochs is True", "whole number from 1"),
        ("train.epochs", "3", "train.epochs is '3'", "whole number from 1"),
        ("train.epoch", 3, "train.epoch", "epochs, batch_size"),
        ("train.learning_rate", -0.1, "train.learning_rate is -0.1", "above 0"),
        ("train.mode", "poly", "train.mode is 'poly'", "cosine, polynomial, step"),
        ("train.mode", "step", "train.milestones is []", "epochs below 3"),
        ("finetune.milestones", [3, 2], "finetune.milestones is [3, 2]", "below 4"),
        ("finetune.milestones", [2, 9], "finetune.milestones is [2, 9]", "below 4"),
        ("model", [], "model is []", "an object"),
        ("model.name", "ssd_9", "model.name is 'ssd_9'", "ssd_300_"),
        ("model.name", "resnet18_v1", "model.name is 'resnet18_v1'", "ssd_300_"),
        ("evaluate", {"nms_topk": 0}, "evaluate.nms_topk is 0", "from 1"),
        ("evaluate", {"nms": 0}, "evaluate.nms", "iou, nms_thresh"),
        ("model.anchors", 3, "model.anchors", "sizes, ratios"),
        ("model.sizes", [1, 3, 2], "model.sizes is [1, 3, 2]", "rising"),
        (
            "model",
            {"name": NET, "steps": [8], "sizes": [1, 2, 3]},
            "model.sizes is [1, 2, 3]",
            "2 rising numbers",
        ),
        (
            "model",
            {"name": NET, "ratios": [[1], [1]], "steps": [8]},
            "model.steps is [8]",
            "2 numbers",
        ),
        ("model.extras", [512, "256"], "model.extras[1] is '256'", "whole number"),
        ("data.kind", "imagenet", "data.kind is 'imagenet'", "voc, toy"),
        ("data.classes", 3, "data.classes is 3", "a list of names"),
        ("data.size", [300], "data.size is [300]", "[height, width]"),
        ("data.size", 20, "data.size is 20", "from 32"),
        ("data.difficult", "no", "data.difficult is 'no'", "true or false"),
        ("data.others", "skip", "data.others is 'skip'", "error, ignore"),
        ("data.most_broken", 2, "data.most_broken is 2", "from 0 to 1"),
        (
            "data",
            {"kind": "voc", "root": "x", "images": "photos"},
            "data.images is 'photos'",
            "null with kind 'voc'",
        ),
        ("compression.0.algorithm", "x", "compression[0].algorithm is 'x'", "prune, "),
        ("compression.0.algorithm", ["a"], "compression[0].algorithm is ['a']", "pru"),
        ("compression.0.train.epochs", 0, "compression[0].train.epochs is 0", "from 1"),
        ("compression.0.budget", {}, "compression[0].budget is {}", "one of macs"),
        ("compression.0.budget.flops", 1, "compression[0].budget.flops", "macs"),
        (
            "compression.0.budget.macs_ratio",
            0.5,
            "compression[0].budget.macs_ratio is 0.5",
            "no macs",
        ),
        (
            "compression.0.criterion",
            "magic",
            "compression[0].criterion is 'magic'",
            "l1, l2",
        ),
        ("compression.0.selection", "x", "compression[0].selection is 'x'", "greedy"),
        (
            "compression.0.rounds",
            {"curve": "x"},
            "compression[0].rounds.curve is 'x'",
            "cubic, linear",
        ),
        (
            "compression.0.rounds",
            {"count": 3},
            "compression[0].rounds is {'count': 3, 'curve': 'cubic', 'soft': False, "
            "'epochs': None}",
            "within 2 epochs",
        ),
        (
            "compression.0.latency_table",
            "x",
            "compression[0].latency_table is 'x'",
            "null",
        ),
        ("compression.1.keep", 0.5, "compression[1].keep is 0.5", "an object"),
        ("compression.1.keep", {}, "compression[1].keep is {}", "pattern of group"),
        ("compression.1.keep", {"a": 0}, "compression[1].keep.a is 0", "above 0 to 1"),
        ("compression", {}, "compression is {}", "a list"),
        ("distillation.losses", {"x": 1}, "distillation.losses.x", "scores, boxes"),
        ("distillation.losses", {}, "distillation.losses is {}", "scores, boxes"),
        (
            "distillation.losses",
            {"scores": 0, "hints": 0.0},
            "distillation.losses is {'scores': 0, 'hints': 0.0}",
            "above 0",
        ),
        (
            "distillation.taps",
            ["map1", "map0", "map1"],
            "distillation.taps is ['map1', 'map0', 'map1']",
            "once",
        ),
        ("distillation.temperature", 0, "distillation.temperature is 0", "above 0"),
        ("evaluate", {"metric": "x"}, "evaluate.metric is 'x'", "voc07, voc10"),
        ("format", 2, "format is 2", "1"),
        ("task", "segmentation", "task is 'segmentation'", "detection, classification"),
        ("task", 3, "task is 3", "detection, classification"),
        ("paper", "", "paper is ''", "not empty"),
        ("note", "x", "note", "paper, command"),
        ("finetune", None, "finetune is None", "a schedule"),
    ],
)
def test_wrong_value_is_named_with_file_place_and_what_is_allowed(
    tmp_path, path, value, place, allowed
):
    with pytest.raises(ValueError, match=r"^.*recipe\.json: ") as caught:
        load(tmp_path, changed(path, value))
    named, told = str(caught.value).split("; allowed: ")
    assert named.split("recipe.json: ")[1].replace(": no such key", "") == place
    assert allowed in told
    assert "\n" not in told


def test_missing_key_is_named(tmp_path):
    content = {k: v for k, v in RECIPE.items() if k != "hours"}
    with pytest.raises(ValueError, match=r"recipe\.json: hours: "):
        load(tmp_path, content)
    with pytest.raises(ValueError, match=r"recipe\.json: student\.name: "):
        load(tmp_path, changed("student", {"width": 1}))


def test_recipe_without_task_is_told_by_its_data(tmp_path):
    assert "task" not in RECIPE
    detection = load(tmp_path, RECIPE)
    assert detection == load(tmp_path, {**RECIPE, "task": "detection"})
    content = {**RECIPE, "compression": [], "data": {"kind": "folder", "root": "x"}}
    content["model"] = {"name": "resnet18_v1"}
    del content["distillation"]
    assert parse_recipe(content).task == "classification"


def test_written_recipes_name_their_task(tmp_path):
    load(tmp_path, RECIPE).save(tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text())["task"] == "detection"


def test_recipe_of_another_task_is_refused_where_one_is_asked_for(tmp_path):
    load(tmp_path, RECIPE)
    with pytest.raises(ValueError, match=r"json: task is 'detection'; .*classificatio"):
        load_recipe(tmp_path / "recipe.json", task="classification")


def test_schema_key_is_for_editors(tmp_path):
    with_schema = {"$schema": "../docs/recipe.schema.json", **RECIPE}
    assert load(tmp_path, with_schema) == load(tmp_path, RECIPE)


def test_size_is_one_number_or_height_and_width(tmp_path):
    assert load(tmp_path, RECIPE).data.input_size == (300, 300)
    recipe = load(tmp_path, changed("data.size", [300, 480]))
    assert recipe.data.input_size == (300, 480)


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
    data = load(tmp_path, changed("data.root", "../theirs/data/bccd")).data
    monkeypatch.setenv("GLUON_COMPRESS_DATA", str(tmp_path / "sets"))
    assert data.folder() == tmp_path / "sets" / "bccd"
    (tmp_path / "theirs" / "data" / "bccd").mkdir(parents=True)
    (tmp_path / "sets").mkdir()
    assert data.folder().resolve() == tmp_path / "theirs" / "data" / "bccd"


def test_absolute_data_root_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("GLUON_COMPRESS_DATA", "/elsewhere")
    data = load(tmp_path, changed("data.root", "/abs/voc")).data
    assert str(data.folder()) == "/abs/voc"


def test_missing_data_says_how_to_name_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GLUON_COMPRESS_DATA", str(tmp_path))
    data = load(tmp_path, changed("data.root", "bccd")).data
    with pytest.raises(ValueError, match=r"^data\.root is 'bccd'") as caught:
        data.open("train")
    for words in (str(tmp_path / "bccd"), "--data", "GLUON_COMPRESS_DATA"):
        assert words in str(caught.value)


def test_settings_of_distillation_losses_are_keys_of_the_distillation(tmp_path):
    stated = load(tmp_path, changed("distillation", {"near": 1})).distillation
    assert (stated.near, stated.temperature) == (1, 2.0)
    assert stated.to_json()["near"] == 1
    message = r"distillation\.nearer: no such key; allowed: teacher, teachers, .*near"
    with pytest.raises(ValueError, match=message):
        load(tmp_path, changed("distillation", {"nearer": 1}))


def test_a_loss_from_outside_brings_its_settings(tmp_path, monkeypatch):
    class Config(Settings):
        sharpness: Positive = 3.0

    row = DistillationLoss(lambda pair, settings: 0, Config=Config)
    monkeypatch.setitem(LOSSES, "outside", row)
    content = changed("distillation", {"losses": {"outside": 1}, "sharpness": 2})
    assert load(tmp_path, content).distillation.sharpness == 2
    with pytest.raises(ValueError, match=r"distillation\.sharpness is 0; allowed: "):
        load(tmp_path, changed("distillation", {"sharpness": 0}))
