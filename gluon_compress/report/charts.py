"""Charts from plain data: what a plan keeps, how training went, who beats whom.

Pictures are PNG and the same for the same input. They go through matplotlib's
objects, not ``pyplot``, so nothing of the caller's plots changes.
"""

from __future__ import annotations

import io
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterable, Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gluon_compress.files import write_atomically

DPI = 130
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
}


@dataclass(frozen=True)
class Point:
    """One net in a plot of accuracy against cost; a series shares a colour."""

    name: str
    cost: float
    value: float
    series: str = ""


@matplotlib.rc_context(STYLE)
def plan_chart(groups: Iterable, plan: Any, path: str | os.PathLike) -> None:
    """Draw what a plan keeps of each channel group, in network order.

    Parameters
    ----------
    groups : iterable of ChannelGroup
        As in ``graph.groups``: ``name``, ``width`` and ``frozen``.
    plan : Plan
        A group that its ``keep`` does not name is kept whole.
    path : path
        Of the PNG.
    """
    groups = list(groups)
    if not groups:
        raise ValueError("a plan chart needs at least one channel group")
    kept = [len(plan.keep.get(g.name, range(g.width))) for g in groups]
    shares = [100 * k / g.width for k, g in zip(kept, groups)]
    prefix = _common_prefix([g.name for g in groups])
    figure = Figure(figsize=(8.4, 1.5 + 0.235 * len(groups)), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(groups))
    inks = [FROZEN if g.frozen else KEPT for g in groups]
    axes.barh(places, [100] * len(groups), color=GONE, height=0.78)
    axes.barh(places, shares, color=inks, height=0.78)
    for y, k, g in zip(places, kept, groups):
        mark = "  frozen" if g.frozen else ""
        axes.text(101, y, f"{k} / {g.width}{mark}", va="center", fontsize=9)
    names = [_shortened(g.name[len(prefix) :]) for g in groups]
    axes.set_yticks(places, names, fontsize=9)
    axes.set(xlim=(0, 100), ylim=(len(groups) - 0.4, -0.6))
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.set_xlabel("channels kept, %")
    if prefix:
        axes.set_ylabel(f"channel group ({prefix}…)", color="#555555")
    total = sum(g.width for g in groups)
    title = f"{getattr(plan, 'net', '') or 'plan'}: {sum(kept):,} of {total:,} channels"
    figure.suptitle(title + f" kept in {len(groups)} groups", fontsize=12)
    _save(figure, path)


def _common_prefix(names: Sequence[str]) -> str:
    """Return the beginning that all names share, up to a separator."""
    shared = os.path.commonprefix(list(names)) if len(names) > 1 else ""
    return shared[: max(shared.rfind("_"), shared.rfind("."), shared.rfind("/")) + 1]


