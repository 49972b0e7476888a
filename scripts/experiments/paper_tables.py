"""Writes the paper's tables: published figures, and ours beside them, never mixed."""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

from experiments import results
from experiments.costs import check_plans, counted
from experiments.nets import NETS, SETS, Net
from experiments.results import by_net, mean_of, results_of
from experiments.runner import write_or_check
from gluon_compress.cli.app import Command
from gluon_compress.cli.options import write_result
from gluon_compress.markdown import overlap, percent, table
from gluon_compress.provenance import ROOT
from gluon_compress.storage.atomic import read_json

TEXT = """Write the paper's tables: published figures, and ours, apart.

  %(prog)s             # docs/reproduce.md and README's table
  %(prog)s --check     # fails if they are stale
  %(prog)s --count     # first counts the costs of the nets, and records the
                       # checksum of published.json

Reads only files: model_zoo/published.json, the result files of the experiments and of
the benchmark, and model_zoo/costs/result.json. Fails if one is missing or altered.
"""
NOT_HERE = "not measured here"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
COST = ("MB", "GMACs", "GFLOPs")
PUBLISHED = ("detector, as published", "params, M", "MB", "“FLOPs”, G")
PUBLISHED += ("mAP, VOC07 test", "source")
OURS = ("detector, ours", *COST, "mAP, VOC07 test", "mAP, BCCD test")
OURS += ("mAP, FOD test10",)
THEIRS = ("classifier, as published", *COST, "top-1, ImageNet val", "source")
PRUNED = ("classifier, ours", *COST, "top-1, ImageNet val", "top-1, Imagenette val")
CLASSIFIERS = ("resnet50_v1d", "mobilenet1.0", "48_structure", "48_bn_scale_early")
CLASSIFIERS += ("trunk_compact", "trunk_compact_s")
# README's table: the setting of the benchmark that its milliseconds are of.
SETTING = {"runtime": "openvino", "precision": "float32", "threads": 2, "batch": 1}
SHORT = ("detector", "MB", "GMACs", "ms, OpenVINO", "mAP, BCCD test")

INTRODUCTION = """# The paper's tables

Published figures and ours are in separate tables, and no accuracy column mixes them:
the published nets were trained on Pascal VOC and ImageNet, which were not available to
us. Our sizes are those of float32 parameters; one GMAC is two GFLOPs. Published figures
are quoted as in their sources.

`scripts/reproduce_tables.py` makes this page from the result files in `model_zoo/`.
Their checksums are recorded when a run writes them. The script fails if a file is
missing or altered.
"""
ABOUT_DETECTORS = """\
The paper's abstract states neither the data set of its mAP nor what its FLOPS count:
[paper_vs_code.md](paper_vs_code.md). More nets, seeds and ranges: [bccd.md](bccd.md),
[fod.md](fod.md).
"""
NOTES = """\
Published “FLOPs” are not comparable: papers count differently and rarely say how. The
figure published for the classic MobileNet-SSD matches our GMACs. Our sizes and MACs are
for 20 classes at 300 × 300 pixels, whatever data the mAP is measured on.

Compact nets are pruned from a trained full detector and then train for as many epochs
again. The rows "trained as long as compact" show what the longer training alone gains.
The full detector in these rows is the teacher.

{widths}

FOD test10 contains the test images of ten of its classes. Do not subtract means taken
over different seeds; the page of each data set compares seed by seed.
"""
WIDTHS = """\
MB and GMACs of the compact nets are those of the plans in `model_zoo/`. The nets whose
mAP is shown were pruned by their trained weights to the same limits. They have as many
MACs but fewer bytes: with 20 classes, {}."""


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check", action="store_true", help="only compare")
    parser.add_argument("--count", action="store_true", help="costs and published.json")
    parser.add_argument("--root", default=ROOT, metavar="DIR", help="of the project")


def _run(args: argparse.Namespace) -> None:
    """Check the results, make both texts, and write or compare them."""
    root = Path(args.root)
    zoo = root / "model_zoo"
    if args.count:
        result = write_result(zoo / "costs", counted(zoo))
        results.note(zoo, result, zoo / results.PUBLISHED)
    results.check(zoo)
    costs = read_json(zoo / "costs" / "result.json")
    check_plans(zoo, costs)
    page = page_of(zoo, costs, read_json(zoo / results.PUBLISHED))
    write_or_check(root / "docs" / "reproduce.md", page, check=args.check)
    readme = root / "README.md"
    timed = read_json(root / "docs" / "benchmark" / "result.json")["rows"]
    short = short_table(costs["detectors"], results_of(zoo / "bccd"), timed)
    text = readme_of(readme.read_text(encoding="utf-8"), short)
    write_or_check(readme, text, check=args.check)


# ---------------------------------------------------------------- docs/reproduce.md


