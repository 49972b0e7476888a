"""How taps are made comparable: fewer cells, and a teacher's widths for its student.

All of it belongs to the training symbol alone: a net that is saved or exported from its
own symbol has none of it (Chen et al. 2017, section 3.4).
"""

from __future__ import annotations

from typing import Sequence

import mxnet as mx

SMALL = 5  # cells a side: maps up to it are compared cell by cell


def strides(sides: Sequence[int], stride: int) -> list[int]:
    """Return of each map every which cell is compared, in each direction."""
    return [stride if side > SMALL else 1 for side in sides]


def thin(taps: Sequence[mx.sym.Symbol], every: Sequence[int]) -> list[mx.sym.Symbol]:
    """Return taps with the cells that are compared."""
    return [
        tap
        if step == 1
        else mx.sym.slice(
            tap, begin=(None,) * 4, end=(None,) * 4, step=(None, None, step, step)
        )
        for tap, step in zip(taps, every)
    ]


def adapt(
    taps: Sequence[mx.sym.Symbol],
    widths: Sequence[int],
    every: Sequence[int] | None = None,
) -> list[mx.sym.Symbol]:
    """Return taps brought to the given widths by one 1x1 convolution each.

    Parameters
    ----------
    taps : sequence of Symbol
    widths : sequence of int
    every : sequence of int, optional
        As ``strides`` returns it; None: all cells.

    Raises
    ------
    ValueError
        If there is not one width a tap.
    """
    if len(taps) != len(widths):
        raise ValueError(f"{len(taps)} taps need as many widths, not {len(widths)}")
    every = [1] * len(taps) if every is None else every
    return [
        mx.sym.Convolution(
            tap,
            kernel=(1, 1),
            stride=(step, step),
            num_filter=width,
            no_bias=True,
            name=f"adapter{i}",
        )
        for i, (tap, width, step) in enumerate(zip(taps, widths, every))
    ]
