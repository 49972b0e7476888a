"""Rows of what others published, as they published it."""

from __future__ import annotations

from typing import Mapping

from reproducing.rows import own_cost


def published_detector(row: Mapping) -> list[str]:
    """Return the cells of a figure that others published."""
    told = "" if row["data"] == "VOC07 test" else f" ({row['data']})"
    value = f"{row['mAP']:.1f}{told}"
    return [row["name"], *published_cost(row), value, row["source"]]


def published_classifier(row: Mapping, cost: Mapping) -> list[str]:
    """Return the cells of a classifier that GluonCV publishes, its cost counted."""
    return [row["name"], *own_cost(cost), f"{row['top1']:.2f}", row["source"]]


def published_cost(row: Mapping) -> list[str]:
    """Return size and work as they were published, a dash where they were not."""
    shown = {"params": (1e6, 2), "bytes": (1e6, 1), "flops": (1e9, 2)}
    return [
        f"{row[key] / unit:.{digits}f}" if key in row else "–"
        for key, (unit, digits) in shown.items()
    ]
