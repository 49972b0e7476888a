"""Layers are chosen by patterns of names that no counter of the process changes."""

from __future__ import annotations

import pytest

from gluon_compress import trace
from gluon_compress.graph.layers import by_pattern, chosen_layers, layers_of
from nets import SHAPE, chain, ready, shared


def names(layers) -> list[str]:
    return [layer.name for layer in layers]


def test_layers_have_the_same_names_in_every_net_of_a_process():
    first = layers_of(trace(ready(chain()), SHAPE))
    second = layers_of(trace(ready(chain()), SHAPE))
    assert names(first) == names(second) == ["conv0", "conv1", "dense0"]
    assert [layer.bias is None for layer in first] == [True, True, False]


def test_a_layer_that_is_called_twice_is_there_twice():
    layers = layers_of(trace(ready(shared()), SHAPE), ("Convolution",))
    assert len(layers) == 3
    assert len({layer.weight for layer in layers}) == 2


def test_ignored_wins_over_target():
    layers = layers_of(trace(ready(chain()), SHAPE))
    assert names(chosen_layers(layers, ("conv*",), ("*1",))) == ["conv0"]


def test_the_first_pattern_that_fits_gives_the_value():
    layers = layers_of(trace(ready(chain()), SHAPE))
    rows = {"conv1": 4, "conv*": 2}
    expected = {"conv0": 2, "conv1": 4, "dense0": 8}
    assert by_pattern(layers, rows, 8, key="bits") == expected


@pytest.mark.parametrize("key", ["target", "ignored"])
def test_a_pattern_that_matches_nothing_is_named(key):
    layers = layers_of(trace(ready(chain()), SHAPE))
    message = rf"^a\.{key}: pattern 'cnv\*' matches no layer; layers are conv0, conv1"
    with pytest.raises(ValueError, match=message):
        chosen_layers(layers, **{key: ("cnv*",)}, key="a.")
    with pytest.raises(ValueError, match="^bits: pattern 'x' matches no layer"):
        by_pattern(layers, {"x": 4}, 8, key="bits")
