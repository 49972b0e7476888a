"""Tables and the plot of a benchmark, made of its result alone."""

from __future__ import annotations

from typing import Mapping, Sequence

from speed.convolution import CONV
from speed.ways import WAYS
from tables import table

HEAD = (
    *("net", "ms", "quartiles", "images/s", "GFLOP/s", "of the convolution"),
    *("memory, MB", "files, MB"),
)


def tables_of(rows: Sequence[Mapping]) -> str:
    """Return one table for each setting, as Markdown."""
    parts = []
    for setting in _settings(rows):
        chosen = [row for row in rows if setting_of(row) == setting]
        parts += [f"## {setting}\n", table(HEAD, [_row(row) for row in chosen])]
    return "\n".join(parts)


def ratios(rows: Sequence[Mapping], pairs: Sequence[tuple]) -> str:
    """Return for each setting how long nets take, over how long others take."""
    lines = []
    for setting in _settings(rows):
        ms = {row["net"]: row["ms"] for row in rows if setting_of(row) == setting}
        found = [f"{ms[a] / ms[b]:.2f}" if {a, b} <= set(ms) else "" for a, b in pairs]
        lines.append([setting, *found])
    return table(("setting", *(f"{a} / {b}" for a, b in pairs)), lines)


def table_of_ways(ways: Sequence[Mapping]) -> str:
    """Return milliseconds an image of every way from an image to boxes."""
    head = ("net", "runtime", "precision", *WAYS, "boxes / head")
    lines = []
    for row in ways:
        ms = row["ms"]
        shown = [f"{ms[way]:.1f}" for way in WAYS]
        ratio = f"{ms['boxes'] / ms['head']:.2f}"
        lines.append([row["net"], row["runtime"], row["precision"], *shown, ratio])
    return table(head, lines)


def _settings(rows: Sequence[Mapping]) -> list[str]:
    return list(dict.fromkeys(map(setting_of, rows)))


def setting_of(row: Mapping) -> str:
    """Return what a row was measured in, in words."""
    threads = f"{row['threads']} thread{'s' if row['threads'] > 1 else ''}"
    return f"{row['runtime']}, {row['precision']}, {threads}, batch {row['batch']}"


def _row(row: Mapping) -> list[str]:
    low, high = row["ms_quartiles"]
    shown = [f"{row['ms']:.1f}", f"{low:.1f} to {high:.1f}"]
    shown += [f"{row['images_per_second']:.1f}", f"{row['gflops']:.0f}"]
    share = "" if row["net"] == CONV else f"{100 * row['share_of_conv']:.0f} %"
    sizes = [f"{row[key] / 1e6:.1f}" for key in ("memory", "bytes")]
    return [row["net"], *shown, share, *sizes]
