"""Training curves from the logs that ``train.fit`` writes."""

from __future__ import annotations

import math
import os
from typing import Any, Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gluon_compress.report.charts import LINES, STYLE, save_figure
from gluon_compress.train.log import read_log


@matplotlib.rc_context(STYLE)
def curves(
    logs: Mapping[str, str | os.PathLike],
    path: str | os.PathLike,
    *,
    measure: str = "mAP",
) -> None:
    """Draw the loss, validation metric and learning rate of several stages.

    Parameters
    ----------
    logs : mapping
        By name of the stage, its ``log.jsonl``.
    path : path
        The PNG file.
    measure : str
        The metric of the validations to draw.

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
        steps, validations = read_log(log)
        ink = LINES[i % len(LINES)]
        _draw_steps(loss, rate, steps, ink)
        best = best_of(validations, measure)
        label = stage if best is None else f"{stage}, best {best:.3f}"
        marks = (
            [record["epoch"] for record in validations],
            [record.get(measure) for record in validations],
        )
        value.plot(
            *np.array(marks, float), "o-", ms=3.5, lw=1.5, color=ink, label=label
        )
    _scale_by_decades(loss)
    loss.set_ylabel("loss")
    value.set_ylabel(f"{measure} (validation)")
    value.set_ylim(0, 1.03)
    value.legend(loc="lower right")
    rate.set(ylabel="learning rate", xlabel="epoch", ylim=(0, None))
    rate.set_xlim(0, None)
    figure.suptitle("Training", fontsize=12)
    save_figure(figure, path)


@matplotlib.rc_context(STYLE)
def part_curves(logs: Mapping[str, str | os.PathLike], path: str | os.PathLike) -> None:
    """Draw the parts of the loss, in one panel for each stage that logs any.

    Parts are drawn unweighted, and look the same in every panel. Values that are not
    positive are left out.

    Parameters
    ----------
    logs : mapping
        By name of the stage, its ``log.jsonl``.
    path : path
        The PNG file.

    Raises
    ------
    ValueError
        If no log has parts, or a log cannot be read.
    """
    stages = {name: read_log(log)[0] for name, log in logs.items()}
    shown = {name: _parts(steps) for name, steps in stages.items() if _parts(steps)}
    if not shown:
        raise ValueError("curves of parts need a step with a part, there is none")
    every = dict.fromkeys(part for parts in shown.values() for part in parts)
    lines = dict(zip(every, _lines(len(every))))
    columns, rows = min(2, len(shown)), -(-len(shown) // 2)
    figure = Figure(figsize=(8.4, 1.2 + 2.7 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel, (stage, parts) in zip(panels, shown.items()):
        for part in parts:
            _draw_part(panel, stages[stage], part, lines[part])
        _scale_by_decades(panel)
        panel.set(title=stage, xlabel="epoch", xlim=(0, None))
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    keys = [Line2D([], [], lw=1.4, label=part, **line) for part, line in lines.items()]
    figure.legend(handles=keys, ncols=5, fontsize=8, loc="outside lower center")
    figure.suptitle("Parts of the loss", fontsize=12)
    save_figure(figure, path)


def _lines(count: int) -> list[dict]:
    """Return a different colour and dash pattern for each line."""
    dashes = ("-", "--", ":", "-.")
    return [
        {"color": LINES[i % len(LINES)], "ls": dashes[i // len(LINES) % len(dashes)]}
        for i in range(count)
    ]


def _parts(steps: Sequence[dict]) -> list[str]:
    """Return the names of all parts, in the order of their first occurrence."""
    return list(dict.fromkeys(part for step in steps for part in step["parts"]))


def _draw_part(axes, steps: Sequence[dict], part: str, line: dict) -> None:
    x, size = _positions(steps)
    y = np.array([step["parts"].get(part, math.nan) for step in steps], float)
    shown = np.isfinite(y) & (y > 0)
    axes.plot(x[shown], _smooth(y[shown], size), lw=1.4, **line)


def best_of(
    validations: Sequence[Mapping[str, Any]], measure: str = "mAP"
) -> float | None:
    """Return the highest value of a metric in validation records; None without any."""
    values = [v.get(measure) for v in validations]
    return max((v for v in values if v is not None and math.isfinite(v)), default=None)


def _scale_by_decades(axes) -> None:
    """Use a logarithmic axis; label 1, 2 and 5 of each decade if there are few."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
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
    x, size = _positions(steps)
    rate.plot(x, [s["lr"] for s in steps], color=ink, linewidth=1.5)
    y = np.array([s["loss"] for s in steps], float)
    shown = np.isfinite(y) & (y > 0)
    x, y = x[shown], y[shown]
    loss.plot(x, y, color=ink, linewidth=0.5, alpha=0.22)
    loss.plot(x, _smooth(y, size), color=ink, linewidth=1.6)


def _positions(steps: Sequence[dict]) -> tuple[np.ndarray, int]:
    """Return the position of each step in epochs, and the number of steps an epoch."""
    epochs = np.array([s["epoch"] for s in steps])
    size = np.bincount(epochs).max()  # the last epoch may be incomplete
    first = np.searchsorted(epochs, epochs)
    return epochs + (np.arange(len(steps)) - first) / size, int(size)


def _smooth(y: np.ndarray, size: int) -> list[float]:
    span = max(1, min(len(y) // 60, size))
    return [y[max(0, i - span) : i + span + 1].mean() for i in range(len(y))]
