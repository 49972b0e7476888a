"""Pareto plots of accuracy against cost, and the style of all charts.

The same input gives the same PNG file. Charts use matplotlib's objects instead of
``pyplot``, so the caller's own plots are not affected.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from gluon_compress.boxes import contains, intersects
from gluon_compress.report.pictures import MARK
from gluon_compress.storage.atomic import write_atomically

DPI = 130
LOG_AXIS_RATIO = 4  # of the highest cost to the lowest, from which the axis is log
KEPT, GONE, FROZEN = "#1f6fb4", "#dbe5ee", "#8a8a8a"
LINES = ("#1f6fb4", "#d1581b", "#1d8a5f", "#8d4bab", "#7a6a00", "#555555")
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#777777",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "savefig.facecolor": "white",
    "text.parse_math": False,  # a name may hold a dollar sign
}


@dataclass(frozen=True)
class Point:
    """A net in a plot of accuracy against cost. Nets of a series share a colour."""

    name: str
    cost: float
    value: float
    series: str = ""


@matplotlib.rc_context(STYLE)
def pareto(
    points: Sequence[Point],
    path: str | os.PathLike,
    *,
    cost: str = "GMACs",
    value: str = "mAP",
) -> None:
    """Draw accuracy against cost; a line joins the nets on the Pareto frontier.

    The cost axis is logarithmic if the costs differ by more than ``LOG_AXIS_RATIO``.

    Parameters
    ----------
    points : sequence of Point
    path : path
        The PNG file.
    cost, value : str
        Axis labels, with units.
    """
    if not points:
        raise ValueError("a Pareto plot needs at least one point, there is none")
    figure = Figure(figsize=(8.4, 5.4), layout="constrained")
    axes = figure.add_subplot()
    series = list(dict.fromkeys(p.series for p in points))
    for name in series:
        ink = LINES[series.index(name) % len(LINES)]
        costs = [p.cost for p in points if p.series == name]
        values = [p.value for p in points if p.series == name]
        axes.plot(costs, values, "o", color=ink, markersize=7, label=name or "_")
    best = frontier(points)
    costs, values = [p.cost for p in best], [p.value for p in best]
    axes.plot(
        costs, values, color="#999999", linewidth=1.2, zorder=1, label="not beaten"
    )
    axes.set(xlabel=cost, ylabel=value, title=f"{value} against {cost}")
    axes.margins(0.14, 0.12)
    costs = [p.cost for p in points]
    if max(costs) > LOG_AXIS_RATIO * min(costs) > 0:  # cheap nets would overlap
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    name_points(axes, points, axes.legend(loc="best"))
    save_figure(figure, path)


def frontier(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other point beats in cost and value, cheapest first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, -p.value)):
        if not best or point.value > best[-1].value:
            best.append(point)
    return best


def name_points(axes, points: Sequence[Point], legend) -> list[tuple]:
    """Place each name so that it covers no point, line, legend or other name.

    Returns
    -------
    list of tuple
        Left, bottom, right and top of each name, in dots. A name without a free place
        nearby takes the last place that was tried.
    """
    canvas = FigureCanvasAgg(axes.figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    frame = axes.get_window_extent(renderer).extents
    taken = _occupied(axes, points)
    taken.append(tuple(legend.get_window_extent(renderer).extents))
    for point in points:
        label = axes.annotate(
            point.name,
            (point.cost, point.value),
            xytext=(0, 0),
            textcoords="offset points",
            arrowprops={"arrowstyle": "-", "color": "#bbbbbb", "linewidth": 0.7},
        )
        for dx, dy, side in _AROUND:
            label.set(position=(dx, dy), ha=side, va="center")
            label.update_positions(renderer)
            # Of the text alone: the annotation's own extent includes its line.
            box = Text.get_window_extent(label, renderer).extents
            if contains(frame, box) and not any(intersects(box, t) for t in taken):
                break
        taken.append(tuple(box))
    return taken[-len(points) :]


def _occupied(axes, points: Sequence[Point]) -> list[tuple]:
    """Return small boxes, in dots, around all points and along the frontier."""
    best = frontier(points)
    spots = axes.transData.transform([(p.cost, p.value) for p in points])
    line = axes.transData.transform([(p.cost, p.value) for p in best])
    shares = np.linspace(0, 1, 60)[:, None]
    along = [a + shares * (b - a) for a, b in zip(line, line[1:])]
    return [
        (x - reach, y - reach, x + reach, y + reach)
        for reach, places in ((6, [spots]), (2, along))
        for x, y in np.concatenate(places or [np.zeros((0, 2))])
    ]


_AROUND = tuple(
    (dx * reach, dy * reach, side)
    for reach in range(1, 9)
    for dx, dy, side in (
        (8, 0, "left"),
        (-8, 0, "right"),
        (0, 12, "center"),
        (0, -12, "center"),
        (7, 10, "left"),
        (7, -10, "left"),
        (-7, 10, "right"),
        (-7, -10, "right"),
    )
)


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Write a figure as PNG; create its folder if necessary."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    # Matplotlib would write its version into the file.
    figure.savefig(
        buffer, format="png", dpi=DPI, metadata={"Software": None, "Comment": MARK}
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())
