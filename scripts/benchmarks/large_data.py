"""Measures time and memory of opening, batching and evaluating large data sets."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import Any, Mapping

from benchmarks.large_sets import WRITERS
from gluon_compress.cli.app import Command
from gluon_compress.cli.options import above_0, add_out, write_result
from gluon_compress.markdown import table
from gluon_compress.provenance import ROOT
from gluon_compress.storage.atomic import draft_folder, read_json, write_atomically

TEXT = """Measure how large data sets are opened, batched and evaluated.

  %(prog)s --sets FOLDER --out docs/benchmark/large_data

Writes synthetic sets of tiny images into FOLDER unless they are there: 100,000 images
in VOC layout, 118,000 in COCO's format, 100,000 in folders of classes, and 1,000,000
records; 3 GB in all. Each step is measured in a process of its own. result.json is
written after each, and what it has of the same commit is not measured again. At the
end, large_data.md is written too, with a dash for what --only has left out. An earlier
version is measured and compared by

  %(prog)s --sets FOLDER --package CHECKOUT --out before
  %(prog)s --sets FOLDER --before before/result.json --out docs/benchmark/large_data
"""
PAGE, RESULT = "large_data.md", "result.json"
WORKER = Path(__file__).parent / "large_data_worker.py"
NAMES = {
    "record": "RecordIO",
    "folder": "folders of classes",
    "voc": "VOC layout",
    "coco": "COCO's format",
}
ALL = 1 << 40  # images
INTRODUCTION = """# Large data sets

Synthetic sets of tiny images, opened, batched and evaluated, each step in a process of
its own. *CPU s* are seconds of CPU time; files were in the system's cache, and a disk
or a network may add more. *MB* are the largest resident memory of the process, of which
about {imported:.0f} MB are those of a process that has only imported the package.
"""
OPENING = """## Opening

*First* reads every header and annotation and [keeps an index](../../large_data.md);
*again* finds that nothing has changed, and takes the index.
"""
BEFORE = """*Before* is commit {commit:.12}, which knows no index: each opening is the
first.
"""
BATCHING = """## Batches

{used:,} images of shuffled batches of 32, resized to 64 x 64 pixels, of a set that was
opened again: CPU time behind the opening, and the memory of both.
"""
EVALUATING = """## Evaluation of the COCO-sized set

`evaluate.precisions` with 100 detections an image from a stand-in for a detector, which
moves the objects and adds false ones: opening, decoding, resizing, and mAP at eleven
overlaps.
"""


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sets", required=True, metavar="FOLDER", help="of the sets")
    parser.add_argument(
        "--divide", type=above_0, default=1, metavar="N", help="sets by N, for a trial"
    )
    parser.add_argument(
        "--package", metavar="CHECKOUT", default=str(ROOT), help="default: this one"
    )
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="figures to measure, as 'voc first'"
    )
    parser.add_argument(
        "--parts", nargs="+", default=[], metavar="FILE", help="results of --only"
    )
    parser.add_argument(
        "--before", nargs="+", metavar="FILE", help="results of an earlier version"
    )
    parser.add_argument(
        "--few", type=above_0, default=1600, help="images of batches; default: 1600"
    )
    parser.add_argument(
        "--jobs", type=above_0, default=1, help="processes at once; default: 1"
    )
    add_out(parser, "figures", "settings", files=[PAGE])


def _benchmark(args: argparse.Namespace) -> None:
    """Write the sets, measure what is missing, and write both files."""
    for layout, (write, images) in WRITERS.items():
        folder = Path(args.sets, layout)
        if not folder.exists():
            with draft_folder(folder) as draft:
                write(draft / layout, max(1, images // args.divide))
                os.rename(draft / layout, folder)
    is_here = Path(args.package) == ROOT
    parts = _tasks(is_here, args.few)
    wanted = args.only or [name for tasks in parts for name in tasks]
    known = _known(args)["figures"]
    for tasks in parts:
        missing = {k: tasks[k] for k in tasks if k in wanted and k not in known}
        with ThreadPoolExecutor(args.jobs) as pool:
            made = pool.map(partial(measured, args), missing.items())
            for name, figures in zip(missing, made):
                content = _known(args)
                content["figures"][name] = figures
                write_result(args.out, content)
    path = write_result(args.out, _known(args))
    if is_here:
        page = page_of(json.loads(path.read_text(encoding="utf-8")))
        write_atomically(Path(args.out) / PAGE, page)
        print(page)


def _known(args: argparse.Namespace) -> dict[str, Any]:
    """Return the result so far: what was measured of the same commit."""
    command = ["git", "-C", args.package, "rev-parse", "HEAD"]
    commit = subprocess.check_output(command, text=True).strip()
    settings = {"package": commit, "divide": args.divide, "few": args.few}
    figures: dict[str, Any] = {}
    for file in (*args.parts, Path(args.out, RESULT)):
        if Path(file).exists():
            stored = read_json(file)
            if stored["settings"] == settings:
                figures.update(stored["figures"])
    content: dict[str, Any] = {"settings": settings, "figures": figures}
    if args.before:
        results = [read_json(file) for file in args.before]
        every = {k: v for each in results for k, v in each["figures"].items()}
        content["before"] = {"settings": results[0]["settings"], "figures": every}
    return content


def _tasks(is_here: bool, few: int) -> list[dict[str, tuple[str, str, int]]]:
    """Return layout, step and images by name; the second part needs the first's."""
    first = {f"{name} first": (name, "open", ALL) for name in NAMES}
    evaluate_few = {"evaluate few": ("coco", "evaluate", few)}
    if not is_here:
        return [{**first, **evaluate_few}]
    later = {f"{name} again": (name, "open", ALL) for name in NAMES}
    later.update({f"{name} batches": (name, "batch", few) for name in NAMES})
    return [first, {**later, **evaluate_few, "evaluate all": ("coco", "evaluate", ALL)}]


