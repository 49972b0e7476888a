"""What each stage does: train, decide and cut, fine-tune with a teacher."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Mapping

from gluon_compress import cost, plan, train
from gluon_compress.graph import Graph
from gluon_compress.pipeline.job import Job, Lesson, place
from gluon_compress.plan import Budget, Plan
from gluon_compress.prune import mask, slim, taylor
from gluon_compress.recipe import Delete, Prune, Schedule

PLAN = "plan.json"
TAYLOR = "taylor"  # the criterion that needs data


def train_full(job: Job, net: Any, folder: Path) -> tuple[Any, dict]:
    """Train the full net, or take it as it was loaded."""
    if job.recipe.model.weights is not None:
        return net, {"weights": job.recipe.model.weights}
    return net, _fit(job, net, None, job.recipe.train, folder)


def compress(job: Job, net: Any, row, folder: Path) -> tuple[Any, dict]:
    """Decide what stays, train with masks where the row asks for it, and slim."""
    graph = job.task.trace(job, net)
    if (folder / PLAN).exists():  # decided before an interruption
        decision = Plan.load(folder / PLAN)
    else:
        decision = _decide(graph, row, job.recipe.seed, _worth(job, net, row))
        named = {"criterion": row.criterion, "commit": job.facts.get("commit")}
        made_by = {**decision.made_by, **named}
        decision = replace(decision, net=job.recipe.model.name, made_by=made_by)
        decision.save(folder / PLAN)
    decision.check(graph)
    notes = {"groups": _kept(graph, decision)}
    if row.train is not None:
        net = mask(net, decision)
        notes.update(_fit(job, net, None, row.train, folder))
    return slim(net, decision), notes


def _worth(job: Job, net: Any, row: Prune | Delete) -> str | dict:
    """Return the criterion, or what channels are worth by it where it needs data."""
    if row.criterion != TAYLOR:
        return row.criterion
    batches = job.task.batches(job, net, job.recipe.finetune).epoch(0)
    return taylor(
        net,
        islice(batches, row.batches),
        job.task.lesson(job, net, None).step_loss,
        prepare=job.task.block,
        shape=job.task.trace(job, net).inputs["data"],
    )


def _decide(graph: Graph, row: Prune | Delete, seed: int, worth: str | dict) -> Plan:
    if isinstance(row, Delete):
        return plan.delete(graph, row.keep, worth, multiple=row.multiple, seed=seed)
    return plan.select(
        graph,
        _budget(graph, row.budget),
        worth,
        selection=row.selection,
        multiple=row.multiple,
        groups=row.groups,
        seed=seed,
    )


def _budget(graph: Graph, limits: Mapping[str, float]) -> Budget:
    """Turn shares of the net before into absolute limits."""
    total = cost.count(graph)
    ending = "_ratio"
    whole = {}
    for name, limit in limits.items():
        if name.endswith(ending):
            name = name[: -len(ending)]
            limit *= getattr(total, name)
        whole[name] = limit
    return Budget(**whole)


def rehearse(job: Job, net: Any) -> None:
    """Decide once on the untrained net: a budget out of reach costs no training."""
    for row in job.recipe.compression:
        graph = job.task.trace(job, net)
        # What needs trained values is not known yet, and does not change a width.
        worth = "l1" if row.criterion == TAYLOR else row.criterion
        net = slim(net, _decide(graph, row, job.recipe.seed, worth))


def finetune(job: Job, net: Any, full: Any, folder: Path) -> tuple[Any, dict]:
    """Train the compact net, with the full one as its teacher where asked for."""
    return net, _fit(job, net, full, job.recipe.finetune, folder)


def _fit(job: Job, net: Any, teacher: Any, schedule: Schedule, folder: Path) -> dict:
    lesson: Lesson = job.task.lesson(job, net, teacher)
    block = lesson.block
    block.hybridize(static_alloc=True, static_shape=True)
    place(block, job.options.ctx)
    place(net, job.options.ctx)
    progress = train.fit(
        block,
        job.task.batches(job, net, schedule),
        lesson.step_loss,
        schedule,
        folder,
        validate=lambda: job.task.validation(job, net, job.val),
        options=job.options,
    )
    best = job.val is not job.test
    if best:  # without a split of its own, the best epoch would be chosen on the test
        train.load_best(block, folder)
    return {
        "epochs": progress.epoch,
        "steps": progress.step,
        "train_seconds": round(progress.seconds, 1),
        "chosen": "best on val" if best else "last",
    }


def _kept(graph: Graph, decision: Plan) -> list[dict]:
    """Return what a plan leaves of each group, for tables and pictures."""
    return [
        {
            "name": group.name,
            "width": group.width,
            "kept": len(decision.keep.get(group.name, range(group.width))),
            "frozen": group.frozen,
        }
        for group in graph.groups
    ]
