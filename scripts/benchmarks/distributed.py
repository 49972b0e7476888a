"""Measures what training on several processes costs, and predicts it for machines."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, Mapping, Sequence

from benchmarks.distributed_model import BYTES, Costs, Model, efficiency, hours
from gluon_compress.cli.app import Command
from gluon_compress.cli.options import above_0, add_out, write_result
from gluon_compress.markdown import table
from gluon_compress.provenance import ROOT
from gluon_compress.storage.atomic import write_atomically

TEXT = """Measure what a step of distributed training costs; predict it for machines.

  taskset -c 1 %(prog)s --cores 1 --out docs/benchmark/distributed

Workers, servers and launcher run here, so that nothing but processors takes time. First
exchanges of gradients alone are measured, by number of keys and bytes, and a model is
fitted to them. Then steps of real trainings are measured and compared with what the
model says. From the model follow efficiencies and hours on machines that a network
connects; these are computed, not measured. Give a quiet machine, or one core of it.

With --recipe, a small recipe is also run on two workers with gradients in 2 bits, once
for each threshold of --thresholds, and without: what the accuracy comes to. Writes
result.json and distributed.md.
"""
PAGE = "distributed.md"
WORKER = Path(__file__).parent / "distributed_worker.py"
RANKS = {"plain": (1, 2, 4), "exact": (4,), "2bit": (2, 4)}
EXCHANGES = ((8, 2_000), (80, 2_000), (8, 200_000), (40, 200_000))
NETS = (
    {"name": "mobilenet0.25", "pixels": 64, "batch": 8},
    {"name": "resnet18_v1", "pixels": 64, "batch": 8},
)
MACHINES, GBITS = (8, 16, 32, 64), (1, 10, 25)
FEW_MACHINES, RECIPE_GBITS = (1, 4, 16), 10
# Recipes whose hours are computed, and the images of an epoch.
RECIPES = {
    "ssd_300_mobilenet1.0_voc": 16_551,
    "ssd_300_resnet50_v1d_voc": 16_551,
    "ssd_300_resnet50_v1d_coco": 117_266,
    "refinedetlite_320_coco": 117_266,
    "resnet50_v1d_imagenet": 1_281_167,
}
INTRODUCTION = """# What distributed training costs

Steps of `gluon-compress launch` with 1, 2 and 4 workers, one server, and everything on
{cores} core{plural} of one machine, where nothing but processors takes time. Times are
milliseconds of CPU time a step, means over {rounds} steps; *server* is MXNet's server,
the scheduler and the hub together.

Ways of adding gradients: *plain*, as MXNet does (two workers, and `--fast-sums`);
*exact*, in 64 bits, so that sums do not depend on who is first (default with more than
two workers); *2bit*, with `--gradient-threshold`.
"""
MODEL = """## The model of a step

    worker = compute + a_w + k_w * keys + b_w * bytes
    server = workers * (a_s + k_s * keys + b_s * bytes)

Fitted to exchanges of gradients alone; bytes are those pushed and pulled by a worker.
"""
PREDICTED = """## Steps of trainings, measured and predicted

Steps of `train.fit`, of which the model has seen nothing but the time to compute,
measured without a launcher. *work* is the CPU time of all processes together, and
*overhead* what is not computing, for each worker. MB are pushed and pulled by a worker.
"""
EFFICIENCY = """## Efficiency of many machines (computed)

Computed from the model, not measured: the share of a step in which a machine computes,
each with one worker and one server, if nothing overlaps. A machine computes {batch}
images of {net}, {pixels} pixels, in {ms:.0f} ms, as one core did here. The faster a
machine computes, the larger is the share of the exchange.
"""
HOURS = """## Hours of recipes (computed)

Computed, not measured: hours on 1, 4 and 16 machines of two cores with {gbits} Gbit/s,
the recipe's batch divided among them. The hours of one machine are those that the
recipe states, the costs of exchanges those of the model.
"""
THRESHOLDS = """## Accuracy with gradients in 2 bits

