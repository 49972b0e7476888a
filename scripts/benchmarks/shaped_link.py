"""A link of chosen bandwidth and delay on one machine: a TCP proxy.

What comes in leaves in the same order, no faster than a token bucket lets it, and after
the delay. All connections share the bandwidth of a direction, as over one radio. Losses
and the congestion control of TCP are not imitated, nor are its headers counted.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Iterator

PACKET = 1400  # bytes that are sent at once
BURST = 0.002  # seconds of bandwidth that may pass at once; timers are not finer
QUEUE = 1 << 16  # bytes on the way before the sender must wait


@dataclass
class Shape:
    """What a link is like; it may be changed while the link is used.

    Parameters
    ----------
    up, down : float
        kbit/s towards the server, and back.
    round_trip : float
        Milliseconds, half of them in each direction.
    is_cut : bool
        Whether nothing passes; what is on its way waits.
    """

    up: float
    down: float
    round_trip: float = 0.0
    is_cut: bool = False


class Direction:
    """The bandwidth of one direction, for all connections."""

    def __init__(self) -> None:
        self._free = 0.0

    def reserve(self, size: int, kbit: float) -> float:
        """Take the link for so many bytes; return when the last of them is on it."""
        now = time.monotonic()
        self._free = max(self._free, now) + 8e-3 * size / kbit
        return self._free


class ShapedLink:
    """A proxy to ``target``.

    Parameters
    ----------
    target : tuple
        Host and port of the server.
    shape : Shape

    Attributes
    ----------
    port : int
        Where clients connect.
    bytes_up, bytes_down : int
        That have passed.
    """

    def __init__(self, target: tuple[str, int], shape: Shape) -> None:
        self.target, self.shape, self.port = target, shape, 0
        self.bytes_up = self.bytes_down = 0
        self._up, self._down = Direction(), Direction()
        self._tasks: set[asyncio.Task] = set()

    async def start(self) -> None:
        """Listen on a free port of loopback."""
        self._server = await asyncio.start_server(self._link, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close everything."""
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _link(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        other = None
        try:
            from_server, other = await asyncio.open_connection(*self.target)
            pumps = [self._pump(reader, other, True)]
            pumps.append(self._pump(from_server, writer, False))
            waiting = {asyncio.ensure_future(pump) for pump in pumps}
            try:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in waiting:
                    each.cancel()
                await asyncio.gather(*waiting, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            for each in (writer, other):
                if each is not None:
                    each.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_up: bool
    ) -> None:
        """Read packets, and let each out when its time has come."""
        direction = self._up if is_up else self._down
        on_the_way: asyncio.Queue = asyncio.Queue(QUEUE // PACKET)
        delivering = asyncio.ensure_future(self._deliver(on_the_way, writer, is_up))
        try:
            while True:
                packet = await reader.read(PACKET)
                if not packet:
                    await on_the_way.put((0.0, b""))
                    await delivering
                    return
                kbit = self.shape.up if is_up else self.shape.down
                passed = direction.reserve(len(packet), kbit)
                await on_the_way.put((passed + 5e-4 * self.shape.round_trip, packet))
        finally:
            delivering.cancel()

    async def _deliver(
        self, on_the_way: asyncio.Queue, writer: asyncio.StreamWriter, is_up: bool
    ) -> None:
        while True:
            due, packet = await on_the_way.get()
            left = due - time.monotonic()
            if left > BURST / 2:
                await asyncio.sleep(left)
            while self.shape.is_cut:
                await asyncio.sleep(0.01)
            if not packet:
                return
            if is_up:
                self.bytes_up += len(packet)
            else:
                self.bytes_down += len(packet)
            writer.write(packet)
            await writer.drain()


@contextmanager
def shaped(port: int, shape: Shape, host: str = "127.0.0.1") -> Iterator[ShapedLink]:
    """Run a link to a port, in a thread, until the block ends."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    link = ShapedLink((socket.gethostbyname(host), port), shape)
    try:
        asyncio.run_coroutine_threadsafe(link.start(), loop).result()
        try:
            yield link
        finally:
            asyncio.run_coroutine_threadsafe(link.stop(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
