"""Computes the requests of all clients in batches, in one thread of its own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Callable, Deque, Hashable, Sequence, Tuple

from gluon_compress.serving.frames import Failure, Result
from gluon_compress.serving.limits import Limits
from gluon_compress.serving.metrics import Metrics
from gluon_compress.validation import first_line

LOG = logging.getLogger(__name__)

Outcome = Tuple[Any, ...]  # the arrays of one image


@dataclass(frozen=True)
class Waiting:
    """A request that waits for the net.

    Parameters
    ----------
    number : int
        What the client calls it.
    item : object
        What the net takes.
    kind : hashable
        Only requests of one kind can be computed together.
    arrived : float
        Time of ``time.monotonic``.
    expires : float or None
        When an answer would come too late.
    is_wanted : callable
        Whether its client is still there.
    answer : callable
        Takes a ``Result``, a ``Failure`` and a line, or None if it is not wanted; is
        called once.
    """

    number: int
    item: Any
    kind: Hashable
    arrived: float
    expires: float | None
    is_wanted: Callable[[], bool]
    answer: Callable[..., None]


class Batcher:
    """A bounded queue in front of a net.

    Parameters
    ----------
    detect : callable
        Takes a list of items and returns a list of outcomes, in a thread. A ValueError
        means that an item is bad.
    limits : Limits
    metrics : Metrics
    """

    def __init__(
        self, detect: Callable[[list], Sequence], limits: Limits, metrics: Metrics
    ) -> None:
        self._detect, self._limits, self._metrics = detect, limits, metrics
        self._queue: Deque[Waiting] = deque()
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="net")

    def __len__(self) -> int:
        """Return how many requests wait."""
        return len(self._queue)

    def put(self, waiting: Waiting) -> bool:
        """Queue a request; return False if the queue is full."""
        if len(self._queue) >= self._limits.queue:
            self._drop()
        if len(self._queue) >= self._limits.queue:
            return False
        self._queue.append(waiting)
        self._idle.clear()
        self._changed.set()
        return True

    async def run(self) -> None:
        """Compute batch after batch, until it is cancelled."""
        while True:
            await self._filled()
            try:
                batch = self._taken()
                if batch:
                    await self._compute(batch)
            except Exception as error:  # a fault of ours must not end the queue
                LOG.error("a batch failed: %s: %s", type(error).__name__, error)
            if not self._queue:
                self._idle.set()

    async def drained(self) -> None:
        """Wait until nothing waits or is computed."""
        await self._idle.wait()

    def close(self) -> None:
        """Let the thread end after what it computes now."""
        self._thread.shutdown(wait=False)

    async def _filled(self) -> None:
        """Wait for a batch: until it is full, or its first request has waited enough.

        Requests that wait for the same reason do not delay each other: whatever comes
        while the net computes is there at once afterwards.
        """
        while not self._queue:
            self._changed.clear()
            await self._changed.wait()
        end = self._queue[0].arrived + 1e-3 * self._limits.wait_ms
        while len(self._queue) < self._limits.batch:
            left = end - time.monotonic()
            if left <= 0:
                return
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except asyncio.TimeoutError:
                return

    def _drop(self) -> None:
        """Answer what is too late, and forget whose client has gone."""
        now, staying = time.monotonic(), []
        for waiting in self._queue:
            if not waiting.is_wanted():
                self._metrics.count("errors_total", kind="gone")
                waiting.answer(None)
            elif waiting.expires is not None and waiting.expires <= now:
                line = f"too late after {now - waiting.arrived:.3f} seconds"
                waiting.answer(Failure.LATE, line)
            else:
                staying.append(waiting)
        self._queue = deque(staying)

    def _taken(self) -> list[Waiting]:
        """Take the next batch: the first request, and others of its kind."""
        self._drop()
        batch: list[Waiting] = []
        others: Deque[Waiting] = deque()
        for waiting in self._queue:
            fits = not batch or waiting.kind == batch[0].kind
            if fits and len(batch) < self._limits.batch:
                batch.append(waiting)
            else:
                others.append(waiting)
        self._queue = others
        return batch

    async def _compute(self, batch: Sequence[Waiting]) -> None:
        started = time.monotonic()
        loop = asyncio.get_running_loop()
        items = [waiting.item for waiting in batch]
        outcomes = await loop.run_in_executor(self._thread, self._outcomes, items)
        computed = time.monotonic() - started
        self._metrics.batches.add(len(batch))
        self._metrics.compute_seconds.add(computed)
        for waiting, outcome in zip(batch, outcomes):
            if isinstance(outcome, ValueError):
                waiting.answer(Failure.BAD, first_line(outcome))
            elif isinstance(outcome, BaseException):
                waiting.answer(Failure.INTERNAL, "the net failed; the server knows why")
            else:
                queued = started - waiting.arrived
                waiting.answer(Result(waiting.number, queued, computed, outcome))

    def _outcomes(self, items: list) -> list[Any]:
        """Return an outcome or an exception for each item; runs in the thread.

        If a batch fails, each of its items is computed alone: a bad one must not harm
        those of other clients.
        """
        try:
            outcomes = list(self._detect(items))
            if len(outcomes) != len(items):
                raise RuntimeError(f"{len(outcomes)} results for {len(items)} images")
            return outcomes
        except Exception as error:
            if len(items) > 1:
                return [self._outcomes([item])[0] for item in items]
            if not isinstance(error, ValueError):
                LOG.error("the net failed: %s: %s", type(error).__name__, error)
            return [error]