`{recipe}` on two workers: {metric} of the last stage. A gradient is the sum of two
workers' means, so thresholds have to be as small as gradients are.
"""


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_out(parser, "model", "steps", files=[PAGE])
    parser.add_argument("--rounds", type=above_0, default=20, help="default: 20")
    parser.add_argument(
        "--cores",
        type=_cores,
        default=(),
        metavar="N,N",
        help="cores to pin workers to, in turn; default: none",
    )
    parser.add_argument("--recipe", metavar="FILE", help="a small recipe to run")
    parser.add_argument("--thresholds", type=float, nargs="+", default=[], metavar="T")


def _cores(text: str) -> tuple[int, ...]:
    if not all(part.isdecimal() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: numbers, as 0,1")
    return tuple(int(part) for part in text.split(","))


def _benchmark(args: argparse.Namespace) -> None:
    """Measure, fit, predict, print, and write both files."""
    if args.recipe and not args.thresholds:
        raise ValueError("--recipe needs --thresholds")
    recipes = [facts_of(name, images) for name, images in RECIPES.items()]
    alone = measured("plain", 0, args)
    groups = [measured(way, n, args) for way, sizes in RANKS.items() for n in sizes]
    models = {way: fitted(way, groups) for way in BYTES}
    compute = {net["name"]: net["worker"] for net in alone["steps"]}
    content = {
        "rounds": args.rounds,
        "cores": len(args.cores) or len(os.sched_getaffinity(0)),
        "model": {way: asdict(model) for way, model in models.items()},
        "alone": alone["steps"],
        "exchanges": groups,
        "steps": predicted(models, groups, compute),
        "recipes": recipes,
    }
    if args.recipe:
        content["accuracy"] = accuracies(args.recipe, args.thresholds)
    result = write_result(args.out, content)
    page = page_of(json.loads(result.read_text(encoding="utf-8")))
    print(page)
    write_atomically(Path(args.out) / PAGE, page)


def measured(way: str, ranks: int, args: argparse.Namespace) -> dict[str, Any]:
    """Return what the worker measures with so many ranks; 0: without a launcher."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "measured.json"
        task = {
            "out": str(out),
            "way": way,
            "rounds": args.rounds,
            "cores": args.cores,
            "exchanges": EXCHANGES,
            "nets": NETS,
        }
        if not ranks:
            task["way"] = "exact"  # the default, of no effect without a launcher
        worker = [sys.executable, str(WORKER), json.dumps(task)]
        print(f"{way}, {ranks} workers", file=sys.stderr, flush=True)
        subprocess.run([*_launch(ranks), *worker] if ranks else worker, check=True)
        return json.loads(out.read_text())


def _launch(ranks: int) -> list[str]:
    return [sys.executable, "-m", "gluon_compress", "launch", "-n", str(ranks), "--"]


def fitted(way: str, groups: Sequence[Mapping[str, Any]]) -> Model:
    """Return the model of a way, of what was measured with all numbers of ranks."""
    rows = [
        {**row, "ranks": group["ranks"]}
        for group in groups
        if group["way"] == way
        for row in group["exchanges"]
    ]
    return Model.fitted(way, rows)


def predicted(
    models: Mapping[str, Model],
    groups: Sequence[Mapping[str, Any]],
    compute: Mapping[str, float],
) -> list[dict[str, Any]]:
    """Return a row for each training: what was measured, and what the model says."""
    rows = []
    for group in groups:
        way, ranks = group["way"], group["ranks"]
        for net in group["steps"]:
            seconds = compute[net["name"]]
            says = models[way].step(way, ranks, net["keys"], net["numbers"], seconds)
            work = ranks * net["worker"] + net["server"]
            rows.append(
                {
                    "way": way,
                    "ranks": ranks,
                    **net,
                    "compute": seconds,
                    "work": work,
                    "predicted": says["work"],
                    "error": says["work"] / work - 1,
                }
            )
    return rows


