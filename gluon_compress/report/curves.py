"""Training curves from the logs that ``train.fit`` leaves, whole or cut short."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from gluon_compress.report.charts import LINES, STYLE, save_figure


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
def curves(
    logs: Mapping[str, str | os.PathLike],
    path: str | os.PathLike,
    *,
    measure: str = "mAP",
) -> None:
    """Draw loss, validation and learning rate of several stages in one picture.

    Parameters
    ----------
    logs : mapping
        Name of the stage to its ``log.jsonl``.
    path : path
        Of the PNG.
    measure : str
        Which figure of the validations is drawn.

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
        best = best_of(judged, measure)
        label = stage if best is None else f"{stage}, best {best:.3f}"
        marks = ([v["epoch"] for v in judged], [v.get(measure) for v in judged])
        value.plot(
            *np.array(marks, float), "o-", ms=3.5, lw=1.5, color=ink, label=label
        )
    loss.set_yscale("log")
    loss.yaxis.set_major_formatter("{x:g}")
    loss.yaxis.set_minor_formatter("")
    _open_decades(loss)
    loss.set_ylabel("loss")
    value.set_ylabel(f"{measure} (validation)")
    value.set_ylim(0, 1.03)
    value.legend(loc="lower right")
    rate.set(ylabel="learning rate", xlabel="epoch", ylim=(0, None))
    rate.set_xlim(0, None)
    figure.suptitle("Training", fontsize=12)
    save_figure(figure, path)


def best_of(
    validations: Sequence[Mapping[str, Any]], measure: str = "mAP"
) -> float | None:
    """Return the highest figure of validation records, or None where there is none."""
    values = [v.get(measure) for v in validations]
    known = [v for v in values if v is not None and math.isfinite(v)]
    return max(known, default=None)


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
    size = np.bincount(epochs).max()  # the epoch that a run is in is not whole yet
    x = epochs + (np.arange(len(steps)) - np.searchsorted(epochs, epochs)) / size
    rate.plot(x, [s["lr"] for s in steps], color=ink, linewidth=1.5)
    y = np.array([s["loss"] for s in steps], float)
    shown = np.isfinite(y) & (y > 0)
    x, y = x[shown], y[shown]
    loss.plot(x, y, color=ink, linewidth=0.5, alpha=0.22)
    span = max(1, min(len(y) // 60, int(size)))
    means = [y[max(0, i - span) : i + span + 1].mean() for i in range(len(y))]
    loss.plot(x, means, color=ink, linewidth=1.6)
