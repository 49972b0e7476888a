"""What each stage does: train, decide and cut, fine-tune with a teacher."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Callable, Mapping

from gluoncv.model_zoo.ssd import SSD
from mxnet.gluon import HybridBlock

from gluon_compress import cost, models, plan, train
from gluon_compress.distill import distil_step
from gluon_compress.graph import Graph
from gluon_compress.models import head
from gluon_compress.pipeline.job import Job, accuracy, place, train_batches
from gluon_compress.plan import Budget, Plan
from gluon_compress.prune import mask, slim, taylor
from gluon_compress.recipe import Delete, Distillation, Prune, Recipe, Schedule

PLAN = "plan.json"
TAYLOR = "taylor"  # the criterion that needs data


@dataclass(frozen=True)
class Lesson:
    """What is trained: a detector, the block of its raw head, and the step loss."""

    net: SSD
    block: HybridBlock
    step_loss: Callable


def train_full(job: Job, net: SSD, folder: Path) -> tuple[SSD, dict]:
    """Train the full detector, or take it as it was loaded."""
    if job.recipe.model.weights is not None:
        return net, {"weights": job.recipe.model.weights}
    return net, _fit(job, _supervised(net), job.recipe.train, folder)


def _supervised(net: SSD) -> Lesson:
    return Lesson(net, head.head_block(net), head.supervised(head.ssd_loss()))


def compress(job: Job, net: SSD, row, folder: Path) -> tuple[SSD, dict]:
    """Decide what stays, train with masks where the row asks for it, and slim."""
    graph = models.trace_head(net)
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
        notes.update(_fit(job, _supervised(net), row.train, folder))
    return slim(net, decision), notes


def _worth(job: Job, net: SSD, row: Prune | Delete) -> str | dict:
    """Return the criterion, or what channels are worth by it where it needs data."""
    if row.criterion != TAYLOR:
        return row.criterion
    batches = train_batches(job, net, job.recipe.train).epoch(0)
    return taylor(
        net,
        islice(batches, row.batches),
        head.supervised(head.ssd_loss()),
        prepare=head.head_block,
        shape=models.trace_head(net).inputs["data"],
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


def rehearse(recipe: Recipe, net: SSD) -> None:
    """Decide once on the untrained net: a budget out of reach costs no training."""
    for row in recipe.compression:
        graph = models.trace_head(net)
        # What needs trained values is not known yet, and does not change a width.
        worth = "l1" if row.criterion == TAYLOR else row.criterion
        net = slim(net, _decide(graph, row, recipe.seed, worth))


def finetune(job: Job, net: SSD, full: SSD, folder: Path) -> tuple[SSD, dict]:
    """Train the compact net, with the full one as its teacher where asked for."""
    distillation = job.recipe.distillation
    lesson = _supervised(net)
    if distillation is not None:
        place(full, job.options.ctx)
        lesson = _distilled(net, full, distillation, job.recipe.seed)
    return net, _fit(job, lesson, job.recipe.finetune, folder)


def _distilled(net: SSD, full: SSD, how: Distillation, seed: int) -> Lesson:
    taps = how.losses.get("features", 0) > 0
    widths = head.map_widths(full) if taps else ()
    teacher = head.head_block(full, taps=taps)
    teacher.hybridize(static_alloc=True, static_shape=True)
    step = distil_step(
        teacher,
        [f"map{i}" for i in range(len(widths))],
        head.ssd_loss(),
        weights=how.losses,
        temperature=how.temperature,
    )
    block = head.head_block(net, adapters=widths, seed=seed)
    return Lesson(net, block, step)


def _fit(job: Job, lesson: Lesson, schedule: Schedule, folder: Path) -> dict:
    net, block = lesson.net, lesson.block
    block.hybridize(static_alloc=True, static_shape=True)
    place(block, job.options.ctx)
    place(net, job.options.ctx)
    progress = train.fit(
        block,
        train_batches(job, net, schedule),
        lesson.step_loss,
        schedule,
        folder,
        validate=lambda: _validation(job, net),
        options=job.options,
    )
    best = job.recipe.data.val is not None
    if best:  # without a split of its own, the best epoch would be chosen on the test
        train.load_best(block, folder)
    return {
        "epochs": progress.epoch,
        "steps": progress.step,
        "train_seconds": round(progress.seconds, 1),
        "chosen": "best on val" if best else "last",
    }


def _validation(job: Job, net: SSD) -> dict:
    figures = accuracy(job, net, job.val)
    return {"mAP": figures["mAP"], **figures["classes"]}


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
