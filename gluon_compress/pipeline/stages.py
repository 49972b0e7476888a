"""What each stage does: train, decide and cut, fine-tune with a teacher."""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

from gluon_compress import data, plan, prune, train
from gluon_compress.graph import Graph
from gluon_compress.latency import LatencyTable
from gluon_compress.pipeline.job import Job, Lesson, place, teacher_of
from gluon_compress.plan import Budget, Plan, Sensitivity
from gluon_compress.plan.constraints import held
from gluon_compress.plan.cost_model import Meter
from gluon_compress.prune import (
    bn_l1_step,
    effects,
    mask,
    mask_in_rounds,
    plan_of,
    recalibrate,
    sensitivity,
    set_mask,
    slim,
    taylor,
)
from gluon_compress.recipe import Delete, Prune, Schedule, Sparsity
from gluon_compress.report import read_log

PLAN, SENSITIVITY = "plan.json", "sensitivity.json"
TAYLOR = "taylor"  # the criterion that needs data
GREEDY = "greedy"  # the selection that follows effects


def train_full(job: Job, net: Any, folder: Path) -> tuple[Any, dict]:
    """Train the full net, or take it as it was loaded."""
    recipe = job.recipe
    if recipe.model.weights is not None:
        return net, {"weights": recipe.model.weights}
    alone = recipe.finetune is None
    teacher = teacher_of(job, None, job.train.classes) if alone else None
    if not recipe.model.masks:
        return net, _fit(job, net, teacher, recipe.train, folder)
    decision = Plan.load(recipe.model.plan)
    masked = mask(net, decision, shape=job.task.trace(job, net).inputs["data"])
    notes = _fit(job, masked, teacher, recipe.train, folder)
    return slim(masked, decision), notes


def compress(job: Job, net: Any, row, folder: Path) -> tuple[Any, dict]:
    """Decide what stays, train with masks where the row asks for it, and slim."""
    notes: dict[str, Any] = {}
    if isinstance(row, Prune) and row.sparsity is not None:
        notes["sparsity"] = _train_sparse(job, net, row.sparsity, folder / "sparsity")
    graph = job.task.trace(job, net)
    rounds = row.rounds if isinstance(row, Prune) else None
    if rounds is not None:  # after an interruption the training tells the plan again
        measured = _measured(job, net, row, folder)
        net = mask(net, None)
        callback = _rounds(job, net, row, graph, measured)
        notes.update(_fit(job, net, None, row.train, folder, callbacks=[callback]))
        decision = _saved(job, _plan_of(job, net, row, graph), row, folder)
    elif (folder / PLAN).exists():  # decided before an interruption
        decision = Plan.load(folder / PLAN)
    else:
        measured = _measured(job, net, row, folder)
        decision = _decide(job, net, row, _worth(job, net, row), measured)
        decision = _saved(job, decision, row, folder)
    decision.check(graph)
    notes.update(groups=plan.explain(graph, decision), made_by=dict(decision.made_by))
    if row.train is not None and rounds is None:
        net = mask(net, decision)
        notes.update(_fit(job, net, None, row.train, folder))
    return _recalibrated(job, slim(net, decision), row, notes)


def _train_sparse(job: Job, net: Any, how: Sparsity, folder: Path) -> dict:
    shape = job.task.trace(job, net).inputs["data"]

    def sparse(step_loss: Callable) -> Callable:
        return bn_l1_step(step_loss, net, how.weight, shape=shape)

    return _fit(job, net, None, how.train, folder, wrap=sparse)


def _saved(job: Job, decision: Plan, row: Prune | Delete, folder: Path) -> Plan:
    named = {"criterion": row.criterion, "commit": job.facts.get("commit")}
    made_by = {**decision.made_by, **named}
    decision = replace(decision, net=job.recipe.model.name, made_by=made_by)
    decision.save(folder / PLAN)
    return decision


