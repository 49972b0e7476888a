"""Layers of a profile are told apart, and their speed is MACs over time."""

from __future__ import annotations

import pytest

from benchmarks.layer_times import page_of
from benchmarks.layer_worker import convolutions, kind_of_convolution


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        ((3, 3, 32), "first layer"),
        ((3, 1, 64), "depthwise"),
        ((3, 32, 64), "3x3, up to 32 channels on a side"),
        ((1, 48, 64), "1x1, wider"),
    ],
)
def test_kinds_of_convolutions(layer, kind):
    assert kind_of_convolution(*layer) == kind


def test_a_convolution_is_known_by_its_node_and_by_what_it_is_joined_with(tmp_path):
    onnx = pytest.importorskip("onnx")
    make, value = onnx.helper, onnx.helper.make_tensor_value_info
    weight = make.make_tensor("w", 1, [8, 4, 3, 3], [0.0] * 288)
    nodes = [
        make.make_node("Conv", ["x", "w"], ["y"], "node0", pads=[1] * 4),
        make.make_node("Relu", ["y"], ["z"], "node1"),
    ]
    ends = [value("x", 1, [1, 4, 5, 5])], [value("z", 1, [1, 8, 5, 5])]
    graph = make.make_graph(nodes, "g", *ends, [weight])
    onnx.save(make.make_model(graph), str(tmp_path / "net.onnx"))
    row = ("3x3, up to 32 channels on a side", 25 * 288)
    found = dict(convolutions(str(tmp_path / "net.onnx")))
    assert found == dict.fromkeys(("node0", "node1", "y", "z"), row)


def test_page_sums_layers_and_states_their_speed():
    layer = {"name": "a", "kind": "1x1, wider", "ms": 2.0, "macs": 3e8}
    pooling = {"name": "p", "kind": "pooling", "ms": 0.5, "macs": 0}
    row = {"net": "n", "runtime": "r", "precision": "int8"}
    page = page_of(
        {
            "threads": 1,
            "hardware": {"cpu": "a processor"},
            "commit": "c",
            "date": "2026-01-01T00:00:00Z",
            "rows": [{**row, "layers": [layer, layer, pooling]}],
        }
    )
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page.splitlines()
        if line.startswith("|")
    ]
    assert ["1x1, wider", "4.00"] in cells
    assert ["all", "4.50"] in cells
    assert ["1x1, wider", "150"] in cells
