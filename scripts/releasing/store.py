"""How a run or a plan becomes a model of the zoo."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

NEAR = 1e-3  # of the metric: what float16 may cost
METRICS = {"detection": "mAP", "classification": "top1"}


def trained(args, draft: Path) -> Any:
    """Store the last stage of a run; return its row of the index."""
    from gluon_compress import pipeline, zoo
    from gluon_compress.recipe import load_recipe
    from gluon_compress.storage.atomic import read_json, write_json

    source, folder = Path(args.run), draft / args.name
    recipe, whole = (
        load_recipe(source / "recipe.json"),
        read_json(source / "result.json"),
    )
    stage = list(whole["stages"])[-1]
    key = METRICS[recipe.task]
    figures, stored = whole["stages"][stage], {}
    for kind in ("float16", "float32"):
        weights = zoo.release(source / stage / "model", draft, args.name, kind=kind)
        net = zoo.load_folder(folder, zoo.load(draft / weights.file))
        stored[kind] = pipeline.judge(recipe, net)[key]
        if abs(stored[kind] - figures[key]) <= NEAR:
            break
    write_json(folder / "result.json", {**whole, "released": stored})
    split = getattr(recipe.data, "test", recipe.data.val)
    metric = zoo.Metric(key, stored[kind], f"{_data(args, recipe)} {split}")
    return _entry(args, draft, recipe, figures, metric=metric, weights=weights)


def untrained(args, draft: Path) -> Any:
    """Store the structure that a recipe and its plan give; return its row."""
    from gluon_compress import count, pipeline, trace, zoo
    from gluon_compress.plan import Plan
    from gluon_compress.recipe import load_recipe

    source = Path(args.run)
    recipe, plan = load_recipe(source / "recipe.json"), Plan.load(source / "plan.json")
    net, save = pipeline.structure(recipe, recipe.data.classes, plan)
    save(net, draft / "export", args.name)
    zoo.release(draft / "export", draft, args.name, kind=None)
    size = recipe.data.size
    figures = count(trace(net, shape=(1, 3, size, size))).figures()
    return _entry(args, draft, recipe, figures)


def _data(args, recipe: Any) -> str:
    return args.of or Path(recipe.data.root).name


def _entry(args, draft: Path, recipe: Any, figures: dict, **trained: Any) -> Any:
    from gluon_compress import zoo
    from gluon_compress.model_folder import read_manifest

    for file in ("recipe.json", "plan.json"):  # which the card speaks of
        if Path(args.run, file).exists():
            shutil.copyfile(Path(args.run, file), draft / args.name / file)
    manifest = read_manifest(draft / args.name)
    return zoo.Entry(
        name=args.name,
        kind=manifest["kind"],
        classes=manifest["classes"],
        data=_data(args, recipe),
        size=recipe.data.size,
        **{key: figures[key] for key in ("params", "macs", "bytes")},
        licence=args.licence,
        command=recipe.command,
        hours=recipe.hours,
        **trained,
    )
