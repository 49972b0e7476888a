"""Charts of a detector's errors: precision and recall, confusion, kinds of errors."""

from __future__ import annotations

import math
import os
from typing import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from gluon_compress.report.boxes import label_of
from gluon_compress.report.charts import LINES, STYLE, save_figure

MOST_PANELS = 20
MOST_NUMBERED = 12  # classes up to which the cells of a confusion show numbers


@matplotlib.rc_context(STYLE)
def precision_recall_chart(
    curves: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]],
    path: str | os.PathLike,
) -> None:
    """Draw precision over recall, one panel for each class, one line for each net.

    Parameters
    ----------
    curves : mapping
        By name of the net and of the class: precision and recall, best score first.
    path : path
        The PNG file.
    """
    classes = list(next(iter(curves.values())))[:MOST_PANELS]
    columns = min(4, len(classes))
    rows = math.ceil(len(classes) / columns)
    figure = Figure(
        figsize=(2.9 * columns + 0.4, 2.7 * rows + 0.7), layout="constrained"
    )
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in panels.flat[len(classes) :]:
        axes.set_axis_off()
    for number, (axes, name) in enumerate(zip(panels.flat, classes)):
        for ink, (net, lines) in zip(LINES, curves.items()):
            precision, recall = lines[name]
            axes.plot(recall, precision, color=ink, linewidth=1.6, label=net)
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02), title=label_of(number, classes))
    for axes in panels[-1]:
        axes.set_xlabel("recall")
    for axes in panels[:, 0]:
        axes.set_ylabel("precision")
    handles, names = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names))
    save_figure(figure, path)


@matplotlib.rc_context(STYLE)
def error_chart(
    gains: Mapping[str, Mapping[str, float]], path: str | os.PathLike
) -> None:
    """Draw by how many points of mAP each kind of errors lowers each net.

    Parameters
    ----------
    gains : mapping
        By name of the net and of the kind: the gain in mAP without it, 0 to 1.
    path : path
        The PNG file.
    """
    kinds = list(next(iter(gains.values())))
    figure = Figure(figsize=(7.6, 0.55 * len(kinds) + 1.3), layout="constrained")
    axes = figure.add_subplot()
    height = 0.8 / len(gains)
    for i, (ink, (net, values)) in enumerate(zip(LINES, gains.items())):
        places = np.arange(len(kinds)) + (i - (len(gains) - 1) / 2) * height
        lengths = [100 * values[kind] for kind in kinds]
        bars = axes.barh(places, lengths, height, color=ink, label=net)
        axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
    axes.set_yticks(range(len(kinds)), kinds)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("points of mAP that would be gained without these errors")
    axes.margins(x=0.1)
    axes.legend()
    save_figure(figure, path)


@matplotlib.rc_context(STYLE)
def confusion_chart(
    tables: Mapping[str, np.ndarray], classes: Sequence[str], path: str | os.PathLike
) -> None:
    """Draw what objects of each class are taken for, one panel for each net.

    Parameters
    ----------
    tables : mapping
        By name of the net, ``detection_errors.confusion``.
    classes : sequence of str
    path : path
        The PNG file.
    """
    names = [label_of(i, classes) for i in range(len(classes))]
    side = max(3.6, 0.42 * len(names) + 2.2)
    size = ((side + 0.4) * len(tables), side + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(tables), sharey=True, squeeze=False)[0]
    for axes, (net, table) in zip(panels, tables.items()):
        totals = np.maximum(table.sum(axis=1, keepdims=True), 1)
        shares = table / totals
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.grid(visible=False)
        ticks = range(len(names) + 1)
        axes.set_xticks(ticks, [*names, "nothing"], rotation=60, ha="right")
        axes.set_yticks(ticks, [*names, "no object"])
        axes.set(title=net, xlabel="detected as")
        if len(names) <= MOST_NUMBERED:
            for (row, column), count in np.ndenumerate(table):
                if count:
                    ink = "white" if shares[row, column] > 0.55 else "#222"
                    axes.text(
                        column,
                        row,
                        count,
                        ha="center",
                        va="center",
                        color=ink,
                        fontsize=8,
                    )
    panels[0].set_ylabel("object")
    save_figure(figure, path)