def page_of(zoo: Path, costs: Mapping, published: Mapping[str, Any]) -> str:
    """Return docs/reproduce.md."""
    theirs = [_published_detector(row) for row in published["detectors"]]
    sets = [results_of(zoo / name) for name in SETS]
    ours = [
        row
        for name, net in NETS.items()
        for row in _own_detector(net, costs["detectors"][name], sets)
    ]
    classifiers = [
        _published_classifier(row, costs["classifiers"][row["name"]])
        for row in published["classifiers"]
    ]
    pruned = results_of(zoo / "imagenette")
    return "\n".join(
        [
            INTRODUCTION,
            "## Detectors\n",
            table(PUBLISHED, theirs),
            table(OURS, ours),
            NOTES.format(widths=_widths(costs["measured"])),
            ABOUT_DETECTORS,
            "## Backbones\n",
            "At 224 × 224 pixels and 1,000 classes. We counted sizes and MACs:\n",
            table(THEIRS, classifiers),
            "At 96 × 96 pixels and 10 classes, from [imagenette.md](imagenette.md):\n",
            table(PRUNED, [_own_classifier(name, pruned) for name in CLASSIFIERS]),
        ]
    )


def _widths(costs: Mapping[str, Mapping]) -> str:
    """Say how large the nets are whose accuracy stands in rows of a committed plan."""
    ranges = []
    for name, net in NETS.items():
        sizes = [
            cost["bytes"] / 1e6
            for path, cost in costs.items()
            if path.split("/")[1].startswith(net.experiment)
        ]
        if net.plan:
            ranges.append(f"{min(sizes):.1f} to {max(sizes):.1f} MB ({name})")
    return WIDTHS.format(" and ".join(ranges))


def _own_detector(net: Net, cost: Mapping, sets: Sequence[Mapping]) -> Iterator[list]:
    """Return the rows of a detector of ours: its cost, and its mAP on each set."""
    rows = {net.experiment: net.words}
    if net.longer:
        rows[net.longer] = f"{net.words}, trained as long as compact"
    for experiment, words in rows.items():
        measured = [_precision(by_net(of_set), experiment) for of_set in sets]
        yield [words, *_own_cost(cost), NOT_HERE, *measured]


def _precision(groups: results.Groups, experiment: str) -> str:
    stages = list(groups.get(experiment, {}).values())
    done, total = sum(map(bool, stages)), len(stages)
    count = f"{done} of {total}" if done < total else f"{done}"
    seeds = f", {count} seed{'s' * (total > 1)}" if done else ""
    return _accuracy(stages, "mAP") + seeds


def _own_classifier(name: str, experiments: Mapping[str, Any]) -> list[str]:
    """Return the cells of a classifier of an experiment."""
    (stage,) = by_net({name: experiments[name]})[name].values()
    cost = _own_cost(stage) if stage else [""] * len(COST)
    return [name, *cost, NOT_HERE, _accuracy([stage], "top1")]


def _accuracy(stages: Sequence, key: str) -> str:
    if not stages:
        return NOT_HERE
    return percent(mean_of(stages, key)) if any(stages) else "not run yet"


def _own_cost(cost: Mapping) -> list[str]:
    """Return size and work as they were counted."""
    macs = cost["macs"]
    return [f"{cost['bytes'] / 1e6:.2f}", f"{macs / 1e9:.3f}", f"{2 * macs / 1e9:.3f}"]


def _published_detector(row: Mapping[str, Any]) -> list[str]:
    data = "" if row["data"] == "VOC07 test" else f" ({row['data']})"
    value = f"{row['mAP']:.1f}{data}"
    return [row["name"], *_published_cost(row), value, row["source"]]


def _published_classifier(row: Mapping[str, Any], cost: Mapping) -> list[str]:
    return [row["name"], *_own_cost(cost), f"{row['top1']:.2f}", row["source"]]


def _published_cost(row: Mapping[str, Any]) -> list[str]:
    """Return size and work as they were published, a dash where they were not."""
    units = {"params": (1e6, 2), "bytes": (1e6, 1), "flops": (1e9, 2)}
    return [
        f"{row[key] / unit:.{digits}f}" if key in row else "–"
        for key, (unit, digits) in units.items()
    ]


# ---------------------------------------------------------------- README


def short_table(costs: Mapping, bccd: Mapping[str, Any], timed: Sequence) -> str:
    """Return what a user chooses between: size, work, time and accuracy.

    All nets have been trained for as many epochs in all: those that are not compact are
    the ones that were trained again.
    """
    times = {
        row["net"]: row
        for row in timed
        if all(row[key] == value for key, value in SETTING.items())
    }
    groups, rows = by_net(bccd), []
    for name, net in NETS.items():
        size, work, _ = _own_cost(costs[name])
        stages = list(groups.get(net.longer or net.experiment, {}).values())
        ms = f"{times[name]['ms']:.1f}"
        rows.append([net.words, size, work, ms, _accuracy(stages, "mAP")])
    return table(SHORT, rows) + _overlaps(times)


def _overlaps(times: Mapping[str, Mapping]) -> str:
    """Return a paragraph on the nets whose times do not tell which is faster."""
    pairs = [
        f"*{NETS[one].words}* and *{NETS[other].words}*"
        for one, other in combinations(NETS, 2)
        if overlap(times[one]["ms_quartiles"], times[other]["ms_quartiles"])
    ]
    if not pairs:
        return ""
    return f"\nToo close in time to tell which is faster: {'; '.join(pairs)}.\n"


def readme_of(text: str, short: str) -> str:
    """Return README's text with the table between its marks.

    Raises
    ------
    ValueError
        If the marks are missing.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"README.md: has no {BEGIN} and {END}")
    return f"{before}{begin}\n\n{short}\n{end}{after}"


COMMAND = Command(TEXT, _add_options, _run)
