"""A run: from a recipe to an exported, evaluated compact net, stage by stage.

Every stage is a folder. Its ``result.json`` is written last, so a stage that has one is
complete; a resumed run loads its model and continues with the next stage.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Sequence, Type

import mxnet as mx
from mxnet.gluon import HybridBlock

from gluon_compress import cost, data, train
from gluon_compress.compression import PLAN
from gluon_compress.deployment import latencies_in_turn
from gluon_compress.pipeline.agreement import (
    agree_on_files,
    agree_on_recipe,
    agree_on_start,
    copied,
    scratch,
)
from gluon_compress.pipeline.classification import ClassificationTask
from gluon_compress.pipeline.detection import DetectionTask
from gluon_compress.pipeline.results import read_run, read_stage
from gluon_compress.pipeline.stages import (
    COMPACT,
    FULL,
    LOGGER,
    Job,
    composed,
    compress,
    dry_run,
    finetune,
    open_job,
    to_devices,
    train_full,
    warn_of_limits,
)
from gluon_compress.pipeline.task import Task
from gluon_compress.plan import Plan
from gluon_compress.provenance import ROOT, environment
from gluon_compress.prune import slim
from gluon_compress.recipe import Recipe, load_recipe, parse_recipe
from gluon_compress.report.run_report import write_report
from gluon_compress.storage.atomic import remove_leftovers, write_json
from gluon_compress.storage.locks import LOCK, sole_writer, wait_for_writer
from gluon_compress.sweeps import Sweep

SECONDS_TO_STOP = 60.0  # of another process that writes a run
RECIPE, RESULT, MODEL = "recipe.json", "result.json", "model"
TASKS: Dict[str, Type[Task]] = {
    "detection": DetectionTask,
    "classification": ClassificationTask,
}


def task_of(recipe: Recipe) -> Task:
    """Return the task of a recipe."""
    return TASKS[recipe.task](recipe)


def run(
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool = False,
    options: train.Options | None = None,
    facts: Mapping[str, Any] | None = None,
    sweep: Sweep | None = None,
    timed: bool = True,
) -> Dict[str, Any]:
    """Run every stage of a recipe that has no result yet.

    Parameters
    ----------
    recipe : Recipe
        One without ``compression`` and ``finetune`` only trains the full net.
    out : path
        A new or empty folder, or with ``resume`` the folder of an earlier run.
    resume : bool
        Continue an interrupted run of the same recipe.
    options : train.Options, optional
        ``seed`` and ``resume`` are set here.
    facts : mapping, optional
        Commit, hardware and versions, for every ``result.json``; by default what
        ``provenance.environment`` returns.
    sweep : Sweep, optional
        Where searches and sensitivities score plans; None: here.
    timed : bool
        Whether to time the nets at the end. Without, ``result.json`` and the report are
        left to a later call, for example while other runs keep the machine busy.

    Returns
    -------
    dict
        The results of all stages by name, as ``out/result.json`` holds them. Empty if
        the nets are not timed.

    Raises
    ------
    ValueError
        For a recipe that cannot work, found before the first training step, or a
        folder that holds anything else, or that another process writes.
    """
    options = replace(options or train.Options(), seed=recipe.seed, resume=True)
    ranks, folder, sweep = options.ranks, Path(out), sweep or Sweep()
    if ranks.size > 1 and not sweep.is_here:
        raise ValueError(
            f"a sweep with {ranks.size} workers under launch; allowed: one of both"
        )
    with ranks.telling(), ExitStack() as stack:
        agree_on_recipe(recipe, options)

        def opened() -> Path:
            if not ranks.leads:
                return Path(stack.enter_context(scratch()))
            stack.enter_context(sole_writer(folder))
            remove_leftovers(folder, below=True)
            earlier = _with_decisions(recipe, folder / RECIPE) if resume else recipe
            _check_folder(earlier, folder, resume)
            return folder

        own = ranks.together("folder", opened)
        if resume:
            recipe = _with_decisions(recipe, folder / RECIPE)
            agree_on_files(folder, ranks)
        if not ranks.leads:
            own = copied(folder, own, resume)
        results = _run(recipe, own, options, facts, sweep, timed)
        ranks.leave()
        return results


def _run(
    recipe: Recipe,
    out: Path,
    options: train.Options,
    facts: Mapping[str, Any] | None,
    sweep: Sweep,
    timed: bool,
) -> Dict[str, Any]:
    facts = environment() if facts is None else facts

    job = replace(_job(recipe, out, options, facts), sweep=sweep)

    def prepare() -> tuple[HybridBlock, HybridBlock]:
        full, student = job.task.build(job.classes)
        for net in {id(net): net for net in (full, student)}.values():
            warn_of_limits(net, job.splits)
        if not (out / FULL / RESULT).exists():
            dry_run(job.task, student)
        return full, student

    full, student = options.ranks.together("preparation", prepare)
    agree_on_start(job, [full, student])
    recipe = _with_choices(recipe, job.recipe)
    out.mkdir(parents=True, exist_ok=True)
    recipe.save(out / RECIPE)
    results = _run_stages(job, full, student)
    if not options.ranks.leads or not timed:
        return {}
    total = _with_speed(job, results)
    write_report(recipe, total, out, job.splits.test)
    return total


def _job(recipe: Recipe, out: Path, options: train.Options, facts: Mapping) -> Job:
    """Return the job of a run. Rank 0 opens the data first: some data are made then."""
    ranks, task = options.ranks, task_of(recipe)

    def opened() -> Job:
        return open_job(task, out, options, facts)

    first = ranks.together("data", lambda: opened() if ranks.leads else None)
    return ranks.together("data of others", lambda: first or opened())


def _run_stages(
    job: Job, full: HybridBlock, student: HybridBlock
) -> Dict[str, Dict[str, Any]]:
    """Run the stages and return their results by name; only rank 0 has any."""
    recipe, out = job.recipe, job.out
    trained = _stage(job, FULL, partial(train_full, job, full))
    before = net = trained if student is full else student
    names = _rows(recipe)
    for name, row in zip(names, recipe.compression):
        net = _stage(job, name, partial(_compressed, job, net, row))
    files = [out / name / PLAN for name in names]
    plan = composed(job.task, before, [Plan.load(f) for f in files if f.exists()])
    if plan is not None:
        plan.save(out / PLAN)
    if recipe.finetune is not None:
        _stage(job, COMPACT, partial(finetune, job, net, trained))
    return _results(job) if job.options.ranks.leads else {}


def _rows(recipe: Recipe) -> list[str]:
    """Return the names of the stages of a recipe's compression."""
    return [f"{i}_{row.algorithm}" for i, row in enumerate(recipe.compression, 1)]


