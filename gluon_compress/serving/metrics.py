"""Counts what a server does, and shows it over HTTP as Prometheus reads it.

Only ``GET /metrics`` and ``GET /health`` are answered, on a port of their own.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import Counter
from typing import Callable, Dict, Mapping, Sequence, Tuple

from gluon_compress.version import __version__

PREFIX = "gluon_compress_"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
BATCHES = (1, 2, 4, 8, 16, 32, 64)
LONGEST_HEAD = 8192  # bytes of an HTTP request
PATIENCE = 5.0  # seconds for it
MOST_READERS = 16  # connections at once

Labels = Tuple[Tuple[str, str], ...]


class Histogram:
    """Counts values by upper bounds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds, self.total = tuple(bounds), 0.0
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self, name: str) -> list[str]:
        """Return it in Prometheus' text format."""
        lines, so_far = [f"# TYPE {name} histogram"], 0
        for bound, count in zip((*self.bounds, "+Inf"), self.counts):
            so_far += count
            lines.append(f'{name}_bucket{{le="{bound}"}} {so_far}')
        return [*lines, f"{name}_sum {self.total:.6g}", f"{name}_count {so_far}"]


class Metrics:
    """The figures of one server.

    Attributes
    ----------
    seconds : Histogram
        From a request's arrival to its answer.
    compute_seconds : Histogram
        Of the net, for a batch.
    batches : Histogram
        How many requests were computed at once.
    gauges : dict
        Functions that return what is true now, by name.
    """

    def __init__(self) -> None:
        self._counters: Dict[str, Counter] = {}
        self.seconds = Histogram(SECONDS)
        self.compute_seconds = Histogram(SECONDS)
        self.batches = Histogram(BATCHES)
        self.gauges: Dict[str, Callable[[], float]] = {}

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to a counter."""
        self._counters.setdefault(name, Counter())[tuple(labels.items())] += amount  # type: ignore[assignment]

    def value(self, name: str, **labels: str) -> float:
        """Return a counter; 0 if nothing was counted."""
        return self._counters.get(name, Counter())[tuple(labels.items())]

    def text(self) -> str:
        """Return all figures in Prometheus' text format."""
        lines = [f"# TYPE {PREFIX}info gauge"]
        lines.append(f'{PREFIX}info{{version="{__version__}"}} 1')
        for name, counter in self._counters.items():
            lines.append(f"# TYPE {PREFIX}{name} counter")
            for labels, value in counter.items():
                lines.append(f"{PREFIX}{name}{_shown(labels)} {value:g}")
        for name, read in self.gauges.items():
            lines += [f"# TYPE {PREFIX}{name} gauge", f"{PREFIX}{name} {read():g}"]
        lines += self.seconds.lines(f"{PREFIX}request_seconds")
        lines += self.compute_seconds.lines(f"{PREFIX}compute_seconds")
        lines += self.batches.lines(f"{PREFIX}batch_size")
        return "\n".join(lines) + "\n"


def _shown(labels: Labels) -> str:
    """Return labels as they are written; values are words of our own."""
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels) + "}"


class MetricsPort:
    """Answers ``GET /metrics`` and ``GET /health``.

    Parameters
    ----------
    metrics : Metrics
    is_healthy : callable
        Whether new requests are taken: ``/health`` answers 200, else 503.
    """

    def __init__(self, metrics: Metrics, is_healthy: Callable[[], bool]) -> None:
        self._metrics, self._is_healthy = metrics, is_healthy
        self._server: asyncio.AbstractServer | None = None
        self._tasks: set[asyncio.Task] = set()

    async def start(self, host: str, port: int) -> int:
        """Listen; return the port."""
        self._server = await asyncio.start_server(
            self._answer, host, port, limit=LONGEST_HEAD
        )
        return self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the port and its connections."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            if len(self._tasks) < MOST_READERS:
                self._tasks.add(task)
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
                writer.write(self._response(head))
                await asyncio.wait_for(writer.drain(), PATIENCE)
        except (
            OSError,
            asyncio.TimeoutError,
            asyncio.IncompleteReadError,
            asyncio.LimitOverrunError,
            asyncio.CancelledError,
        ):
            writer.transport.abort()
        finally:
            self._tasks.discard(task)
            writer.close()

    def _response(self, head: bytes) -> bytes:
        words = head.split(b"\r\n", 1)[0].split(b" ")
        path = words[1].split(b"?")[0] if len(words) == 3 else b""
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return _http("400 Bad Request", "no HTTP request\n")
        if words[0] not in (b"GET", b"HEAD"):
            return _http("405 Method Not Allowed", "allowed: GET\n", Allow="GET, HEAD")
        if path == b"/metrics":
            response = _http("200 OK", self._metrics.text())
        elif path == b"/health" and self._is_healthy():
            response = _http("200 OK", "serving\n")
        elif path == b"/health":
            response = _http("503 Service Unavailable", "stopping\n")
        else:
            response = _http("404 Not Found", "there is /metrics and /health\n")
        if words[0] == b"HEAD":
            response = response[: response.index(b"\r\n\r\n") + 4]
        return response


def _http(status: str, text: str, **headers: str) -> bytes:
    body = text.encode()
    fields: Mapping[str, str] = {
        "Content-Type": "text/plain; version=0.0.4; charset=utf-8",
        "Content-Length": str(len(body)),
        "Connection": "close",
        **headers,
    }
    lines = [f"HTTP/1.1 {status}", *(f"{k}: {v}" for k, v in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body
