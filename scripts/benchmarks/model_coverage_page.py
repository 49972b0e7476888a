"""Makes the page of supported models, from what was measured alone."""

from __future__ import annotations

import re
from typing import Any, Mapping, Sequence

from gluon_compress.markdown import table

TOLERANCE = 1e-5  # of scale, between masks and the slim net
SERIES = [f"resnet{depth}_v1b" for depth in (18, 34, 50, 101, 152)]
SERIES += ["resnet50_v1d", "ssd_300_resnet50_v1d"]
HEAD = ("model", "input", "nodes", "groups", "prunable", "GMACs", "at half")
HEAD += ("error", "trace, select, slim [s]", "peak [MB]")
TIMES = ("model", "nodes", "trace", "select", "slim", "together [s]", "ms per node")
FROZEN = ("reason", "models", "channels")


TITLES = {
    "classifier": "Classifiers",
    "SSD": "Bodies of GluonCV's SSD",
    "YOLOv3": "Bodies of GluonCV's YOLOv3",
    "CenterNet": "Bodies of GluonCV's CenterNet",
    "own": "Detectors of this package",
}
NOTES = """\
Each model gets random weights, scales, shifts and running statistics. They are so small
that changing the image by 2^-22 moves the outputs by less than 1e-05. Otherwise
amplified float32 rounding would hide everything else. The model is traced at its usual
input size, pruned to half of its MACs with the defaults of `select`, and run on one
random image, masked and slim.

- *Error* is the largest difference between the two, divided by the largest output.
- *Prunable* is the share of trained parameters that some group can shrink.
- A body is a detector's raw outputs, before decoding and NMS.
- Seconds are for one processor. Memory is the peak of the process, including Python.
- HRNets whose names end in `_s` segment images."""


def page(content: Mapping[str, Any]) -> str:
    """Return the page as Markdown, from the content of ``supported_models.json``."""
    models = content["models"]
    versions = ", ".join(f"{name} {n}" for name, n in content["versions"].items())
    machine = content["hardware"]["cpu"]
    parts = [
        "# Supported models",
        totals(models),
        NOTES,
        f"`scripts/supported_models.py` on {machine}, {versions}.",
    ]
    for kind, title in TITLES.items():
        of_kind = {n: m for n, m in models.items() if m["kind"] == kind}
        rows = [row(name, m) for name, m in of_kind.items() if "failed" not in m]
        failed = [
            f"- `{n}`: {m['failed']}" for n, m in of_kind.items() if "failed" in m
        ]
        if of_kind:
            parts.append(f"## {title}")
        if rows:
            parts.append(_table(HEAD, rows))
        if failed:
            parts += ["Without a result:", "\n".join(failed)]
    traced = {name: m for name, m in models.items() if "failed" not in m}
    parts += ["## Time against size", _table(TIMES, speed(traced))]
    parts += ["## Frozen channels", _table(FROZEN, frozen(traced))]
    parts += ["## Operators", _table(("operator", "models"), operators(traced))]
    return "\n\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence]) -> str:
    return table(head, rows).rstrip()


def totals(models: Mapping) -> str:
    """Return the sentences at the top: how many were traced, halved and agree."""
    lines = []
    for kind, title in TITLES.items():
        rows = [m for m in models.values() if m["kind"] == kind]
        done = [m for m in rows if "failed" not in m]
        if done:
            half = sum(m["macs_left"] <= m["macs"] / 2 for m in done)
            agree = sum(m["error"] < TOLERANCE for m in done)
            worst = max(m["error"] for m in done)
            lines.append(
                f"- {title}: {len(done)} of {len(rows)} traced, {half} pruned to half "
                f"of their MACs, {agree} with masks equal to the slim net within "
                f"{TOLERANCE:.0e}; the worst error is {worst:.1e}."
            )
    return "\n".join(lines)


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


def speed(models: Mapping) -> list[tuple]:
    """Return how long nets of one family take, from small to large."""
    rows = []
    for name in SERIES:
        if name in models:
            seconds, nodes = models[name]["cpu_seconds"], models[name]["nodes"]
            cells = [f"{each:.2f}" for each in (*seconds, sum(seconds))]
            cells.append(f"{1000 * sum(seconds) / nodes:.1f}")
            rows.append((f"`{name}`", nodes, *cells))
    return rows


def frozen(models: Mapping) -> list[tuple]:
    """Return why channels are frozen, in how many models, and how many they are."""
    reasons: dict[str, list] = {}
    for name, model in models.items():
        for reason, channels in model["frozen"].items():
            kind = re.sub(r" ('[^']*'|\d+ \(.*\))", "", reason)
            reasons.setdefault(kind, []).append((name, channels))
    rows = [
        (kind, len({name for name, _ in each}), sum(n for _, n in each))
        for kind, each in reasons.items()
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
