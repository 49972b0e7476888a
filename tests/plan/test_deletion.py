from __future__ import annotations

import re

import numpy as np
import pytest

from gluon_compress import Plan, delete, trace
from gluon_compress.plan.importance import importance_of
from nets import SHAPE, ready, wide


@pytest.fixture(scope="module")
def graph():
    return trace(ready(wide()), SHAPE)


def test_delete_keeps_the_share_of_the_first_pattern_that_fits(graph):
    plan = delete(graph, {"conv1": 0.25, "conv*": 0.5}, multiple=4)
    widths = {g.name: (len(plan.kept(g)), g.width) for g in graph.groups}
    assert widths["conv1"] == (20, 80)
    for name in ("conv0", "conv3", "conv4"):
        assert widths[name][0] == widths[name][1] / 2
    assert widths["conv5"] == (5, 5)


def test_delete_takes_the_nearest_multiple_and_leaves_the_rest(graph):
    plan = delete(graph, {"conv1": 0.48}, "l1", multiple=16)
    assert {g.name for g in graph.groups if len(plan.kept(g)) < g.width} == {"conv1"}
    assert len(plan.keep["conv1"]) == 32  # of 80: 38.4 is nearer to 32 than to 48
    best = np.argsort(-importance_of(graph, "l1")["conv1"], kind="stable")[:32]
    assert plan.keep["conv1"] == tuple(sorted(best))


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"conv1": 0}, "'conv1' keeps 0; allowed: above 0 to 1"),
        ({"conv1": 1.5}, "'conv1' keeps 1.5; allowed: above 0 to 1"),
        ({"conv1": True}, "'conv1' keeps True; allowed: above 0 to 1"),
        ({"conv1": np.nan}, "'conv1' keeps nan; allowed: above 0 to 1"),
        ({"conv1": np.bool_(True)}, "'conv1' keeps True; allowed: above 0 to 1"),
        ({"conv5": 0.5}, "'conv5' matches no group that can lose channels; allowed"),
        ({"conv*": 0.5, "conv1": 0.2}, "'conv1' decides nothing; allowed: before the"),
        ({}, "keep is {}; allowed: a pattern with its share"),
    ],
)
def test_share_that_cannot_be_is_refused(graph, keep, message):
    with pytest.raises(ValueError, match=message):
        delete(graph, keep)


@pytest.mark.parametrize("multiple", [1, 16])
def test_share_of_less_than_one_channel_is_refused_with_the_least(graph, multiple):
    # conv3 is the narrowest that the second pattern decides on, with 24 channels.
    keep = {"conv0": 0.5, "conv*": 0.02}
    with pytest.raises(ValueError, match=r"'conv\*' keeps 0.02 of 'conv3'") as told:
        delete(graph, keep, multiple=multiple)
    words = r"whose width is 24: less than one channel; allowed: from (.*)$"
    least = float(re.search(words, str(told.value)).group(1))
    plan = delete(graph, {"conv0": 0.5, "conv*": least}, multiple=multiple)
    assert len(plan.keep["conv3"]) == multiple
    with pytest.raises(ValueError, match="less than one channel"):
        delete(graph, {"conv*": np.nextafter(least, 0)}, multiple=multiple)


def test_minimum_that_is_stated_may_be_more_than_a_share(graph):
    plan = delete(graph, {"conv*": 0.001}, multiple=1, minimum=1)
    assert {len(plan.kept(g)) for g in graph.groups if not g.frozen} == {1}


def test_width_is_the_nearest_of_the_allowed_ones(graph):
    # Of 64 channels 19.2, of 48 14.4, of 24 7.2; the multiples of 16 are far apart.
    plan = delete(graph, {"conv*": 0.3})
    assert [len(plan.keep[f"conv{i}"]) for i in (4, 0, 3)] == [16, 16, 16]
    assert len(delete(graph, {"conv1": 0.9}).keep["conv1"]) == 80  # of 72, as far as 64


@pytest.mark.parametrize("number", [np.float32, np.float64, np.float16])
def test_share_may_be_a_number_of_numpy(graph, number, tmp_path):
    plan = delete(graph, {"conv1": number(0.5)}, multiple=1)
    assert dict(plan.keep) == dict(delete(graph, {"conv1": 0.5}, multiple=1).keep)
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
