"""The main job: from a recipe to an exported, evaluated compact net, in stages.

Every stage is a folder. Its ``result.json`` is written last, so a stage that has one
is complete: ``--resume`` loads its model and goes on behind it.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Mapping, Sequence

import mxnet as mx

from gluon_compress import cost, data, train
from gluon_compress.pipeline.classification import CLASSIFICATION
from gluon_compress.pipeline.detection import DETECTION
from gluon_compress.pipeline.job import LOG, Job, Task, open_job, place
from gluon_compress.pipeline.stages import (
    PLAN,
    compose,
    compress,
    finetune,
    rehearse,
    train_full,
)
from gluon_compress.plan import Plan
from gluon_compress.prune import slim
from gluon_compress.recipe import ClassifierRecipe, Recipe
from gluon_compress.storage.atomic import read_json, write_json
from gluon_compress.summary import COMPACT, FULL, write_report

RESULT, MODEL = "result.json", "model"
TASKS: dict[type, Task] = {Recipe: DETECTION, ClassifierRecipe: CLASSIFICATION}


def run(
    recipe: Recipe | ClassifierRecipe,
    out: str | Path,
    *,
    resume: bool = False,
    options: train.Options | None = None,
    facts: Mapping[str, Any] | None = None,
) -> dict:
    """Run every stage of a recipe that has no result yet.

    Parameters
    ----------
    recipe : Recipe or ClassifierRecipe
        One without ``finetune`` is trained, and that is all.
    out : path
        A new or empty folder, or with ``resume`` that of an earlier run.
    resume : bool
        Go on where an earlier run of the same recipe was stopped.
    options : train.Options, optional
        ``seed`` and ``resume`` are set here.
    facts : mapping, optional
        Commit, hardware and versions, for every ``result.json``.

    Returns
    -------
    dict
        The results of all stages by name, as ``out/result.json`` holds them.

    Raises
    ------
    ValueError
        For a recipe that cannot work, found before the first training step, or a
        folder that holds anything else.
    """
    out = Path(out)
    _check_folder(recipe, out, resume)
    options = replace(options or train.Options(), seed=recipe.seed, resume=True)
    job = open_job(TASKS[type(recipe)], recipe, out, options, facts or {})
    start, student = job.task.build(job, job.train.classes)
    if not (out / FULL / RESULT).exists():
        rehearse(job, student or start)
    out.mkdir(parents=True, exist_ok=True)
    recipe.save(out / "recipe.json")
    full = _stage(job, FULL, partial(train_full, job, start))
    before = net = student or full
    done = [FULL]
    for number, row in enumerate(recipe.compression, 1):
        name = f"{number}_{row.algorithm}"
        net = _stage(job, name, partial(compress, job, net, row))
        done.append(name)
    if recipe.compression:
        plans = [Plan.load(out / name / PLAN) for name in done[1:]]
        compose(job, before, plans).save(out / PLAN)
    if recipe.finetune is not None:
        _stage(job, COMPACT, partial(finetune, job, net, full))
        done.append(COMPACT)
    results = {name: read_json(out / name / RESULT) for name in done}
    whole = _measure_speed(job, results)
    write_report(recipe, whole, out, job.test)
    return whole


def decide(
    recipe: Recipe | ClassifierRecipe, classes: Sequence[str]
) -> tuple[Plan, dict[str, dict]]:
    """Return what a recipe's compression keeps of its net before any training.

    Nothing but the recipe is needed: values are those that the seed gives, groups count
    as often as they have layers, and ``l1`` stands in for a criterion that needs data.
    A trunk of ``model`` that is not there yet is one with such values, too.

    Parameters
    ----------
    recipe : Recipe or ClassifierRecipe
        Its compression may have no limit of accuracy or latency but what it states.
    classes : sequence of str

    Returns
    -------
    (Plan, dict)
        One plan for all rows together; MACs, FLOPs, parameters and bytes of the net
        before (``full``) and after (``compact``).

    Raises
    ------
    ValueError
        If a name is unknown, or a budget cannot be met.
    """
    task, recipe = TASKS[type(recipe)], _with_what_is_there(recipe)
    job = Job(task, recipe, Path(), None, None, None, train.Options(progress=False))
    start, student = task.build(job, classes)
    net = student or start
    plan, small = rehearse(job, net)
    nets = {FULL: net, COMPACT: small}
    return plan, {n: cost.count(task.trace(job, m)).figures() for n, m in nets.items()}


def structure(
    recipe: Recipe | ClassifierRecipe, classes: Sequence[str], plan: Plan
) -> tuple[Any, Callable]:
    """Return a recipe's net as a plan leaves it, untrained, and what saves it.

    Parameters
    ----------
    recipe : Recipe or ClassifierRecipe
        As for ``decide``.
    classes : sequence of str
    plan : Plan
        For all rows of the recipe's compression together, as ``decide`` returns it.

    Returns
    -------
    (HybridBlock, callable)
        ``save(net, folder, name)`` writes such a net as an export.

    Raises
    ------
    ValueError
        If a name is unknown, or the plan is of another net.
    """
    task, recipe = TASKS[type(recipe)], _with_what_is_there(recipe)
    named = SimpleNamespace(classes=tuple(classes))  # all that saving asks of images
    job = Job(task, recipe, Path(), named, None, None, train.Options(progress=False))
    start, student = task.build(job, classes)
    graph = task.trace(job, student or start)
    plan.check(graph)
    net = slim(student or start, plan, shape=graph.inputs["data"])
    return net, partial(task.save, job)


def _with_what_is_there(recipe: Any) -> Any:
    """Return a recipe for structure alone, which a trunk's values do not change.

    A student's trunk may have been pruned, so that one has to be there.
    """
    trunk = getattr(recipe.model, "trunk", None)
    if trunk is None or Path(trunk).exists():
        return recipe
    LOG.warning("%s: is not there; its structure is built from random values", trunk)
    return replace(recipe, model=replace(recipe.model, trunk=None))


def judge(
    recipe: Recipe | ClassifierRecipe, net: Any, options: train.Options | None = None
) -> dict:
    """Return how good a net is on the images that a recipe tests with.

    Raises
    ------
    ValueError
        If they cannot be opened.
    """
    task = TASKS[type(recipe)]
    job = open_job(task, recipe, Path(), options or train.Options(), {})
    place(net, job.options.ctx[:1])
    return task.accuracy(job, net, job.test)


def _check_folder(recipe: Any, out: Path, resume: bool) -> None:
    if out.is_file():
        raise ValueError(f"{out}: is a file; results need a folder")
    if out.resolve() == recipe.data.folder().resolve():
        raise ValueError(f"{out}: is the folder of the data; results need another")
    earlier = out / "recipe.json"
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not resume:
        raise ValueError(f"{out}: is not empty; --resume goes on with an earlier run")
    if not earlier.exists():
        raise ValueError(f"{out}: holds no recipe.json of an earlier run to resume")
    before, now = asdict(type(recipe).load(earlier)), asdict(recipe)
    changed = [key for key in now if now[key] != before[key]]
    if changed:
        raise ValueError(
            f"{earlier}: {changed[0]!r} differs from the recipe given; resume the "
            "recipe that was begun, or choose a new folder"
        )


def _stage(job: Job, name: str, make: Callable[[Path], tuple[Any, dict]]) -> Any:
    """Return the net of a stage: as an earlier run left it, or made now."""
    folder = job.out / name
    if (folder / RESULT).exists():
        return job.task.load(folder / MODEL)
    folder.mkdir(parents=True, exist_ok=True)
    net, notes = make(folder)
    place(net, job.options.ctx[:1])
    size = cost.count(job.task.trace(job, net)).figures()
    figures = {**size, **job.task.accuracy(job, net, job.test)}
    place(net, [mx.cpu()])
    manifest = job.task.save(job, net, folder / MODEL, name)
    figures["export_difference"] = manifest["max_difference"]
    write_json(folder / RESULT, {"stage": name, **figures, **notes, **_origin(job)})
    return net


def _origin(job: Job) -> dict:
    sets = {"train": job.train, "test": job.test}
    images = {split: data.counted(dataset) for split, dataset in sets.items()}
    facts = {"kind": job.recipe.data.kind, "root": job.recipe.data.root, **images}
    return {"data": facts, "seed": job.recipe.seed, **job.facts}


def _measure_speed(job: Job, results: dict) -> dict:
    """Time the full and the compact net one after the other, and write it all."""
    path = job.out / RESULT
    if path.exists():
        return read_json(path)
    speed = {}
    for name in (n for n in (FULL, COMPACT) if n in results):
        net = job.task.load(job.out / name / MODEL)
        shape = job.task.trace(job, net).inputs["data"]
        speed[name] = asdict(cost.measure_latency(job.task.block(net), shape))
    whole = {"stages": results, "latency": speed, **_origin(job)}
    write_json(path, whole)
    return whole
