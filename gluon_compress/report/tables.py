"""Tables of what was measured, as text for the terminal and cells for a page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Mapping, Sequence

from gluon_compress.graph import Graph
from gluon_compress.plan import Plan, explain


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
    latency_ms: float | None = None
    top1: float | None = None


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


def plan_table(graph: Graph, plan: Plan) -> str:
    """Return a Markdown table of what a plan does to each group, and why it does not.

    Parameters
    ----------
    graph : Graph
    plan : Plan

    Returns
    -------
    str
        A line a group in the order of the network, with the numbers of
        ``plan.explain``, and one for the net.

    Raises
    ------
    ValueError
        If the plan does not fit the graph.
    """
    cells = plan_cells(explain(graph, plan))
    return _markdown(cells, words=("group", "why", "layers"))


def plan_cells(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the table of a plan as rows of texts, the head first."""
    measured = any(row.get("effect") is not None for row in rows)
    head = ["group", "width", "kept", *["effect"][: int(measured)]]
    head += ["MACs saved", "bytes saved", "why", "layers"]
    body = [
        [
            row["name"],
            f"{row['width']:,}",
            f"{row['kept']:,}",
            *[_effect(row)][: int(measured)],
            *(f"{100 * row[key]:.1f} %" for key in ("macs_saved", "bytes_saved")),
            why(row),
            ", ".join(row["layers"]),
        ]
        for row in rows
    ]
    width, kept, macs, stored = (
        sum(row[key] for row in rows)
        for key in ("width", "kept", "macs_saved", "bytes_saved")
    )
    shares = [f"{100 * share:.1f} %" for share in (macs, stored)]
    whole = sum(row["kept"] == row["width"] for row in rows)
    note = f"{whole} of {len(rows)} groups whole"
    sums = [f"{width:,}", f"{kept:,}", *[""][: int(measured)], *shares]
    return [head, *body, ["all", *sums, note, ""]]


def _effect(row: Mapping[str, Any]) -> str:
    """Return a group's effect in few digits, frozen groups have none."""
    value = row.get("effect")
    return "" if value is None else f"{value:.2g}"


def why(row: Mapping[str, Any]) -> str:
    """Return why a group lost nothing, or an empty text if it lost channels."""
    if row["frozen"]:
        return f"frozen: {row['frozen']}"
    whole = "kept whole" if row["kept"] == row["width"] else ""
    return row.get("held") or whole


def _markdown(
    cells: Sequence[Sequence[str]], words: Sequence[str] | None = None
) -> str:
    """Return a table; columns of words, by default the first, stand to the left."""
    cells = [[text.replace("|", "\\|") for text in row] for row in cells]
    left = [name in words if words else k == 0 for k, name in enumerate(cells[0])]
    widths = [max(len(row[k]) for row in cells) for k in range(len(left))]
    rule = [
        f":{'-' * (w - 1)}" if x else f"{'-' * (w - 1)}:" for w, x in zip(widths, left)
    ]
    lines = (cells[0], rule, *cells[1:])
    return "\n".join(_markdown_row(row, widths, left) for row in lines)


def _markdown_row(
    cells: Sequence[str], widths: Sequence[int], left: Sequence[bool]
) -> str:
    padded = (c.ljust(w) if x else c.rjust(w) for c, w, x in zip(cells, widths, left))
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
