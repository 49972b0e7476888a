"""Tables of measured figures: Markdown for the terminal, cells for the report page."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Callable, Mapping, Sequence

from typing_extensions import TypeGuard

from gluon_compress.graph import Graph
from gluon_compress.markdown import overlap, table
from gluon_compress.plan import Plan, explain

RUNTIME_NAMES = {"mxnet": "MXNet", "onnxruntime": "ONNX Runtime"}


@dataclass(frozen=True)
class Figures:
    """The measured figures of one net. None is shown as a dash.

    Parameters
    ----------
    name : str
    params, bytes, macs : float, optional
        Counts, as ``Cost`` has them.
    mAP, top1 : float, optional
        0 to 1.
    latency_ms : float, optional
        Median of one image.
    latency_range : tuple of float, optional
        Range of the middle 80 % of its times, ms.
    runtime : str
        What the latency was measured in, one of ``deployment.RUNTIMES``.
    others : mapping
        Further accuracies by name, 0 to 1.
    """

    name: str
    params: float | None = None
    bytes: float | None = None
    macs: float | None = None
    mAP: float | None = None  # noqa: N815  the name that everyone knows
    latency_ms: float | None = None
    latency_range: tuple[float, float] | None = None
    top1: float | None = None
    others: Mapping[str, float] = field(default_factory=dict)
    runtime: str = "mxnet"


def cost_table(rows: Sequence[Figures]) -> str:
    """Return the costs and accuracies of nets as a Markdown table, a column for each.

    The last column compares the last net with the first: its share of each cost, and
    the difference in accuracy. FLOPs are 2 x MACs, MB are 10^6 bytes. Where the ranges
    of two latencies overlap, or are not known, their comparison says so: it may be
    chance.

    Raises
    ------
    ValueError
        If there is no net.
    """
    return _markdown(cost_cells(rows))


def precision_table(precisions: Mapping[str, Mapping[str, float]]) -> str:
    """Return average precisions as a Markdown table: a row a class, a column a net.

    Parameters
    ----------
    precisions : mapping
        By name of the net, what ``voc_map`` returned.

    Raises
    ------
    ValueError
        If there is no net.
    """
    if not precisions:
        raise ValueError("a table of precisions needs at least one net, there is none")
    return _markdown(precision_cells(precisions))


def precision_cells(precisions: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    """Return the table of precisions as rows of text, the head first."""
    names = dict.fromkeys(n for values in precisions.values() for n in values)
    rows = [*(name for name in names if name != "mAP"), "mAP"]
    return [
        ["class", *precisions],
        *([n, *(precision(v.get(n)) for v in precisions.values())] for n in rows),
    ]


def plan_table(graph: Graph, plan: Plan) -> str:
    """Return a Markdown table of what a plan keeps of each group, and what it saves.

    Parameters
    ----------
    graph : Graph
    plan : Plan

    Returns
    -------
    str
        A row for each group, in the order of the network, with the numbers of
        ``plan.explain``; and a row for the net.

    Raises
    ------
    ValueError
        If the plan does not fit the graph.
    """
    return _markdown(plan_cells(explain(graph, plan)), ("group", "why", "layers"))


def _markdown(cells: Sequence[Sequence[str]], text_columns: Sequence[str] = ()) -> str:
    head, *body = cells
    return table(head, body, text_columns=text_columns or head[:1]).rstrip()


def plan_cells(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the table of a plan as rows of text, the head first."""
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "group": lambda row: row["name"],
        "width": lambda row: f"{row['width']:,}",
        "kept": lambda row: f"{row['kept']:,}",
        "effect": _effect,
        "MACs saved": lambda row: _percent(row["macs_saved"]),
        "bytes saved": lambda row: _percent(row["bytes_saved"]),
        "why": why,
        "layers": lambda row: ", ".join(row["layers"]),
    }
    if all(row.get("effect") is None for row in rows):
        del columns["effect"]
    untouched = sum(row["kept"] == row["width"] for row in rows)
    summed = ("width", "kept", "macs_saved", "bytes_saved")
    total: dict[str, Any] = {key: sum(row[key] for row in rows) for key in summed}
    total.update(name="all", frozen="", layers=())
    total_cells = {name: cell(total) for name, cell in columns.items()}
    total_cells["why"] = f"{untouched} of {len(rows)} groups whole"
    body = [[cell(row) for cell in columns.values()] for row in rows]
    return [list(columns), *body, list(total_cells.values())]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _effect(row: Mapping[str, Any]) -> str:
    """Return a group's effect in two digits; frozen groups have none."""
    value = row.get("effect")
    return "" if value is None else f"{value:.2g}"


