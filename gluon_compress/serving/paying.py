"""When does it pay to let a server compute? Times by formula, from measured parts.

An image takes the device's time, its bytes over the link, the server's time, and a
round trip if there is a server. So each way of computing is a line over the inverse of
the bandwidth, and two ways meet at one bandwidth at most.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Iterable, Sequence

from gluon_compress.validation import NonNegative, Settings


class Way(Settings):
    """A way from an image to its detections, and what was measured of it.

    Parameters
    ----------
    name : str
    device : float
        Seconds that the device computes, on the machine that measured it.
    server : float
        Seconds that the server computes; 0 without one.
    up, down : float
        Bytes to the server and back; 0 without one.
    """

    name: str
    device: NonNegative
    server: NonNegative = 0.0
    up: NonNegative = 0.0
    down: NonNegative = 0.0

    @property
    def is_local(self) -> bool:
        """Whether there is no server."""
        return not (self.up or self.down or self.server)


@dataclass(frozen=True)
class Setting:
    """Where it is computed.

    Parameters
    ----------
    round_trip : float
        Seconds.
    device : float
        How many times as long the device takes as the machine that measured it.
    server : float
        How many times as long the server takes.
    down : float
        Bandwidth from the server, as a multiple of that to it.
    """

    round_trip: float = 0.0
    device: float = 1.0
    server: float = 1.0
    down: float = 1.0

    def __post_init__(self) -> None:
        for name in ("device", "server", "down"):
            if not 0 < getattr(self, name) < float("inf"):
                value = getattr(self, name)
                raise ValueError(f"{name} is {value}; allowed: a number above 0")
        if not 0 <= self.round_trip < float("inf"):
            raise ValueError(
                f"round_trip is {self.round_trip}; allowed: a number from 0"
            )

    def fixed(self, way: Way) -> float:
        """Return the seconds of an image that no bandwidth changes."""
        trip = 0.0 if way.is_local else self.round_trip
        return way.device * self.device + way.server * self.server + trip

    def kbits(self, way: Way) -> float:
        """Return what crosses the link, kbit, in terms of the way up."""
        return 8e-3 * (way.up + way.down / self.down)


def seconds(way: Way, kbit: float, setting: Setting) -> float:
    """Return how long one image takes, alone.

    Parameters
    ----------
    way : Way
    kbit : float
        Bandwidth to the server, kbit/s.
    setting : Setting

    Raises
    ------
    ValueError
        If there is no bandwidth.
    """
    _check(kbit)
    return setting.fixed(way) + setting.kbits(way) / kbit


def interval(way: Way, kbit: float, setting: Setting) -> float:
    """Return the seconds between two results of a stream: of its slowest part.

    Device, link and server work on different images at once, as ``Client.stream`` does.
    """
    _check(kbit)
    parts = (way.device * setting.device, way.server * setting.server)
    links = (8e-3 * way.up / kbit, 8e-3 * way.down / (kbit * setting.down))
    return max(*parts, *links)


def break_even(one: Way, other: Way, setting: Setting) -> float | None:
    """Return the bandwidth at which two ways take equally long, kbit/s.

    Below it, the way that sends less is faster.

    Returns
    -------
    float or None
        None if one of them is faster at every bandwidth.
    """
    more = setting.kbits(one) - setting.kbits(other)
    saved = setting.fixed(other) - setting.fixed(one)
    if more * saved <= 0:
        return None
    return more / saved


def fastest(ways: Iterable[Way], kbit: float, setting: Setting) -> Way:
    """Return the way that takes the least time for one image."""
    return min(ways, key=lambda way: seconds(way, kbit, setting))


def ranges(ways: Sequence[Way], setting: Setting) -> list[tuple[Way, float, float]]:
    """Return which way is the fastest between which bandwidths, kbit/s, from 0 up.

    Returns
    -------
    list of tuple
        Way, lowest and highest bandwidth; the last one is infinity.
    """
    pairs = combinations(ways, 2)
    meetings = {break_even(one, other, setting) for one, other in pairs}
    ends = sorted({kbit for kbit in meetings if kbit is not None})
    parts: list[tuple[Way, float, float]] = []
    for low, high in zip([0.0, *ends], [*ends, math.inf]):
        middle = 2 * low + 1 if math.isinf(high) else (low + high) / 2
        way = fastest(ways, middle, setting)
        if parts and parts[-1][0] is way:
            low = parts.pop()[1]
        parts.append((way, low, high))
    return parts


def _check(kbit: float) -> None:
    if not 0 < kbit < float("inf"):
        raise ValueError(f"kbit is {kbit}; allowed: a number above 0")
