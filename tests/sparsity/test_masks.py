"""Which weights stay: how many, which, and when."""

from __future__ import annotations

import numpy as np
import pytest

from gluon_compress.sparsity import SparsitySettings
from gluon_compress.sparsity.curves import adaptive_level, level_at
from gluon_compress.sparsity.masks import kept_weights
from gluon_compress.sparsity.settings import Growth
from gluon_compress.validation import parse


def weights() -> dict[str, np.ndarray]:
    random = np.random.RandomState(0)
    shapes = {"a": (8, 4, 3, 3), "b": (6, 8, 1, 1), "c": (5, 12)}
    scales = {"a": 1, "b": 10, "c": 0.1}
    return {n: random.normal(size=s) * scales[n] for n, s in shapes.items()}


def masks_for(level: float, **settings) -> dict[str, np.ndarray]:
    return kept_weights(weights(), SparsitySettings(level=level, **settings), level)


@pytest.mark.parametrize("level", [0, 0.3, 0.5, 0.9, 0.999])
def test_the_share_of_zeros_is_exact(level):
    masks = masks_for(level)
    size = sum(mask.size for mask in masks.values())
    kept = sum(int(mask.sum()) for mask in masks.values())
    assert kept == max(size - round(level * size), 3)  # one of each layer at least
    assert all(set(np.unique(mask)) <= {0, 1} for mask in masks.values())


def test_the_smallest_weights_go_layer_by_layer_or_in_the_whole_net():
    by_layer = masks_for(0.5, scope="layer")
    for name, value in weights().items():
        mask = by_layer[name]
        assert mask.sum() == value.size / 2
        assert np.abs(value[mask == 1]).min() > np.abs(value[mask == 0]).max()
    plain = masks_for(0.5, normalised=False)
    kept = np.concatenate([np.abs(v[plain[n] == 1]) for n, v in weights().items()])
    gone = np.concatenate([np.abs(v[plain[n] == 0]) for n, v in weights().items()])
    assert np.sort(kept)[1] > gone.max()  # but for the only one of the layer "c"
    assert plain["c"].sum() == 1
    normalised = masks_for(0.5)
    assert normalised["c"].sum() > 20
    again = {n: v * 7 for n, v in weights().items()}
    settings = SparsitySettings(level=0.5)
    for name, mask in kept_weights(again, settings, 0.5).items():
        assert np.array_equal(mask, normalised[name])


@pytest.mark.parametrize(("pattern", "kept"), [("2:4", 2), ("1:4", 1), ("1:2", 1)])
def test_blocks_of_input_channels_keep_equally_many(pattern, kept):
    size = int(pattern[-1])
    settings = SparsitySettings(pattern=pattern)
    for name, mask in kept_weights(weights(), settings, settings.final).items():
        value = np.moveaxis(np.abs(weights()[name]), 1, -1).reshape(-1, size)
        blocks = np.moveaxis(mask, 1, -1).reshape(-1, size)
        assert (blocks.sum(axis=1) == kept).all()
        lost = np.where(blocks == 0, value, 0).max(axis=1)
        assert (np.where(blocks == 1, value, np.inf).min(axis=1) > lost).all()


def test_what_is_zero_stays_zero():
    values = {"a": np.float32([[1, 0], [0, -2]])}
    mask = kept_weights(values, SparsitySettings(method="keep"), 0)["a"]
    assert mask.tolist() == [[1, 0], [0, 1]]


def settings_of(level=0.8, initial=0.2, **growth) -> SparsitySettings:
    return SparsitySettings(level=level, initial=initial, growth=Growth(**growth))


def test_curves_by_their_formulas():
    polynomial = settings_of(epochs=4, power=3)
    levels = [level_at(polynomial, epoch, 8) for epoch in (0, 1, 2, 4, 7)]
    expected = [0.8 - 0.6 * (1 - part) ** 3 for part in (0, 0.25, 0.5, 1, 1)]
    assert levels == pytest.approx(expected)
    exponential = settings_of(curve="exponential", epochs=2)
    levels = [level_at(exponential, epoch, 8) for epoch in (0, 1, 2)]
    assert levels == pytest.approx([0.2, 1 - (0.8 * 0.2) ** 0.5, 0.8])
    stepped = settings_of(curve="multistep", steps=(1, 3), levels=(0.2, 0.5, 0.8))
    levels = [level_at(stepped, epoch, 8) for epoch in (0, 1, 2.9, 3)]
    assert levels == [0.2, 0.5, 0.5, 0.8]
    assert level_at(settings_of(), 6, 8) == 0.8  # after three quarters
    assert level_at(settings_of(), 5, 8) < 0.8
    assert level_at(settings_of(), 0, 1) == 0.8


def test_the_adaptive_level_follows_what_is_reached():
    settings = SparsitySettings(
        method="learned", level=0.3, growth=Growth(curve="adaptive", step=0.1)
    )
    reached = [adaptive_level(settings, present) for present in (0, 0.08, 0.16, 0.5)]
    assert reached == pytest.approx([0.1, 0.2, 0.2, 0.3])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "level is None; allowed: null with method 'keep', else a share"),
        ({"level": 1}, "level is 1; allowed: a number from 0, below 1"),
        ({"level": 0.5, "pattern": "2:4"}, "level is 0.5; allowed: null with the pat"),
        ({"pattern": "4:2"}, "pattern is '4:2'; allowed: N:M with 0 < N < M"),
        ({"pattern": "2:4", "method": "learned"}, "pattern is '2:4'; allowed: null"),
        ({"level": 0.2, "initial": 0.3}, "initial is 0.3; allowed: up to the level"),
        (
            {"level": 0.2, "growth": {"curve": "adaptive"}},
            "growth.curve is 'adaptive'; allowed: another with method magnitude",
        ),
        (
            {"level": 0.2, "growth": {"curve": "sine"}},
            "growth.curve is 'sine'; allowed: polynomial, exponential, multistep, adap",
        ),
        (
            {"level": 0.2, "growth": {"curve": "multistep", "steps": [2]}},
            r"growth.levels is \[\]; allowed: 2 shares",
        ),
    ],
)
def test_bad_settings_are_one_line(content, message):
    with pytest.raises(ValueError, match=message):
        parse(SparsitySettings, content)
