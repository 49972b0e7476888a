"""Finds where MXNet's time goes in a head: form by form, operator by operator."""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any, Mapping, Sequence

from benchmarks.mxnet_forms import FORMS, KINDS, OTHER
from benchmarks.runner import Setting, in_process
from experiments.nets import TIMED
from gluon_compress.cli.app import Command
from gluon_compress.cli.options import above_0, add_out, write_result
from gluon_compress.markdown import table
from gluon_compress.provenance import cores
from gluon_compress.storage.atomic import write_atomically

TEXT = """Find where MXNet's time goes in a head: form by form, operator by operator.

  %(prog)s --out runs/mxnet --table runs/latency.json

Each form of a head adds one change to the one before; all take turns. MXNet's profiler
times each kind of operator in the first and the last form. With --table, a plan under a
budget in milliseconds is compared with one in MACs; missing entries of the table are
measured first. Writes result.json and mxnet.md. Let nothing else run on the machine.
"""
FIRST, LAST = "raw", "wide"
WORKER = "benchmarks.mxnet_forms"

INTRODUCTION = """# Where MXNet's time goes

Heads of SSD-300 for 20 classes, one image, as in [the benchmark](../benchmark.md). Each
form adds one change to the one above it. All forms took turns; times are medians.
Their spread is not known: a difference of a few per cent may be chance.
"""
OPERATORS = """## Operator by operator

Milliseconds per image from MXNet's profiler, running operators one at a time.
"""
BUDGETS = """## A budget in milliseconds

Two plans for the recipe of `compact_s`, with the same limit on bytes. One has its limit
on MACs. The other may take the milliseconds that a latency table predicts for the
first. Predictions are for the raw head.
"""

PAGE = "mxnet.md"


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "nets", nargs="*", metavar="NET", help="of benchmark.py, or a model"
    )
    add_out(parser, "forms", "budgets", files=[PAGE])
    parser.add_argument("--table", metavar="FILE", help="of latency, made or extended")
    parser.add_argument("--recipe", default="ssd_300_resnet50_v1d_compact_s")
    parser.add_argument("--threads", type=above_0, default=cores(), metavar="N")
    parser.add_argument("--seconds", type=above_0, default=60, help="for all forms")


def _benchmark(args: argparse.Namespace) -> None:
    """Time forms, profile operators, compare budgets, and write both files."""
    from gluon_compress.models import models_for

    names = [*TIMED, *models_for("detection")]
    unknown = sorted(set(args.nets) - set(names))
    if unknown:
        raise ValueError(f"{unknown[0]}: none of {', '.join(names)}")
    nets = args.nets or ["compact_s", "compact", "lite"]
    setting = Setting("mxnet", "float32", args.threads, 1)
    task = {"time": "forms", "nets": nets, "seconds": args.seconds}
    times = in_process(WORKER, setting, task)
    forms = {
        net: {form: statistics.median(ms) for form, ms in of_net.items()}
        for net, of_net in times.items()
    }
    operators = {
        net: {
            form: in_process(
                WORKER, setting, {"time": "operators", "net": net, "form": form}
            )
            for form in (FIRST, LAST)
        }
        for net in nets
    }
    budgets = []
    if args.table:
        file = str(Path(args.table).resolve())
        task = {"time": "budgets", "recipe": args.recipe, "table": file}
        budgets = in_process(WORKER, setting, task)
    measured = {"threads": args.threads, "forms": forms, "operators": operators}
    result = write_result(args.out, {**measured, "budgets": budgets})
    page = page_of(json.loads(result.read_text(encoding="utf-8")))
    write_atomically(Path(args.out) / PAGE, page)
    print(page)


# ---------------------------------------------------------------- the page


def page_of(result: Mapping[str, Any]) -> str:
    """Return the page as Markdown, from the result alone."""
    machine = f"{result['hardware']['cpu']}, {result['threads']} threads"
    source = f"{machine}; commit {result['commit']}, {result['date'][:10]}.\n"
    parts = [INTRODUCTION, source, "## Form by form\n", _forms(result["forms"])]
    parts += [OPERATORS, _operators(result["operators"])]
    if result["budgets"]:
        parts += [BUDGETS, _budgets(result["budgets"])]
    return "\n".join(parts)


def _forms(forms: Mapping[str, Mapping]) -> str:
    head = ("form", "", *(f"{net}, ms" for net in forms))
    lines = [
        [name, what, *(f"{ms[name]:.1f}" for ms in forms.values())]
        for name, what in FORMS.items()
    ]
    return table(head, lines)


def _operators(operators: Mapping[str, Mapping]) -> str:
    columns = [(net, form) for net, forms in operators.items() for form in forms]
    head = ("operators", *(f"{net}, {form}" for net, form in columns))
    lines = [
        [kind, *(f"{operators[net][form][kind]:.2f}" for net, form in columns)]
        for kind in (*KINDS, OTHER)
    ]
    return table(head, lines)


def _budgets(rows: Sequence[Mapping]) -> str:
    head = ("budget in", "GMACs", "MB", "predicted, ms", "raw, ms", "wide, ms")
    lines = [
        [
            row["budget"],
            f"{row['macs'] / 1e9:.3f}",
            f"{row['bytes'] / 1e6:.2f}",
            *(f"{row[key]:.1f}" for key in ("predicted_ms", "raw_ms", "wide_ms")),
        ]
        for row in rows
    ]
    return table(head, lines)


COMMAND = Command(TEXT, _add_options, _benchmark, writes=("table", "out"))
