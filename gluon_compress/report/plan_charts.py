"""Charts of a pruning plan and of a sensitivity analysis, by channel group."""

from __future__ import annotations

import math
import os
from typing import Any, Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from gluon_compress.graph import Graph
from gluon_compress.plan import Plan, Sensitivity, explain
from gluon_compress.report.charts import FROZEN, GONE, KEPT, LINES, STYLE, save_figure
from gluon_compress.report.tables import why

PROTECTED = "#c8963e"
MACS, BYTES = "#1d8a5f", "#8fcfb5"
LEGEND = (
    ("kept", KEPT),
    ("protected", PROTECTED),
    ("frozen", FROZEN),
    ("removed", GONE),
)
SAVINGS = (("macs_saved", "MACs saved", MACS), ("bytes_saved", "bytes saved", BYTES))


def plan_chart(graph: Graph, plan: Plan, path: str | os.PathLike) -> None:
    """Draw how much of each channel group a plan keeps, and what that saves.

    Parameters
    ----------
    graph : Graph
    plan : Plan
    path : path
        The PNG file.

    Raises
    ------
    ValueError
        If the plan does not fit the graph, or the graph has no groups.
    """
    kept_chart(explain(graph, plan), path, title=plan.net)


@matplotlib.rc_context(STYLE)
def kept_chart(
    rows: Sequence[Mapping[str, Any]], path: str | os.PathLike, *, title: str
) -> None:
    """Draw the chart of a plan from the rows of a ``result.json``.

    The left panel shows the share of channels that each group keeps, in the order of
    the network. The right panel shows the group's share of the MACs and bytes that the
    plan saves, or why nothing was removed from it.

    Parameters
    ----------
    rows : sequence of mappings
        As ``plan.explain`` returns them. ``held``, ``macs_saved`` and ``bytes_saved``
        are optional.
    path : path
        The PNG file.
    title : str
        The name of the net; the total number of channels is added.

    Raises
    ------
    ValueError
        If there is no row.
    """
    if not rows:
        raise ValueError("a plan chart needs at least one channel group, there is none")
    figure = Figure(figsize=(11.4, 1.9 + 0.235 * len(rows)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2.6))
    names = [row["name"] for row in rows]
    prefix = common_prefix(names)
    _kept_bars(left, rows)
    _saved_bars(right, rows)
    shown = [shortened(name[len(prefix) :]) for name in names]
    left.set_yticks(range(len(rows)), shown, fontsize=9)
    left.set_ylim(len(rows) - 0.4, -0.6)
    for axes in (left, right):
        axes.tick_params(axis="y", length=0)
        axes.grid(False, axis="y")
    if prefix:
        left.set_title(f"groups {prefix}…", loc="left", fontsize=9, color="#555555")
    _legend(figure, rows)
    kept, width = (sum(row[key] for row in rows) for key in ("kept", "width"))
    untouched = sum(row["kept"] == row["width"] for row in rows)
    total = f"{kept:,} of {width:,} channels kept in {len(rows)} groups"
    total += f", {untouched} of them whole" if untouched else ""
    figure.suptitle(f"{title}: {total}" if title else total, fontsize=12)
    save_figure(figure, path)


def _legend(figure: Figure, rows: Sequence[Mapping[str, Any]]) -> None:
    inks = {_ink(row) for row in rows} | {GONE}
    shown = [Patch(color=ink, label=name) for name, ink in LEGEND if ink in inks]
    for key, name, ink in SAVINGS:
        if any(key in row for row in rows):
            shown.append(Patch(color=ink, label=name))
    figure.legend(
        handles=shown, loc="outside lower center", ncols=len(shown), fontsize=9
    )


def _ink(row: Mapping[str, Any]) -> str:
    if row["frozen"]:
        return FROZEN
    return PROTECTED if row.get("held") else KEPT


