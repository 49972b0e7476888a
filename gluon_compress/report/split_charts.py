"""The chart of a net's cut points: what each would send, and what it would compute."""

from __future__ import annotations

import os
from typing import Any, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from gluon_compress.report.charts import KEPT, LINES, STYLE, save_figure
from gluon_compress.report.plan_charts import common_prefix, shortened

MOST_NAMES = 60
ONE = 100  # percent


@matplotlib.rc_context(STYLE)
def split_chart(
    points: Any, path: str | os.PathLike, *, title: str = "", marks: Sequence[int] = ()
) -> None:
    """Draw the bytes of each tensor that a net can be cut at, and the MACs before it.

    It is the figure that shows why a net is not just cut: bars above the line of the
    JPEG file send more than the image itself would take (Matsubara and Levorato 2020).

    Parameters
    ----------
    points : splitting.CutPoints
    path : path
        The PNG file.
    title : str
    marks : sequence of int
        Numbers of cut points to set off, such as a bottleneck's.

    Raises
    ------
    ValueError
        If the net has no cut point.
    """
    if not len(points):
        raise ValueError("a chart of cut points needs at least one; the net has none")
    count = len(points)
    figure = Figure(
        figsize=(min(max(7.5, 0.22 * count), 16), 6.4), layout="constrained"
    )
    sent, before = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1))
    places = np.arange(count)
    sizes = np.array([point.bytes(8) for point in points]) / 1000
    colours = [LINES[1] if i in marks else KEPT for i in range(count)]
    sent.bar(places, sizes, color=colours, width=0.75, label="tensor of 8 bits")
    lines = [("image of 8 bits", points.raw_bytes, LINES[5])]
    if points.jpeg_bytes is not None:
        lines.append(("JPEG, quality 95", points.jpeg_bytes, LINES[2]))
    for label, size, colour in lines:
        sent.axhline(size / 1000, color=colour, linewidth=1.4, label=label)
    sent.set_yscale("log")
    sent.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    sent.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    sent.yaxis.set_minor_locator(NullLocator())
    sent.set_ylabel("kB sent")
    sent.legend(fontsize=8, loc="best")
    shares = [ONE * point.head_macs / max(points.macs, 1) for point in points]
    before.bar(places, shares, color=colours, width=0.75)
    before.set_ylim(0, ONE)
    before.set_ylabel("MACs on the device, %")
    _name(before, [point.name for point in points])
    figure.suptitle(title or "What each cut would send", fontsize=12)
    save_figure(figure, path)


def _name(axes: Any, names: Sequence[str]) -> None:
    if len(names) > MOST_NAMES:
        axes.set_xlabel("cut points, in the order of the net")
        return
    prefix = common_prefix(list(names))
    labels = [shortened(name[len(prefix) :], 28) for name in names]
    axes.set_xticks(range(len(names)), labels, rotation=90, fontsize=7)
