"""How good nets were while they learnt, made of result files alone."""

from __future__ import annotations

from typing import Iterable, Mapping

from tables import percent, table

TEXT = """## While training

mAP at 0.5 on the test images after so many epochs of the last stage, as a mean over the
seeds. The tables above show the net of the last epoch, whatever came before.
"""


def learning_table(groups: Mapping[str, Mapping[int, dict]]) -> list:
    """Return the part of a page that shows each net's mAP as it was trained.

    ``groups`` are those of ``tables.by_net``, in the order of the rows.
    """
    curves = {}
    for net, found in groups.items():
        measured = [stage.get("validated") for stage in found.values() if stage]
        if measured and all(measured):
            curves[net] = _mean(measured)
    epochs = sorted({epoch for curve in curves.values() for epoch in curve})
    rows = [[n, *(percent(c.get(e)) for e in epochs)] for n, c in curves.items()]
    return [TEXT, table(("net", *map(str, epochs)), rows)] if rows else []


def _mean(curves: Iterable[Mapping[str, float]]) -> dict[int, float]:
    """Return the mean of curves at the epochs that all have."""
    first, *others = curves
    shared = [epoch for epoch in first if all(epoch in other for other in others)]
    count = 1 + len(others)
    return {int(e): sum(c[e] for c in (first, *others)) / count for e in shared}
