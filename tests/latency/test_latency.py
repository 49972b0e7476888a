from __future__ import annotations

import itertools
import json
import time

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

import nets
from gluon_compress import (
    Budget,
    LatencyTable,
    Plan,
    count,
    measure_blocks,
    predict_latency,
    select,
    slim,
    trace,
)
from gluon_compress.latency import measuring, nets_ms
from gluon_compress.latency.blocks import (
    data_inputs,
    fused_blocks,
    grid_points,
    net_of_copies,
)
from gluon_compress.latency.table import Grid, this_machine
from gluon_compress.plan import Constraints, CostModel
from gluon_compress.plan.cost_model import LATENCY
from latency_tables import made_up
from nets import NETS, SHAPE, chain, graph_of, random_plan, ready, wide


@pytest.fixture(scope="module")
def graph():
    return trace(ready(wide()), SHAPE)


@pytest.fixture(scope="module")
def table(graph):
    return made_up(graph)


@pytest.fixture
def timed(monkeypatch):
    """Replace timing by a figure that tells the copies; return the nets timed."""
    nets = []

    def net_ms(symbol, given, repeats):
        nets.append(symbol)
        return 0.5 + 2.0 * len([n for n in symbol.list_outputs() if "copy" in n])

    monkeypatch.setattr(measuring, "net_ms", net_ms)
    return nets


# Which operators are timed as one.


@pytest.mark.parametrize("name", NETS)
def test_every_operator_is_in_one_block(name):
    graph = graph_of(name)
    found = [i for block in fused_blocks(graph) for i in block.nodes]
    calculated = [
        i
        for i, node in enumerate(graph.nodes)
        if node["op"] != "null" and data_inputs(graph, i)
    ]
    assert sorted(found) == calculated


@pytest.mark.parametrize("name", NETS)
def test_copies_of_blocks_run_at_all_widths_that_are_timed(name):
    graph = graph_of(name)
    for block in fused_blocks(graph):
        ins, outs = grid_points(block)
        for at in {(ins[0] or ins[-1], outs[0]), (ins[-1], outs[-1])}:
            symbol, given = net_of_copies(graph, block, at, 2)
            shapes = symbol.infer_shape(**given)[1]
            assert len(shapes) == 2
            if at == (ins[-1], outs[-1]):
                assert shapes[0] == graph.tensors[block.nodes[-1]][0].shape
            elif block.scaling == "layer" and len(shapes[0]) == 4:
                assert shapes[0][1] == at[1]
    assert measuring.net_ms(symbol, given, 1) > 0


def test_batchnorm_and_activation_are_timed_with_their_convolution():
    blocks = fused_blocks(trace(chain(), SHAPE))
    ops = [[part.split()[0] for part in u.signature.split(" + ")] for u in blocks]
    assert ops[:2] == [["Convolution", "BatchNorm", "Activation"]] * 2
    assert [op[0] for op in ops[2:]] == ["Pooling", "FullyConnected"]


def test_signatures_do_not_name_widths_nor_nets():
    first, second = (trace(chain(), SHAPE) for _ in range(2))
    signatures = [block.signature for block in fused_blocks(first)]
    assert [block.signature for block in fused_blocks(second)] == signatures
    plan = Plan({"conv0": (0, 1), "conv1": (3,)})
    small = trace(slim(ready(chain()), plan, shape=SHAPE), SHAPE)
    assert [block.signature for block in fused_blocks(small)] == signatures


def test_activation_with_another_reader_is_timed_by_itself():
    def wire(F, m, x):
        x = m["a"](x)
        return F.relu(x) + x

    graph = trace(ready(nets.Wired(wire, a=nets.conv(8))), SHAPE)
    ops = [block.signature.split()[0] for block in fused_blocks(graph)]
    assert ops == ["Convolution", "relu", "elemwise_add"]


# What the times add to.


def test_sum_by_hand():
    graph = trace(chain(), SHAPE)  # 3 -> 8 -> 6 -> pooled -> 5
    expected = 0.25 + 0.001 * (4 * 9 + 9 * 7 + 7 + 7 * 6)
    assert predict_latency(graph, made_up(graph)) == pytest.approx(expected)