def _shortened(name: str, longest: int = 44) -> str:
    """Leave out the middle of a long name: both ends tell layers apart."""
    if len(name) <= longest:
        return name
    half = (longest - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def read_log(path: str | os.PathLike) -> tuple[list[dict], list[dict]]:
    """Return the step and the validation records of a ``log.jsonl``.

    A last line that was cut short, by a kill for instance, is left out.

    Raises
    ------
    ValueError
        If there is no such file, or a line before the last is not JSON.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    found: dict[str, list] = {"step": [], "validation": []}
    for i, line in enumerate(lines):
        try:
            record = json.loads(line)
            found[record["kind"]].append(record)
        except (ValueError, KeyError, TypeError):
            if i < len(lines) - 1:
                raise ValueError(f"{path}: line {i + 1} is not a record") from None
    return found["step"], found["validation"]


@matplotlib.rc_context(STYLE)
def curves(logs: Mapping[str, str | os.PathLike], path: str | os.PathLike) -> None:
    """Draw loss, validation mAP and learning rate of several stages in one picture.

    Parameters
    ----------
    logs : mapping
        Name of the stage to its ``log.jsonl``.
    path : path
        Of the PNG.

    Raises
    ------
    ValueError
        If there is no log, or one cannot be read.
    """
    if not logs:
        raise ValueError("training curves need at least one log, there is none")
    figure = Figure(figsize=(8.4, 8.0), layout="constrained")
    loss, value, rate = figure.subplots(3, sharex=True, height_ratios=(3, 3, 1.4))
    for i, (stage, log) in enumerate(logs.items()):
        steps, judged = read_log(log)
        ink = LINES[i % len(LINES)]
        _draw_steps(loss, rate, steps, ink)
        marks = [(v["epoch"], v["mAP"]) for v in judged if _is_number(v.get("mAP"))]
        best = f", best {max(m for _, m in marks):.3f}" if marks else ""
        style = {"marker": "o", "markersize": 3.5, "linewidth": 1.5, "color": ink}
        value.plot(*zip(*(marks or [(math.nan,) * 2])), label=stage + best, **style)
    loss.set_yscale("log")
    loss.yaxis.set_major_formatter("{x:g}")
    loss.yaxis.set_minor_formatter("")
    _open_decades(loss)
    loss.set_ylabel("loss")
    value.set_ylabel("mAP (validation)")
    value.set_ylim(0, 1)
    value.legend(loc="lower right")
    rate.set(ylabel="learning rate", xlabel="epoch", ylim=(0, None))
    rate.set_xlim(0, None)
    figure.suptitle("Training", fontsize=12)
    _save(figure, path)


def _is_number(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _open_decades(axes) -> None:
    """Label 1, 2 and 5 of each decade where the range spans few of them."""
    low, high = axes.get_ylim()
    if high / low < 200:
        ticks = [
            m * 10.0**e
            for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
            for m in (1, 2, 5)
        ]
        axes.set_yticks([t for t in ticks if low <= t <= high])


def _draw_steps(loss, rate, steps: Sequence[dict], ink: str) -> None:
    if not steps:
        return
    epochs = np.array([s["epoch"] for s in steps])
    counts = np.bincount(epochs)
    # The epoch a run is in has fewer steps than it will have.
    within = np.arange(len(steps)) - np.searchsorted(epochs, epochs)
    x = epochs + within / counts.max()
    y = np.array([s["loss"] for s in steps], float)
    loss.plot(x, y, color=ink, linewidth=0.5, alpha=0.22)
    span = max(1, min(len(y) // 60, int(counts.max())))
    means = [y[max(0, i - span) : i + span + 1].mean() for i in range(len(y))]
    loss.plot(x, means, color=ink, linewidth=1.6)
    rate.plot(x, [s["lr"] for s in steps], color=ink, linewidth=1.5)


@matplotlib.rc_context(STYLE)
def pareto(
    points: Sequence[Point],
    path: str | os.PathLike,
    *,
    cost: str = "GMACs",
    value: str = "mAP",
) -> None:
    """Draw accuracy against cost; a line joins the nets that none other beats.

    Parameters
    ----------
    points : sequence of Point
    path : path
        Of the PNG.
    cost, value : str
        Names of the axes, with units.
    """
    if not points:
        raise ValueError("a Pareto plot needs at least one point, there is none")
    figure = Figure(figsize=(8.4, 5.4), layout="constrained")
    axes = figure.add_subplot()
    series = list(dict.fromkeys(p.series for p in points))
    for name in series:
        own = [p for p in points if p.series == name]
        ink = LINES[series.index(name) % len(LINES)]
        at = ([p.cost for p in own], [p.value for p in own])
        axes.plot(*at, "o", color=ink, markersize=7, label=name or None)
    best = frontier(points)
    line = ([p.cost for p in best], [p.value for p in best])
    axes.plot(*line, color="#999999", linewidth=1.2, zorder=1)
    axes.set(xlabel=cost, ylabel=value, title=f"{value} against {cost}")
    axes.margins(0.14, 0.12)
    if any(series):
        axes.legend(loc="lower right")
    _name_points(figure, axes, points)
    _save(figure, path)


def frontier(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other beats in cost and value, the cheapest first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, -p.value)):
        if not best or point.value > best[-1].value:
            best.append(point)
    return best


def _name_points(figure: Figure, axes, points: Sequence[Point]) -> None:
    """Put each name where it covers neither a point nor another name."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    spots = axes.transData.transform([(p.cost, p.value) for p in points])
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in spots]
    frame = axes.get_window_extent(renderer).extents
    for point in points:
        label = axes.annotate(
            point.name,
            (point.cost, point.value),
            xytext=(0, 0),
            textcoords="offset points",
        )
        for dx, dy, side in _AROUND:
            label.set(position=(dx, dy), ha=side, va="center")
            box = label.get_window_extent(renderer).extents
            if _inside(box, frame) and not any(_cover(box, t) for t in taken):
                break
        taken.append(tuple(box))


_AROUND = tuple(
    (dx * reach, dy * reach, side)
    for reach in (1, 2, 3)
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


def _cover(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _inside(box: Sequence[float], frame: Sequence[float]) -> bool:
    low = box[0] >= frame[0] and box[1] >= frame[1]
    return low and box[2] <= frame[2] and box[3] <= frame[3]


def _save(figure: Figure, path: str | os.PathLike) -> None:
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    # Without the version of matplotlib in it: the same picture is the same file.
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())
