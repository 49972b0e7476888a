"""The page that says where MXNet's time goes, from its result alone."""

from __future__ import annotations

from typing import Mapping

from speed.forms import FORMS
from speed.operators import KINDS, OTHER
from tables import table

WORDS = """# Where MXNet's time goes

Heads of SSD-300 for 20 classes, one image, as in [the benchmark](../benchmark.md). Each
form has one change more than the one above it; all forms took turns, times are medians.
"""
OPERATORS = """## Operator by operator

Milliseconds an image by MXNet's profiler, with operators run one by one.
"""
BUDGETS = """## A budget in milliseconds

Two plans by the recipe of `compact_s`, at the same limit of bytes: one under its limit
of MACs, the other under the milliseconds that a table of layers predicts for the first.
What is predicted is the raw head.
"""


def page_of(result: Mapping) -> str:
    """Return the page as Markdown."""
    hardware = result["hardware"]
    where = f"{hardware['cpu']}, {result['threads']} threads"
    parts = [WORDS, f"{where}; commit {result['commit']}, {result['date'][:10]}.\n"]
    parts += ["## Form by form\n", _forms(result["forms"]), OPERATORS]
    parts.append(_operators(result["operators"]))
    if result["budgets"]:
        parts += [BUDGETS, _budgets(result["budgets"])]
    return "\n".join(parts)


def _forms(forms: Mapping) -> str:
    head = ("form", "", *(f"{net}, ms" for net in forms))
    lines = [
        [name, what, *(f"{ms[name]:.1f}" for ms in forms.values())]
        for name, what in FORMS.items()
    ]
    return table(head, lines)


def _operators(operators: Mapping) -> str:
    columns = [(net, form) for net, forms in operators.items() for form in forms]
    head = ("operators", *(f"{net}, {form}" for net, form in columns))
    lines = [
        [kind, *(f"{operators[net][form][kind]:.2f}" for net, form in columns)]
        for kind in (*KINDS, OTHER)
    ]
    return table(head, lines)


def _budgets(rows: list[Mapping]) -> str:
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
