"""The tables of the page of supported models."""

from __future__ import annotations

import re
from typing import Iterable, Mapping, Sequence

TOLERANCE = 1e-5  # of scale, between masks and the slim net
SERIES = [f"resnet{depth}_v1b" for depth in (18, 34, 50, 101, 152)]
SERIES += ["resnet50_v1d", "ssd_300_resnet50_v1d"]
HEAD = ("model", "input", "nodes", "groups", "prunable", "GMACs", "at half")
HEAD += ("error", "trace, select, slim [s]", "peak [MB]")


def row(name: str, model: Mapping) -> tuple:
    """Return a model's cells."""
    error = f"{model['error']:.1e}"
    return (
        *(f"`{name}`", model["shape"][-1], model["nodes"], model["groups"]),
        f"{100 * model['prunable_params'] / model['params']:.1f}%",
        *(f"{model[key] / 1e9:.3f}" for key in ("macs", "macs_left")),
        error if model["error"] < TOLERANCE else f"**{error}**",
        ", ".join(f"{seconds:.2f}" for seconds in model["cpu_seconds"]),
        model["peak_mb"],
    )


TIMES = ("model", "nodes", "trace", "select", "slim", "together [s]", "ms per node")


def speed(models: Mapping) -> list[tuple]:
    """Return how long nets of one family take, from small to large."""
    found = []
    for name in SERIES:
        if name in models:
            seconds, nodes = models[name]["cpu_seconds"], models[name]["nodes"]
            cells = [f"{each:.2f}" for each in (*seconds, sum(seconds))]
            cells.append(f"{1000 * sum(seconds) / nodes:.1f}")
            found.append((f"`{name}`", nodes, *cells))
    return found


def frozen(models: Mapping) -> list[tuple]:
    """Return why channels are frozen, in how many models, and how many they are."""
    found: dict[str, list] = {}
    for model in models.values():
        for why, channels in model["frozen"].items():
            kind = re.sub(r" ('[^']*'|\d+ \(.*\))", "", why)
            found.setdefault(kind, []).append((id(model), channels))
    rows = [
        (why, len({own for own, _ in each}), sum(n for _, n in each))
        for why, each in found.items()
    ]
    return sorted(rows, key=lambda row: (-row[1], row[0]))


def operators(models: Mapping) -> list[tuple]:
    """Return in how many models each operator occurs."""
    counts: dict[str, int] = {}
    for model in models.values():
        for op in model["operators"]:
            counts[op] = counts.get(op, 0) + 1
    rows = [(f"`{op}`", n) for op, n in counts.items()]
    return sorted(rows, key=lambda row: (-row[1], row[0]))


def table(head: Sequence[str], rows: Iterable[Sequence]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