@pytest.mark.parametrize("name", NETS)
def test_totals_of_many_widths_are_the_slow_sums(name):
    graph = graph_of(name)
    rs = np.random.RandomState(0)
    noisy = made_up(graph, lambda a, b: 0.001 * a * (b + 1) * rs.uniform(0.7, 1.3))
    model = CostModel(graph, noisy)
    plans = [Plan.everything(graph), *(random_plan(graph, n) for n in range(4))]
    widths = [[len(plan.kept(g)) for g in model.groups] for plan in plans]
    totals = model.costs(np.array(widths, int).reshape(len(plans), -1))[LATENCY]
    assert totals.tolist() == [predict_latency(graph, noisy, p) for p in plans]


def thick():
    net = nn.HybridSequential()
    net.add(*map(nets.unit, (48, 80, 48)), nn.GlobalAvgPool2D(), nn.Dense(5))
    return net


def test_sum_with_a_plan_is_that_of_the_slim_net():
    net = ready(thick())
    graph = trace(net, SHAPE)
    table = made_up(graph)
    keep = {g.name: range(g.width // 2) for g in graph.groups if not g.frozen}
    small = trace(slim(net, Plan(keep), shape=SHAPE), SHAPE)
    assert predict_latency(small, table) == predict_latency(graph, table, Plan(keep))


def test_prediction_checks_the_plan(graph, table):
    with pytest.raises(ValueError, match="group 'x' is not in the net"):
        predict_latency(graph, table, Plan({"x": (0,)}))


def test_time_between_widths_is_interpolated_in_both():
    grid = Grid((8, 24), (16, 48), ((1.0, 2.0), (3.0, 6.0)))
    assert grid.nanoseconds(16, 32) == 1e6 * (1 + 2 + 3 + 6) / 4
    assert [grid.nanoseconds(8, 16), grid.nanoseconds(24, 48)] == [1e6, 6e6]


def test_width_counts_as_the_block_it_begins_or_as_what_was_timed():
    grid = Grid((3, 8, 32, 36), (0,), ((1.0,), (2.0,), (5.0,), (5.5,)))
    widths = (1, 3, 4, 8, 9, 16, 17, 25, 32, 33, 36)
    expected = (1, 1, 2, 2, 3, 3, 4, 5, 5, 5.5, 5.5)
    assert [grid.nanoseconds(n, 0) / 1e6 for n in widths] == list(expected)


def test_noise_never_makes_more_channels_faster():
    noise = np.random.RandomState(0).uniform(1, 5, (6, 7))
    rows = tuple(map(tuple, noise))
    times = Grid(tuple(range(8, 56, 8)), tuple(range(8, 64, 8)), rows).monotone()
    assert (np.diff(times, axis=0) >= 0).all()
    assert (np.diff(times, axis=1) >= 0).all()
    assert noise.min() <= times.min() < times.max() <= noise.max()


def test_times_that_rise_stay_as_they_are():
    grid = Grid((8, 16), (8, 16), ((1.0, 2.0), (2.5, 4.0)))
    assert grid.monotone().tolist() == [[1, 2], [2.5, 4]]


def test_latency_never_falls_with_a_width(graph):
    rs = np.random.RandomState(3)
    model = CostModel(graph, made_up(graph, lambda a, b: rs.uniform(1, 9)))
    for column in range(len(model.groups)):
        rows = np.repeat(model.full[None] // 2, model.full[column], 0)
        rows[:, column] = np.arange(model.full[column]) + 1
        assert (np.diff(model.costs(rows)[LATENCY]) >= 0).all()


# Plans for a latency.


@pytest.mark.parametrize("multiple", [1, 8, 16])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_latency_is_met_closely(graph, table, share, multiple):
    limit = share * predict_latency(graph, table)
    plan = select(
        graph,
        Budget(latency_ms=limit),
        constraints=Constraints(multiple=multiple),
        table=table,
    )
    assert predict_latency(graph, table, plan) <= limit
    model = CostModel(graph, table)
    widths = np.array([len(plan.kept(g)) for g in model.groups])
    steps = np.eye(len(widths), dtype=int) * multiple
    more = np.minimum(widths + steps, model.full)
    more = more[(more != widths).any(1)]  # no wider group fits any more
    assert (model.costs(more)[LATENCY] > limit).all()


@pytest.mark.parametrize("binding", ["macs", "bytes", "params", "latency_ms"])
def test_latency_goes_with_other_limits(graph, table, binding):
    cost, full = count(graph), predict_latency(graph, table)
    whole = {n: getattr(cost, n) for n in ("macs", "bytes", "params")}
    whole["latency_ms"] = full
    limits = {n: (0.4 if n == binding else 0.95) * v for n, v in whole.items()}
    plan = select(
        graph, Budget(**limits), constraints=Constraints(multiple=1), table=table
    )
    after = count(graph, plan)
    found = {n: getattr(after, n) for n in ("macs", "bytes", "params")}
    found["latency_ms"] = predict_latency(graph, table, plan)
    assert all(found[n] <= limits[n] for n in limits)
    assert found[binding] > 0.9 * limits[binding]
    assert plan.made_by["budget"] == limits


def test_latency_of_the_whole_net_keeps_everything(graph, table):
    budget = Budget(latency_ms=predict_latency(graph, table))
    plan = select(graph, budget, table=table)
    assert plan.keep == Plan.everything(graph).keep


def test_latency_without_a_table_is_refused(graph):
    with pytest.raises(ValueError, match="3 latency_ms needs a latency table") as told:
        select(graph, Budget(latency_ms=3))
    assert "measure_blocks" in str(told.value)


def test_latency_that_cannot_be_met_says_what_can(graph, table):
    with pytest.raises(ValueError, match="latency_ms cannot be met: the least"):
        select(graph, Budget(latency_ms=0.26), table=table)


def test_block_that_was_not_timed_is_named(graph):
    other = made_up(trace(ready(chain()), SHAPE))
    with pytest.raises(ValueError, match="has no times for 'Convolution"):
        select(graph, Budget(latency_ms=3), table=other)


def test_wider_block_than_was_timed_is_refused(graph, table):
    narrow = {
        k: Grid(g.ins[:1], g.outs[:1], ((g.ms[0][0],),)) for k, g in table.grids.items()
    }
    with pytest.raises(ValueError, match="has no times for"):
        predict_latency(graph, LatencyTable(table.machine, 0.1, narrow))


def test_share_of_latency_is_refused(graph):
    with pytest.raises(ValueError, match="budget 'latency_ms' is unknown; allowed"):
        Budget.share(count(graph), latency_ms=0.5)


@pytest.mark.parametrize("limit", [0, -1, "3", True, float("nan")])
def test_limit_of_latency_is_a_number_above_0(limit):
    with pytest.raises(ValueError, match=r"budget latency_ms is .*; allowed: a number"):
        Budget(latency_ms=limit)


# The file.


def test_table_is_the_same_after_saving(tmp_path, table):
    table.save(tmp_path / "t.json")
    assert LatencyTable.load(tmp_path / "t.json") == table


def broken(tmp_path, table, change):
    table.save(tmp_path / "t.json")
    content = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))
    change(content, next(iter(content["units"].values())))
    (tmp_path / "t.json").write_text(json.dumps(content), encoding="utf-8")
    return tmp_path / "t.json"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c, u: c.update(format=3),
            "format is 3; this version reads .* of format 1 and 2",
        ),
        (lambda c, u: c.update(format=True), "format is True"),
        (lambda c, u: c.pop("machine"), "machine is None"),
        (lambda c, u: c.update(machine={"threads": 1}), "machine is"),
        (lambda c, u: c.update(call_ms=-1), "call_ms must be a number from 0"),
        (lambda c, u: c.update(units=[]), "units must be an object"),
        (lambda c, u: u.pop("ins"), "must have ins, outs and ms"),
        (lambda c, u: u.update(ins=[16, 8]), "ins is .*16, 8.*ascending whole numbers"),
        (lambda c, u: u.update(outs=[]), r"outs is \[\]; allowed: ascending"),
        (lambda c, u: u["ms"].pop(), "ms must be . rows of . numbers"),
        (lambda c, u: u["ms"][0].append(1.0), "ms must be . rows of . numbers"),
        (lambda c, u: u["ms"][0].__setitem__(0, "1"), "ms must be . rows of . numbers"),
    ],
)
def test_wrong_table_is_refused_in_one_line(tmp_path, table, change, message):
    path = broken(tmp_path, table, change)
    with pytest.raises(ValueError, match=message) as told:
        LatencyTable.load(path)
    assert str(told.value).startswith(str(path))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_file_that_is_no_table_is_refused(tmp_path, text):
    (tmp_path / "t.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"t\.json: (not JSON|format is None)"):
        LatencyTable.load(tmp_path / "t.json")


def test_missing_table_is_named(tmp_path):
    with pytest.raises(ValueError, match="there is no such file"):
        LatencyTable.load(tmp_path / "t.json")


# Measuring.


def test_time_of_a_block_is_the_difference_per_copy(timed):
    table = measure_blocks(trace(chain(), SHAPE), rounds=1)
    assert table.call_ms == 0.5
    assert {ms for g in table.grids.values() for row in g.ms for ms in row} == {2.0}
    assert table.machine == this_machine()


def test_smallest_of_all_rounds_counts(monkeypatch):
    graph, counts = trace(chain(), SHAPE), []
    monkeypatch.setattr(measuring, "_block_ms", lambda *_: 9.0)
    measure_blocks(graph, rounds=1, progress=lambda *done: counts.append(done))
    points = len(counts)
    assert counts == [(n + 1, points) for n in range(points)]
    times = iter([9.0] * points + [4.0] * points)
    monkeypatch.setattr(measuring, "_block_ms", lambda *_: next(times))
    table = measure_blocks(graph, rounds=2)
    assert {ms for g in table.grids.values() for row in g.ms for ms in row} == {4.0}


def test_what_a_table_has_is_not_timed_again(timed):
    graph = trace(ready(thick()), SHAPE)
    table = measure_blocks(graph, rounds=1)
    assert timed
    timed.clear()
    assert measure_blocks(graph, table) == table
    plan = Plan({g.name: range(5) for g in graph.groups if not g.frozen})
    small = trace(slim(ready(thick()), plan, shape=SHAPE), SHAPE)
    measure_blocks(small, table)
    assert timed == []


def test_only_missing_widths_are_timed(timed):
    graph = trace(ready(wide()), SHAPE)
    first = next(u for u in fused_blocks(graph) if len(grid_points(u)[0]) > 2)
    ins, outs = grid_points(first)
    old = Grid(ins[:-1], outs, tuple((9.0,) * len(outs) for _ in ins[:-1]))
    full = measure_blocks(graph, rounds=1)
    known = LatencyTable(full.machine, 0.5, {**full.grids, first.signature: old})
    found = measure_blocks(graph, known, rounds=1).grids[first.signature]
    for a, row in zip(found.ins, found.ms):
        for b, ms in zip(found.outs, row):
            assert ms == (9.0 if a in old.ins and b in old.outs else 2.0)
    assert len(found.ins) > len(old.ins)


@pytest.mark.parametrize("name", ["cpu", "threads", "waiting", "mxnet"])
def test_table_of_another_machine_is_not_extended(timed, table, graph, name):
    other = LatencyTable({**table.machine, name: "x"}, 0.1, table.grids)
    with pytest.raises(ValueError, match=f"is for {name} 'x'") as told:
        measure_blocks(graph, other)
    assert "\n" not in str(told.value)
    assert timed == []


def test_table_of_another_machine_may_be_planned_with(graph, table):
    other = LatencyTable({"cpu": "x"}, table.call_ms, table.grids)
    assert predict_latency(graph, other) == predict_latency(graph, table)


def test_threads_are_part_of_the_machine(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3,1")
    assert this_machine()["threads"] == "3"
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    assert int(this_machine()["threads"]) >= 1


@pytest.mark.parametrize(
    ("given", "told"), [("ACTIVE", "active"), ("", "default"), (None, "default")]
)
def test_how_threads_wait_is_part_of_the_machine(monkeypatch, given, told):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    assert this_machine()["waiting"] == told


@pytest.mark.parametrize("wrong", [{"repeats": 0}, {"rounds": True}, {"rounds": 1.5}])
def test_counts_of_measurements_are_whole_numbers(graph, wrong):
    with pytest.raises(ValueError, match="allowed: a whole number from 1"):
        measure_blocks(graph, **wrong)


def test_real_times_cover_a_net_and_leave_it_alone():
    net = ready(chain())
    x = mx.nd.ones(SHAPE)
    before, graph = net(x).asnumpy(), trace(net, SHAPE)
    table = measure_blocks(graph, repeats=2, rounds=1)
    assert predict_latency(graph, table) >= table.call_ms > 0
    assert np.array_equal(net(x).asnumpy(), before)


@pytest.mark.parametrize(("threads", "clock"), [("1", "cpu"), ("2", "wall")])
def test_clock_follows_the_threads(monkeypatch, threads, clock):
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    ticks = {"cpu": itertools.count(0, 0.003), "wall": itertools.count(0, 7)}
    monkeypatch.setattr(time, "process_time", lambda: next(ticks["cpu"]))
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks["wall"]))
    found = nets_ms([lambda x: x, lambda x: [x, x]], (1, 2), repeats=2)
    assert found == pytest.approx([3, 3] if clock == "cpu" else [7000, 7000])
