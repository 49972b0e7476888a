"""Tables and figures as Markdown shows them."""

from __future__ import annotations

from typing import Iterable, Sequence

from tabulate import tabulate


def table(head: Sequence[str], rows: Iterable[Sequence]) -> str:
    """Return a table, with a line break at its end.

    Parameters
    ----------
    head : sequence of str
        The names of the columns.
    rows : iterable of sequences
        Cells, shown as ``str`` writes them; a ``|`` in them is escaped.
    """
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    return f"{tabulate(cells, head, 'github', disable_numparse=True)}\n"


def percent(value: float | None) -> str:
    """Return a share in percent, with one digit; a dash for none."""
    return "–" if value is None else f"{100 * value:.1f}"
