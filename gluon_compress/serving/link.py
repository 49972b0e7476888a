"""Estimates a link from the answers that come over it."""

from __future__ import annotations

from collections import deque
from typing import Deque, Dict, Tuple

RECENT = 8  # round trips that count
LATEST = 5  # transmissions that count
SHARE = 0.25  # of a new measurement in the average
LEAST = 256  # bytes that say something of the rate
LEAST_SECONDS = 5e-4  # of a transmission that can be told from chance
CERTAIN = 3  # transmissions that take no time, until the link is taken for a fast one


class Link:
    """What is known of the way to a server.

    Requests are taken to go one after the other over a link of constant rate: a request
    starts when it is sent, or when the one before it has arrived. It has arrived half a
    round trip, and the time it spent on the server, before its answer comes.

    Both machines add delays of their own to what is measured. So the least of the
    latest measurements is the best.

    Attributes
    ----------
    server_seconds : float or None
        That a request spends on the server, on average.
    """

    def __init__(self) -> None:
        self.server_seconds: float | None = None
        self._transmissions: Deque[float] = deque(maxlen=LATEST)
        self._in_no_time = 0
        self._round_trips: Deque[float] = deque(maxlen=RECENT)
        self._sent: Dict[int, Tuple[float, int]] = {}
        self._arrived = self._free = 0.0

    @property
    def round_trip(self) -> float | None:
        """Seconds of the fastest of the latest round trips."""
        return min(self._round_trips) if self._round_trips else None

    @property
    def seconds_per_byte(self) -> float | None:
        """Seconds that a byte of a request takes."""
        return min(self._transmissions) if self._transmissions else None

    @property
    def kbit(self) -> float | None:
        """Rate of requests, kbit/s."""
        return 8e-3 / self.seconds_per_byte if self.seconds_per_byte else None

    def pinged(self, seconds: float) -> None:
        """Note how long a few bytes took there and back."""
        self._round_trips.append(seconds)

    def timed(self, size: int, seconds: float) -> None:
        """Note how long a number of bytes took there, and a few bytes back."""
        self._transmitted(seconds - (self.round_trip or 0.0), size)

    def sent(self, number: int, size: int, now: float) -> None:
        """Note that a request of so many bytes is sent."""
        self._sent[number] = (now, size)
        self._free = max(self._free, now) + size * (self.seconds_per_byte or 0.0)

    def forget(self) -> None:
        """Note that the connection has ended; what was measured stays."""
        self._sent.clear()
        self._arrived = self._free = 0.0

    def answered(self, number: int, now: float, server_seconds: float) -> None:
        """Note that the answer to a request has come."""
        if number not in self._sent:
            return
        sent, size = self._sent.pop(number)
        before = self.server_seconds
        change = 0.0 if before is None else (1 - SHARE) * (before - server_seconds)
        self.server_seconds = server_seconds + change
        half = 0.5 * (self.round_trip or 0.0)
        arrived = now - server_seconds - half
        begun = max(sent + half, self._arrived)
        self._arrived = max(self._arrived, arrived)
        if size >= LEAST:
            self._transmitted(arrived - begun, size)
        if not self._sent:
            self._free = now

    def transit(self, size: int) -> float:
        """Return the least seconds that a request and its answer are on the way."""
        return (self.round_trip or 0.0) + size * (self.seconds_per_byte or 0.0)

    def _transmitted(self, seconds: float, size: int) -> None:
        """Count a transmission; one that takes no time only if it is no exception.

        A machine that was busy sees what has come one after the other come at once.
        """
        self._in_no_time = self._in_no_time + 1 if seconds < LEAST_SECONDS else 0
        if not self._in_no_time or self._in_no_time >= CERTAIN:
            self._transmissions.append(max(seconds, LEAST_SECONDS) / size)

    def expected(self, size: int, now: float) -> float | None:
        """Return how many seconds a request would take, None if nothing is known."""
        if self.seconds_per_byte is None:
            return None
        waits = max(0.0, self._free - now)
        return waits + self.transit(size) + (self.server_seconds or 0.0)
