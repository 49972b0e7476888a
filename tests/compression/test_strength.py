"""The strongest compression within a drop of accuracy, with every trial kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gluon_compress.compression import Algorithm, StageOutput
from gluon_compress.compression.prune import Prune, PruneSettings
from gluon_compress.compression.quantize import Quantize, QuantizeSettings
from gluon_compress.compression.sparsify import Sparsify, SparsifySettings
from gluon_compress.compression.strength import DropLimit, applied
from gluon_compress.validation import parse
from nets import SHAPE, chain, ready


class LevelSettings(DropLimit):
    """Settings of ``Levelled``.

    Parameters
    ----------
    level : float
        How much accuracy is lost.
    """

    level: float


class Levelled(Algorithm):
    Settings = LevelSettings

    def dry_run(self, net, settings, context):
        return StageOutput(net)

    def apply(self, net, settings, context):
        net.level = settings.level
        context.applied.append((settings.level, context.folder.name))
        return StageOutput(net, {"level": settings.level})

    def at_strength(self, settings, strength):
        return settings.replace(level=settings.level * strength)


class Context:
    """Accuracy falls by half of what was applied."""

    metric, shape, folder = "top1", SHAPE, Path("stage")

    def __init__(self) -> None:
        self.applied: list = []

    def to_device(self, net) -> None:
        pass

    def validated(self, net) -> float:
        return 0.9 - 0.5 * getattr(net, "level", 0)

    def within(self, name):
        other = Context()
        other.applied, other.folder = self.applied, self.folder / name
        return other


def search(level: float, max_drop: float, trials: int = 4) -> tuple:
    settings = LevelSettings(level=level, max_drop=max_drop, trials=trials)
    context = Context()
    output = applied(Levelled(), ready(chain()), settings, context)
    return output, context.applied


def test_the_strongest_within_the_drop_is_found_by_halves():
    output, tried = search(0.8, 14)  # 0.28 of 0.8 is lost at a strength of 0.35
    assert [level for level, _ in tried] == pytest.approx([0.8, 0.4, 0.2, 0.3])
    assert [name for _, name in tried] == [f"trial_{i}" for i in range(1, 5)]
    assert output.net.level == pytest.approx(0.2)
    assert output.notes["strength"] == pytest.approx(0.25)
    assert [t["within"] for t in output.notes["trials"]] == [False, False, True, False]
    assert output.notes["trials"][1]["drop"] == pytest.approx(20)
    assert output.notes["trials"][1]["settings"] == {"level": pytest.approx(0.4)}
    assert json.dumps(output.notes)


def test_what_is_stated_is_tried_first_and_taken_if_it_can_be():
    output, tried = search(0.1, 10)
    assert [level for level, _ in tried] == [0.1]
    assert output.notes["strength"] == 1


def test_a_net_that_bears_nothing_stays_as_it_is():
    output, tried = search(0.8, 0.001)
    assert len(tried) == 4
    assert output.notes["strength"] == 0
    assert not hasattr(output.net, "level")


def test_strengths_of_each_algorithm():
    sparse = SparsifySettings(algorithm="sparsify", level=0.8, max_drop=1)
    assert Sparsify().at_strength(sparse, 0.5).level == 0.4
    quantised = QuantizeSettings(algorithm="quantize", weights={"bits": 2}, max_drop=1)
    bits = [Quantize().at_strength(quantised, s).weights.bits for s in (1, 0.5, 0.25)]
    assert bits == [2, 4, 8]
    pruned = PruneSettings(algorithm="prune", budget={"macs_ratio": 0.2}, max_drop=1)
    assert Prune().at_strength(pruned, 0.5).budget == {"macs_ratio": 0.6}
    row = {"algorithm": "prune", "budget": {"macs": 1e6}, "max_drop": 1}
    with pytest.raises(ValueError, match="max_drop is 1; allowed: null with a budget"):
        parse(PruneSettings, row)
    row = {"algorithm": "sparsify", "pattern": "2:4", "max_drop": 1}
    with pytest.raises(
        ValueError, match="max_drop is 1; allowed: null without a level"
    ):
        parse(SparsifySettings, row)