def why(row: Mapping[str, Any]) -> str:
    """Return why a group lost nothing, or an empty text if it lost channels."""
    if row["frozen"]:
        return f"frozen: {row['frozen']}"
    return row.get("held") or ("kept whole" if row["kept"] == row["width"] else "")


def cost_cells(rows: Sequence[Figures]) -> list[list[str]]:
    """Return the cost table as rows of text, the head first."""
    if not rows:
        raise ValueError("a cost table needs at least one net, there is none")
    costs = {
        "Parameters, M": [_scaled(row.params, 1e-6) for row in rows],
        "Size, MB": [_scaled(row.bytes, 1e-6) for row in rows],
        "GMACs": [_scaled(row.macs, 1e-9) for row in rows],
        "GFLOPs": [_scaled(row.macs, 2e-9) for row in rows],
    }
    accuracies = {"mAP": [row.mAP for row in rows], "top-1": [row.top1 for row in rows]}
    for name in dict.fromkeys(name for row in rows for name in row.others):
        accuracies[name] = [row.others.get(name) for row in rows]
    cells = [["", *(row.name for row in rows), f"{rows[-1].name} vs {rows[0].name}"]]
    for name, values in costs.items():
        if any(map(_is_known, values)):
            cells.append([name, *map(number, values), _share(values[-1], values[0])])
    if any(_is_known(row.latency_ms) for row in rows):
        name = f"Latency in {RUNTIME_NAMES[rows[-1].runtime]}, ms"
        cells.append([name, *map(_latency, rows), _faster(rows[-1], rows[0])])
    for name, values in accuracies.items():
        if any(map(_is_known, values)):
            change = _change(values[-1], values[0])
            cells.append([name, *map(precision, values), change])
    return cells if len(rows) > 1 else [row[:-1] for row in cells]


def _latency(row: Figures) -> str:
    """Return a median and its range."""
    if row.latency_range is None:
        return number(row.latency_ms)
    low, high = map(number, row.latency_range)
    return f"{number(row.latency_ms)} ({low} to {high})"


def _faster(row: Figures, other: Figures) -> str:
    """Return the share of another net's latency, and whether that may be chance."""
    share = _share(row.latency_ms, other.latency_ms)
    ranges = [r for r in (row.latency_range, other.latency_range) if r is not None]
    if row is other or not (_is_known(row.latency_ms) and _is_known(other.latency_ms)):
        return share
    if len(ranges) < 2:
        return f"{share}, ranges unknown"
    return f"{share}, ranges overlap" if overlap(*ranges) else share


def _is_known(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _scaled(value: float | None, factor: float) -> float | None:
    return value * factor if _is_known(value) else None


def number(value: float | None) -> str:
    """Return a figure to three significant digits, or a dash."""
    if not _is_known(value):
        return "–"
    size = abs(value)
    if size == 0 or size >= 99.95:
        return f"{value:,.0f}"
    decimals = 1 if size >= 9.995 else 2 - math.floor(math.log10(size))
    return f"{value:.{decimals}f}"


def precision(value: float | None) -> str:
    """Return a precision to three decimals, or a dash."""
    return f"{value:.3f}" if _is_known(value) else "–"


def _share(value: float | None, reference: float | None) -> str:
    if _is_known(value) and _is_known(reference) and reference:
        return _percent(value / reference)
    return "–"


def _change(value: float | None, before: float | None) -> str:
    if not (_is_known(value) and _is_known(before)):
        return "–"
    return f"{value - before:+.3f}".replace("-", "−")