def facts_of(name: str, images: int) -> dict[str, Any]:
    """Return the hours and steps of a recipe, and the keys and numbers of its net."""
    from gluon_compress import models
    from gluon_compress.recipe import load_recipe

    recipe = load_recipe(ROOT / "model_zoo" / name / "recipe.json")
    classes = [str(number) for number in range(_classes(name))]
    options = (
        recipe.model.replace(trunk=None)
        if hasattr(recipe.model, "trunk")
        else (recipe.model)
    )
    net = models.build(
        recipe.model.name, classes, size=recipe.data.size, **options.build_options()
    )
    trained = [p for p in net.collect_params().values() if p.grad_req != "null"]
    steps = recipe.train.epochs * -(-images // recipe.train.batch_size)
    return {
        "name": name,
        "hours": recipe.hours,
        "steps": steps,
        "keys": len(trained),
        "numbers": sum(parameter.data().size for parameter in trained),
    }


def _classes(name: str) -> int:
    return next(n for end, n in CLASSES.items() if name.endswith(end))


CLASSES = {"_voc": 20, "_coco": 80, "_imagenet": 1000}


def accuracies(recipe: str, thresholds: Sequence[float]) -> dict[str, Any]:
    """Return the accuracy of a recipe's last stage by threshold; null is none."""
    from gluon_compress.recipe import load_recipe

    metric, rows = load_recipe(recipe).metric, []
    for threshold in (None, *thresholds):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            chosen = [] if threshold is None else ["--gradient-threshold", threshold]
            run = ["run", "--recipe", recipe, "--out", str(out), "--quiet"]
            subprocess.run([*_launch(2), *run, *map(str, chosen)], check=True)
            result = json.loads((out / "result.json").read_text())
            last = list(result["stages"].values())[-1]
            rows.append({"threshold": threshold, "accuracy": last[metric]})
    return {"recipe": recipe, "metric": metric, "rows": rows}


# ---------------------------------------------------------------- the page


def page_of(result: Mapping[str, Any]) -> str:
    """Return the page as Markdown, from the result alone."""
    models = {
        way: Model(Costs(**costs["worker"]), Costs(**costs["server"]))
        for way, costs in result["model"].items()
    }
    cores = result["cores"]
    plural = "s" if cores > 1 else ""
    source = f"{result['hardware']['cpu']}; commit {result['commit']}, "
    largest = max((abs(row["error"]) for row in result["steps"]), default=0.0)
    net = result["alone"][-1]
    parts = [
        INTRODUCTION.format(cores=cores, plural=plural, rounds=result["rounds"]),
        f"{source}{result['date'][:10]}.\n",
        MODEL,
        _costs(models),
        PREDICTED,
        f"The largest error is {largest:.0%}.\n",
        _steps(result["steps"]),
        EFFICIENCY.format(
            batch=net["batch"],
            net=net["name"],
            pixels=net["pixels"],
            ms=1e3 * net["worker"],
        ),
        _efficiencies(models, net),
        HOURS.format(gbits=RECIPE_GBITS),
        _hours(models, result["recipes"]),
    ]
    if "accuracy" in result:
        accuracy = result["accuracy"]
        parts += [THRESHOLDS.format(**accuracy), _accuracy(accuracy)]
    return "\n".join(parts)


def _costs(models: Mapping[str, Model]) -> str:
    head = ["way", "of", "a step, ms", "a key, µs", "a MB, ms", "bytes a number"]
    lines = []
    for way, model in models.items():
        for who in ("worker", "server"):
            costs = getattr(model, who)
            figures = (1e3 * costs.step, 1e6 * costs.key, 1e9 * costs.byte)
            size = f"{sum(BYTES[way]):g}"
            lines.append([way, who, *(f"{figure:.3g}" for figure in figures), size])
    return table(head, lines, text_columns=["way", "of"])


def _steps(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ["net", "way", "workers", "MB", "compute, ms", "work, ms", "predicted, ms"]
    head += ["error", "overhead, ms", "wall, ms"]
    lines = []
    for row in rows:
        overhead = row["work"] / row["ranks"] - row["compute"]
        lines.append(
            [
                row["name"],
                row["way"],
                str(row["ranks"]),
                f"{row['numbers'] * sum(BYTES[row['way']]) / 1e6:.1f}",
                f"{1e3 * row['compute']:.0f}",
                f"{1e3 * row['work']:.0f}",
                f"{1e3 * row['predicted']:.0f}",
                f"{row['error']:+.0%}",
                f"{1e3 * overhead:.0f}",
                f"{1e3 * row['wall']:.0f}",
            ]
        )
    return table(head, lines, text_columns=["net", "way"])


def _efficiencies(models: Mapping[str, Model], net: Mapping[str, Any]) -> str:
    head = ["way", "machines", *(f"{gbits} Gbit/s" for gbits in GBITS)]
    lines = []
    for way, model in models.items():
        for machines in MACHINES:
            sizes = (machines, net["keys"], net["numbers"], net["worker"])
            steps = [model.seconds(way, *sizes, gbits) for gbits in GBITS]
            shares = [f"{efficiency(net['worker'], step):.0%}" for step in steps]
            lines.append([way, str(machines), *shares])
    return table(head, lines)


def _hours(models: Mapping[str, Model], recipes: Sequence[Mapping[str, Any]]) -> str:
    head = ["recipe", "way", *(f"hours on {n}" for n in FEW_MACHINES)]
    lines = []
    for recipe in recipes:
        for way, model in models.items():
            spent = [hours(model, way, n, recipe, RECIPE_GBITS) for n in FEW_MACHINES]
            lines.append([recipe["name"], way, *(f"{h:.0f}" for h in spent)])
    return table(head, lines, text_columns=["recipe", "way"])


def _accuracy(accuracy: Mapping[str, Any]) -> str:
    lines = [
        ["none" if row["threshold"] is None else f"{row['threshold']:g}", _figure(row)]
        for row in accuracy["rows"]
    ]
    return table(["threshold", accuracy["metric"]], lines)


def _figure(row: Mapping[str, Any]) -> str:
    return "–" if row["accuracy"] is None else f"{row['accuracy']:.4f}"


COMMAND = Command(TEXT, _add_options, _benchmark)