def _results(job: Job) -> Dict[str, Dict[str, Any]]:
    """Return the results of all stages by name."""
    recipe, out = job.recipe, job.out
    names = [FULL, *_rows(recipe), *([COMPACT] if recipe.finetune is not None else [])]
    return {
        name: read_stage(out / name / RESULT, name, recipe.metric) for name in names
    }


def _compressed(
    job: Job, net: HybridBlock, row: Any, folder: Path
) -> tuple[HybridBlock, Mapping[str, Any]]:
    output = compress(job, net, row, folder)
    return output.net, output.notes


def _stage(
    job: Job,
    name: str,
    work: Callable[[Path], tuple[HybridBlock, Mapping[str, Any]]],
) -> HybridBlock:
    """Return the net of a stage: as an earlier run left it, or the work's result."""
    folder, task = job.out / name, job.task
    if (folder / RESULT).exists():
        read_stage(folder / RESULT, name, job.recipe.metric)
        return task.load(folder / MODEL)
    folder.mkdir(parents=True, exist_ok=True)
    net, notes = work(folder)
    to_devices(net, job.options.ctx[:1])
    if not job.options.ranks.leads:
        to_devices(net, [mx.cpu()])
        return net
    figures = {
        **cost.count(task.trace(net)).figures(),
        **job.evaluate(net, folder=folder),
    }
    to_devices(net, [mx.cpu()])
    manifest = task.save(net, folder / MODEL, name)
    figures["export_difference"] = manifest["max_difference"]
    write_json(folder / RESULT, {"stage": name, **figures, **notes, **origin_of(job)})
    return net


def origin_of(job: Job) -> Dict[str, Any]:
    """Return data, seed, commit, hardware and versions, for a ``result.json``."""
    settings, splits = job.recipe.data, job.splits
    named = {"train": splits.train, "test": splits.test}
    if splits.val is not splits.test:
        named["val"] = splits.val
    counts = {name: data.count_images(dataset) for name, dataset in named.items()}
    images = {"kind": settings.kind, "root": settings.root, **counts}
    options = job.options
    training: Dict[str, Any] = {}
    if options.ranks.size > 1:
        training["workers"] = options.ranks.size
    if options.gradient_threshold is not None:
        training["gradient_threshold"] = options.gradient_threshold
    return {"data": images, "seed": job.recipe.seed, **training, **job.facts}


def _with_speed(job: Job, results: Mapping[str, Any]) -> Dict[str, Any]:
    """Time the full and the compact net, in turns; write the run's result."""
    path, task = job.out / RESULT, job.task
    if path.exists():
        return read_run(path, results)
    names = list(dict.fromkeys([FULL, list(results)[-1]]))
    times = latencies_in_turn([task.load(job.out / n / MODEL) for n in names])
    latency = {name: asdict(time) for name, time in zip(names, times)}
    total = {"stages": results, "latency": latency, **origin_of(job)}
    write_json(path, total)
    return total


