"""What is added from outside needs one row in a registry, a task one in each of two."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
from typing_extensions import Literal

import gluon_compress as gc
from gluon_compress import models, pipeline
from gluon_compress.compression.channels import MEASURED_CRITERIA
from gluon_compress.data.classification import CLASSIFICATION_SETS
from gluon_compress.data.detection import DETECTION_SETS
from gluon_compress.deployment import FORMATS, RUNTIMES
from gluon_compress.deployment.runtimes import Runtime
from gluon_compress.pipeline.classification import ClassificationTask
from gluon_compress.pipeline.stages import compress
from gluon_compress.plan import CRITERIA, POLICIES
from gluon_compress.recipe import RECIPES, ClassificationRecipe, parse_recipe
from gluon_compress.report import run_report
from gluon_compress.storage.atomic import read_json
from gluon_compress.train import Options
from images import write_folder
from recipes import job_of
from tiny_nets import NAME

pytestmark = pytest.mark.usefixtures("tiny_nets")
QUIET = Options(progress=False)
CLASSES = ("red", "green", "blue")
STEPS = {"epochs": 1, "batch_size": 6, "learning_rate": 0.05}
RECIPE = {
    "paper": "none, a test",
    "command": "pytest",
    "hours": 0.01,
    "expected": {},
    "task": "classification",
    "model": {"name": NAME},
    "data": {"kind": "folder", "size": 32, "root": "images"},
    "train": STEPS,
}
PRUNE = {"algorithm": "prune", "budget": {"macs_ratio": 0.5}, "multiple": 1}


def pruned_by(**settings) -> dict:
    return {**RECIPE, "compression": [{**PRUNE, **settings}], "finetune": STEPS}


def test_a_criterion(monkeypatch):
    def by_index(graph, seed):
        free = [group for group in graph.groups if not group.frozen]
        return {group.name: np.arange(group.width) for group in free}

    monkeypatch.setitem(CRITERIA, "by_index", by_index)
    recipe = parse_recipe(pruned_by(criterion="by_index", effects=0))
    plan, _ = pipeline.decide(recipe, CLASSES)
    _, net = pipeline.task_of(recipe).build(CLASSES)
    cut = [g for g in models.graph_of(net).groups if len(plan.keep[g.name]) < g.width]
    assert cut
    for group in cut:
        kept = plan.keep[group.name]
        assert list(kept) == list(range(group.width - len(kept), group.width))


def test_a_criterion_that_is_measured(monkeypatch, tmp_path):
    seen = []

    def counted(net, batches, step_loss, **options):
        seen.extend(len(batch[0]) for batch in batches)
        return {g.name: np.arange(g.width) for g in options["graph"].groups}

    monkeypatch.setitem(MEASURED_CRITERIA, "counted", counted)
    write_folder(tmp_path / "images", train=4, val=2)
    content = pruned_by(criterion="counted", batches=2, effects=0, recalibrate=0)
    content["data"] = {**RECIPE["data"], "root": str(tmp_path / "images")}
    job = job_of(parse_recipe(content), tmp_path)
    net, _ = job.task.build(job.classes)
    compress(job, net, job.recipe.compression[0], tmp_path)
    assert seen == [6, 6]
    plan = read_json(tmp_path / "plan.json")
    assert plan["made_by"]["criterion"] == "counted"


def test_a_policy(monkeypatch):
    class Least:
        name = "least"

        def __call__(self, problem):
            return np.zeros_like(problem.largest)

    monkeypatch.setitem(POLICIES, "least", Least())
    content = pruned_by(selection="least", effects=0)
    recipe = parse_recipe({**content, "model": {"name": "mobilenet0.25"}})
    plan, costs = pipeline.decide(recipe, CLASSES)
    assert plan.made_by["selection"] == "least"
    assert costs["compact"]["macs"] < 0.1 * costs["full"]["macs"]


def test_a_kind_of_data(monkeypatch, tmp_path):
    class Set:
        classes, problems = CLASSES, ()

        def __len__(self):
            return 1

        def label(self, index):
            return np.float32([[0, 0, 9, 9, 0, 0]])

    monkeypatch.setitem(DETECTION_SETS, "outside", lambda settings, split: Set())
    monkeypatch.setitem(CLASSIFICATION_SETS, "ours", CLASSIFICATION_SETS["folder"])
    model = {"name": "ssd_300_mobilenet0.25"}
    data = {"kind": "outside", "root": "x"}
    recipe = parse_recipe({**RECIPE, "task": "detection", "model": model, "data": data})
    assert pipeline.task_of(recipe).open_data().test.classes == CLASSES
    content = {key: value for key, value in RECIPE.items() if key != "task"}
    content["data"] = {**RECIPE["data"], "kind": "ours"}
    assert parse_recipe(content).task == "classification"


def test_a_runtime_and_a_format(monkeypatch, tmp_path):
    """The format has a precision that no other has."""
    mxnet = FORMATS["mxnet"]
    row = replace(mxnet, runtime="ours", precision="float64", tolerance=1e-4)
    monkeypatch.setitem(FORMATS, "ours", row)
    opened = []

    def open_files(files, threads=None):
        opened.append([file.name for file in files])
        return RUNTIMES["mxnet"].open(files, threads)

    monkeypatch.setitem(RUNTIMES, "ours", Runtime(open_files, ("ours",)))
    net = models.build(NAME, CLASSES, size=(32, 48))
    gc.deploy(net, tmp_path / "edge", "small", formats=("ours",))
    predictor = gc.Predictor(tmp_path / "edge", "ours", precision="float64")
    image = np.zeros((50, 60, 3), np.uint8)
    ids, shares = predictor([image])[0]
    assert sorted(ids) == [0, 1, 2]
    assert shares.sum() == pytest.approx(1)
    assert opened[-1] == ["small-symbol.json", "small-0000.params"]


class RankingRecipe(ClassificationRecipe):
    """A recipe whose nets are to have the class among their two best.

    Parameters
    ----------
    task : str
        ``ranking``.
    """

    metric: ClassVar[str] = "top2"
    task: Literal["ranking"] = "ranking"


class RankingTask(ClassificationTask):
    """Have the class of an image among the two best."""

    def evaluate(self, net, dataset, ctx):
        return {"top2": 0.75}


@pytest.mark.slow
def test_a_task(monkeypatch, tmp_path):
    monkeypatch.setitem(RECIPES, "ranking", RankingRecipe)
    monkeypatch.setitem(pipeline.TASKS, "ranking", RankingTask)
    write_folder(tmp_path / "images", train=4, val=2)
    data = {**RECIPE["data"], "root": str(tmp_path / "images")}
    recipe = parse_recipe({**RECIPE, "task": "ranking", "data": data})
    results = pipeline.run(recipe, tmp_path / "run", options=QUIET)
    assert results["stages"]["full"]["top2"] == 0.75
    assert "top2" in run_report.table(recipe, results)
    page = (tmp_path / "run/report/index.html").read_text()
    assert "Accuracy is top2" in page
    lines = (tmp_path / "run/full/log.jsonl").read_text().splitlines()
    assert any(json.loads(line).get("top2") == 0.75 for line in lines)
