"""The figures of a model's card."""

from __future__ import annotations

from typing import Any

BUSY = (
    "taken while other work ran, not to be compared with another card's; "
    "[benchmark](../../docs/benchmark/benchmark.md) compares"
)


def rows(entry: Any, whole: dict) -> list[tuple[str, str]]:
    """Return what was counted and measured, in words."""
    found = [
        ("parameters", f"{entry.params / 1e6:.2f} M, {entry.bytes / 1e6:.2f} MB"),
        ("MACs", f"{entry.macs / 1e9:.3f} G ({2 * entry.macs / 1e9:.3f} GFLOPs)"),
        ("licence", entry.licence),
    ]
    if entry.metric:
        value = f"{100 * entry.metric.value:.1f} on {entry.metric.on}"
        kind = list(whole["released"])[-1]
        found[:0] = [(entry.metric.name, value)]
        found += [("weights", f"{entry.weights.bytes / 1e6:.2f} MB, {kind}")]
    if whole.get("latency"):
        *_, speed = whole["latency"].values()  # the last net is what is released
        hardware = whole["hardware"]
        where = f"{hardware['threads']} thread(s) of {hardware['cpu']}, MXNet"
        found += [("latency", f"{speed['median_ms']:.1f} ms, batch 1, {where}; {BUSY}")]
    return found
