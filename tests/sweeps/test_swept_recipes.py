"""What sweeps of recipes and experiments leave: the same files as without workers."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from experiments import runner
from experiments.sets import read_set
from gluon_compress import pipeline
from gluon_compress.pipeline import scoring
from gluon_compress.pipeline.stages import compress
from gluon_compress.recipe import load_recipe
from gluon_compress.storage.atomic import read_json, write_json
from gluon_compress.storage.locks import sole_writer
from gluon_compress.sweeps import Sweep, TaskOutcome
from images import write_folder
from recipes import QUIET, STEPS, TRAIN, job_of
from sweep_tasks import score_tiny
from tiny_nets import NAME

pytestmark = pytest.mark.usefixtures("tiny_nets")

ROW = {"algorithm": "prune", "budget": {"macs_ratio": 0.6}, "multiple": 1}
ROWS = {
    "search.jsonl": {
        **ROW,
        "selection": "random_search",
        "search": {
            "episodes": 6,
            "images": 8,
            "reconstruct": {"batches": 1, "points": 9},
        },
    },
    "sensitivity.json": {
        **ROW,
        "selection": "sensitivity",
        "sensitivity": {"images": 8, "ratios": [0.5]},
    },
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train a classifier as a task of a sweep does; return the folder of the run."""
    folder = tmp_path_factory.mktemp("classifier")
    write_folder(folder / "images", train=8, val=3)
    data = {**TRAIN["data"], "root": str(folder / "images")}
    recipe = {
        **TRAIN,
        "task": "classification",
        "data": data,
        "train": {**STEPS, "epochs": 1},
    }
    item = {"recipe": recipe, "name": "one", "out": str(folder / "run"), "data": None}
    before = os.getcwd()
    try:
        pipeline.run_stages(item)
    finally:
        os.chdir(before)
    write_json(folder / "recipe.json", recipe)
    return folder


def test_a_task_leaves_the_timing_to_a_quiet_machine(trained):
    assert read_json(trained / "run" / "full" / "result.json")["stage"] == "full"
    assert not (trained / "run" / "result.json").exists()


def test_searches_and_sensitivities_are_the_same_byte_for_byte(
    trained, tmp_path, monkeypatch
):
    pytest.importorskip("dask")
    import distributed

    monkeypatch.setattr(scoring, "score_one", score_tiny)
    content = read_json(trained / "recipe.json")
    model = {"name": NAME, "weights": str(trained / "run" / "full" / "model")}
    rows, train = list(ROWS.values()), content["train"]
    recipe = {**content, "model": model, "compression": rows, "finetune": train}
    write_json(tmp_path / "recipe.json", recipe)
    recipe = load_recipe(tmp_path / "recipe.json")
    with distributed.LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        silence_logs=50,
    ) as local:
        sweeps = {
            "here": Sweep(),
            "swept": Sweep(scheduler=local.scheduler_address),
        }
        for name, sweep in sweeps.items():
            job = replace(job_of(recipe, tmp_path, QUIET), sweep=sweep)
            net, _ = job.task.build(job.classes)
            for file, row in zip(ROWS, recipe.compression):
                folder = tmp_path / name / file
                folder.mkdir(parents=True)
                compress(job, net, row, folder)
    for file in ROWS:
        for each in (file, "plan.json"):
            here, swept = (tmp_path / n / file / each for n in sweeps)
            assert here.read_bytes() == swept.read_bytes()
        assert not (tmp_path / "swept" / file / "scoring").exists()


# ---------------------------------------------------------------- experiments


@pytest.fixture
def a_set(tmp_path, monkeypatch):
    """Return a set of experiments of which all others start from ``a``."""
    start = {"recipe": {"model": {"start": "runs/set/a/full/model"}}}
    content = {"base": {}, "experiments": {"a": {}, **dict.fromkeys("bcd", start)}}
    folder = tmp_path / "zoo" / "set"
    folder.mkdir(parents=True)
    write_json(folder / "experiments.json", content)
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    return folder


@pytest.fixture
def done(monkeypatch):
    """Return what is done, by stand-ins for training and timing; ``b`` fails."""
    done: list = []

    def run_tasks(function, items, *, sweep, names, needs):
        assert function is pipeline.run_stages
        for i, item in enumerate(items):
            error = ValueError("no images") if item["name"] == "b" else None
            done.append((names[i], sorted(names[other] for other in needs[i])))
            yield TaskOutcome(i, error=error)

    monkeypatch.setattr("gluon_compress.sweeps.run_tasks", run_tasks)
    monkeypatch.setattr(runner, "run_one", lambda one, out: done.append(one.name))
    return done


def sweep_of(folder, *names):
    experiments = read_set(folder)
    chosen = [experiments[name] for name in names]
    runner.run_swept(chosen, runner.ROOT / "runs" / "set", Sweep(workers=2))


def test_what_is_missing_is_trained_before_what_starts_from_it(a_set, done):
    sweep_of(a_set, "d", "c", "a")
    assert done == [("a", []), ("d", ["a"]), ("c", ["a"]), "a", "d", "c"]
    done.clear()
    (runner.ROOT / "runs" / "set" / "a" / "full" / "model").mkdir(parents=True)
    sweep_of(a_set, "c")
    assert done == [("c", []), "c"]


def test_a_failure_leaves_the_others_their_results(a_set, done):
    with pytest.raises(ValueError, match="1 of 3 failed; b: no images"):
        sweep_of(a_set, "b", "c")
    assert done[-2:] == ["a", "c"]


def test_two_sweeps_do_not_share_a_folder(a_set, done):
    place = runner.ROOT / "runs" / "set"
    with sole_writer(place / "sweep"), pytest.raises(ValueError, match="is being"):
        sweep_of(a_set, "a")
    assert done == []
