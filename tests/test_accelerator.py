"""Cycles and bytes of layers, by hand on small maps."""

from __future__ import annotations

import mxnet as mx
import pytest

import gluon_compress as gc
from gluon_compress.accelerator import Accelerator, accelerator_cost, calibrated
from gluon_compress.graph.deformable import RUNGS, deformable
from gluon_compress.models import graph_of
from gluon_compress.plan import CostModel

DEVICE = Accelerator(
    multipliers=10,
    words=4,
    lanes=16,
    rows=5,
    on_chip=4096,
    megahertz=1,
    weight_bits=4,
    map_bits=8,
)
SIDE, INS, OUTS, BOUND = 8, 6, 10, 2  # of maps, channels, and the bound of taps
CELLS = SIDE * SIDE


def graph_with(x: mx.sym.Symbol):
    return gc.trace((x, {}), {"data": (1, INS, SIDE, SIDE)})


def deformed(rung: str):
    x = mx.sym.var("data")
    return graph_with(deformable(x, INS, OUTS, "layer", rung=rung, bound=BOUND))


def costs(graph, name: str, device: Accelerator = DEVICE) -> dict:
    rows = {work.name: cost for work, cost in accelerator_cost(graph, device).rows}
    return {key: int(value) for key, value in rows[name].items()}


def test_an_ordinary_convolution_by_hand():
    """3 x 3: its rows fit; what is slowest is multiplying."""
    found = costs(deformed("none"), "layer_conv")
    weights = 9 * INS * OUTS
    assert found["macs"] == CELLS * weights
    assert found["bytes"] == CELLS * (INS + OUTS) + weights / 2
    assert found["memory"] == -(-found["bytes"] // 4)
    assert found["cycles"] == found["multiplying"] == -(-CELLS * weights // 10)


def test_rows_that_do_not_fit_are_read_again():
    small = DEVICE.replace(on_chip=3 * SIDE * INS - 1)
    fits = costs(deformed("none"), "layer_conv")
    again = costs(deformed("none"), "layer_conv", small)
    assert again["bytes"] - fits["bytes"] == 2 * CELLS * INS
    assert costs(deformed("none"), "layer_conv", DEVICE.replace(rows=2)) == again


@pytest.mark.parametrize(
    ("rung", "offsets", "corners", "fits"),
    [
        # Free taps need the whole map: 8 rows, where the buffer has 5.
        ("full", 18, 4, False),
        ("bounded", 18, 4, False),  # 2 * 2 + 2 rows
        ("square", 1, 4, True),  # 2 * 2 + 1 rows
        ("integer", 1, 1, True),
    ],
)
def test_a_deformable_convolution_by_hand(rung, offsets, corners, fits):
    found = costs(deformed(rung), "layer_conv")
    weights, taps = 9 * INS * OUTS, 9 * INS * CELLS
    map_reads = CELLS * INS if fits else taps * corners
    assert found["macs"] == CELLS * weights
    words = map_reads + CELLS * (offsets + OUTS)
    assert found["bytes"] == words + weights / 2
    assert found["buffer"] == (-(-taps * corners // 16) if fits else 0)
    products = CELLS * weights + (taps * corners if corners > 1 else 0)
    assert found["multiplying"] == -(-products // 10)


def test_a_depthwise_one_has_its_channels_in_the_buffer_one_by_one():
    graph = deformed("depthwise")
    tiny = DEVICE.replace(on_chip=5 * SIDE)
    found = costs(graph, "layer_conv", tiny)
    assert found["macs"] == 9 * INS * CELLS
    assert found["bytes"] == CELLS * (INS + 1 + INS) + 9 * INS / 2
    assert found["buffer"] == -(-9 * INS * CELLS // 16)
    point = costs(graph, "layer_point", tiny)
    assert point["macs"] == CELLS * INS * OUTS


def test_each_rung_costs_at_most_the_one_before():
    device = DEVICE.replace(rows=6)
    totals = [accelerator_cost(deformed(rung), device) for rung in RUNGS[1:]]
    cycles = [total.cycles for total in totals]
    assert cycles == sorted(cycles, reverse=True)
    assert cycles[-1] < cycles[0] / 3
    assert totals[-1].bytes < totals[0].bytes
    text = str(totals[-1])
    assert "layer_conv" in text
    assert "depthwise" in text


def test_the_clock_can_stand_for_what_is_not_modelled():
    cost = accelerator_cost(deformed("square"), DEVICE)
    assert cost.frames_a_second == pytest.approx(1e6 / cost.cycles)
    device = calibrated(DEVICE, cost, fps=30)
    again = accelerator_cost(deformed("square"), device)
    assert again.frames_a_second == pytest.approx(30)


def test_a_budget_of_cycles_is_met_and_stated():
    """The cost model knows the cycles of every choice that slimming could make."""
    net = gc.build("mobilenet0.25", ["a", "b"], size=64)
    graph = graph_of(net)
    full = accelerator_cost(graph, DEVICE).cycles
    model = CostModel(graph, device=DEVICE)
    assert model.costs(model.full[None])["cycles"][0] == full
    budget = gc.Budget(cycles=0.6 * full, accelerator=DEVICE)
    plan = gc.select(graph, budget)
    small = gc.slim(net, plan, graph=graph)
    cycles = accelerator_cost(graph_of(small), DEVICE).cycles
    assert 0.4 * full < cycles <= 0.6 * full
    assert plan.made_by["accelerator"]["rows"] == 5
    assert plan.made_by["budget"] == {"cycles": 0.6 * full}
