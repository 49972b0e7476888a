"""A device's connection to its server, through restarts and bad links.

Requests that have no answer when a connection ends are sent again over the next one, in
their order. An answer counts once: the number of a request is forgotten with it.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import ssl
import time
from collections import deque
from dataclasses import dataclass
from typing import Callable, Deque, Dict, Set, Tuple

from gluon_compress.serving.frames import (
    Failure,
    FrameError,
    Hello,
    Kind,
    Welcome,
    frame,
    read_failed,
    read_frame,
    read_refused,
    read_result,
    read_welcome,
)
from gluon_compress.serving.link import Link

CONNECT = 5.0  # seconds for a connection and its handshake
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0  # seconds between attempts to connect
FIRST_BUSY, LONGEST_BUSY = 0.02, 1.0  # seconds until a request is sent again
SILENCE = 15.0  # seconds without a frame after which a connection is given up,
SLOWEST, LONGEST_WAY = 1000, 60.0  # besides bytes a second, or seconds, of requests
PROBE_BYTES, PROBE_SECONDS = 4096, 5.0  # how a link is measured that is not used
MOST_TRIES = 8  # connections that may break while a request is on its way
FROM_SERVER = (Kind.RESULT, Kind.FAILED, Kind.PONG, Kind.GOODBYE, Kind.REFUSED)


class ServerAway(ConnectionError):
    """The server cannot be reached."""


class RefusedByServer(ValueError):
    """The server will not take this device, now or later."""


@dataclass(eq=False)
class Outgoing:
    """A request on its way.

    Parameters
    ----------
    number : int
    kind : Kind
    size : int
        Bytes of the frame.
    pack : callable
        Takes number and milliseconds left, and returns the body.
    expires : float or None
        When its answer would come too late, in ``time.monotonic``.
    future : asyncio.Future
        Of a ``Result``, or a ``Failure`` and a line.
    breaks : int
        Connections that broke while it was on its way.
    refusals : int
        How often the server was busy.
    """

    number: int
    kind: Kind
    size: int
    pack: Callable[[int, int], bytes]
    expires: float | None
    future: asyncio.Future
    breaks: int = 0
    refusals: int = 0

    def milliseconds(self) -> int | None:
        """Return what is left of its time, 0 for any, None if it is over."""
        if self.expires is None:
            return 0
        left = int(1e3 * (self.expires - time.monotonic()))
        return left if left > 0 else None

    def end(self, outcome: object) -> None:
        """Set the outcome, or raise it where it is awaited."""
        if self.future.done():
            return
        if isinstance(outcome, BaseException):
            self.future.set_exception(outcome)
            self.future.exception()  # it may be that nobody waits any more
        else:
            self.future.set_result(outcome)


class Session:
    """Keeps a connection to a server, and sends requests over it.

    Parameters
    ----------
    host, port
        Of the server.
    hello : Hello
        What the device says of itself.
    token : str, optional
    tls : ssl.SSLContext, optional
    patience : float
        Seconds without a connection after which requests fail.
    in_flight : int
        Requests that are on their way at once.
    probes : bool
        Whether the link's rate is measured before it is needed.
    check : callable
        Takes the ``Welcome``; raises ValueError if it does not suit the device.

    Attributes
    ----------
    link : Link
    welcome : Welcome or None
        What the server last said of itself.
    is_connected : bool
    tried : asyncio.Event
        Set once the first attempt to connect has ended.
    failure : Exception or None
        Why it never will be connected again.
    reason : str
        Why it is not connected.
    """

    def __init__(
        self,
        host: str,
        port: int,
        hello: Hello,
        *,
        token: str | None = None,
        tls: ssl.SSLContext | None = None,
        patience: float = 10.0,
        in_flight: int = 4,
        probes: bool = False,
        check: Callable[[Welcome], None] = lambda welcome: None,
    ) -> None:
        self.name = f"{host}:{port}"
        self._address, self._hello = (host, port), hello
        self._token, self._tls, self._patience = token, tls, patience
        self._most, self._probes, self._check = in_flight, probes, check
        self.link = Link()
        self.welcome: Welcome | None = None
        self.is_connected = False
        self.is_probing = probes
        self.tried = asyncio.Event()
        self.failure: Exception | None = None
        self.reason = "not connected yet"
        self._numbers = itertools.count(1)
        self._pending: Dict[int, Outgoing] = {}
        self._outbox: Deque[Outgoing] = deque()
        self._on_their_way: Set[int] = set()
        self._pings: Dict[bytes, Tuple[float, int]] = {}
        self._changed = asyncio.Event()
        self._is_leaving = False
        self._heard = 0.0
        self._away_since = time.monotonic()

    # ------------------------------------------------------------ requests

    def submit(
        self,
        kind: Kind,
        size: int,
        pack: Callable[[int, int], bytes],
        expires: float | None,
    ) -> Outgoing:
        """Send a request as soon as that is possible.

        Raises
        ------
        Exception
            What ``failure`` holds, if it is known that no request will be answered.
        """
        if self.failure is not None:
            raise self.failure
        number = next(self._numbers) & 0xFFFFFFFF
        future = asyncio.get_running_loop().create_future()
        request = Outgoing(number, kind, size, pack, expires, future)
        self._pending[number] = request
        self._outbox.append(request)
        self._changed.set()
        return request

    def forget(self, request: Outgoing) -> None:
        """Ignore what may still come for a request."""
        self._pending.pop(request.number, None)

    def _end(self, number: int, outcome: object) -> None:
        request = self._pending.pop(number, None)
        if request is not None:
            request.end(outcome)

    def _end_all(self, outcome: Exception) -> None:
        for number in list(self._pending):
            self._end(number, outcome)

    # ------------------------------------------------------------ connections

    async def run(self) -> None:
        """Connect again and again, until the server refuses the device for good."""
        pause = FIRST_PAUSE
        while self.failure is None:
            had_been = self._away_since
            try:
                await self._connect_once()
            except ssl.SSLCertVerificationError as error:
                line = f"{self.name}: its certificate: {error.verify_message}"
                self.failure = RefusedByServer(line)
            except RefusedByServer as error:
                self.failure = error
            except FrameError as error:
                if self.welcome is None:
                    self.failure = error
                self.reason = str(error)  # something else may have its port for now
            except (OSError, EOFError, asyncio.TimeoutError) as error:
                self.reason = _reason(error)
            self.tried.set()
            if self.failure is not None:
                self._end_all(self.failure)
                break
            if self._away_since != had_been:  # it was connected meanwhile
                pause = FIRST_PAUSE
            if time.monotonic() - self._away_since > self._patience:
                line = f"{self.name}: cannot be reached: {self.reason}"
                self._end_all(ServerAway(line))
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _connect_once(self) -> None:
        """Connect, and serve until the connection ends with an exception."""
        # With fewer seconds than a connection takes, the first attempt is the last.
        within = min(CONNECT, max(self._patience, 0.2))
        opening = asyncio.open_connection(*self._address, ssl=self._tls)
        reader, writer = await asyncio.wait_for(opening, within)
        try:
            await asyncio.wait_for(self._shake_hands(reader, writer), within)
            self._begin()
            await self._converse(reader, writer)
        finally:
            self._break()
            writer.transport.abort()

    async def _shake_hands(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            kind, body = await read_frame(reader, [Kind.CHALLENGE, Kind.REFUSED])
            if kind is Kind.REFUSED:
                self._refused(body)
            writer.write(frame(Kind.HELLO, self._hello.packed(body, self._token)))
            sent = time.monotonic()
            kind, body = await read_frame(reader, [Kind.WELCOME, Kind.REFUSED])
            if kind is Kind.REFUSED:
                self._refused(body)
            welcome = read_welcome(body)
        except FrameError as error:
            raise FrameError(f"{self.name}: {error}") from None
        self.link.pinged(time.monotonic() - sent)
        hello = self._hello
        if (welcome.mode, welcome.pair, welcome.bits) != (
            hello.mode,
            hello.pair,
            hello.bits,
        ):
            raise RefusedByServer(f"{self.name}: it does not belong to this device")
        try:
            self._check(welcome)
        except ValueError as error:
            raise RefusedByServer(f"{self.name}: {error}") from None
        self.welcome = welcome

    def _refused(self, body: bytes) -> None:
        is_final, line = read_refused(body)
        if is_final:
            raise RefusedByServer(f"{self.name}: refused: {line}")
        raise ConnectionError(f"refused: {line}")

    def _begin(self) -> None:
        self.is_connected, self._is_leaving = True, False
        self._heard = time.monotonic()
        self._outbox = deque(self._pending.values())
        self._changed.set()
        self.tried.set()

    def _break(self) -> None:
        if self.is_connected:
            self._away_since = time.monotonic()
        self.is_connected = False
        self.link.forget()
        self._pings.clear()
        for number in self._on_their_way:
            request = self._pending.get(number)
            if request is not None:
                request.breaks += 1
                if request.breaks >= MOST_TRIES:
                    line = f"the connection broke {MOST_TRIES} times over this image"
                    self._end(number, (Failure.INTERNAL, line))
        self._on_their_way.clear()

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        loop = asyncio.get_running_loop()
        tasks = [
            loop.create_task(self._read(reader)),
            loop.create_task(self._write(writer)),
            loop.create_task(self._keep_alive(writer)),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _write(self, writer: asyncio.StreamWriter) -> None:
        assert self.welcome is not None
        window = min(self._most, self.welcome.window)
        while True:
            await writer.drain()
            is_full = len(self._on_their_way) >= window
            if self._is_leaving or is_full or not self._outbox:
                self._changed.clear()
                await self._changed.wait()
                continue
            request = self._outbox.popleft()
            if request.number in self._pending and not request.future.done():
                self._send(request, writer, self.welcome.largest)

    def _send(
        self, request: Outgoing, writer: asyncio.StreamWriter, largest: int
    ) -> None:
        left = request.milliseconds()
        if left is None:
            self._end(request.number, (Failure.LATE, "too late to be sent"))
            return
        if left:  # what is left at the server, if the answer is to be in time
            left = max(1, left - int(1e3 * self.link.transit(request.size)))
        body = request.pack(request.number, left)
        if len(body) > largest:
            line = f"a request of {len(body)} bytes; the server allows {largest}"
            self._end(request.number, (Failure.BAD, line))
            return
        self._on_their_way.add(request.number)
        self.link.sent(request.number, request.size, time.monotonic())
        writer.write(frame(request.kind, body))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while True:
            try:
                kind, body = await read_frame(reader, FROM_SERVER)
                self._heard = time.monotonic()
                if kind is Kind.RESULT:
                    self._take_result(body)
                elif kind is Kind.FAILED:
                    self._take_failure(body)
                elif kind is Kind.PONG:
                    self._take_pong(body)
                elif kind is Kind.GOODBYE:
                    self._is_leaving = True
                else:
                    self._refused(body)
            except FrameError as error:  # connect again: others may stand between
                raise ConnectionError(f"it sends {error}") from None

    def _take_result(self, body: bytes) -> None:
        result = read_result(body)
        seconds = result.waited + result.computed
        self.link.answered(result.number, time.monotonic(), seconds)
        self._arrived(result.number)
        self._end(result.number, result)

    def _take_failure(self, body: bytes) -> None:
        number, failure, line = read_failed(body)
        self._arrived(number)
        request = self._pending.get(number)
        if failure is not Failure.BUSY or request is None:
            self._end(number, (failure, line))
            return
        pause = min(FIRST_BUSY * 2**request.refusals, LONGEST_BUSY)
        request.refusals += 1
        loop = asyncio.get_running_loop()
        loop.call_later(pause * random.uniform(0.5, 1.0), self._again, request)

    def _again(self, request: Outgoing) -> None:
        if request.number in self._pending and request not in self._outbox:
            self._outbox.append(request)
            self._changed.set()

    def _arrived(self, number: int) -> None:
        self._on_their_way.discard(number)
        self._changed.set()

    def _take_pong(self, body: bytes) -> None:
        sent, size = self._pings.pop(body, (None, 0))
        if sent is not None:
            seconds = time.monotonic() - sent
            if size > 8:
                self.link.timed(size, seconds)
            elif not self._on_their_way:
                self.link.pinged(seconds)

    async def _keep_alive(self, writer: asyncio.StreamWriter) -> None:
        """Ping a quiet connection, and give up a silent one."""
        assert self.welcome is not None
        pause = min(SILENCE, self.welcome.idle) / 3
        if self.is_probing:
            pause = min(pause, PROBE_SECONDS)
            self._ping(writer, 8)
            self._ping(writer, PROBE_BYTES)
        while True:
            await asyncio.sleep(pause)
            silent = time.monotonic() - self._heard
            if silent > SILENCE + self._longest_way():
                raise ConnectionError(f"silent for {silent:.0f} seconds")
            if len(self._pings) < 2:
                is_unused = self.is_probing and not self._on_their_way
                self._ping(writer, PROBE_BYTES if is_unused else 8)

    def _longest_way(self) -> float:
        """Return the seconds that what is on its way may take on a slow link."""
        requests = (self._pending.get(number) for number in self._on_their_way)
        size = sum(request.size for request in requests if request is not None)
        return min(LONGEST_WAY, size / SLOWEST)

    def _ping(self, writer: asyncio.StreamWriter, size: int) -> None:
        mark = next(self._numbers).to_bytes(8, "big")
        self._pings[mark] = (time.monotonic(), size)
        writer.write(frame(Kind.PING, mark + bytes(size - 8)))


def _reason(error: Exception) -> str:
    """Return why a connection ended, or did not begin."""
    if isinstance(error, asyncio.TimeoutError):
        return "it does not answer"
    if isinstance(error, EOFError):
        return "it closed the connection"
    if isinstance(error, ssl.SSLError):
        return f"no TLS: {error.reason}".lower().replace("_", " ")
    if getattr(error, "errno", None):
        return os.strerror(error.errno)  # type: ignore[attr-defined]
    return str(error) or type(error).__name__
