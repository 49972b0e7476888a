"""The chart of a search: rewards, budget and widths, episode by episode."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from gluon_compress.report.charts import LINES, STYLE, save_figure
from gluon_compress.report.plan_charts import common_prefix, shortened
from gluon_compress.storage.reading import parse_json, read_bytes

MOST_BYTES = 1 << 28
MOST_NAMES = 40


@dataclass(frozen=True)
class SearchLog:
    """What the log of a search holds.

    Parameters
    ----------
    name : str
        Of the policy.
    groups : list of str
    shares : ndarray
        What each group kept of its largest width, ``(groups, episodes)``.
    rewards : ndarray
        ``(episodes,)``
    loads : ndarray
        The largest cost over its limit, ``(episodes,)``.
    reference : float
        Reward of the plan that was to be beaten.
    """

    name: str
    groups: list[str]
    shares: np.ndarray
    rewards: np.ndarray
    loads: np.ndarray
    reference: float


def read_search_log(path: str | os.PathLike) -> SearchLog:
    """Read the log that a search has written.

    Raises
    ------
    ValueError
        If the file is missing or not such a log.
    """
    lines = read_bytes(path, MOST_BYTES).splitlines(keepends=True)
    rows = [parse_json(line, path) for line in lines if line.endswith(b"\n")]
    try:
        header, reference, *episodes = rows
        widths = np.array([row["widths"] for row in episodes], float)
        full = np.array(header["full"], float)
        return SearchLog(
            name=str(header["search"]),
            groups=[str(group) for group in header["groups"]],
            shares=(widths.reshape(len(episodes), len(full)) / full).T,
            rewards=np.array([row["reward"] for row in episodes], float),
            loads=np.array([max(row["loads"].values()) for row in episodes], float),
            reference=float(reference["reward"]),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not the log of a search") from error


@matplotlib.rc_context(STYLE)
def search_chart(log: SearchLog, path: str | os.PathLike) -> None:
    """Draw the reward of each episode, what it takes of the budget, and its widths.

    Parameters
    ----------
    log : SearchLog
    path : path
        The PNG file.

    Raises
    ------
    ValueError
        If there is no episode.
    """
    if not len(log.rewards):
        raise ValueError("a chart of a search needs at least one episode")
    # Protected groups always keep everything: they say nothing.
    moving = np.flatnonzero(log.shares.min(axis=1) < 1)
    heights = (3.0, 0.9, 0.17 * max(len(moving), 6))
    figure = Figure(figsize=(9.6, 1.2 + sum(heights)), layout="constrained")
    panels = figure.subplots(3, 1, sharex=True, height_ratios=heights)
    _rewards(panels[0], log)
    panels[1].plot(100 * log.loads, ".", color="#999999", markersize=4)
    panels[1].axhline(100, color=LINES[1], linewidth=1.2)
    panels[1].set_ylabel("of budget, %")
    _shares(figure, panels[2], log, moving)
    figure.suptitle(f"{log.name}: {len(log.rewards)} episodes", fontsize=12)
    save_figure(figure, path)


def _rewards(axes: Any, log: SearchLog) -> None:
    axes.plot(log.rewards, ".", color="#999999", markersize=4, label="episode")
    best = np.maximum.accumulate(log.rewards)
    axes.plot(best, color=LINES[0], linewidth=1.6, label="best so far")
    axes.axhline(log.reference, color=LINES[1], linewidth=1.2, label="reference")
    axes.set_ylabel("reward")
    axes.legend(loc="lower right", fontsize=8)


def _shares(figure: Any, axes: Any, log: SearchLog, moving: np.ndarray) -> None:
    image = axes.imshow(
        log.shares[moving],
        aspect="auto",
        interpolation="nearest",
        cmap="viridis",
        vmin=0,
        vmax=1,
    )
    axes.grid(False)
    names = [log.groups[k] for k in moving]
    prefix = common_prefix(names)
    if len(names) <= MOST_NAMES:
        labels = [shortened(name[len(prefix) :], 24) for name in names]
        axes.set_yticks(range(len(names)), labels, fontsize=7)
    else:
        axes.set_ylabel("groups, in the order of the net")
    axes.set_xlabel("episode")
    figure.colorbar(image, ax=axes, label="share kept", fraction=0.03)
