"""Tables and figures as Markdown shows them."""

from __future__ import annotations

from typing import Collection, Iterable, Sequence

from tabulate import tabulate

ALIGNED = 100  # characters of the longest line of a table with aligned columns


def table(
    head: Sequence[str],
    rows: Iterable[Sequence],
    *,
    text_columns: Collection[str] | None = None,
) -> str:
    """Return a table, with a line break at its end.

    Parameters
    ----------
    head : sequence of str
        The names of the columns.
    rows : iterable of sequences
        Cells, shown as ``str`` writes them; a ``|`` in them is escaped. Columns are
        aligned in the source where that keeps lines short.
    text_columns : collection of str, optional
        Names of columns of text. The others are numbers, which are aligned to the
        right, and all columns are aligned in the source.
    """
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    if text_columns is not None:
        sides = ["left" if name in text_columns else "right" for name in head]
        names = [name.replace("|", "\\|") for name in head]
        text = tabulate(cells, names, "pipe", disable_numparse=True, colalign=sides)
        return f"{text}\n"
    widths = [max(map(len, column)) for column in zip(head, *cells)]
    aligned = sum(widths) + 3 * len(widths) < ALIGNED
    text = tabulate(
        cells,
        head,
        "github",
        disable_numparse=True,
        stralign="left" if aligned else None,
    )
    return f"{text}\n"


def percent(value: float | None) -> str:
    """Return a share in percent, with one digit; a dash for none."""
    return "–" if value is None else f"{100 * value:.1f}"