def _rounds(
    job: Job, net: Any, row: Prune, graph: Graph, measured: Mapping
) -> Callable:
    """Return the callback that decides masks in rounds by the row's criterion."""

    def decide(now: Graph, budget: Budget, within: Plan | None) -> Plan:
        worth = _worth(job, net, row, within)
        return _select(job, row, now, budget, worth=worth, within=within, **measured)

    return mask_in_rounds(
        net,
        _budget(graph, row),
        decide,
        prune.Rounds(**asdict(row.rounds)),
        shape=graph.inputs["data"],
        table=_table(row),
    )


def _plan_of(job: Job, net: Any, row: Prune, graph: Graph) -> Plan:
    """Return what rounds came to, with the notes that a plan made at once has."""
    made_by = {
        "selection": row.selection,
        "budget": _budget(graph, row).limits,
        "multiple": row.multiple,
        "rounds": asdict(row.rounds),
        "seed": job.recipe.seed,
        "held": held(graph, row.groups, row.leave, ends=row.ends),
        "widths": {group.name: group.width for group in graph.groups},
    }
    return replace(plan_of(net), made_by=made_by)


def _recalibrated(job: Job, net: Any, row, notes: dict) -> tuple[Any, dict]:
    """Measure BatchNorm anew, and note how accurate the net was before."""
    if not row.recalibrate:
        return net, notes
    metric = job.task.metric
    place(net, job.options.ctx[:1])
    before = job.task.accuracy(job, net, job.test)[metric]
    batches = job.task.batches(job, net, job.recipe.finetune).epoch(0)
    net = recalibrate(net, islice(batches, row.recalibrate))
    return net, {**notes, "before_recalibration": {metric: before}}


def _worth(
    job: Job, net: Any, row: Prune | Delete, within: Plan | None = None
) -> str | dict:
    """Return the criterion, or what channels are worth by it where it needs data."""
    if row.criterion != TAYLOR:
        return row.criterion
    shape = job.task.trace(job, net).inputs["data"]

    def prepare(gated: Any) -> Any:
        set_mask(gated, within, shape=shape)  # what is gone must not answer
        return job.task.block(gated)

    batches = job.task.batches(job, net, job.recipe.finetune).epoch(0)
    return taylor(
        net,
        islice(batches, row.batches),
        job.task.lesson(job, net, None).step_loss,
        prepare=prepare,
        shape=shape,
    )


def _measured(job: Job, net: Any, row: Prune | Delete, folder: Path) -> dict[str, Any]:
    """Return what the row's selection follows beside worth, as ``select`` takes it."""
    if isinstance(row, Delete):
        return {}
    if row.sensitivity is not None:
        return {"sensitivity": _sensitivity(job, net, row, folder)}
    if row.selection != GREEDY or not row.effects:
        return {}
    batches = job.task.batches(job, net, job.recipe.finetune).epoch(0)
    found = effects(
        net,
        islice(batches, row.effects),
        criterion=_worth(job, net, row),
        shape=job.task.trace(job, net).inputs["data"],
        seed=job.recipe.seed,
    )
    return {"effects": found}


def _sensitivity(job: Job, net: Any, row: Prune, folder: Path) -> Sensitivity:
    how = row.sensitivity
    images = data.sample(job.train, how.images, seed=job.recipe.seed)
    place(net, job.options.ctx[:1])
    return sensitivity(
        net,
        lambda masked: job.task.accuracy(job, masked, images)[job.task.metric],
        ratios=how.ratios,
        criterion=_worth(job, net, row),
        groups=row.groups,
        cache=folder / SENSITIVITY,
        shape=job.task.trace(job, net).inputs["data"],
        seed=job.recipe.seed,
    )


def _decide(
    job: Job,
    net: Any,
    row: Prune | Delete,
    worth: str | dict,
    measured: Mapping | None = None,
) -> Plan:
    graph = job.task.trace(job, net)
    if isinstance(row, Delete):
        seed = job.recipe.seed
        return plan.delete(graph, row.keep, worth, multiple=row.multiple, seed=seed)
    counted = graph
    if row.classes is not None:
        counted = job.task.trace(job, job.task.with_classes(net, row.classes))
    budget = _budget(counted, row)
    made = _select(job, row, counted, budget, worth=worth, **(measured or {}))
    if counted is graph:
        return made
    # The predictors, whose groups are the only ones of another width, stay whole.
    keep = {g.name: made.keep[g.name] for g in graph.groups if not g.frozen}
    widths = {group.name: group.width for group in graph.groups}
    return replace(made, keep=keep, made_by={**made.made_by, "widths": widths})


