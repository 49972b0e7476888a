"""The sets of experiments: what is written about them is what their files hold."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import pytest
from gluoncv.data.transforms.bbox import resize
from gluoncv.utils.bbox import bbox_iou

from experiments import detectors, imagenette, runner
from experiments.aims import aims_table
from experiments.results import note
from experiments.sets import needed_by, read_set
from gluon_compress import list_models, models, pipeline
from gluon_compress.data import VOCLayout
from gluon_compress.models.ssd import anchors_of
from gluon_compress.recipe import load_recipe, parse_recipe
from gluon_compress.storage import atomic

ROOT = Path(__file__).parents[2]
ZOO = ROOT / "model_zoo"
SETS = {path.parent.name: read_set(path.parent) for path in ZOO.glob("*/*s.json")}
EXPERIMENTS = [one for experiments in SETS.values() for one in experiments.values()]
RELEASED = sorted(ZOO.glob("*/recipe.json"))


def test_there_are_experiments():
    assert sorted(SETS) == [
        *("animals", "bccd", "bccd_ablation", "codenet_animals", "codenet_bccd"),
        *("fod", "imagenette", "quantized_bccd", "split_animals", "split_bccd"),
    ]
    assert len(EXPERIMENTS) == 139 + 19 + 21 + 21


@pytest.mark.parametrize(
    "experiment", EXPERIMENTS, ids=lambda one: f"{one.set_name}/{one.name}"
)
def test_every_experiment_has_a_recipe_and_a_command_of_its_own(experiment):
    recipe = parse_recipe(experiment.recipe)
    script, *options = recipe.command.split()
    assert (ROOT / script).exists()
    assert experiment.name in options
    assert recipe.hours > 0


@pytest.mark.parametrize("path", RELEASED, ids=lambda path: path.parent.name)
def test_every_recipe_can_be_read_and_names_its_command(path):
    recipe = load_recipe(path)
    assert recipe.hours > 0
    script, *options = recipe.command.split()
    if script == "make":
        assert f"{options[0]}:" in (ROOT / "Makefile").read_text(encoding="utf-8")
        return
    assert (ROOT / script).exists()
    # A released model has the recipe of the run that it was.
    if path.parent.name not in list_models(pretrained=True):
        assert any(path.parent.name in option for option in options)


def test_nothing_published_names_a_folder_of_the_authors():
    files = [*ZOO.glob("*/experiments.json"), *RELEASED, *ZOO.glob("*/README.md")]
    assert [path for path in files if ".." + "/shared" in path.read_text("utf-8")] == []


# ---------------------------------------------------------------- sets


def write_set(folder: Path, rows: dict, base: dict | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    atomic.write_json(
        folder / "experiments.json", {"base": base or {}, "experiments": rows}
    )


def add(folder: Path, name: str, result: dict | None) -> None:
    """Add an experiment to a set, with a result or without."""
    file = folder / "experiments.json"
    rows = atomic.read_json(file)["experiments"] if file.exists() else {}
    net, _, seed = name.rpartition("_seed")
    if net:
        row = rows.setdefault(net, {"seeds": []})
        row["seeds"].append(int(seed))
    else:
        rows[name] = {}
    write_set(folder, rows)
    if result is not None:
        (folder / name).mkdir()
        atomic.write_json(folder / name / "result.json", result)


def test_experiments_change_what_they_extend(tmp_path):
    rows = {
        "large": {"seeds": [0, 1], "about": "the large one"},
        "small": {
            "extends": "large",
            "recipe": {
                "model": {"trunk": None, "weights": "runs/set/large_seed{seed}"}
            },
        },
    }
    base = {
        "paper": "on data: {about}",
        "model": {"name": "n", "trunk": "t"},
        "seed": 0,
    }
    write_set(tmp_path, rows, base)
    experiments = read_set(tmp_path)
    assert list(experiments) == ["large_seed0", "large_seed1", "small"]
    large = experiments["large_seed1"].recipe
    assert large == {**base, "paper": "on data: the large one", "seed": 1}
    model = {"name": "n", "weights": "runs/set/large_seed0"}
    assert experiments["small"].recipe["model"] == model


def test_unknown_experiment_to_extend_is_named(tmp_path):
    write_set(tmp_path, {"a": {"extends": "b"}})
    with pytest.raises(ValueError, match=r"experiments\.json: extends 'b'; allowed: a"):
        read_set(tmp_path)


def test_what_a_recipe_starts_from_comes_in_running_order(tmp_path):
    rows = {
        "first": {},
        "second": {"recipe": {"model": {"start": "runs/set/first/full/model"}}},
    }
    write_set(tmp_path / "set", rows)
    recipe = {"distillation": {"teacher": "runs/set/second/full/model"}}
    names = [one.name for one in needed_by(recipe, tmp_path)]
    assert names == ["first", "second"]


# ---------------------------------------------------------------- pages


@pytest.mark.parametrize(
    "command",
    [
        ("reproduce_imagenette",),
        *(("reproduce_detectors", name) for name in sorted(detectors.PAGES)),
    ],
)
def test_pages_are_what_the_results_give(call, command):
    assert call(*command, "--check")[0] == 0


def made_up(folder: Path, name: str, top1: float | None, **full) -> None:
    if top1 is None:
        add(folder, name, None)
        return
    cut = {
        "top1": top1 - 0.1,
        "before_recalibration": {"top1": top1 - 0.2},
        "made_by": {"criterion": "l1", "selection": "greedy"},
    }
    last = {"top1": top1, "macs": 2e8, "params": 5e6, "epochs": 4}
    stages = {"full": full, "1_prune": cut, "compact": last}
    add(folder, name, {"stages": stages, "data": {"test": {"images": 3925}}})


def test_page_holds_every_experiment_and_the_mean_over_seeds(tmp_path):
    for name, top1 in (
        ("25_l1", None),
        ("50_l1_seed0", 0.8),
        ("50_l1_seed1", 0.83),
        ("50_l1_seed2", 0.82),
    ):
        made_up(tmp_path, name, top1)
    lines = imagenette.page(tmp_path).splitlines()
    assert any("3,925 validation images" in line for line in lines)
    rows = {line.split("|")[1].strip(): line for line in lines if line.startswith("|")}
    missing = next(row for name, row in rows.items() if name.startswith("[25_l1]"))
    assert "not run yet" in missing
    one = next(row for name, row in rows.items() if name.startswith("[50_l1_seed1]"))
    cells = [cell.strip() for cell in one.split("|")[2:-1]]
    assert cells == ["l1", "greedy", "0.200", "5.00", "63.0", "73.0", "83.0", "4"]
    assert [c.strip() for c in rows["50_l1"].split("|")[2:-1]] == ["3", "81.7", "3.0"]


def test_epochs_of_the_weights_that_were_given_are_shown_first(tmp_path):
    full = {"top1": 0.9, "macs": 1, "params": 1, "epochs": 24}
    data = {"test": {"images": 3925}}
    add(tmp_path, "resnet50_v1d", {"stages": {"full": full}, "data": data})
    made_up(tmp_path, "25_l1", 0.8, weights="runs/imagenette/resnet50_v1d/full/model")
    made_up(tmp_path, "48_early", 0.8, epochs=14)
    lines = imagenette.page(tmp_path).splitlines()
    ends = {
        line.split("]")[0].lstrip("| ["): line.split("|")[-2].strip()
        for line in lines
        if line.startswith("| [")
    }
    assert ends == {"resnet50_v1d": "24", "25_l1": "24 + 4", "48_early": "14 + 4"}


def test_aim_that_is_missed_is_shown_as_missed(tmp_path):
    for name, top1 in (("48_l1", 0.8), ("48_structure", 0.81), ("48_l1_uniform", 0.7)):
        made_up(tmp_path, name, top1)
    made_up(tmp_path, "48_random_uniform", None)
    rows = cells(imagenette.page(tmp_path))
    assert rows["48_l1 − 48_structure"][1:] == ["-1.0", "1", "no, by one seed"]
    assert rows["48_l1 − 48_l1_uniform"][1:] == ["+10.0", "1", "yes, by one seed"]
    assert rows["48_l1 − 48_random_uniform"][1:] == ["", "0", "not run yet"]


def test_stale_page_and_unknown_pattern_are_refused(call, monkeypatch, tmp_path):
    monkeypatch.setattr(imagenette, "PAGE", tmp_path / "page.md")
    status, _, error = call("reproduce_imagenette", "--check")
    assert status == 2
    assert "is stale" in error
    options = ["--out", tmp_path / "runs", "--only", "no_such"]
    status, _, error = call("reproduce_imagenette", *options)
    assert status == 2
    assert "--only 'no_such'" in error
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def chained(monkeypatch, tmp_path):
    """Return a set whose ``small`` starts from the net of ``large``, and what ran."""
    base = SETS["bccd"]["compact_tuned_seed0"].recipe
    rows = {
        name: {"recipe": {"model": {"weights": f"runs/{start}/full/model"}}}
        for name, start in (("large", "none/none"), ("small", "set/large"))
    }
    write_set(tmp_path / "model_zoo" / "set", rows, base)
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    ran = []

    def run(recipe, place, **_):
        ran.append(place.name)
        (place / "full" / "model").mkdir(parents=True, exist_ok=True)
        atomic.write_json(place / "result.json", {"stages": {"full": {"mAP": 0.5}}})

    monkeypatch.setattr(pipeline, "run", run)
    atomic.write_json(tmp_path / "model_zoo" / "results.json", {})
    return ran


def carry_out(*options: str) -> None:
    parser = argparse.ArgumentParser()
    runner.add_options(parser)
    args = parser.parse_args(["--out", "runs/set", *options])
    folder, page = Path("model_zoo/set").resolve(), Path("page.md").resolve()
    runner.carry_out(folder, page, lambda folder: "", args)


def test_net_that_another_starts_from_is_run_first(chained):
    carry_out("--only", "small")
    assert chained == ["large", "small"]
    carry_out()
    assert chained == ["large", "small"]  # both have results


def test_result_is_made_again_and_compared(chained, tmp_path, capsys):
    carry_out()
    stored = tmp_path / "model_zoo" / "set" / "small" / "result.json"
    atomic.write_json(stored, {"stages": {"full": {"mAP": 0.51}}})
    note(tmp_path / "model_zoo", stored)
    carry_out("--only", "small", "--again")
    assert chained == ["large", "small", "small"]
    line = "small: mAP 0.5000 here, mAP 0.5100 in model_zoo/set/small/result.json"
    assert line in capsys.readouterr().out
    assert atomic.read_json(stored)["stages"]["full"]["mAP"] == 0.51


def test_altered_and_missing_results_are_not_published(chained, tmp_path):
    carry_out()
    page = Path("page.md").read_text(encoding="utf-8")
    stored = tmp_path / "model_zoo" / "set" / "small" / "result.json"
    atomic.write_json(stored, {"stages": {"full": {"mAP": 0.9}}})
    for word in ("altered", "missing"):
        with pytest.raises(ValueError, match=f"small/result.json: .*{word}"):
            carry_out()
        stored.unlink(missing_ok=True)
    assert Path("page.md").read_text(encoding="utf-8") == page


def test_images_may_lie_elsewhere(chained, monkeypatch):
    # What is not there is not put back: the folder would stay for the tests behind.
    monkeypatch.setenv("GLUON_COMPRESS_DATA", "")
    monkeypatch.delenv("GLUON_COMPRESS_DATA")
    carry_out("--data", "sets")
    assert os.environ["GLUON_COMPRESS_DATA"] == str(Path("sets").resolve())


# Detectors.


def detector(folder: Path, name: str, value: float | None, macs: float = 2e9) -> None:
    if value is None:
        add(folder, name, None)
        return
    last = {"mAP": value, "mAP_50_95": value / 2, "macs": macs, "bytes": 1.6e7}
    last["classes"] = {"cell": value + 0.1, "speck": value - 0.1, "none": None}
    add(folder, name, {"stages": {"full": {}, "compact": last}})


@pytest.fixture
def measured(tmp_path):
    """Return a set in which one aim is met, one missed, and others not measured."""
    folder = tmp_path / "set"
    for seed, value in enumerate((0.80, 0.82, 0.84)):
        detector(folder, f"compact_distilled_seed{seed}", value)
    detector(folder, "lite_seed0", 0.78, 1e9)
    detector(folder, "lite_seed1", None)
    detector(folder, "mobilenet_seed0", 0.80, 1.8e9)
    detector(folder, "mobilenet_seed2", 0.75, 1.8e9)
    detector(folder, "compact_scratch_seed0", None)
    detector(folder, "compact_tuned_seed0", None)
    return folder


def cells(page: str) -> dict[str, list[str]]:
    lines = [line.split("|")[1:-1] for line in page.splitlines() if "|" in line]
    rows = [[cell.strip() for cell in line] for line in lines]
    return {row[0].split("]")[0].lstrip("["): row[1:] for row in rows}


def test_detectors_have_means_and_ranges_over_seeds(measured):
    rows = cells(detectors.page(measured, "<!-- results -->"))
    expected = ["3", "2.000", "16.00", "82.0", "4.0", "41.0", "speck 72.0"]
    assert rows["compact_distilled"] == expected
    expected = ["1 of 2", "1.000", "16.00", "78.0", "–", "39.0", "speck 68.0"]
    assert rows["lite"] == expected
    assert rows["compact_scratch"] == ["0 of 1", *[""] * 5, "not run yet"]


def test_aims_are_judged_by_the_mean_over_the_seeds_of_both(measured):
    rows = cells(detectors.page(measured, "<!-- results -->"))
    least = "at least +3.2"  # at IoU 0.5; what stands beside is half of it here
    shown = rows["compact_distilled − lite"]  # of the seeds 0 and 1, one is there
    assert shown == [least, "+2.0", "1", "no, by one seed, so far", "+1.0"]
    shown = rows["compact_distilled − mobilenet"]
    assert shown == [least, "+4.5", "2", "yes, by 1 of 2 seeds", "+2.2"]
    shown = rows["compact_distilled − compact_tuned"]
    assert shown[1:] == ["", "0", "not run yet", ""]
    assert "compact_distilled − full" not in rows  # there is no such net in the set


@pytest.mark.parametrize(
    ("differences", "least", "verdict"),
    [
        ([4.0, 3.5], 3.2, "yes"),
        ([4.0], 3.2, "yes, by one seed"),
        ([-0.5, 0.2, 0.4], 0, "yes, by 2 of 3 seeds"),
        ([-0.5, -0.2, 1.0], 0, "yes, by 1 of 3 seeds"),
        ([-0.5, -0.2, 0.4], 0, "no, by 2 of 3 seeds"),
        ([0.0], 0, "no, by one seed"),
        ([], 0, "not run yet"),
    ],
)
def test_verdict_says_of_how_many_seeds_it_is(differences, least, verdict):
    nets = {"a": {}, "b": {}}
    for seed, points in enumerate(differences):
        nets["a"][seed] = {"mAP": 0.5 + points / 100}
        nets["b"][seed] = {"mAP": 0.5}
    _, shown = aims_table(nets, [("a", "b", least)], {"mAP": "mAP"})
    assert cells(shown)["a − b"][3] == verdict


def test_text_stands_around_the_tables_and_the_costliest_net_is_first(measured):
    page = detectors.page(measured, "before\n<!-- results -->\nafter\n")
    assert page.startswith("before\n| net |")
    assert page.endswith("\nafter\n")
    nets = ["compact_distilled", "mobilenet", "lite", "compact_scratch"]
    assert [name for name in cells(page) if name in nets] == nets


def test_pages_of_detectors_have_a_place_for_their_tables():
    pages = detectors.PAGES
    assert sorted(pages) == sorted({*SETS} - {"imagenette"})
    texts = [path.read_text(encoding="utf-8") for path in pages.values()]
    assert [text.count(detectors.MARK) for text in texts] == [1] * len(pages)


def test_gains_are_those_over_the_net_without_the_change(tmp_path):
    for name, value in {
        "losses_none": 0.80,
        "losses_scores": 0.83,
        "losses_boxes": None,
        "losses_scores_boxes_features": 0.82,
        "keep_25": 0.78,
    }.items():
        detector(tmp_path / "set", name, value)
    page = detectors.page(tmp_path / "set", "<!-- results -->")
    rows = cells(page.partition("## Gains")[2])
    assert rows["losses_scores"] == ["losses_none", "1", "+3.0", "+1.5"]
    assert rows["keep_25"] == ["losses_scores_boxes_features", "1", "-4.0", "-2.0"]
    assert {"losses_none", "losses_boxes", "keep_100"}.isdisjoint(rows)


def test_curves_are_means_over_seeds_at_the_epochs_that_all_have():
    learning_table = detectors._while_training
    first, second = {"2": 0.5, "4": 0.75}, {"2": 0.25, "3": 0.1, "4": 0.85}
    groups = {
        "slow": {0: {"validated": first}, 1: {"validated": second}, 2: None},
        "brief": {0: {"validated": {"10": 0.6}}},
        "unknown": {0: {"mAP": 0.5}},
        "absent": {0: None},
    }
    _, shown = learning_table(groups)
    rows = cells(shown)
    assert rows["net"] == ["2", "4", "10"]
    assert rows["slow"] == ["37.5", "80.0", "–"]
    assert rows["brief"] == ["–", "–", "60.0"]
    assert {"unknown", "absent"}.isdisjoint(rows)
    assert learning_table({"absent": {0: None}}) == []


def test_points_of_the_plot_are_the_means(measured):
    assert detectors.points_of(measured) == [
        ("compact_distilled", 2.0, pytest.approx(82.0)),
        ("lite", 1.0, pytest.approx(78.0)),
        ("mobilenet", 1.8, pytest.approx(77.5)),
    ]


def shares_met_by_anchors(data: VOCLayout, recipe) -> dict[str, float]:
    """Return per class the share of objects in every fourth image that are met by half.

    Met is an object that an anchor overlaps with an IoU of at least 0.5.
    """
    net = models.build(recipe.model.name, data.classes, sizes=recipe.model.sizes)
    centers = anchors_of(net).asnumpy()[0]
    half, to = centers[:, 2:] / 2, models.input_size(net)[::-1]
    anchors = np.concatenate([centers[:, :2] - half, centers[:, :2] + half], axis=1)
    found = {name: [] for name in data.classes}
    for index in range(0, len(data), 4):
        image, label = data[index]
        boxes = resize(label[:, :4].astype(float), image.shape[1::-1], to)
        for best, row in zip(bbox_iou(anchors, boxes).max(axis=0), label):
            found[data.classes[int(row[4])]].append(best >= 0.5)
    return {name: float(np.mean(met)) for name, met in found.items()}


@pytest.mark.data
@pytest.mark.parametrize("kind", ["full", "lite"])
def test_anchors_on_blood_cells_are_as_the_page_says(shared_data, kind):
    recipe = parse_recipe(SETS["bccd"][f"{kind}_seed0"].recipe)
    data = VOCLayout(shared_data / "bccd", "trainval", recipe.data.classes)
    met = shares_met_by_anchors(data, recipe)
    assert min(met["RBC"], met["WBC"]) > 0.9
    assert met["Platelets"] < 0.5 if kind == "lite" else met["Platelets"] > 0.9
