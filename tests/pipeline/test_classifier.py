"""Classifiers from recipe to compact trunk, on images whose colour is their class."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import mxnet as mx
import numpy as np
import pytest

from gluon_compress import count, models, pipeline, slim, trace
from gluon_compress.compression import StageOutput
from gluon_compress.data import Preprocess
from gluon_compress.distill import distil_step
from gluon_compress.latency import measure_blocks, measuring, predict_latency
from gluon_compress.pipeline import classification
from gluon_compress.pipeline.stages import compress, finetune
from gluon_compress.plan import Plan, Sensitivity
from gluon_compress.recipe import ClassificationRecipe, load_recipe
from gluon_compress.storage.atomic import read_json
from gluon_compress.train import Schedule
from images import NAMES, write_folder, write_records
from recipes import (
    QUIET,
    STEPS,
    TRAIN,
    do_not_time,
    job_of,
    make_runs_quick,
    quick_run,
)
from tiny_nets import DETECTOR, NAME

pytestmark = pytest.mark.usefixtures("tiny_nets")

ONCE = {**STEPS, "epochs": 1}
PRUNE = {
    **TRAIN,
    "compression": [
        {"algorithm": "prune", "budget": {"macs_ratio": 0.5}, "multiple": 1}
    ],
    "finetune": {**STEPS, "learning_rate": 0.005, "warmup_epochs": 0},
}
QUICK = {**PRUNE, "finetune": {**PRUNE["finetune"], "epochs": 1}}


def recipe_in(folder, content, **data) -> ClassificationRecipe:
    data = {**content["data"], "root": str(folder / "images"), **data}
    (folder / "recipe.json").write_text(json.dumps({**content, "data": data}))
    return load_recipe(folder / "recipe.json")


def weights_of(place) -> dict:
    """Return a recipe's model: the net that was trained in ``place``."""
    return {"name": NAME, "weights": str(place / "run" / "full" / "model")}


def pruned(place, folder, row) -> StageOutput:
    """Prune the net that was trained in ``place`` by a row; leave files in a folder."""
    content = {**PRUNE, "model": weights_of(place), "compression": [row]}
    recipe = recipe_in(place, content)
    job = job_of(recipe, folder, replace(QUIET, resume=True))
    net, _ = job.task.build(job.classes)
    folder.mkdir(exist_ok=True)
    return compress(job, net, recipe.compression[0], folder)


