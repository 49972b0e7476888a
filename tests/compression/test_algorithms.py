"""A compression algorithm from outside needs one row in the registry."""

from __future__ import annotations

import json
import shutil

import mxnet as mx
import numpy as np
import pytest
from typing_extensions import Literal

from gluon_compress import pipeline
from gluon_compress.compression import (
    ALGORITHMS,
    Algorithm,
    PruneSettings,
    StageOutput,
    channels,
)
from gluon_compress.compression.algorithm import PLAN
from gluon_compress.graph import trace
from gluon_compress.pipeline.stages import composed, dry_run
from gluon_compress.plan import Plan
from gluon_compress.prune import mask, slim
from gluon_compress.recipe import load_recipe, parse_recipe
from gluon_compress.recipe.schema import recipe_schema
from gluon_compress.train import Schedule
from gluon_compress.validation import Positive, Settings
from images import write_folder
from nets import chain, difference, ready
from recipes import quick_run
from tiny_nets import NAME

pytestmark = pytest.mark.usefixtures("tiny_nets")

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
    "compression": [
        {"algorithm": "delete", "keep": {"*": 0.5}, "multiple": 1, "recalibrate": 0},
        {"algorithm": "scale", "factor": 0.5, "train": STEPS},
    ],
    "finetune": STEPS,
}


class ScaleSettings(Settings):
    """Scale all weights.

    Parameters
    ----------
    algorithm : str
        ``scale``.
    factor : float
        Of all weights.
    train : Schedule
        Training afterwards.
    """

    algorithm: Literal["scale"]
    factor: Positive
    train: Schedule


