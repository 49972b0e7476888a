from __future__ import annotations

import pytest

from gluon_compress.serving.paying import (
    Setting,
    Way,
    break_even,
    fastest,
    interval,
    ranges,
    seconds,
)

LOCAL = Way(name="local", device=0.8)
REMOTE = Way(name="remote", device=0.01, server=0.2, up=100_000, down=1_000)
SPLIT = Way(name="split", device=0.1, server=0.15, up=8_000, down=1_000)


def test_time_is_the_sum_of_its_parts():
    setting = Setting(round_trip=0.05, device=3, server=0.5, down=4)
    expected = 3 * 0.1 + 0.5 * 0.15 + 0.05 + 8 * (8_000 + 1_000 / 4) / 250_000
    assert seconds(SPLIT, 250, setting) == pytest.approx(expected)
    assert seconds(LOCAL, 250, setting) == pytest.approx(3 * 0.8)  # no round trip


def test_a_stream_is_as_fast_as_its_slowest_part():
    assert interval(SPLIT, 1e6, Setting()) == 0.15  # the server
    assert interval(SPLIT, 1e6, Setting(device=4)) == pytest.approx(0.4)
    assert interval(SPLIT, 64, Setting()) == pytest.approx(1.0)  # the link
    assert interval(SPLIT, 64, Setting(down=0.01)) == pytest.approx(12.5)


@pytest.mark.parametrize("pair", [(LOCAL, SPLIT), (REMOTE, SPLIT), (REMOTE, LOCAL)])
@pytest.mark.parametrize("setting", [Setting(), Setting(0.1, device=4, down=5)])
def test_both_ways_take_equally_long_where_they_break_even(pair, setting):
    one, other = pair
    kbit = break_even(one, other, setting)
    assert kbit == break_even(other, one, setting)
    assert seconds(one, kbit, setting) == pytest.approx(seconds(other, kbit, setting))
    sends_less = min(pair, key=setting.kbits)
    assert fastest(pair, kbit * 0.9, setting) is sends_less
    assert fastest(pair, kbit * 1.1, setting) is not sends_less


def test_a_way_that_is_better_in_everything_never_breaks_even():
    worse = Way(name="worse", device=0.2, server=0.2, up=9_000, down=1_000)
    assert break_even(SPLIT, worse, Setting()) is None
    assert break_even(SPLIT, SPLIT, Setting()) is None


def test_slow_devices_and_slow_links_want_the_split():
    slow_link, fast_link = 200, 100_000
    assert fastest([LOCAL, REMOTE, SPLIT], fast_link, Setting(device=20)) is REMOTE
    assert fastest([LOCAL, REMOTE, SPLIT], slow_link, Setting(device=2)) is SPLIT
    assert fastest([LOCAL, REMOTE, SPLIT], 10, Setting(device=0.5)) is LOCAL


def test_ranges_cover_every_bandwidth_once():
    ways, setting = [LOCAL, REMOTE, SPLIT], Setting(0.05, device=2)
    parts = ranges(ways, setting)
    assert [way.name for way, _, _ in parts] == ["local", "split", "remote"]
    assert (parts[0][1], parts[-1][2]) == (0, float("inf"))
    for (_, _, high), (_, low, _) in zip(parts, parts[1:]):
        assert high == low
    for way, low, high in parts:
        for kbit in (low * 1.01 + 1e-3, min(high * 0.99, 1e9)):
            assert fastest(ways, kbit, setting) is way
    assert ranges([LOCAL], setting) == [(LOCAL, 0, float("inf"))]


@pytest.mark.parametrize(
    ("key", "value"),
    [("device", 0), ("server", -1), ("down", float("inf")), ("round_trip", -1)],
)
def test_impossible_settings_are_refused(key, value):
    with pytest.raises(ValueError, match=f"{key} is {value}"):
        Setting(**{key: value})


def test_a_link_without_bandwidth_is_refused():
    with pytest.raises(ValueError, match="kbit is 0"):
        seconds(SPLIT, 0, Setting())
