"""How feature maps are made comparable: fewer cells, and 1x1 adapters of width.

All of it belongs to the training symbol alone: a net that is saved or exported from its
own symbol has none of it (Chen et al. 2017, section 3.4).
"""

from __future__ import annotations

from typing import Sequence

import mxnet as mx

SMALL = 5  # cells a side: maps up to it are compared cell by cell


def subsampling(sides: Sequence[Sequence[int]], stride: int) -> list[int]:
    """Return the stride of each map: 1 where both its sides are small.

    Parameters
    ----------
    sides : sequence of (int, int)
        Height and width of each map, cells.
    stride : int
    """
    return [stride if max(pair) > SMALL else 1 for pair in sides]


def subsample(
    taps: Sequence[mx.sym.Symbol], strides: Sequence[int]
) -> list[mx.sym.Symbol]:
    """Return only every n-th cell of each tap, in each direction."""
    return [
        tap
        if step == 1
        else mx.sym.slice(
            tap, begin=(None,) * 4, end=(None,) * 4, step=(None, None, step, step)
        )
        for tap, step in zip(taps, strides)
    ]


def adapt(
    taps: Sequence[mx.sym.Symbol],
    widths: Sequence[int],
    strides: Sequence[int] | None = None,
) -> list[mx.sym.Symbol]:
    """Return taps brought to the given widths by one 1x1 convolution each.

    Parameters
    ----------
    taps : sequence of Symbol
    widths : sequence of int
    strides : sequence of int, optional
        As ``subsampling`` returns them; None: all cells.

    Raises
    ------
    ValueError
        If there is not one width a tap.
    """
    if len(taps) != len(widths):
        raise ValueError(f"{len(taps)} taps need as many widths, not {len(widths)}")
    strides = [1] * len(taps) if strides is None else strides
    return [
        mx.sym.Convolution(
            tap,
            kernel=(1, 1),
            stride=(step, step),
            num_filter=width,
            no_bias=True,
            name=f"adapter{i}",
        )
        for i, (tap, width, step) in enumerate(zip(taps, widths, strides))
    ]
