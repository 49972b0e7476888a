"""Draws how long each way of computing takes, by bandwidth and speed of the device."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, StrMethodFormatter

from gluon_compress.report.charts import LINES, STYLE, save_figure
from gluon_compress.serving.paying import Setting, Way, ranges, seconds

POINTS = 120


@matplotlib.rc_context(STYLE)
def paying_chart(
    ways: Sequence[Way],
    path: str | os.PathLike,
    *,
    setting: Setting,
    others: Sequence[Way] = (),
    devices: Sequence[float] = (1, 5, 20),
    kbits: tuple[float, float] = (100, 100_000),
) -> None:
    """Draw the time of one image against the bandwidth, one panel a device.

    Below each panel's lines, a bar shows which way is the fastest; it changes where two
    ways break even.

    Parameters
    ----------
    ways : sequence of Way
    path : path
        The PNG file.
    setting : Setting
        Its ``device`` is replaced.
    others : sequence of Way
        Of other nets, for comparison: dashed, and never the fastest.
    devices : sequence of float
        How many times as long each device takes as the machine that measured it.
    kbits : pair of float
        Lowest and highest bandwidth.
    """
    figure = Figure(figsize=(4.2 * len(devices), 4.6), layout="constrained")
    panels = figure.subplots(1, len(devices), sharey=True, squeeze=False)[0]
    drawn = (*ways, *others)
    inks = dict(zip((way.name for way in drawn), LINES))
    bandwidths = np.geomspace(*kbits, POINTS)
    for axes, device in zip(panels, devices):
        here = replace(setting, device=device)
        for way in drawn:
            times = [1e3 * seconds(way, kbit, here) for kbit in bandwidths]
            dashes = {"linestyle": "--" if way in others else "-", "linewidth": 1.8}
            ink = inks[way.name]
            axes.plot(bandwidths / 1e3, times, color=ink, label=way.name, **dashes)
        for way, low, high in ranges(ways, here):
            low, high = max(low, kbits[0]), min(high, kbits[1])
            if low < high:
                edges = [low / 1e3, high / 1e3]
                axes.plot(
                    edges,
                    [0.015, 0.015],
                    transform=axes.get_xaxis_transform(),
                    color=inks[way.name],
                    linewidth=6,
                    solid_capstyle="butt",
                )
            if kbits[0] < high < kbits[1]:
                axes.axvline(high / 1e3, color="#bbbbbb", linewidth=1, zorder=0)
        factor = "this machine" if device == 1 else f"{device:g} times slower"
        axes.set(xscale="log", yscale="log", xlabel="Mbit/s", title=factor)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.set_minor_locator(NullLocator())
    panels[0].set_ylabel("ms for one image")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(drawn))
    trip = f"round trip of {1e3 * setting.round_trip:g} ms"
    figure.suptitle(f"Which way is the fastest, by device and bandwidth; {trip}")
    save_figure(figure, path)
