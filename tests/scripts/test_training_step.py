"""A training step is timed phase by phase, its layers by kind."""

from __future__ import annotations

from benchmarks.training_step import CONV, LAYOUT, _kind, _layer_ms, page_of


def node(op, **attrs):
    return {"op": op, "attrs": attrs}


def test_layers_are_sorted_by_kind():
    kinds = {
        f"{CONV} 3x3": node("Convolution", kernel="(3, 3)"),
        f"{CONV} 3x3, depthwise": node("Convolution", kernel="(3, 3)", num_group="8"),
        "BatchNorm": node("BatchNorm"),
        "sum": node("elemwise_add"),
        LAYOUT: node("Concat"),
        None: node("null"),
    }
    assert {kind: _kind(one) for kind, one in kinds.items()} == {k: k for k in kinds}


def test_a_layer_is_timed_alone():
    attrs = {"kernel": "(1, 1)", "num_filter": "4", "no_bias": "True"}
    times = _layer_ms("Convolution", attrs, ((1, 2, 5, 5), (4, 2, 1, 1)), 1)
    assert min(times) > 0


def test_page_shows_shares_of_the_step_and_speed():
    phases = {
        "forward": 30.0,
        "loss": 5.0,
        "backward": 55.0,
        "clip": 6.0,
        "update": 4.0,
    }
    layer = {"kind": "convolution 1x1", "count": 2, "forward": 10.0, "backward": 20.0}
    net = {
        "net": "n",
        "phases": {**phases, "targets, beside": 3.0},
        "layers": [{**layer, "macs": 5e8}],
    }
    page = page_of(
        {
            "batch": 8,
            "rounds": 3,
            "hardware": {"cpu": "a processor", "threads": 1},
            "commit": "c",
            "date": "2026-01-01T00:00:00Z",
            "nets": [net],
        }
    )
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page.splitlines()
        if line.startswith("|")
    ]
    assert ["forward", "30.0", "30.0%"] in rows
    assert ["step", "100.0", ""] in rows
    assert ["convolution 1x1", "2", "10.0", "20.0", "100", "100"] in rows
