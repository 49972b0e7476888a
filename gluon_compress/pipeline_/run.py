"""The main job: from a recipe to an exported, evaluated compact detector, in stages.

Every stage is a folder. Its ``result.json`` is written last, so a stage that has one
is complete: ``--resume`` loads its model and goes on behind it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Callable, Mapping

from gluoncv.model_zoo.ssd import SSD
from mxnet.gluon import HybridBlock

from gluon_compress import cost, data, models, plan, train
from gluon_compress.distill import distil_step
from gluon_compress.evaluate import voc_map
from gluon_compress.files import read_json, write_json
from gluon_compress.graph import Graph
from gluon_compress.models import head, ssd
from gluon_compress.plan import Budget, Plan
from gluon_compress.prune import mask, slim
from gluon_compress.recipe import (
    Data,
    Delete,
    Distillation,
    Model,
    Prune,
    Recipe,
    Schedule,
)
from gluon_compress.summary import COMPACT, FULL, write_report

RESULT, MODEL, PLAN = "result.json", "model", "plan.json"


@dataclass(frozen=True)
class Job:
    """A recipe with its data opened and a place for its results.

    Parameters
    ----------
    recipe : Recipe
    out : Path
    train, val, test
        Data sets; ``val`` is what is measured while training.
    options : train.Options
        Devices, seed and progress bars.
    facts : mapping
        Commit, hardware and versions, for every ``result.json``.
    """

    recipe: Recipe
    out: Path
    train: Any
    val: Any
    test: Any
    options: train.Options
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Lesson:
    """What is trained: a detector, the block of its raw head, and the step loss."""

    net: SSD
    block: HybridBlock
    step_loss: Callable


def run(
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool = False,
    options: train.Options | None = None,
    facts: Mapping[str, Any] | None = None,
) -> dict:
    """Run every stage of a recipe that has no result yet.

    Parameters
    ----------
    recipe : Recipe
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
    sets = [_dataset(recipe.data, split) for split in _splits(recipe.data)]
    options = replace(options or train.Options(), seed=recipe.seed, resume=True)
    job = Job(recipe, out, *sets, options, facts or {})
    start, student = _untrained(job)
    if not (out / FULL / RESULT).exists():
        _rehearse(recipe, student or start)
    out.mkdir(parents=True, exist_ok=True)
    recipe.save(out / "recipe.json")
    full = _stage(job, FULL, partial(_train_full, job, start))
    net, decided = student or full, []
    for number, row in enumerate(recipe.compression, 1):
        name = f"{number}_{row.algorithm}"
        net = _stage(job, name, partial(_compress, job, net, row))
        decided.append(name)
    _stage(job, COMPACT, partial(_finetune, job, net, full))
    results = {
        name: read_json(out / name / RESULT) for name in (FULL, *decided, COMPACT)
    }
    whole = _measure_speed(job, results)
    write_report(recipe, whole, out, job.test)
    return whole


def _check_folder(recipe: Recipe, out: Path, resume: bool) -> None:
    if out.is_file():
        raise ValueError(f"{out}: is a file; results need a folder")
    earlier = out / "recipe.json"
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not resume:
        raise ValueError(f"{out}: is not empty; --resume goes on with an earlier run")
    if not earlier.exists():
        raise ValueError(f"{out}: holds no recipe.json of an earlier run to resume")
    before, now = asdict(Recipe.load(earlier)), asdict(recipe)
    changed = [key for key in now if now[key] != before[key]]
    if changed:
        raise ValueError(
            f"{earlier}: {changed[0]!r} differs from the recipe given; resume the "
            "recipe that was begun, or choose a new folder"
        )


# ---------------------------------------------------------------- data


def _splits(config: Data) -> tuple[str, str, str]:
    return config.train, config.val or config.test, config.test


def _dataset(config: Data, split: str):
    """Open one split of the recipe's data."""
    root = config.folder()
    if config.kind == "toy":
        data.make_toy(root)
    if config.kind == "gluoncv_voc":
        return data.voc_gluoncv(root, split)
    if config.kind == "coco":
        return data.coco_gluoncv(root, split)
    return data.VOCLayout(root, split, config.classes, difficult=config.difficult)


def _val_batches(job: Job, dataset) -> data.Batches:
    sample = partial(data.ssd_val_sample, size=job.recipe.data.size)
    return data.Batches(dataset, sample, 8, shuffle=False)


def _train_batches(job: Job, net: SSD, schedule: Schedule) -> data.Batches:
    sample = partial(data.ssd_train_sample, size=job.recipe.data.size)
    stds = ssd.config_of(net).stds
    return data.Batches(
        job.train,
        sample,
        schedule.batch_size,
        seed=job.recipe.seed,
        last="fill",  # one shape for every step
        targets=data.SSDTargets(ssd.anchors_of(net), stds=stds),
    )


# ---------------------------------------------------------------- stages


def _stage(job: Job, name: str, make: Callable[[Path], tuple[SSD, dict]]) -> SSD:
    """Return the net of a stage: as an earlier run left it, or made now."""
    folder = job.out / name
    if (folder / RESULT).exists():
        return models.load(folder / MODEL)
    folder.mkdir(parents=True, exist_ok=True)
    net, notes = make(folder)
    figures = {**models.size_of(net), **_accuracy(job, net, job.test)}
    manifest = models.save(net, folder / MODEL, name)
    figures["export_difference"] = manifest["max_difference"]
    write_json(folder / RESULT, {"stage": name, **figures, **notes, **_origin(job)})
    return net


