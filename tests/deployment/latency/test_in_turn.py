"""Nets that are compared are timed in turn, in the runtime that ships."""

from __future__ import annotations

import pytest

from gluon_compress.deployment import latencies_in_turn
from gluon_compress.deployment.latency import in_turn, runner
from runtimes import classifier


@pytest.fixture(scope="module")
def nets():
    return [classifier((320, 480)), classifier((320, 480))]  # takes a millisecond


def test_nets_are_timed_in_onnx_runtime(nets, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    latencies = latencies_in_turn(nets, seconds=0)
    assert [(row.runtime, row.threads) for row in latencies] == [
        ("onnxruntime", "1")
    ] * 2
    for row in latencies:
        assert row.repeats == runner.LEAST_RUNS
        assert 0 < row.p10_ms <= row.median_ms <= row.p90_ms


@pytest.mark.parametrize("reason", ["missing", "refuses"])
def test_nets_are_timed_in_mxnet_where_onnx_runtime_cannot(nets, monkeypatch, reason):
    def refuse(graph, folder):
        raise ValueError("no such operator")

    if reason == "missing":
        monkeypatch.setattr(in_turn, "find_spec", lambda name: None)
    else:
        formats = dict(in_turn.FORMATS)
        formats["onnx"] = in_turn.FORMATS["mxnet"].__class__(refuse, "onnxruntime", ())
        monkeypatch.setattr(in_turn, "FORMATS", formats)
    latencies = latencies_in_turn(nets, seconds=0)
    assert [row.runtime for row in latencies] == ["mxnet"] * 2


def test_nets_take_turns_and_are_timed_warm():
    order = []
    runs = [lambda name=name: order.append(name) or len(order) for name in "ab"]
    first, second = runner.in_turns(runs, 0)
    assert "".join(order) == "aabb" * runner.LEAST_RUNS
    assert (first[:2], second[:2]) == ([2, 6], [4, 8])
