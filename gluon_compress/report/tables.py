"""Tables of what was measured, as text for the terminal and cells for a page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Mapping, Sequence


@dataclass(frozen=True)
class Figures:
    """What is known of one net; None is shown as a dash.

    Parameters
    ----------
    name : str
    params, bytes, macs : float, optional
        Counts, as ``Cost`` has them.
    mAP, top1 : float, optional
        0 to 1.
    latency_ms : float, optional
        Median of one image.
    """

    name: str
    params: float | None = None
    bytes: float | None = None
    macs: float | None = None
    mAP: float | None = None  # noqa: N815  the name that everyone knows
    top1: float | None = None
    latency_ms: float | None = None


def cost_table(rows: Sequence[Figures]) -> str:
    """Return a Markdown table, aligned for the terminal: quantities down, nets across.

    The last column compares the last net with the first: shares of its cost, and the
    difference in accuracy. FLOPs are 2 x MACs, MB are 10^6 bytes.

    Raises
    ------
    ValueError
        If there is no net.
    """
    return _markdown(cost_cells(rows))


def precision_table(precisions: Mapping[str, Mapping[str, float]]) -> str:
    """Return a Markdown table of average precisions: classes down, nets across.

    Parameters
    ----------
    precisions : mapping
        Name of a net to what ``voc_map`` returned for it.

    Raises
    ------
    ValueError
        If there is no net.
    """
    if not precisions:
        raise ValueError("a table of precisions needs at least one net, there is none")
    return _markdown(precision_cells(precisions))


def precision_cells(precisions: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    """Return the table of precisions as rows of texts, the head first."""
    names = dict.fromkeys(n for values in precisions.values() for n in values)
    order = [*(name for name in names if name != "mAP"), "mAP"]
    return [
        ["class", *precisions],
        *([n, *(precision(v.get(n)) for v in precisions.values())] for n in order),
    ]


def _markdown(cells: Sequence[Sequence[str]]) -> str:
    cells = [[text.replace("|", "\\|") for text in row] for row in cells]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    rule = [":" + "-" * (widths[0] - 1), *("-" * (w - 1) + ":" for w in widths[1:])]
    return "\n".join(_markdown_row(row, widths) for row in (cells[0], rule, *cells[1:]))


def _markdown_row(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = cells
    padded = [first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(others, widths[1:]))]
    return f"| {' | '.join(padded)} |"


def cost_cells(rows: Sequence[Figures]) -> list[list[str]]:
    """Return the cost table as rows of texts, the head first."""
    if not rows:
        raise ValueError("a cost table needs at least one net, there is none")
    quantities = (
        ("Parameters, M", [_scaled(r.params, 1e-6) for r in rows]),
        ("Size, MB", [_scaled(r.bytes, 1e-6) for r in rows]),
        ("GMACs", [_scaled(r.macs, 1e-9) for r in rows]),
        ("GFLOPs", [_scaled(r.macs, 2e-9) for r in rows]),
        ("Latency, ms", [r.latency_ms for r in rows]),
    )
    body = [
        [name, *map(number, values), _share(values[-1], values[0])]
        for name, values in quantities
    ]
    for name, values in (
        ("mAP", [r.mAP for r in rows]),
        ("top-1", [r.top1 for r in rows]),
    ):
        body.append([name, *map(precision, values), _change(values[-1], values[0])])
    head = ["", *(r.name for r in rows), f"{rows[-1].name} vs {rows[0].name}"]
    known = [head, *(row for row in body if set(row[1:]) != {"–"})]
    return known if len(rows) > 1 else [row[:-1] for row in known]


def _known(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _scaled(value: float | None, factor: float) -> float | None:
    return value * factor if _known(value) else None


def number(value: float | None) -> str:
    """Return three digits of a figure, or a dash."""
    if not _known(value):
        return "–"
    size = abs(value)
    if size == 0 or size >= 99.95:
        return f"{value:,.0f}"
    decimals = 1 if size >= 9.995 else 2 - math.floor(math.log10(size))
    return f"{value:.{decimals}f}"


def precision(value: float | None) -> str:
    """Return a precision with three decimals, or a dash."""
    return f"{value:.3f}" if _known(value) else "–"


def _share(value: float | None, whole: float | None) -> str:
    return f"{100 * value / whole:.1f} %" if _known(value) and whole else "–"


def _change(value: float | None, before: float | None) -> str:
    if not (_known(value) and _known(before)):
        return "–"
    return f"{value - before:+.3f}".replace("-", "−")