class Images(list):
    """Pairs of an image and its class."""

    def __init__(self, pairs, classes) -> None:
        super().__init__(pairs)
        self.classes = classes


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with images and a run that trains, prunes and fine-tunes."""
    folder = tmp_path_factory.mktemp("classifier")
    write_folder(folder / "images", train=8, val=3)
    quick_run(recipe_in(folder, PRUNE), folder / "run")
    return folder


def test_stages_leave_their_results(place):
    results = read_json(place / "run" / "result.json")
    assert list(results["stages"]) == ["full", "1_prune", "compact"]
    assert list(results["latency"]) == ["full", "compact"]
    for name, stage in results["stages"].items():
        assert stage["metric"] == "top-1 at 48 pixels"
        assert stage["top1"] * 9 == pytest.approx(round(stage["top1"] * 9))
        net = models.load(place / "run" / name / "model")
        assert models.family_of(net).classes_of(net) == NAMES
        assert models.input_size(net) == (48, 48)
        assert count(trace(net, (1, 3, 48, 48))).macs == stage["macs"]
    assert results["data"]["train"]["images"] == 24


def test_it_learned_the_colours(place):
    stages = read_json(place / "run" / "result.json")["stages"]
    assert stages["full"]["top1"] > 0.6
    assert stages["compact"]["top1"] > 0.4


def test_plan_meets_the_budget(place):
    stages = read_json(place / "run" / "result.json")["stages"]
    share = stages["compact"]["macs"] / stages["full"]["macs"]
    assert 0.47 < share <= 0.5
    plan = Plan.load(place / "run" / "1_prune" / "plan.json")
    assert plan.net == NAME
    assert plan.made_by["budget"]["macs"] == 0.5 * stages["full"]["macs"]


def test_compact_classifier_is_a_trunk(place):
    net = models.build(DETECTOR, ("cat",), trunk=place / "run" / "compact" / "model")
    whole = models.build(DETECTOR, ("cat",))
    assert models.cost_of(net)["macs"] < models.cost_of(whole)["macs"]


def test_report_shows_accuracy_plan_and_curves(place):
    recipe = recipe_in(place, PRUNE)
    pipeline.run(recipe, place / "run", resume=True, options=QUIET)
    page = (place / "run" / "report" / "index.html").read_text()
    assert "top-1" in page
    assert "plan_1_prune.png" in page
    assert "curves.png" in page
    assert "mAP" not in page


def test_resumed_run_equals_the_uninterrupted(place, tmp_path):
    shutil.copytree(place / "run", tmp_path / "run")
    for left in ("1_prune/result.json", "compact", "result.json"):
        path = tmp_path / "run" / left
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(tmp_path / "run" / "1_prune" / "model")
    recipe = load_recipe(place / "recipe.json")
    quick_run(recipe, tmp_path / "run", resume=True)
    name = "compact/model/compact-0000.params"
    both = [mx.nd.load(str(p / "run" / name)) for p in (place, tmp_path)]
    assert both[0].keys() == both[1].keys()
    for key, value in both[0].items():
        assert (value.asnumpy() == both[1][key].asnumpy()).all()


GRADUAL = {
    "algorithm": "prune",
    "budget": {"macs_ratio": 0.6},
    "multiple": 1,
    "sparsity": {"weight": 1e-3, "train": {**STEPS, "epochs": 1}},
    "train": {**STEPS, "learning_rate": 0.005},
    "rounds": {"count": 2, "curve": "linear", "soft": True},
    "recalibrate": 2,
}


@pytest.fixture(scope="module")
def gradual(place, tmp_path_factory):
    """Return the run of a recipe with every part of pruning switched on."""
    recipe = recipe_in(
        place, {**QUICK, "model": weights_of(place), "compression": [GRADUAL]}
    )
    out = tmp_path_factory.mktemp("gradual") / "run"
    quick_run(recipe, out)
    return out


def test_gradual_pruning_meets_its_budget(gradual):
    stages = read_json(gradual / "result.json")["stages"]
    assert 0.57 < stages["1_prune"]["macs"] / stages["full"]["macs"] <= 0.6
    assert stages["1_prune"]["epochs"] == 4
    assert not (gradual / "full" / "log.jsonl").exists()  # it was loaded
    plan = Plan.load(gradual / "1_prune" / "plan.json")
    assert plan.made_by["rounds"]["count"] == 2
    (first,) = plan.made_by["held"]
    assert len(plan.keep[first]) == plan.made_by["widths"][first]
    assert stages["1_prune"]["sparsity"]["epochs"] == 1
    assert 0 <= stages["1_prune"]["before_recalibration"]["top1"] <= 1


def test_sparsity_is_part_of_the_loss_before(gradual):
    lines = (gradual / "1_prune" / "sparsity" / "log.jsonl").read_text().splitlines()
    parts = [json.loads(line)["parts"] for line in lines if '"step"' in line]
    assert all(part["sparsity"] > 0 for part in parts)


def test_gradual_pruning_is_resumed_behind_its_training(gradual, tmp_path):
    shutil.copytree(gradual, tmp_path / "run")
    for left in ("1_prune/model", "compact"):
        shutil.rmtree(tmp_path / "run" / left)
    for left in ("1_prune/result.json", "result.json"):
        (tmp_path / "run" / left).unlink()
    recipe = load_recipe(gradual / "recipe.json")
    quick_run(recipe, tmp_path / "run", resume=True)
    names = [root / "1_prune" / "plan.json" for root in (gradual, tmp_path / "run")]
    assert names[0].read_bytes() == names[1].read_bytes()
    values = [
        mx.nd.load(str(p.parent / "model" / "1_prune-0000.params")) for p in names
    ]
    for key, value in values[0].items():
        assert (value.asnumpy() == values[1][key].asnumpy()).all()


def test_measured_sensitivity_guides_the_plan(place, tmp_path, monkeypatch):
    write_records(tmp_path / "images", train=4, val=2)
    (tmp_path / "images" / "names.txt").write_text("\n".join(NAMES))
    row = {
        **PRUNE["compression"][0],
        "selection": "sensitivity",
        "sensitivity": {"images": 9, "ratios": [0.5]},
        "ends": True,
    }
    content = {**QUICK, "model": weights_of(place), "compression": [row]}
    recipe = recipe_in(tmp_path, content, kind="record", classes="names.txt")
    do_not_time(monkeypatch)
    pipeline.run(recipe, tmp_path / "run", options=QUIET)
    found = Sensitivity.load(tmp_path / "run" / "1_prune" / "sensitivity.json")
    assert found.full * 9 == pytest.approx(round(found.full * 9))
    plan = Plan.load(tmp_path / "run" / "1_prune" / "plan.json")
    assert plan.made_by["selection"] == "sensitivity"
    stages = read_json(tmp_path / "run" / "result.json")["stages"]
    assert 0.47 < stages["1_prune"]["macs"] / stages["full"]["macs"] <= 0.5
    assert sum(g["macs_saved"] for g in stages["1_prune"]["groups"]) == pytest.approx(1)
    report = tmp_path / "run" / "report"
    assert (report / "sensitivity_1_prune.png").exists()
    assert "Groups of 1_prune" in (report / "index.html").read_text()


@pytest.mark.slow
def test_latency_is_limited_by_a_table(place, tmp_path, monkeypatch):
    def block_ms(graph, block, widths, *_):
        return 0.001 * (1 + widths[0]) * (1 + widths[1])

    monkeypatch.setattr(measuring, "_block_ms", block_ms)
    net = models.load(place / "run" / "full" / "model")
    graph = trace(net, (1, 3, 48, 48))
    table = measure_blocks(graph, repeats=1, rounds=1)
    table.save(tmp_path / "table.json")
    row = {
        **PRUNE["compression"][0],
        "budget": {"latency_ms_ratio": 0.9},
        "latency_table": str(tmp_path / "table.json"),
    }
    pruned(place, tmp_path, row)
    plan = Plan.load(tmp_path / "plan.json")
    before, after = (predict_latency(graph, table, p) for p in (None, plan))
    assert after <= 0.9 * before


def test_weights_are_reconstructed_after_the_cut(place, tmp_path):
    row = {
        "algorithm": "prune",
        "budget": {"macs_ratio": 0.6},
        "multiple": 1,
        "reconstruct": {"batches": 2, "points": 9},
        "recalibrate": 0,
    }
    output = pruned(place, tmp_path, row)
    assert 0 <= output.notes["before_reconstruction"]["top1"] <= 1
    full = models.load(weights_of(place)["weights"])
    cut = slim(full, output.plan, shape=(1, 3, 32, 32))
    own, other = (list(n.collect_params().values()) for n in (output.net, cut))
    assert [p.shape for p in own] == [p.shape for p in other]
    pairs = [(a.data().asnumpy(), b.data().asnumpy()) for a, b in zip(own, other)]
    changed = [(a != b).any() for a, b in pairs]
    assert any(changed)
    assert not all(changed)  # the first layer has lost no input


SEARCH = {
    "algorithm": "prune",
    "budget": {"macs_ratio": 0.6},
    "multiple": 1,
    "selection": "amc",
    "search": {
        "episodes": 5,
        "images": 8,
        "warmup": 3,
        "reconstruct": {"batches": 1, "points": 9},
    },
    "recalibrate": 0,
}


def test_a_search_is_logged_and_goes_on_where_it_was_killed(place, tmp_path):
    plan = pruned(place, tmp_path / "stage", SEARCH).plan
    file = tmp_path / "stage" / "search.jsonl"
    log = file.read_text()
    lines = log.splitlines(keepends=True)
    assert len(lines) == 1 + 1 + 5  # header, reference, episodes
    assert plan.made_by["selection"] == "amc"
    assert plan.made_by["search"]["tried"] == 5
    (tmp_path / "stage" / "plan.json").unlink()
    file.write_text("".join(lines[:4]))
    assert pruned(place, tmp_path / "stage", SEARCH).plan == plan
    assert file.read_text() == log


def test_a_sample_without_all_classes_is_refused(place, tmp_path):
    row = {**SEARCH, "search": {"episodes": 5, "images": 1}}
    with pytest.raises(ValueError, match="images is 1: those drawn show no"):
        pruned(place, tmp_path, row)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": {"latency_ms": 1}}, "latency_table is None; allowed: a table"),
        ({"latency_table": "t.json"}, "latency_table is 't.json'; allowed: a table if"),
        ({"selection": "sensitivity"}, "sensitivity is None; allowed: images and"),
        ({"sensitivity": {}}, "sensitivity is .* allowed: images and ratios with"),
        ({"minimum": "a"}, "minimum is 'a'; allowed: channels, a share"),
        ({"train": None}, "train is None; allowed: a schedule, since there are rounds"),
        ({"rounds": {"count": 5}}, "rounds is .* within 4 epochs"),
        ({"rounds": {"count": 2, "epochs": 5}}, "rounds is .* within 4 epochs"),
        ({"rounds": {"curve": "square"}}, "curve is 'square'; allowed: cubic, linear"),
        ({"sparsity": {"weight": 0, "train": STEPS}}, "weight is 0; allowed: a number"),
        ({"recalibrate": -1}, "recalibrate is -1; allowed: a whole number from 0"),
        ({"reconstruct": {}}, "reconstruct is .* allowed: null with train"),
        ({"selection": "amc"}, "search is None; allowed: settings with selection amc"),
        ({"search": {}}, "search is .* allowed: settings with selection amc"),
        ({"selection": "legr", "search": {}}, "rounds is .* null with .* a search"),
        ({"search": {"reward": "speed"}}, "reward is 'speed'; allowed: accuracy, "),
    ],
)
def test_bad_rows_are_refused(tmp_path, change, message):
    content = {**PRUNE, "compression": [{**GRADUAL, **change}]}
    with pytest.raises(ValueError, match=message):
        recipe_in(tmp_path, content)


def test_structure_of_a_plan_is_trained_from_scratch(place, tmp_path):
    model = {
        "name": NAME,
        "plan": str(place / "run" / "1_prune" / "plan.json"),
    }
    recipe = recipe_in(place, {**TRAIN, "train": ONCE, "model": model})
    results = quick_run(recipe, tmp_path / "run")
    compact = read_json(place / "run" / "compact" / "result.json")
    assert results["stages"]["full"]["macs"] == compact["macs"]
    assert list(results["stages"]) == ["full"]


def test_records_train_too(tmp_path):
    write_records(tmp_path / "images", train=4, val=2)
    content = {**TRAIN, "targets": {"mixup": 0.2}, "train": ONCE}
    (tmp_path / "images" / "names.txt").write_text("\n".join(NAMES))
    recipe = recipe_in(tmp_path, content, kind="record", classes="names.txt")
    results = quick_run(recipe, tmp_path / "run")
    assert results["data"]["train"]["images"] == 12
    assert results["stages"]["full"]["epochs"] == 1


def test_early_epochs_are_of_the_training_alone(place, tmp_path):
    recipe = recipe_in(place, PRUNE)
    job, net = job_of(recipe, tmp_path), models.load(weights_of(place)["weights"])
    sides = {
        name: [next(batches.epoch(n))[0].shape[-1] for n in (0, 2, 3)]
        for name, batches in (
            ("train", job.batches(net, recipe.train)),
            ("finetune", job.batches(net, recipe.finetune)),
        )
    }
    assert sides == {"train": [32, 32, 48], "finetune": [48, 48, 48]}


def test_measuring_and_training_follow_the_preprocess_of_the_net(
    place, tmp_path, monkeypatch
):
    recipe = recipe_in(place, TRAIN)
    job, net = job_of(recipe, tmp_path), models.load(weights_of(place)["weights"])
    preprocess = Preprocess(height=48, width=48, mean=(0, 0.5, 1), std=(1, 2, 1))
    monkeypatch.setattr(models.family_of(net), "preprocess", lambda net: preprocess)
    given = []
    monkeypatch.setattr(classification, "top1", lambda run, b: given.extend(b) or 1.0)
    image = np.full((60, 120, 3), 51, np.uint8)
    job.evaluate(net, [(image, 2)])
    np.testing.assert_array_equal(given[0][0].asnumpy(), preprocess(image)[0])
    plain = recipe.data.replace(jitter=0, lighting=0)
    job = job_of(recipe.replace(data=plain), tmp_path)
    data = Images([(image, 2)], job.classes)
    images, _ = next(job.task.batches(data, net, Schedule(**ONCE)).epoch(0))
    colours = images[0, :, 0, 0].asnumpy()
    np.testing.assert_allclose(colours, [0.2, -0.15, -0.8], atol=1e-6)


# --------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet51", "model 'resnet51'; allowed: classifiers of GluonCV"),
        ("yolo3_darknet53_voc", "model 'yolo3_darknet53_voc'; allowed: classifiers"),
    ],
)
def test_no_classifier(name, message):
    with pytest.raises(ValueError, match=message):
        models.build(name, NAMES, size=64)


def test_same_seed_same_start():
    nets = [models.build(NAME, NAMES, size=32, seed=s) for s in (1, 1, 2)]
    values = [next(iter(n.collect_params().values())).data().asnumpy() for n in nets]
    assert (values[0] == values[1]).all()
    assert (values[0] != values[2]).any()


def test_records_without_class_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"data\.classes is None; allowed: names"):
        recipe_in(tmp_path, TRAIN, kind="record")


def test_compression_without_finetune_is_refused(tmp_path):
    content = {key: value for key, value in PRUNE.items() if key != "finetune"}
    with pytest.raises(ValueError, match="finetune is None; allowed: a schedule"):
        recipe_in(tmp_path, content)


def test_other_classes_than_the_weights_are_refused(place, tmp_path):
    shutil.copytree(place / "images", tmp_path / "images")
    for split in ("train", "val"):
        (tmp_path / "images" / split / "red").rename(
            tmp_path / "images" / split / "rot"
        )
    recipe = recipe_in(tmp_path, {**PRUNE, "model": weights_of(place)})
    with pytest.raises(ValueError, match="its classes are"):
        quick_run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_plan_of_another_net_is_refused(place, tmp_path):
    model = {
        "name": "mobilenet0.5",
        "plan": str(place / "run" / "1_prune" / "plan.json"),
    }
    recipe = recipe_in(place, {**TRAIN, "train": STEPS, "model": model})
    with pytest.raises(ValueError, match=r"plan\.json"):
        quick_run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --------------------------------------------------------------------- the scripts


def test_train_then_prune_by_script(place, tmp_path, call, monkeypatch):
    make_runs_quick(monkeypatch)
    recipe_in(place, {**TRAIN, "train": ONCE})
    out = tmp_path / "trained"
    options = ("--recipe", place / "recipe.json", "--out", out, "--quiet")
    status, text, _ = call("train_classifier", *options)
    assert status == 0
    assert f"model:  {out / 'full' / 'model'}" in text
    recipe_in(place, QUICK)
    options = ("--recipe", place / "recipe.json", "--out", tmp_path / "pruned")
    weights = ("--weights", out / "full" / "model", "--quiet")
    chosen = ("--budget", "macs_ratio=0.6", "--criterion", "bn_scale", "--seed", "3")
    status, text, _ = call("prune_backbone", *options, *weights, *chosen)
    assert status == 0
    assert "top-1" in text
    plan = Plan.load(tmp_path / "pruned" / "1_prune" / "plan.json")
    assert plan.made_by["criterion"] == "bn_scale"
    assert plan.made_by["seed"] == 3
    costs = read_json(tmp_path / "pruned" / "result.json")["stages"]
    assert np.isclose(costs["compact"]["macs"] / costs["full"]["macs"], 0.6, atol=0.02)


@pytest.mark.parametrize(
    ("name", "content", "options", "word"),
    [
        (
            "train_classifier",
            PRUNE,
            (),
            "that is for run_pipeline.py, prune_backbone.py",
        ),
        ("prune_backbone", TRAIN, (), "has no compression"),
        ("prune_backbone", PRUNE, ("--budget", "macs:3"), "'macs:3'; allowed: as macs"),
        ("prune_backbone", PRUNE, ("--budget", "time=3"), "budget.time: no such key"),
        (
            "prune_backbone",
            PRUNE,
            ("--criterion", "age"),
            "compression[0].criterion is 'age'; allowed: l1",
        ),
        ("prune_backbone", PRUNE, ("--weights", "nowhere"), "nowhere"),
        ("prune_backbone", PRUNE, ("--budget", "macs=10"), "cannot be met"),
    ],
)
def test_bad_input_of_scripts(place, tmp_path, call, name, content, options, word):
    recipe_in(place, content)
    out = ("--out", tmp_path / "out", "--quiet")
    status, _, error = call(name, "--recipe", place / "recipe.json", *out, *options)
    assert status == 2
    assert word in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


# A teacher.


def test_full_net_teaches_while_fine_tuning(place, tmp_path):
    content = {**QUICK, "model": weights_of(place), "distillation": {"weight": 0.5}}
    job = job_of(recipe_in(place, content), tmp_path)
    full, net = (job.task.build(job.classes)[0] for _ in range(2))
    finetune(job, net, full, tmp_path / "compact")
    log = (tmp_path / "compact" / "log.jsonl").read_text().splitlines()
    step = json.loads(log[0])
    assert set(step["parts"]) == {"labels", "soft_targets"}
    total = step["parts"]["labels"] + 0.5 * step["parts"]["soft_targets"]
    assert step["loss"] == pytest.approx(total, rel=1e-5)


def test_another_classifier_teaches_from_the_start(place, tmp_path):
    distillation = {"teacher": weights_of(place)["weights"], "temperature": 4}
    short = {**TRAIN, "train": {**STEPS, "epochs": 1}, "distillation": distillation}
    quick_run(recipe_in(place, short), tmp_path / "run")
    log = (tmp_path / "run" / "full" / "log.jsonl").read_text().splitlines()
    assert "soft_targets" in json.loads(log[0])["parts"]


def test_net_is_its_own_best_teacher(place):
    net = models.load(weights_of(place)["weights"])
    family = models.family_of(net)
    block, loss = family.training_net(net), family.loss(net)
    step = distil_step(block, (), loss, weights={"soft_targets": 1.0})
    batch = mx.nd.random.normal(shape=(3, 3, 48, 48)), mx.nd.eye(3)
    total, parts = step(block, batch)
    assert set(parts) == {"labels", "soft_targets"}
    assert parts["soft_targets"].asscalar() == pytest.approx(0, abs=1e-6)
    alone, _ = models.supervised_step(loss)(block, batch)
    assert total.asscalar() == pytest.approx(alone.asscalar())


def test_teacher_of_other_classes_is_refused_at_once(place, tmp_path):
    net = models.build(NAME, ("cat", "dog"), size=48)
    folder = tmp_path / "teacher"
    models.save(net, folder, "teacher")
    content = {**TRAIN, "distillation": {"teacher": str(folder)}}
    with pytest.raises(ValueError, match=r"teacher: its classes are \['cat', 'dog'\]"):
        quick_run(recipe_in(place, content), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_distillation_without_a_teacher_is_refused(place):
    with pytest.raises(ValueError, match="distillation.teacher is None; allowed: a"):
        recipe_in(place, {**TRAIN, "distillation": {}})