class Factor:
    """What a stage leaves beside its model."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def save(self, path) -> None:
        path.write_text(str(self.factor))


class Scale(Algorithm):
    """Scales the weights, trains, and keeps every channel: there is no plan."""

    Settings = ScaleSettings

    def __init__(self) -> None:
        self.updates, self.dry_runs = [], 0

    def dry_run(self, net, settings, context):
        self.dry_runs += 1
        return StageOutput(self._scaled(net, settings, context))

    def apply(self, net, settings, context):
        net = self._scaled(net, settings, context)
        notes = context.fit(
            net,
            settings.train,
            step_callbacks=[lambda block, progress: self.updates.append(progress.step)],
        )
        notes = {"factor": settings.factor, **notes}
        return StageOutput(net, notes, {"factor.txt": Factor(settings.factor)})

    def _scaled(self, net, settings, context):
        copy = slim(net, Plan.everything(context.trace(net)), shape=context.shape)
        for name, parameter in copy.collect_params().items():
            if name.endswith("weight"):
                parameter.set_data(parameter.data() * settings.factor)
        return copy


@pytest.fixture
def scale(monkeypatch) -> Scale:
    algorithm = Scale()
    monkeypatch.setitem(ALGORITHMS, "scale", algorithm)
    return algorithm


def recipe_in(folder, **changes):
    write_folder(folder / "images", train=4, val=2)
    data = {**RECIPE["data"], "root": str(folder / "images")}
    (folder / "recipe.json").write_text(json.dumps({**RECIPE, "data": data, **changes}))
    return load_recipe(folder / "recipe.json")


def values(folder) -> list:
    loaded = mx.nd.load(str(next(folder.glob("*.params"))))
    return [loaded[name].asnumpy() for name in sorted(loaded)]


@pytest.mark.slow
def test_an_algorithm_of_one_registry_row_runs_and_resumes(tmp_path, scale):
    # In front of pruning, whose plan is then the one of the run.
    prune = {"algorithm": "prune", "budget": {"macs_ratio": 0.5}, "multiple": 1}
    prune["effects"] = 1
    recipe = recipe_in(tmp_path, compression=[RECIPE["compression"][1], prune])
    results = quick_run(recipe, tmp_path / "once")
    stages = results["stages"]
    assert list(stages) == ["full", "1_scale", "2_prune", "compact"]
    assert stages["1_scale"]["factor"] == 0.5
    assert stages["1_scale"]["epochs"] == 1
    assert scale.dry_runs == 1
    assert scale.updates == list(range(1, stages["1_scale"]["steps"] + 1))
    assert (tmp_path / "once" / "1_scale" / "factor.txt").read_text() == "0.5"
    assert not (tmp_path / "once" / "1_scale" / PLAN).exists()
    pruning = Plan.load(tmp_path / "once" / "2_prune" / PLAN)
    assert Plan.load(tmp_path / "once" / PLAN).keep == pruning.keep
    assert stages["compact"]["macs"] <= 0.5 * stages["full"]["macs"]

    shutil.copytree(tmp_path / "once", tmp_path / "twice")
    for left in ("1_scale/model", "2_prune", "compact"):
        shutil.rmtree(tmp_path / "twice" / left)
    for left in ("1_scale/result.json", "result.json"):
        (tmp_path / "twice" / left).unlink()
    quick_run(recipe, tmp_path / "twice", resume=True)
    assert len(scale.updates) == stages["1_scale"]["steps"]  # its training had ended
    for stage in ("1_scale", "compact"):
        once, twice = (
            values(tmp_path / n / stage / "model") for n in ("once", "twice")
        )
        assert all(map(np.array_equal, once, twice))


def test_a_run_without_any_plan_has_none(scale):
    recipe = parse_recipe({**RECIPE, "compression": RECIPE["compression"][1:]})
    task = pipeline.task_of(recipe)
    net, _ = task.build(("red", "green", "blue"))
    plan, _ = dry_run(task, net)
    assert plan is None
    assert composed(task, net, []) is None


def test_a_plan_is_the_same_whether_an_algorithm_comes_before_or_after(scale):
    delete, row = RECIPE["compression"]
    plans = []
    for rows in ([delete], [delete, row], [row, delete]):
        recipe = parse_recipe({**RECIPE, "compression": rows})
        plans.append(pipeline.decide(recipe, ("red", "green", "blue"))[0].keep)
    assert plans[0] == plans[1] == plans[2]


def test_settings_of_an_algorithm_are_checked_and_in_the_schema(scale):
    with pytest.raises(ValueError, match=r"^compression\[1\]\.factor is 0; allowed: "):
        parse_recipe(changed_factor(0))
    assert parse_recipe(changed_factor(2)).compression[1] == ScaleSettings(
        algorithm="scale", factor=2, train=Schedule(**STEPS)
    )
    assert "ScaleSettings" in recipe_schema()["$defs"]


def changed_factor(factor: float) -> dict:
    delete, row = RECIPE["compression"]
    return {**RECIPE, "compression": [delete, {**row, "factor": factor}]}


def test_without_its_row_an_algorithm_is_refused():
    with pytest.raises(ValueError, match=r"^compression\[1\]\.algorithm is 'scale'; "):
        parse_recipe(changed_factor(2))


def test_every_algorithm_is_named_as_its_settings_name_it():
    for name, algorithm in ALGORITHMS.items():
        field = algorithm.Settings.model_fields["algorithm"]
        assert field.annotation == Literal[name]


def test_a_dry_run_decides_without_data(tmp_path):
    recipe = parse_recipe(
        {
            **RECIPE,
            "compression": [
                {
                    "algorithm": "prune",
                    "budget": {"macs_ratio": 0.5},
                    "criterion": "taylor",
                }
            ],
        }
    )
    assert isinstance(recipe.compression[0], PruneSettings)
    plan, costs = pipeline.decide(recipe, ("red", "green", "blue"))
    assert costs["compact"]["macs"] <= 0.5 * costs["full"]["macs"]
    assert plan.net == NAME


def test_slim_net_that_differs_from_the_masked_one_is_refused(monkeypatch):
    net, shape = ready(chain()), (1, 3, 16, 16)
    graph = trace(net, shape)
    plan = Plan({graph.groups[0].name: [0, 1]})
    masked = mask(net, plan, graph=graph)
    x = mx.nd.random.normal(shape=shape)
    small = channels.slim_as_masked(masked, plan, shape)
    assert difference(masked(x), small(x)) < 1e-5
    other = Plan({graph.groups[0].name: [2, 3]})
    monkeypatch.setattr(channels, "slim", lambda net, plan, shape: slim(net, other))
    with pytest.raises(ValueError, match="slimming"):
        channels.slim_as_masked(masked, plan, shape)
