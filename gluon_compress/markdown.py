"""Tables and figures as Markdown shows them."""

from __future__ import annotations

from typing import Iterable, Sequence

from tabulate import tabulate

ALIGNED = 100  # characters of the longest line of a table with aligned columns


def table(head: Sequence[str], rows: Iterable[Sequence]) -> str:
    """Return a table, with a line break at its end.

    Parameters
    ----------
    head : sequence of str
        The names of the columns.
    rows : iterable of sequences
        Cells, shown as ``str`` writes them; a ``|`` in them is escaped. Columns are
        aligned in the source where that keeps lines short.
    """
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
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
