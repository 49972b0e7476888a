"""Tables of edge runtimes: blocks, correction, file, and plans by them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gluon_compress import Budget, LatencyTable, Plan, predict_latency, select, trace
from gluon_compress.latency import RuntimeTable, check_target
from gluon_compress.latency.block_nets import block_net
from gluon_compress.latency.correction import Correction, fitted
from gluon_compress.latency.runtime_blocks import (
    runtime_blocks,
    runtime_grid_points,
    weights_per_pair,
)
from gluon_compress.latency.runtime_table import WholeNet
from gluon_compress.latency.table import Grid
from gluon_compress.plan import Constraints, CostModel
from gluon_compress.plan.cost_model import LATENCY
from nets import SHAPE, chain, ready, wide

MACHINE = {
    "runtime": "onnxruntime",
    "precision": "int8",
    "threads": "1",
    "cpu": "A CPU",
    "spread": "0.010",
}


def table_of(graph, nets=(), steps=None):
    """Return a table whose times follow a formula."""
    grids = {}
    for block in runtime_blocks(graph):
        ins, outs = runtime_grid_points(block)
        old = grids.get(block.signature, Grid((), (), ()))
        ins, outs = sorted({*ins, *old.ins}), sorted({*outs, *old.outs})
        rows = tuple(tuple(0.001 * (1 + a) * (1 + b) for b in outs) for a in ins)
        weights = weights_per_pair(graph, block)
        grids[block.signature] = Grid(tuple(ins), tuple(outs), rows, weights)
    return RuntimeTable(MACHINE, 0.0, grids, tuple(nets), steps or {})


@pytest.fixture(scope="module")
def graph():
    return trace(ready(wide()), SHAPE)


def test_batchnorm_is_folded_and_activation_joined():
    blocks = runtime_blocks(trace(ready(chain()), SHAPE))
    ops = [[part.split()[0] for part in b.signature.split(" + ")] for b in blocks]
    assert ops[0] == ["Convolution", "Activation"]


def test_every_block_net_has_one_output_and_only_repeats_the_block(graph):
    for block in runtime_blocks(graph):
        ins, outs = runtime_grid_points(block)
        few, many = (block_net(graph, block, (ins[-1], outs[-1]), n) for n in (1, 3))
        assert few[2] == many[2]
        op = graph.nodes[block.nodes[0]]["op"]
        copies = [
            sum(f"copy{n}_{block.nodes[0]}" in name for name in names)
            for n, names in ((0, few[0].get_internals().list_outputs()),)
        ]
        assert copies[0] > 0, op
        shapes = many[0].infer_shape(data=many[2])[1]
        assert len(shapes) == 1


def test_correction_finds_the_factors_that_times_were_made_with():
    rs = np.random.RandomState(0)
    sums = rs.uniform(1, 3, (200, 3)) * [1e7, 1e6, 1e6]
    true = Correction(1.1, 0.9, 0.5, 4e5)
    times = [true.nanoseconds(*row) for row in sums]
    found = fitted(sums, times)
    again = [found.nanoseconds(*row) for row in sums]
    assert np.allclose(again, times, rtol=0.01)


def test_correction_without_nets_is_the_plain_sum():
    assert fitted([], []) == Correction(1.0, 1.0, 0.0, 0.0)


def test_correction_adds_nothing_negative():
    sums = [(1e7, 1e6, 1e6), (2e7, 1e6, 5e6), (4e7, 2e6, 1e7)]
    found = fitted(sums, [5e6, 1e7, 2e7])
    assert found.per_weight >= 0
    assert found.per_net >= 0
    assert found.layers >= 0.5


def test_prediction_of_a_plan_is_what_the_cost_model_looks_up(graph):
    blocks = [
        (b.signature, b.inputs.full, b.outputs.full) for b in runtime_blocks(graph)
    ]
    table = table_of(graph, [WholeNet("full", tuple(blocks), 9.0)])
    model = CostModel(graph, table)
    rs = np.random.RandomState(0)
    for _ in range(4):
        keep = {g.name: range(rs.randint(1, g.width + 1)) for g in model.groups}
        widths = np.array([[len(keep[g.name]) for g in model.groups]])
        expected = predict_latency(graph, table, Plan(keep))
        assert model.costs(widths)[LATENCY][0] == expected


def test_budget_in_milliseconds_of_a_runtime_is_met(graph):
    table = table_of(graph)
    limit = 0.5 * predict_latency(graph, table)
    plan = select(graph, Budget(latency_ms=limit), table=table)
    assert predict_latency(graph, table, plan) <= limit


@pytest.mark.parametrize(
    ("steps", "multiple"),
    [
        ({}, 16),
        ({40: 4.0, 48: 4.8, 56: 5.6, 64: 6.4}, 8),
        ({40: 4.8, 48: 4.8, 56: 6.4, 64: 6.4}, 16),
        ({40: 6.4, 48: 6.4, 56: 6.4, 64: 6.4}, 32),
    ],
)
def test_multiple_is_what_narrower_steps_do_not_beat(graph, steps, multiple):
    table = table_of(graph, steps=steps)
    assert table.multiple == multiple
    limit = Budget(latency_ms=0.9 * predict_latency(graph, table))
    assert select(graph, limit, table=table).made_by["multiple"] == multiple
    given = Constraints(multiple=4)
    made_by = select(graph, limit, table=table, constraints=given).made_by
    assert made_by["multiple"] == 4


def test_budget_out_of_reach_names_the_least_time(graph):
    with pytest.raises(ValueError, match="latency_ms cannot be met: the least that"):
        select(graph, Budget(latency_ms=1e-5), table=table_of(graph))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"runtime": "ncnn"}, "runtime 'onnxruntime', wanted: 'ncnn'"),
        ({"precision": "float32"}, "precision 'int8', wanted: 'float32'"),
        ({"threads": 2}, "threads '1', wanted: '2'"),
        ({"cpu": "B"}, "cpu 'A CPU', wanted: 'B'"),
    ],
)
def test_table_of_something_else_is_refused(graph, target, message):
    with pytest.raises(ValueError, match=message):
        check_target(table_of(graph), **target)


def test_table_is_the_same_after_saving(tmp_path, graph):
    block = runtime_blocks(graph)[0]
    net = WholeNet("a", ((block.signature, 8, 8),), 2.5)
    table = table_of(graph, [net], {40: 1.0, 48: 2.0})
    table.save(tmp_path / "t.json")
    assert LatencyTable.load(tmp_path / "t.json") == table


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("nets"), "nets must be a list"),
        (lambda c: c.update(steps=[]), "steps is"),
        (lambda c: c["machine"].pop("runtime"), "machine lacks 'runtime'"),
        (lambda c: c["nets"][0].update(ms=0), r"nets\[0\].ms is 0"),
        (lambda c: c["nets"][0].update(blocks=[["x", 1, 1]]), r"nets\[0\].blocks"),
        (lambda c: next(iter(c["units"].values())).pop("weights"), "must have ins"),
    ],
)
def test_wrong_table_is_refused_in_one_line(tmp_path, graph, change, message):
    block = runtime_blocks(graph)[0]
    net = WholeNet("a", ((block.signature, 8, 8),), 2.5)
    table_of(graph, [net]).save(tmp_path / "t.json")
    content = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))
    change(content)
    (tmp_path / "t.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        LatencyTable.load(tmp_path / "t.json")
