"""Formats tables and figures for Markdown; columns are aligned in the source, too."""

from __future__ import annotations

from typing import Any, Collection, Iterable, Sequence

import tabulate

ALIGNED = 120  # characters of the longest line of a table with aligned columns


def markdown_table(
    head: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    text_columns: Collection[str] = (),
) -> str:
    """Return a Markdown table.

    Columns are aligned in the source where that keeps its lines short.

    Parameters
    ----------
    head : sequence of str
    rows : iterable of sequences
        A cell that is not text is shown by ``str``.
    text_columns : collection of str
        Names of the columns to align left. Default: the first column.
    """
    text_columns = text_columns or head[:1]
    names = [_escaped(name) for name in head]
    cells = [[_escaped(cell) for cell in row] for row in rows]
    columns = zip(names, *cells)
    is_narrow = sum(3 + max(map(len, column)) for column in columns) < ALIGNED
    alignment = {
        "colalign": ["left" if name in text_columns else "right" for name in head]
    }
    return tabulate.tabulate(
        cells,
        names,
        tablefmt="pipe",
        disable_numparse=True,
        **(alignment if is_narrow else {"stralign": None}),
    )


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    text_columns: Collection[str] = (),
) -> str:
    """Return a Markdown table as a part of a page, with a line break at its end."""
    return f"{markdown_table(head, rows, text_columns=text_columns)}\n"


def percent(value: float | None) -> str:
    """Return a share in percent, with one digit; a dash for none."""
    return "–" if value is None else f"{100 * value:.1f}"


def overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    """Return whether two ranges ``(low, high)`` have a point in common."""
    return max(one[0], other[0]) <= min(one[1], other[1])


def _escaped(cell: Any) -> str:
    return str(cell).replace("|", "\\|")
