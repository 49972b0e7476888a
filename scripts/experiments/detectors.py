"""Runs a set of experiments with detectors, and makes its page from result files."""

from __future__ import annotations

import argparse
import statistics
from functools import partial
from pathlib import Path
from typing import Any, Iterable, Mapping

from experiments.aims import aims_table, gains_table
from experiments.results import Groups, by_net, mean_of, results_of
from experiments.runner import add_options, carry_out
from experiments.sets import FILE, ZOO
from gluon_compress.cli.app import Command
from gluon_compress.markdown import percent, table
from gluon_compress.provenance import ROOT

TEXT = """Run a set of detector experiments, and write its page and plot.

  %(prog)s bccd --out runs/bccd                      # all that are missing
  %(prog)s bccd --out runs/bccd --only 'full_*'
  %(prog)s bccd --out runs/bccd --workers 2          # two at a time
  %(prog)s bccd --out runs/bccd --scheduler tcp://node1:8786
  %(prog)s bccd                                      # only page and plot

The experiments are listed in model_zoo/SET/experiments.json. Missing prerequisites run
first. Each result.json and plan goes to model_zoo/SET/NAME. docs/SET.md and SET.png are
made only from these files and a text template.
"""
PAGES = {path.stem: path for path in (Path(__file__).parent / "pages").glob("*.md")}
MARK = "<!-- results -->"  # where tables come into a page's text
HEAD = (
    *("net", "seeds", "GMACs", "MB", "mAP at 0.5", "range", "mAP at 0.5:0.95"),
    "worst class",
)
FIGURES = {"mAP at 0.5": "mAP", "at 0.5:0.95": "voc_mAP_50_95"}
# (net, net, least difference of their mAP at IoU 0.5 in points; 0: any above it).
AIMS = (
    ("compact_distilled", "mobilenet", 3.2),
    ("compact_distilled", "lite", 3.2),
    ("compact_distilled", "full", -1.0),
    ("compact_distilled", "mobilenet_again", 3.2),
    ("compact_distilled", "lite_again", 3.2),
    ("compact_distilled", "full_again", -1.0),
    ("compact_s_distilled", "mobilenet", 0.0),
    ("compact_s_distilled", "lite", 0.0),
    ("compact_s_distilled", "mobilenet_again", 0.0),
    ("compact_s_distilled", "lite_again", 0.0),
    ("compact_distilled", "compact_tuned", 0.0),
    ("compact_s_distilled", "compact_s_tuned", 0.0),
    ("refinedetlite_strategies", "refinedetlite", 1.0),
    ("compact_strategies", "compact_tuned", 1.0),
    ("imagenet_compact_s", "imagenet_mobilenet_again", 0.0),
    ("imagenet_compact_s", "imagenet_lite_again", 0.0),
    ("imagenet_refinedetlite", "imagenet_mobilenet", 0.0),
    ("imagenet_refinedetlite_strategies", "imagenet_refinedetlite", 1.0),
    ("imagenet_compact_s_strategies", "imagenet_compact_s", 1.0),
    ("ladder_depthwise", "ladder_full", -1.5),
    ("codenet_a_w4a8", "ladder_depthwise", -2.0),
    ("codenet_c_w4a8", "codenet_c", -2.0),
    ("codenet_d_w4a8", "codenet_d", -2.0),
    ("ssd_ghnd_3", "ssd_teacher", -1.5),
    ("ssd_ghnd_3_short", "ssd_teacher", -1.5),
    ("rcnn_ghnd_3", "rcnn_teacher", -1.5),
    ("compact_s_int8", "compact_s", -0.3),
    ("compact_int8", "compact", -0.3),
    ("mobilenet_int8", "mobilenet", -0.3),
    ("compact_s_w4a8", "compact_s", -1.5),
    ("compact_w4a8", "compact", -1.5),
    ("mobilenet_w4a8", "mobilenet", -1.5),
)
STRATEGIES = ("iou_guided", "class_weights", "balance", "strategies")
# What fits a pattern is compared with the net that lacks what sets it apart.
BASES = {
    "full_again": "mobilenet_again",
    "compact_trunk_first": "compact_distilled",
    "compact_s_trunk_first": "compact_s_distilled",
    "compact_trunk_first_short": "compact_distilled",
    "compact_distilled": "compact_self_taught",
    "compact_s_distilled": "compact_s_self_taught",
    "compact_self_taught": "compact_tuned",
    "compact_s_self_taught": "compact_s_tuned",
    "compact_scratch": "compact_tuned",
    "compact_s_scratch": "compact_s_tuned",
    "ablation_two_teachers": "ablation_outputs",
    "ablation_*": "imagenet_compact_s",
    "refinedetlite_mobilenet": "mobilenet",
    "refinedetlite_*": "refinedetlite",
    **{f"compact_{name}": "compact_tuned" for name in STRATEGIES},
    "imagenet_refinedetlite_*": "imagenet_refinedetlite",
    "imagenet_compact_s_*": "imagenet_compact_s",
    "losses_*": "losses_none",
    "keep_*": "losses_scores_boxes_features",
    "ladder_bounded": "ladder_full",
    "ladder_square": "ladder_bounded",
    "ladder_integer": "ladder_square",
    "ladder_depthwise": "ladder_integer",
    "codenet_a_w4a8": "ladder_depthwise",
    "codenet_c_w4a8": "codenet_c",
    "codenet_d_w4a8": "codenet_d",
    "ssd_hnd_*": "ssd_teacher",
    "ssd_ghnd_*": "ssd_teacher",
    "rcnn_hnd_*": "rcnn_teacher",
    "rcnn_ghnd_*": "rcnn_teacher",
}
SENT = """## What is sent

Mean bytes of a validation image as the tensor at the cut, packed and compressed, and as
a JPEG file of quality 95: as the net's input shows it, and as the image itself.
"""
FILTERED = """## Neural filters

Measured on the validation images with the threshold that was chosen on them.
"""
BEFORE = """## Before training

mAP at 0.5 with quantisers or masks alone, and after the training that follows; MB of
quantised weights with their scales, or of all parameters without those that are zero.
"""
WHILE_TRAINING = """## During training

mAP at 0.5 on the test images after each number of epochs of the last stage, averaged
over the seeds. The tables above always show the net of the last epoch.
"""


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser)
    parser.add_argument("set", choices=sorted(PAGES), help="folder of model_zoo")