def _origin(job: Job) -> dict:
    sets = {"train": job.train, "test": job.test}
    images = {
        split: {"images": len(s), "skipped": len(s.problems)}
        for split, s in sets.items()
    }
    facts = {"kind": job.recipe.data.kind, "root": job.recipe.data.root, **images}
    return {"data": facts, "seed": job.recipe.seed, **job.facts}


def _accuracy(job: Job, net: SSD, dataset) -> dict:
    how = job.recipe.evaluate
    net.hybridize(static_alloc=True, static_shape=True)
    figures = voc_map(
        net,
        _val_batches(job, dataset).epoch(0),
        net.classes,
        size=job.recipe.data.size,
        metric=how.metric,
        iou=how.iou,
    )
    value = figures.pop("mAP")
    return {"mAP": value, "metric": how.metric, "iou": how.iou, "classes": figures}


def _untrained(job: Job) -> tuple[SSD, SSD | None]:
    """Build both nets at once, so that a wrong name is found in seconds."""
    recipe = job.recipe
    start = _build(recipe, recipe.model, job.train.classes)
    student = recipe.student and _build(recipe, recipe.student, job.train.classes)
    return start, student


def _build(recipe: Recipe, model: Model, classes: tuple[str, ...]) -> SSD:
    if model.weights is not None:
        net = models.load(model.weights)
        if tuple(net.classes) != tuple(classes):
            raise ValueError(
                f"{model.weights}: its classes are {list(net.classes)}, those of the "
                f"data {list(classes)}"
            )
        return net
    how = recipe.evaluate
    return models.build(
        model.name,
        classes,
        width=model.width,
        trunk=model.trunk,
        seed=recipe.seed,
        size=recipe.data.size,
        sizes=model.sizes,
        ratios=model.ratios,
        steps=model.steps,
        extras=model.extras,
        nms_thresh=how.nms_thresh,
        nms_topk=how.nms_topk,
        post_nms=how.post_nms,
    )


def _rehearse(recipe: Recipe, net: SSD) -> None:
    """Decide once on the untrained net: a budget out of reach costs no training."""
    for row in recipe.compression:
        graph = models.trace_head(net)
        net = slim(net, _decide(graph, row, recipe.seed))


def _train_full(job: Job, net: SSD, folder: Path) -> tuple[SSD, dict]:
    if job.recipe.model.weights is not None:
        return net, {"weights": job.recipe.model.weights}
    return net, _fit(job, _supervised(net), job.recipe.train, folder)


def _supervised(net: SSD) -> Lesson:
    return Lesson(net, head.head_block(net), head.supervised(head.ssd_loss()))


def _compress(job: Job, net: SSD, row, folder: Path) -> tuple[SSD, dict]:
    """Decide what stays, train with masks where the row asks for it, and slim."""
    graph = models.trace_head(net)
    if (folder / PLAN).exists():  # decided before an interruption
        decision = Plan.load(folder / PLAN)
    else:
        decision = _decide(graph, row, job.recipe.seed)
        commit = job.facts.get("commit")
        made_by = {**decision.made_by, "commit": commit}
        decision = replace(decision, net=job.recipe.model.name, made_by=made_by)
        decision.save(folder / PLAN)
    decision.check(graph)
    notes = {"groups": _kept(graph, decision)}
    if row.train is not None:
        net = mask(net, decision)
        notes.update(_fit(job, _supervised(net), row.train, folder))
    return slim(net, decision), notes


def _decide(graph: Graph, row: Prune | Delete, seed: int) -> Plan:
    if isinstance(row, Delete):
        return plan.delete(
            graph, row.keep, row.criterion, multiple=row.multiple, seed=seed
        )
    return plan.select(
        graph,
        _budget(graph, row.budget),
        row.criterion,
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


def _finetune(job: Job, net: SSD, full: SSD, folder: Path) -> tuple[SSD, dict]:
    """Train the compact net, with the full one as its teacher where asked for."""
    distillation = job.recipe.distillation
    lesson = _supervised(net)
    if distillation is not None:
        lesson = _distilled(net, full, distillation)
    return net, _fit(job, lesson, job.recipe.finetune, folder)


def _distilled(net: SSD, full: SSD, how: Distillation) -> Lesson:
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
    return Lesson(net, head.head_block(net, adapters=widths), step)


def _fit(job: Job, lesson: Lesson, schedule: Schedule, folder: Path) -> dict:
    net, block = lesson.net, lesson.block
    block.hybridize(static_alloc=True, static_shape=True)
    progress = train.fit(
        block,
        _train_batches(job, net, schedule),
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
    figures = _accuracy(job, net, job.val)
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


def _measure_speed(job: Job, results: dict) -> dict:
    """Time the full and the compact head one after the other, and write it all."""
    path = job.out / RESULT
    if path.exists():
        return read_json(path)
    speed = {}
    for name in (FULL, COMPACT):
        net = models.load(job.out / name / MODEL)
        size = ssd.image_size(net)
        speed[name] = asdict(cost.latency(head.head_block(net), (1, 3, size, size)))
    whole = {"stages": results, "latency": speed, **_origin(job)}
    write_json(path, whole)
    return whole