def measured(args: argparse.Namespace, task: tuple[str, tuple]) -> dict[str, Any]:
    """Return the figures of a step, done in a process of its own."""
    name, (layout, step, images) = task
    folder = Path(args.sets).resolve()
    indices = folder / "indices" / layout
    if name.endswith("first"):
        rmtree(indices, ignore_errors=True)
    variables = {"PYTHONPATH": args.package, "GLUON_COMPRESS_INDICES": str(indices)}
    done = subprocess.run(
        [sys.executable, WORKER, layout, folder / layout, step, str(images)],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        check=True,
        cwd=args.package,
    )
    print(name, done.stdout.decode().strip(), file=sys.stderr, flush=True)
    return json.loads(done.stdout)


def page_of(result: Mapping[str, Any]) -> str:
    """Return the page as Markdown, from the result alone."""
    figures = result["figures"]
    before = result.get("before", {"figures": {}})
    imported = max(each["imported_mb"] for each in figures.values())
    source = f"{result['hardware']['cpu']}; commit {result['settings']['package']}"
    parts = [
        INTRODUCTION.format(imported=imported),
        f"{source}, {result['date'][:10]}.\n",
        OPENING,
    ]
    if before["figures"]:
        parts.append(BEFORE.format(commit=before["settings"]["package"]))
    parts += [_opening(figures, before["figures"]), _batching(figures), EVALUATING]
    rows = [
        [when, f"{each['used']:,}", _number(each, "cpu"), _number(each, "peak_mb")]
        for when, of in (("before", before["figures"]), ("now", figures))
        for each in (of.get("evaluate few"), of.get("evaluate all"))
        if each
    ]
    parts.append(table(["", "images", "CPU s", "MB"], rows))
    return "\n".join(parts) + "\n"


def _opening(figures: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    rows, columns = [], {"first": figures, "again": figures}
    if before:
        columns = {"before": before, **columns}
    for name, text in NAMES.items():
        each = [
            of.get(f"{name} {when if of is figures else 'first'}", {})
            for when, of in columns.items()
        ]
        seconds = [_number(f, "cpu", 1) for f in each]
        memory = [_number(f, "peak_mb") for f in each]
        rows.append([text, _number(each[-1], "images"), *seconds, *memory])
    head = [f"{when}, {unit}" for unit in ("CPU s", "MB") for when in columns]
    return table(["set", "images", *head], rows) + "\n"


def _number(figures: Mapping[str, Any], key: str, digits: int = 0) -> str:
    """Return a figure as text; a dash if it was not measured."""
    return f"{figures[key]:,.{digits}f}" if figures else "–"


def _batching(figures: Mapping[str, Any]) -> str:
    rows, used = [], 0
    for name, text in NAMES.items():
        each = figures.get(f"{name} batches")
        if each:
            used = each["used"]
            ms = 1e3 * each["cpu_after_opening"] / used
            rows.append([text, f"{ms:.2f}", _number(each, "peak_mb")])
    head = BATCHING.format(used=used)
    return "\n".join([head, table(["set", "CPU ms an image", "MB"], rows), ""])


COMMAND = Command(TEXT, _add_options, _benchmark)