def _select(
    job: Job,
    row: Prune,
    graph: Graph,
    budget: Budget,
    *,
    worth: str | dict,
    within: Plan | None = None,
    effects: Mapping | None = None,
    sensitivity: Sensitivity | None = None,
) -> Plan:
    return plan.select(
        graph,
        budget,
        worth,
        selection=row.selection,
        multiple=row.multiple,
        minimum=row.minimum,
        maximum=row.maximum,
        groups=row.groups,
        leave=row.leave,
        ends=row.ends,
        within=within,
        table=_table(row),
        effects=effects,
        sensitivity=sensitivity,
        seed=job.recipe.seed,
    )


def _budget(graph: Graph, row: Prune) -> Budget:
    """Turn shares of the net before into absolute limits."""
    meter, ending, whole = Meter(graph, _table(row)), "_ratio", {}
    full = meter.totals(meter.full[None])
    for name, limit in row.budget.items():
        if name.endswith(ending):
            name = name[: -len(ending)]
            limit *= float(full[name][0])
        whole[name] = limit
    return Budget(**whole)


def _table(row: Prune) -> LatencyTable | None:
    return None if row.latency_table is None else LatencyTable.load(row.latency_table)


def rehearse(job: Job, net: Any) -> tuple[Plan, Any]:
    """Decide on an untrained net: a budget out of reach costs no training.

    Returns
    -------
    (Plan, net)
        What all rows together keep of the net, and the slim net.
    """
    before, plans = net, []
    for row in job.recipe.compression:
        # What needs trained values is not known yet, and does not change a width.
        worth = "l1" if row.criterion == TAYLOR else row.criterion
        tried = row
        if isinstance(row, Prune) and row.sensitivity is not None:
            tried = replace(row, selection="greedy", sensitivity=None)
        plans.append(_decide(job, net, tried, worth))
        net = slim(net, plans[-1])
    return compose(job, before, plans), net


def compose(job: Job, net: Any, plans: Sequence[Plan]) -> Plan:
    """Return one plan for a net for what several leave of it, one after the other."""
    graph = job.task.trace(job, net)
    widths = {group.name: group.width for group in graph.groups}
    whole = replace(Plan.everything(graph), made_by={"widths": widths})
    for decision in plans:
        whole = whole.compose(decision)
    return replace(whole, net=job.recipe.model.name)


def finetune(job: Job, net: Any, full: Any, folder: Path) -> tuple[Any, dict]:
    """Train the compact net, with the full one as its teacher where asked for."""
    teacher = teacher_of(job, full, job.train.classes)
    return net, _fit(job, net, teacher, job.recipe.finetune, folder)


def _fit(
    job: Job,
    net: Any,
    teacher: Any,
    schedule: Schedule,
    folder: Path,
    *,
    callbacks: Sequence[Callable] = (),
    wrap: Callable | None = None,
) -> dict:
    lesson: Lesson = job.task.lesson(job, net, teacher)
    step_loss = wrap(lesson.step_loss) if wrap else lesson.step_loss
    block = lesson.block
    block.hybridize(static_alloc=True, static_shape=True)
    place(block, job.options.ctx)
    place(net, job.options.ctx)
    progress = train.fit(
        block,
        job.task.batches(job, net, schedule),
        step_loss,
        schedule,
        folder,
        validate=lambda: job.task.validation(job, net, job.val),
        callbacks=callbacks,
        options=job.options,
    )
    best = job.val is not job.test
    if best:  # without a split of its own, the best epoch would be chosen on the test
        train.load_best(block, folder)
    _, judged = read_log(folder / "log.jsonl")
    return {
        "epochs": progress.epoch,
        "steps": progress.step,
        "train_seconds": round(progress.seconds, 1),
        "chosen": "best on val" if best else "last",
        "validated": {str(one["epoch"]): one[job.task.metric] for one in judged},
    }
