"""Formats Markdown tables whose columns are aligned in the source, too."""

from __future__ import annotations

from typing import Any, Collection, Iterable, Sequence

import tabulate


def markdown_table(
    head: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    text_columns: Collection[str] = (),
) -> str:
    """Return a Markdown table.

    Parameters
    ----------
    head : sequence of str
    rows : iterable of sequences
        A cell that is not text is shown by ``str``.
    text_columns : collection of str
        Names of the columns to align left. Default: the first column.
    """
    text_columns = text_columns or head[:1]
    return tabulate.tabulate(
        [[_escaped(cell) for cell in row] for row in rows],
        [_escaped(name) for name in head],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["left" if name in text_columns else "right" for name in head],
    )


def _escaped(cell: Any) -> str:
    return str(cell).replace("|", "\\|")
