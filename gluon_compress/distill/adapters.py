"""How a student's taps get a teacher's widths, in the training symbol alone."""

from __future__ import annotations

from typing import Sequence

import mxnet as mx


def adapt(taps: Sequence[mx.sym.Symbol], widths: Sequence[int]) -> list[mx.sym.Symbol]:
    """Return taps brought to the given widths by one 1x1 convolution each.

    The convolutions belong to the training symbol alone: a net that is saved or
    exported from its own symbol has none of them (Chen et al. 2017, section 3.4).

    Raises
    ------
    ValueError
        If there is not one width a tap.
    """
    if len(taps) != len(widths):
        raise ValueError(f"{len(taps)} taps need as many widths, not {len(widths)}")
    return [
        mx.sym.Convolution(
            tap, kernel=(1, 1), num_filter=width, no_bias=True, name=f"adapter{i}"
        )
        for i, (tap, width) in enumerate(zip(taps, widths))
    ]
