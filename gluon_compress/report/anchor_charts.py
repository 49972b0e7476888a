"""Shows anchors beside the objects that they are for: a table and a picture."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Mapping

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from gluon_compress.markdown import markdown_table
from gluon_compress.models.anchor_fit import MATCHED, AnchorLayout, recall
from gluon_compress.report.charts import LINES, STYLE, save_figure

MOST_DOTS = 4000  # objects that are drawn


@dataclass(frozen=True)
class AnchorColumn:
    """Anchors, and how well they overlap objects.

    Parameters
    ----------
    layout : AnchorLayout
    overlaps : numpy.ndarray
        ``(N,)``, the IoU of each object with its best anchor.
    """

    layout: AnchorLayout
    overlaps: np.ndarray

    @staticmethod
    def of(layout: AnchorLayout, corner_boxes: np.ndarray) -> AnchorColumn:
        """Return the column of anchors for objects ``(N, 4)``."""
        return AnchorColumn(layout, layout.best_overlaps(corner_boxes))

    @property
    def recall(self) -> float:
        """Share of the objects that an anchor overlaps by half."""
        return recall(self.overlaps)


def anchor_table(
    columns: Mapping[str, AnchorColumn], ids: np.ndarray, classes: tuple[str, ...]
) -> str:
    """Return a Markdown table of anchors and the recall of the best one.

    Parameters
    ----------
    columns : mapping
        By the name of the anchors.
    ids : numpy.ndarray
        ``(N,)``, the class of each object.
    classes : tuple of str
    """

    def row(name: str, cell: Any) -> list[str]:
        return [name, *(cell(column) for column in columns.values())]

    def of_class(number: int, column: AnchorColumn) -> str:
        matched = column.overlaps[ids == number]
        return f"{recall(matched):.3f}" if len(matched) else "–"

    maps = range(len(next(iter(columns.values())).layout.ratios))
    rows = [
        row("sizes, pixels", lambda c: _numbers(c.layout.sizes)),
        *(
            row(f"ratios of map {k}", lambda c, k=k: _numbers(c.layout.ratios[k]))
            for k in maps
        ),
        row(f"recall at IoU {MATCHED}", lambda c: f"{c.recall:.3f}"),
        *(
            row(f"recall of {name}", lambda c, i=i: of_class(i, c))
            for i, name in enumerate(classes)
        ),
        row("mean IoU of the best", lambda c: f"{c.overlaps.mean():.3f}"),
    ]
    return markdown_table(["anchors", *columns], rows)


def _numbers(values: Any) -> str:
    return " ".join(f"{value:.3g}" for value in values)


@matplotlib.rc_context(STYLE)
def anchor_chart(
    columns: Mapping[str, AnchorColumn],
    corner_boxes: np.ndarray,
    path: str | os.PathLike,
) -> None:
    """Draw width and height of objects, and of anchors, one panel for each column.

    Parameters
    ----------
    columns : mapping
        By the name of the anchors.
    corner_boxes : numpy.ndarray
        ``(N, 4)``, the objects, pixels of the net's input.
    path : path
        The PNG file.
    """
    figure = Figure(figsize=(5.2 * len(columns), 5.8), layout="constrained")
    panels = figure.subplots(1, len(columns), sharex=True, sharey=True, squeeze=False)
    chosen = np.arange(len(corner_boxes))
    if len(chosen) > MOST_DOTS:
        chosen = np.random.default_rng(0).permutation(len(chosen))[:MOST_DOTS]
    sides = (corner_boxes[:, 2:] - corner_boxes[:, :2])[chosen]
    for axes, (name, column) in zip(panels[0], columns.items()):
        matched = column.overlaps[chosen] >= MATCHED
        for which, ink, text in (
            (matched, "#9db8d2", "object with an anchor"),
            (~matched, LINES[1], "object without"),
        ):
            axes.scatter(*sides[which].T, s=7, color=ink, linewidths=0, label=text)
        maps = range(len(column.layout.cells))
        shapes = np.concatenate([column.layout.shapes(number) for number in maps])
        axes.scatter(*shapes.T, s=42, marker="s", facecolors="none", edgecolors="#222")
        axes.scatter(
            [], [], s=42, marker="s", c="none", edgecolors="#222", label="anchor"
        )
        axes.set(xscale="log", yscale="log", xlabel="width, pixels")
        axes.set_title(f"{name}: recall {column.recall:.3f}")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.set_minor_locator(NullLocator())
        axes.set_aspect("equal", adjustable="box")
    panels[0][0].set_ylabel("height, pixels")
    handles, texts = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=len(texts))
    save_figure(figure, path)