def _kept_bars(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    rows_of_bars = range(len(rows))
    axes.barh(rows_of_bars, [100] * len(rows), color=GONE, height=0.78)
    shares = [100 * row["kept"] / row["width"] for row in rows]
    axes.barh(rows_of_bars, shares, color=[_ink(row) for row in rows], height=0.78)
    for y, row in enumerate(rows):
        text = f"{row['kept']} / {row['width']}"
        axes.text(101, y, text, va="center", fontsize=9)
    axes.set_xlim(0, 100)
    axes.set_xlabel("channels kept, %  (right: kept / width)")


def _saved_bars(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw each group's share of what is saved, or write why it saves nothing."""
    largest = max(row.get(key, 0.0) for row in rows for key, *_ in SAVINGS)
    reach = max(100 * largest, 1.0)
    for offset, (key, _, ink) in zip((-0.2, 0.2), SAVINGS):
        shares = [100 * row.get(key, 0.0) for row in rows]
        centres = [y + offset for y in range(len(rows))]
        axes.barh(centres, shares, color=ink, height=0.36)
    for y, row in enumerate(rows):
        reason = why(row)
        bar = max(row.get(key, 0.0) for key, *_ in SAVINGS)
        if reason:
            x = 100 * bar + 0.01 * reach
            text = shortened(reason, 62)
            axes.text(x, y, text, va="center", fontsize=8, color="#555555")
    axes.set_xlim(0, 1.04 * reach)
    axes.set_xlabel("share of what the plan saves, %")


@matplotlib.rc_context(STYLE)
def sensitivity_chart(sensitivity: Sensitivity, path: str | os.PathLike) -> None:
    """Draw accuracy against the share of channels kept, in one panel for each group.

    Panels share their axes and follow the order of the network. The grey line is the
    accuracy of the full net. The sixth of the groups that lose most accuracy at their
    narrowest is orange.

    Parameters
    ----------
    sensitivity : Sensitivity
    path : path
        The PNG file.

    Raises
    ------
    ValueError
        If no group was measured.
    """
    if not sensitivity.curves:
        raise ValueError(
            "a chart of sensitivity needs at least one curve, there is none"
        )
    names = list(sensitivity.curves)
    prefix, columns = common_prefix(names), min(6, len(names))
    lines = math.ceil(len(names) / columns)
    size = (max(1.9 * columns, 4.6), 1.3 + 1.3 * lines)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    lowest = {name: curve[-1][1] for name, curve in sensitivity.curves.items()}
    worst = sorted(lowest, key=lowest.__getitem__)[: max(len(names) // 6, 1)]
    for axes, name in zip(panels.flat, names):
        points = [
            (sensitivity.widths[name], sensitivity.full),
            *sensitivity.curves[name],
        ]
        shares = [100 * count / sensitivity.widths[name] for count, _ in points]
        values = [value for _, value in points]
        ink = LINES[1] if name in worst else LINES[0]
        axes.axhline(sensitivity.full, color="#bbbbbb", linewidth=0.8)
        axes.plot(shares, values, "o-", color=ink, markersize=3.5, linewidth=1.3)
        axes.set_title(shortened(name[len(prefix) :], 24), fontsize=8, color=ink)
        axes.tick_params(labelsize=8)
    for axes in panels.flat[len(names) :]:
        axes.set_visible(False)
    panels[0, 0].set_xlim(103, 0)  # from the full group on the left
    panels[0, 0].set_ylim(bottom=0)
    figure.supxlabel("channels kept, %", fontsize=10)
    figure.supylabel("accuracy", fontsize=10)
    title = f"Accuracy with one group masked ({sensitivity.criterion})"
    title += f", whole: {sensitivity.full:.3f}"
    title += f"\n{prefix}…" if prefix else ""
    figure.suptitle(title, fontsize=12)
    save_figure(figure, path)


def common_prefix(names: Sequence[str]) -> str:
    """Return the prefix that all names share, up to a separator."""
    shared = os.path.commonprefix(list(names)) if len(names) > 1 else ""
    return shared[: max(shared.rfind("_"), shared.rfind("."), shared.rfind("/")) + 1]


def shortened(name: str, longest: int = 44) -> str:
    """Return a name without its middle if it is long: both ends tell layers apart."""
    if len(name) <= longest:
        return name
    half = (longest - 1) // 2
    return f"{name[:half]}…{name[-half:]}"