def _run(args: argparse.Namespace) -> None:
    """Run what has no result yet, then write or check the page."""
    from gluon_compress import report

    folder, target = ZOO / args.set, ROOT / "docs" / f"{args.set}.md"
    text = PAGES[args.set].read_text(encoding="utf-8")
    carry_out(folder, target, partial(page, text=text), args)
    points = [report.Point(*point) for point in points_of(folder)]
    if points and not args.check:
        report.pareto(points, target.with_suffix(".png"), value="mAP at 0.5, %")


# ---------------------------------------------------------------- the page


def page(folder: Path, text: str) -> str:
    """Return the page as Markdown; an experiment without a result is named as such."""
    groups = by_net(results_of(folder))
    listed = sorted(groups.items(), key=_costliest_first)
    rows = [_row(folder, net, list(seeds.values())) for net, seeds in listed]
    has_plot = any(any(seeds.values()) for _, seeds in listed)
    tables = [
        table(HEAD, rows),
        f"![mAP against GMACs]({folder.name}.png)\n" if has_plot else "",
        *aims_table(groups, AIMS, FIGURES),
        *gains_table(groups, BASES, FIGURES),
        *_before(dict(listed)),
        *_sent(dict(listed)),
        *_filtered(dict(listed)),
        *_while_training(dict(listed)),
    ]
    return text.replace(MARK, "\n".join(tables).rstrip("\n"))


def points_of(folder: Path) -> list[tuple[str, float, float]]:
    """Return name, GMACs and mean mAP of each net that has a result."""
    points = []
    for net, seeds in by_net(results_of(folder)).items():
        macs, precision = (mean_of(seeds.values(), key) for key in ("macs", "mAP"))
        if macs is not None and precision is not None:
            points.append((net, macs / 1e9, 100 * precision))
    return points


def _costliest_first(group: tuple[str, Mapping[int, Any]]) -> tuple:
    """Return what orders a table: by MACs, then by mAP, last what was not run."""
    net, seeds = group
    macs, precision = (mean_of(seeds.values(), key) for key in ("macs", "mAP"))
    if macs is None or precision is None:
        return (1, net)
    return (0, -macs, -precision, net)


