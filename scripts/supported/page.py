"""The page of supported models, from what was measured alone."""

from __future__ import annotations

from typing import Mapping

from supported.rows import HEAD, TIMES, TOLERANCE, frozen, operators, row, speed, table

TITLES = {
    "classifier": "Classifiers",
    "SSD": "Bodies of GluonCV's SSD",
    "YOLOv3": "Bodies of GluonCV's YOLOv3",
    "CenterNet": "Bodies of GluonCV's CenterNet",
    "own": "Detectors of this package",
}
NOTES = """\
Each model is built without trained values and given random ones, every scale, shift and
running statistic its own, and so small that a change of the image by 2^-22 moves its
outputs by less than 1e-05: a net that multiplies float32's rounding by thousands would
show that and nothing else. It is traced at its usual input size, pruned to half of its
MACs with `select`'s defaults, and run on one random image, masked and slim. *Error* is
the largest difference of the two over the largest output. *Prunable* is the share of
the trained parameters that some group takes from. A body is a detector's raw outputs,
before decoding and suppression. Seconds are those of one processor; memory is the peak
of the process, model and Python included. HRNets that end in `_s` segment images."""


def page(found: Mapping) -> str:
    """Return the page as Markdown, from the content of ``supported_models.json``."""
    models, versions = found["models"], found["versions"].items()
    made = ", ".join(f"{name} {number}" for name, number in versions)
    parts = ["# Supported models", totals(models), NOTES]
    parts.append(
        f"`scripts/supported_models.py` on {found['hardware']['cpu']}, {made}."
    )
    for kind, title in TITLES.items():
        rows = {n: m for n, m in models.items() if m["kind"] == kind}
        done = [row(name, m) for name, m in rows.items() if "failed" not in m]
        lost = [f"- `{n}`: {m['failed']}" for n, m in rows.items() if "failed" in m]
        parts += [f"## {title}"] * bool(rows) + [table(HEAD, done)] * bool(done)
        parts += ["Without a result:", "\n".join(lost)] if lost else []
    traced = {n: m for n, m in models.items() if "failed" not in m}
    parts += ["## Time against size", table(TIMES, speed(traced))]
    parts += ["## What is frozen", table(("why", "models", "channels"), frozen(traced))]
    parts += ["## Operators", table(("operator", "models"), operators(traced))]
    return "\n\n".join(parts) + "\n"


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
