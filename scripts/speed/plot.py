"""The plot of a benchmark: milliseconds of each net in each setting."""

from __future__ import annotations

from pathlib import Path
from typing import Mapping, Sequence

from speed.convolution import CONV
from speed.page import setting_of


def draw(rows: Sequence[Mapping], path: Path) -> None:
    """Draw one panel a setting, one bar a net, with the quartiles as whiskers."""
    import matplotlib
    from matplotlib.figure import Figure

    from gluon_compress.report.charts import KEPT, STYLE, save_figure

    rows = [row for row in rows if row["net"] != CONV]
    settings = list(dict.fromkeys(map(setting_of, rows)))
    with matplotlib.rc_context(STYLE):
        columns = min(len(settings), 3)
        lines = -(-len(settings) // columns)
        figure = Figure(
            figsize=(1.8 + 3.2 * columns, 2.8 * lines), layout="constrained"
        )
        panels = figure.subplots(lines, columns, sharey=True, squeeze=False).flat
        for axes in panels[len(settings) :]:
            axes.remove()
        for setting, axes in zip(settings, panels):
            chosen = [row for row in rows if setting_of(row) == setting]
            middle = [row["ms"] for row in chosen]
            ends = zip(*(row["ms_quartiles"] for row in chosen))
            spread = [[abs(a - b) for a, b in zip(middle, end)] for end in ends]
            names = [row["net"] for row in chosen]
            axes.barh(names, middle, color=KEPT, xerr=spread, ecolor="#555555")
            axes.set_title(setting, fontsize=8)
            axes.set_xlabel("ms")
            axes.grid(False, axis="y")
        panels[0].invert_yaxis()  # of all panels
        save_figure(figure, path)
