"""The page of a benchmark, from its result alone."""

from __future__ import annotations

from typing import Mapping

from speed.aims import aims
from speed.page import ratios, table_of_ways, tables_of
from speed.ways import WAYS

PAIRS = (
    ("compact_s", "lite"),
    ("compact_s", "mobilenet"),
    ("compact", "lite"),
    ("full", "compact"),
)
WORDS = """# Benchmark

Head graphs of SSD-300 for 20 classes, without decode and NMS: `full` on ResNet50-v1d,
`compact` and `compact_s` by the plans in `model_zoo/`, `mobilenet` on the same six
maps, `lite` the classic MobileNet-SSD, and SSD on GluonCV's own pruned ResNets. A
trained detector, of its own classes, has the name of its folder. Nets take turns in
blocks, A B A B; times are medians. Starting values change no time. *Of the convolution*
is the share of the speed that a chain of plain 3x3 convolutions reaches in the same
run. Memory is what a process needs beyond the runtime itself.
"""


def page_of(result: Mapping) -> str:
    """Return the page as Markdown."""
    rows, ways = result["rows"], result["ways"]
    machine = f"{result['hardware']['cpu']}, {result['hardware']['cores']} cores"
    parts = [WORDS, f"{machine}; commit {result['commit']}, {result['date'][:10]}.\n"]
    found = aims(rows, ways)
    if found:
        parts += ["## What was aimed at\n", found]
    nets = {row["net"] for row in rows}
    pairs = [pair for pair in PAIRS if set(pair) <= nets]
    if pairs:
        parts += ["## Ratios of times\n", ratios(rows, pairs)]
    if ways:
        parts.append("## From an image to its boxes\n\nMilliseconds an image.\n")
        parts += [f"- `{name}`: {what}" for name, what in WAYS.items()]
        parts += ["", table_of_ways(ways)]
    return "\n".join([*parts, tables_of(rows)])