def _check_folder(recipe: Recipe, out: Path, resume: bool) -> None:
    if out.is_file():
        raise ValueError(f"{out}: is a file; results need a folder")
    if out.resolve() == recipe.data.folder().resolve():
        raise ValueError(f"{out}: is the folder of the data; results need another")
    earlier = out / RECIPE
    if not out.is_dir() or not any(path.name != LOCK for path in out.iterdir()):
        return
    if not resume:
        raise ValueError(f"{out}: is not empty; --resume continues an earlier run")
    if not earlier.exists():
        raise ValueError(f"{out}: holds no {RECIPE} of an earlier run to resume")
    before, now = load_recipe(earlier).to_json(), recipe.to_json()
    changed = [key for key in now if now[key] != before.get(key)]
    if changed:
        raise ValueError(
            f"{earlier}: {changed[0]!r} differs from the recipe given; resume with the "
            "same recipe, or choose a new folder"
        )


def _with_decisions(recipe: Any, earlier: Path) -> Any:
    """Return a recipe with what an earlier run has let its images decide."""
    return _with_choices(recipe, load_recipe(earlier)) if earlier.exists() else recipe


def _with_choices(recipe: Any, other: Any) -> Any:
    """Return a recipe with the settings of another where its nets' are undecided."""
    changes = {}
    for key in ("model", "student"):
        now: Any = getattr(recipe, key, None)
        then: Any = getattr(other, key, None)
        if now is not None and now.undecided and type(now) is type(then):
            decided = {name: getattr(then, name) for name in now.undecided}
            changes[key] = now.replace(**decided)
    return recipe.replace(**changes) if changes else recipe


def decide(recipe: Recipe, classes: Sequence[str]) -> tuple[Plan, Dict[str, dict]]:
    """Return what a recipe's compression keeps of its net before any training.

    Only the recipe is needed: values are initial ones, groups count as often as they
    have layers, and ``l1`` stands in for a criterion that needs data. If the trunk of
    ``model`` does not exist yet, it has initial values too.

    Parameters
    ----------
    recipe : Recipe
        The budgets of its compression must not depend on what a training measures.
    classes : sequence of str

    Returns
    -------
    (Plan, dict)
        One plan for all rows together; MACs, FLOPs, parameters and bytes of the net
        before (``full``) and after (``compact``).

    Raises
    ------
    ValueError
        If a name is unknown, a budget cannot be met, or no row makes a plan.
    """
    task = task_of(_with_existing_trunk(recipe))
    _, net = task.build(classes)
    plan, compact = dry_run(task, net)
    if plan is None:
        plan = Plan.everything(task.trace(net), recipe.model.name)
    nets = {FULL: net, COMPACT: compact}
    return plan, {n: cost.count(task.trace(one)).figures() for n, one in nets.items()}


def structure(
    recipe: Recipe, classes: Sequence[str], plan: Plan
) -> tuple[HybridBlock, Callable]:
    """Return a recipe's net as a plan leaves it, untrained, and what saves it.

    Parameters
    ----------
    recipe : Recipe
        As for ``decide``.
    classes : sequence of str
    plan : Plan
        For all rows of the recipe's compression together, as ``decide`` returns it.

    Returns
    -------
    (HybridBlock, callable)
        ``save(net, folder, name)`` writes such a net as an exported model.

    Raises
    ------
    ValueError
        If a name is unknown, or the plan is for another net.
    """
    task = task_of(_with_existing_trunk(recipe))
    _, net = task.build(classes)
    plan.check(task.trace(net))
    slimmed = slim(net, plan, shape=task.shape)
    return slimmed, task.save


def _with_existing_trunk(recipe: Any) -> Any:
    """Return a recipe for structure alone, which a trunk's values do not change.

    A student's trunk may have been pruned, so that one has to exist.
    """
    trunk = getattr(recipe.model, "trunk", None)
    if trunk is None or Path(trunk).exists():
        return recipe
    LOGGER.warning("%s: does not exist; its structure gets initial values", trunk)
    return recipe.replace(model=recipe.model.replace(trunk=None))


def judge(
    recipe: Recipe,
    net: HybridBlock,
    options: train.Options | None = None,
    *,
    folder: Path | None = None,
) -> Dict[str, Any]:
    """Return how good a net is on the images that a recipe tests with.

    With a folder, a detector leaves there what it found (``detection_errors``).

    Raises
    ------
    ValueError
        If they cannot be opened.
    """
    job = open_job(task_of(recipe), Path(), options or train.Options(), {})
    to_devices(net, job.options.ctx[:1])
    return job.evaluate(net, folder=folder)


# ---------------------------------------------------------------- a task of a sweep


def run_stages(item: Mapping[str, Any]) -> None:
    """Run the stages of a recipe that have no result yet, but time no net.

    It is carried out in the folder of the checkout, from which recipes name files.

    Parameters
    ----------
    item : mapping
        JSON: the ``recipe``, its ``name`` for messages, the folder ``out``, and the
        folder of ``data`` where this process knows no other.
    """
    if item["data"] is not None:
        os.environ.setdefault(data.DATA_FOLDER, item["data"])
    os.chdir(ROOT)
    # One whose client has gone may be about to leave a checkpoint.
    wait_for_writer(item["out"], SECONDS_TO_STOP)
    recipe = parse_recipe(item["recipe"], item["name"])
    options = train.Options(progress=False)
    run(recipe, item["out"], resume=True, options=options, timed=False)