def _row(folder: Path, net: str, stages: list) -> list[str]:
    link = f"[{net}](../model_zoo/{folder.name}/{FILE})"
    done = [stage for stage in stages if stage]
    if not done:
        return [link, f"0 of {len(stages)}", *[""] * (len(HEAD) - 3), "not run yet"]
    values = [stage["mAP"] for stage in done]
    count = str(len(done))
    if len(done) < len(stages):
        count += f" of {len(stages)}"
    macs, size = (statistics.mean(s[key] for s in done) for key in ("macs", "bytes"))
    return [
        link,
        count,
        f"{macs / 1e9:.3f}",
        f"{size / 1e6:.2f}",
        percent(statistics.mean(values)),
        percent(max(values) - min(values)) if len(values) > 1 else "–",
        percent(mean_of(done, "voc_mAP_50_95")),
        _worst_class(done),
    ]


def _worst_class(stages: list) -> str:
    """Return the class that is found worst, and its mean precision."""
    names = [name for name, value in stages[0]["classes"].items() if value is not None]
    means = {
        name: statistics.mean(stage["classes"][name] for stage in stages)
        for name in names
    }
    worst = min(means, key=means.__getitem__)
    return f"{worst} {percent(means[worst])}"


def _before(groups: Groups) -> list[str]:
    """Return the part of a page on what quantisers or masks do without training."""
    rows = []
    for net, seeds in groups.items():
        done = [stage for stage in seeds.values() if stage and _stored(stage)]
        if done:
            before = [stage.get("before_training") for stage in done]
            means = [mean_of(before, "mAP") if all(before) else None]
            means.append(mean_of(done, "mAP"))
            size = statistics.mean(map(_stored, done)) / 1e6
            rows.append([net, *map(percent, means), f"{size:.2f}"])
    head = ("net", "before", "after", "MB")
    return [BEFORE, table(head, rows)] if rows else []


def _stored(stage: Mapping[str, Any]) -> int:
    """Return the bytes of weights in few bits, or without their zeros; else 0."""
    sparse = stage.get("sparsity", {})
    return stage.get("weight_bytes", sparse.get("packed_bytes", 0))


def _sent(groups: Groups) -> list[str]:
    """Return the part of a page on the bytes that halves of a net exchange."""
    head = ("net", "tensor", "packed", "deflate", "JPEG of input", "JPEG of image")
    head = (*head, "deflate / JPEG of input", "deflate / JPEG of image")
    rows = []
    for net, seeds in groups.items():
        stage = next((s for s in seeds.values() if s and "sent" in s), None)
        if stage is not None:
            sent = stage["sent"]
            size, jpegs = sent["deflate"], (sent["jpeg_of_input"], sent["jpeg"])
            shape = " x ".join(map(str, stage["tensor"]["shape"]))
            sizes = (sent["none"], size, *jpegs)
            shares = (f"{100 * size / jpeg:.1f} %" for jpeg in jpegs)
            rows.append((net, shape, *(f"{n:,.0f}" for n in sizes), *shares))
    return [SENT, table(head, rows)] if rows else []


def _filtered(groups: Groups) -> list[str]:
    """Return the part of a page on neural filters."""
    rows = []
    for net, seeds in groups.items():
        stage = next((s for s in seeds.values() if s and "filter" in s), None)
        if stage is not None:
            facts = stage["filter"]
            shares = (percent(facts[key]) for key in ("recall", "precision", "sent"))
            rows.append((net, f"{facts['threshold']:.4f}", *shares))
    head = ("net", "threshold", "recall", "precision", "images sent")
    return [FILTERED, table(head, rows)] if rows else []


def _while_training(groups: Groups) -> list[str]:
    """Return the part of a page that shows each net's mAP as it was trained."""
    curves = {}
    for net, seeds in groups.items():
        measured = [stage.get("validated") for stage in seeds.values() if stage]
        if measured and all(measured):
            curves[net] = _mean_curve(measured)
    epochs = sorted({epoch for curve in curves.values() for epoch in curve})
    rows = [[n, *(percent(c.get(e)) for e in epochs)] for n, c in curves.items()]
    return [WHILE_TRAINING, table(("net", *map(str, epochs)), rows)] if rows else []


def _mean_curve(curves: Iterable[Mapping[str, float]]) -> dict[int, float]:
    """Return the mean of curves at the epochs that all have."""
    first, *others = curves
    shared = [epoch for epoch in first if all(epoch in other for other in others)]
    count = 1 + len(others)
    return {int(e): sum(c[e] for c in (first, *others)) / count for e in shared}


# Several processes may share the experiments of a folder; each run has one writer.
COMMAND = Command(TEXT, _add_options, _run, writes=())
