"""Measures a pruned classifier before and after its weights are reconstructed."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

from gluon_compress.cli.app import Command
from gluon_compress.cli.options import above_0, add_out, share, write_result
from gluon_compress.markdown import table
from gluon_compress.storage.atomic import write_atomically

TEXT = """Measure what reconstruction saves of a pruned classifier, without training.

  %(prog)s --model runs/trunks/mobilenet1.0_imagenet --data imagenette \\
      --out docs/benchmark/reconstruction

Prunes a trained classifier to shares of its MACs, and measures its top-1 accuracy as
it was cut, with BatchNorm recalibrated, and with weights fitted to the full net: to
the inputs of the full net, as during a search, and to those of the slim one. With
--out, also writes result.json and reconstruction.md.
"""
PAGE = "reconstruction.md"
KINDS = ("cut", "recalibrated", "fitted", "reconstructed", "both")
HEAD = ("MACs", "selection", "cut", "recalibrated", "fitted in a search")
HEAD += ("reconstructed", "reconstructed, recalibrated", "CPU seconds")
INTRODUCTION = """# What reconstruction saves

Top-1 accuracy, per cent, of {model} at {size} pixels on {measured} images of
{data} val. The full net has {full:.1f}. Nothing is trained after the cut: channels are
chosen by `l1`, in multiples of {multiple}, and weights are fitted on {fitted} training
images, {points} places each.

- *recalibrated*: BatchNorm statistics are measured again.
- *fitted in a search*: `prune.WeightFitter`, which fits every layer to the inputs that
  it has in the full net.
- *reconstructed*: `gc.reconstruct`, which fits to the inputs that the slim net has.
- *CPU seconds*: of `gc.reconstruct`.
"""


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, metavar="FOLDER", help="of the net")
    parser.add_argument(
        "--data", required=True, metavar="DIR", help="train/CLASS/IMAGE and val/..."
    )
    parser.add_argument("--size", type=above_0, default=160, help="default: 160")
    parser.add_argument("--images", type=above_0, default=400, help="to measure on")
    parser.add_argument("--fit", type=above_0, default=400, help="images to fit on")
    parser.add_argument("--points", type=above_0, default=40)
    parser.add_argument("--multiple", type=above_0, default=8)
    parser.add_argument(
        "--shares", type=share, nargs="+", default=[0.7, 0.5], help="of the MACs"
    )
    parser.add_argument("--selections", nargs="+", default=["greedy", "uniform"])
    add_out(parser, "model", "rows", required=False, files=[PAGE])


def _benchmark(args: argparse.Namespace) -> None:
    """Prune, repair and measure, and print the table."""
    import gluon_compress as gc
    from gluon_compress import models
    from gluon_compress.plan import Constraints

    net = models.load(args.model)
    accuracy, batches = _data(args, net)
    graph = gc.trace(net, (1, 3, args.size, args.size))
    full, macs = accuracy(net), gc.count(graph).macs
    constraints, rows = Constraints(multiple=args.multiple), []
    for part in args.shares:
        for selection in args.selections:
            budget = gc.Budget(macs=part * macs)
            plan = gc.select(
                graph, budget, selection=selection, constraints=constraints
            )
            figures = _figures(net, graph, plan, accuracy, batches, args.points)
            rows.append({"share": part, "selection": selection, **figures})
            print(table_of(rows[-1:]))
    if args.out:
        settings = ("size", "images", "fit", "points", "multiple")
        content = {key: getattr(args, key) for key in settings}
        names = {"model": Path(args.model).name, "data": Path(args.data).name}
        content = {**names, **content, "full": full, "rows": rows}
        result = write_result(args.out, content)
        page = page_of(json.loads(result.read_text(encoding="utf-8")))
        write_atomically(Path(args.out) / PAGE, page)


def _data(args: argparse.Namespace, net: Any) -> tuple[Callable, list]:
    """Return what measures a net, and the batches to fit on."""
    from gluon_compress import data, top1
    from gluon_compress.data.folders import folder_of
    from gluon_compress.models import family_of

    root = folder_of(args.data)
    preprocess = family_of(net).preprocess(net)
    preprocess = preprocess.replace(height=args.size, width=args.size)

    def batches(split: str, count: int) -> list:
        images = data.draw_subset(data.ImageFolder(root / split), count)
        made = data.Batches(
            images,
            preprocess.sample,
            50,
            shuffle=False,
            normalized=preprocess.inputs,
        )
        return list(made.epoch(0))

    measured = batches("val", args.images)

    def accuracy(net: Any) -> float:
        net.hybridize(static_alloc=True)
        return top1(net, measured)

    return accuracy, batches("train", args.fit)


def _figures(
    net: Any,
    graph: Any,
    plan: Any,
    accuracy: Callable,
    batches: Sequence,
    points: int,
) -> dict[str, float]:
    """Return the accuracies after one cut, by kind of repair, and seconds."""
    import gluon_compress as gc
    from gluon_compress import prune

    slim = gc.slim(net, plan, graph=graph)
    fitter = prune.WeightFitter(net, batches, points=points, graph=graph)
    score = prune.PlanScore(net, accuracy, fitter=fitter, graph=graph)
    begun = time.process_time()
    fitted = gc.reconstruct(net, plan, batches, points=points, graph=graph)
    seconds = time.process_time() - begun
    return {
        "cut": accuracy(slim),
        "recalibrated": accuracy(gc.recalibrate(slim, batches)),
        "fitted": score(plan),
        "reconstructed": accuracy(fitted),
        "both": accuracy(gc.recalibrate(fitted, batches)),
        "cpu_seconds": seconds,
    }


def page_of(result: Mapping[str, Any]) -> str:
    """Return the page as Markdown, from the result alone."""
    hardware = result["hardware"]
    text = INTRODUCTION.format(
        model=f"`{result['model']}`",
        data=result["data"],
        size=result["size"],
        measured=result["images"],
        fitted=result["fit"],
        points=result["points"],
        multiple=result["multiple"],
        full=100 * result["full"],
    )
    source = f"{hardware['cpu']}; commit {result['commit']}, {result['date'][:10]}.\n"
    return "\n".join([text, source, table_of(result["rows"])])


def table_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of the accuracies."""
    lines = []
    for row in rows:
        figures = [f"{100 * row[kind]:.1f}" for kind in KINDS]
        macs = f"{100 * row['share']:.0f} %"
        lines.append([macs, row["selection"], *figures, f"{row['cpu_seconds']:.0f}"])
    return table(HEAD, lines)


COMMAND = Command(TEXT, _add_options, _benchmark)
