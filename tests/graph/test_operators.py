"""The operator table: one row is all that an operator needs."""

from __future__ import annotations

import numpy as np
import pytest
from mxnet.gluon import nn

from gluon_compress import Plan, count, mask, slim, trace
from gluon_compress.graph import OPERATORS, Operator
from gluon_compress.graph.context import OpContext, size_of
from gluon_compress.graph.operators import (
    CHANNELWISE,
    DENSE,
    FOLLOWER,
    LAYER,
    WHOLE,
    operator_of,
)
from nets import SHAPE, Wired, batch, conv, difference, ready

WIDTH = 8


NEW = "InstanceNorm"  # of MXNet; here the table does not have it yet


def normalized_net() -> Wired:
    """A convolution, the new operator, and a dense layer."""

    def wire(F, m, x):
        return m["out"](F.InstanceNorm(m["stem"](x), m["scale"], m["shift"]))

    layers = {"stem": conv(WIDTH), "out": nn.Dense(5)}
    return ready(Wired(wire, {"scale": (WIDTH,), "shift": (WIDTH,)}, **layers))


@pytest.fixture
def no_row(monkeypatch):
    monkeypatch.delitem(OPERATORS, NEW)


@pytest.fixture
def one_row(no_row, monkeypatch):
    """Add the operator, as its author would."""

    def per_channel(op: OpContext) -> list:
        channels = op.channel(0, 1)
        op.carry(1, 0, channels)
        op.carry(2, 0, channels)
        return [op.ids(0)]

    row = Operator(per_channel, macs=lambda attrs, shapes, out: size_of(out))
    monkeypatch.setitem(OPERATORS, NEW, row)


def test_operator_without_a_row_freezes_what_it_touches(no_row):
    (group,) = [g for g in trace(normalized_net(), SHAPE).groups if g.name == "conv0"]
    assert f"no rule for operator {NEW}" in group.frozen


def test_operator_with_a_row_is_traced(one_row):
    (group,) = [g for g in trace(normalized_net(), SHAPE).groups if g.name == "conv0"]
    assert not group.frozen
    assert any("scale" in name for name in group.members)


def test_operator_with_a_row_is_masked_and_slimmed(one_row):
    net, plan = normalized_net(), Plan({"conv0": (1, 2, 5)})
    masked, small = (way(net, plan, shape=SHAPE) for way in (mask, slim))
    shapes = [p.shape for p in small.collect_params(".*(scale|shift)").values()]
    assert shapes == [(3,), (3,)]
    assert difference(masked(batch()), small(batch())) < 1e-5


def test_operator_with_a_row_is_counted(one_row):
    graph, plan = trace(normalized_net(), SHAPE), Plan({"conv0": (1, 2, 5)})
    positions = int(np.prod(SHAPE[2:]))

    def macs(plan: Plan | None) -> list[int]:
        return [row.macs for row in count(graph, plan).rows if row.op == NEW]

    assert macs(None) == [WIDTH * positions]
    assert macs(plan) == [3 * positions]


# The table is consistent.


def test_layers_state_what_counting_and_masking_need():
    for name, operator in OPERATORS.items():
        if operator.weight_input is not None and name != "Embedding":
            assert operator.macs, name
            assert operator.rewrite, name
            assert operator.sums, name


def test_foldable_operators_are_layers():
    foldable = [operator for operator in OPERATORS.values() if operator.foldable]
    assert foldable
    assert all(operator.weight_input == 1 for operator in foldable)


def test_latency_forms_are_known():
    forms = {operator.latency for operator in OPERATORS.values()}
    assert forms == {LAYER, DENSE, CHANNELWISE, FOLLOWER, WHOLE}


def test_unknown_operator_has_a_row_of_its_own():
    row = operator_of("no_such_operator")
    assert row.macs is None
    assert row.weight_input is None
