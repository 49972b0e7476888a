"""A server for many devices: connections, handshake, limits, and an orderly end.

One task reads each connection; ``Batcher`` runs the net in a thread. A sweeper closes
connections that keep the server waiting, so that no connection needs a timer.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import secrets
import socket
import ssl
import time
from collections import Counter
from contextlib import suppress
from typing import Any, Coroutine, Sequence

from gluon_compress.printable import printable
from gluon_compress.serving.batching import Batcher, Waiting
from gluon_compress.serving.frames import (
    HEADER,
    LARGEST_RESULT,
    NONCE,
    Failure,
    FrameError,
    Hello,
    Kind,
    Mode,
    Refusal,
    RequestError,
    Result,
    Welcome,
    frame,
    pack_failed,
    pack_refused,
    pack_result,
    read_frame,
    read_header,
    read_hello,
)
from gluon_compress.serving.limits import Limits
from gluon_compress.serving.metrics import Metrics
from gluon_compress.serving.served import Served

LOG = logging.getLogger(__name__)

BACKLOG = 1024
UNSENT = 1 << 16  # bytes of answers that wait to be read before requests are not read
MOST_LINES, LINES_SECONDS = 20, 10.0  # of refusals that are logged
NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
PAUSE = 0.1  # seconds until the next connection is accepted when there is no room


class Server:
    """Computes what devices send, until it is stopped.

    Parameters
    ----------
    served : Served
        What it computes; see ``open_served``.
    limits : Limits, optional
    token : str, optional
        Clients must prove that they know it.
    tls : ssl.SSLContext, optional
        See ``server_tls``.

    Attributes
    ----------
    metrics : Metrics
    port : int
        Where it listens, after ``start``.
    """

    def __init__(
        self,
        served: Served,
        limits: Limits | None = None,
        *,
        token: str | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.served, self.limits = served, limits or Limits()
        self.largest = min(self.limits.largest, served.largest or self.limits.largest)
        self.token, self.tls = token, tls
        self.metrics = Metrics()
        self.port = 0
        self.is_stopping = False
        self._connections: set[Connection] = set()
        self._by_address: Counter = Counter()
        self._tasks: set[asyncio.Task] = set()
        self._said = 0
        self._said_since = -math.inf

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen.

        Raises
        ------
        OSError
            If the address cannot be had.
        """
        self.batcher = Batcher(self.served.detect, self.limits, self.metrics)
        self._listener = _listening(host, port)
        self.port = self._listener.getsockname()[1]
        self.metrics.gauges.update(
            connections=lambda: len(self._connections),
            queue_length=lambda: len(self.batcher),
            unanswered=lambda: sum(c.unanswered for c in self._connections),
        )
        self._accepting = self._spawn(self._accept())
        self._rest = [self._spawn(self.batcher.run()), self._spawn(self._sweep())]

    async def __aenter__(self) -> Server:
        if not self.port:
            await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Take no more, answer what has come, and close; at most ``drain_seconds``."""
        if self.is_stopping:
            return
        self.is_stopping = True
        await _cancelled([self._accepting])
        self._listener.close()
        for connection in self._connections:
            if connection.is_welcome:
                connection.send(Kind.GOODBYE)
        try:
            await asyncio.wait_for(self._drained(), self.limits.drain_seconds)
        except asyncio.TimeoutError:
            LOG.warning("stopped with %d requests unanswered", len(self.batcher))
        await _cancelled(self._rest)
        self.batcher.close()
        for connection in self._connections:
            connection.close()
        await _cancelled(self._tasks)

    async def _drained(self) -> None:
        await self.batcher.drained()
        while any(c.is_there and c.unsent for c in self._connections):
            await asyncio.sleep(0.005)

    def _spawn(self, work: Coroutine) -> asyncio.Task:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # ------------------------------------------------------------ connections

    async def _accept(self) -> None:
        """Accept for ever. The limits hold from here on, before any TLS."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                link, address = await loop.sock_accept(self._listener)
            except OSError as error:
                if error.errno in NO_ROOM:
                    self.refused("room", f"no room for a connection: {error.strerror}")
                    await asyncio.sleep(PAUSE)
                continue
            peer = str(address[0])
            self.metrics.count("connections_total")
            if len(self._connections) >= self.limits.connections:
                self._turn_away(link, peer, "too many connections")
            elif self._by_address[peer] >= self.limits.per_address:
                self._turn_away(link, peer, f"too many connections from {peer}")
            else:
                connection = Connection(self, peer)
                self._connections.add(connection)
                self._by_address[peer] += 1
                self._spawn(self._hosted(connection, link))

    def _turn_away(self, link: socket.socket, peer: str, line: str) -> None:
        self.refused("limit", f"{peer}: refused: {line}")
        if self.tls is None:
            with suppress(OSError):
                link.send(frame(Kind.REFUSED, pack_refused(Refusal.TEMPORARY, line)))
        link.close()

    async def _hosted(self, connection: Connection, link: socket.socket) -> None:
        try:
            await connection.run(link)
        except Exception as error:  # a fault of ours must not end the server
            LOG.error("a connection failed: %s: %s", type(error).__name__, error)
        finally:
            connection.close()
            self._connections.discard(connection)
            self._by_address[connection.peer] -= 1
            if not self._by_address[connection.peer]:
                del self._by_address[connection.peer]

    async def _sweep(self) -> None:
        """Close connections that keep the server waiting for too long."""
        limits = self.limits
        shortest = min(
            limits.handshake_seconds, limits.frame_seconds, limits.idle_seconds
        )
        pause = min(0.5, max(0.01, shortest / 4))
        while True:
            await asyncio.sleep(pause)
            now = time.monotonic()
            for connection in list(self._connections):
                if connection.expires <= now:
                    connection.expire()

    def refused(self, kind: str, line: str) -> None:
        """Count a refusal, and log it unless there were many just now."""
        self.metrics.count("refused_total", kind=kind)
        now = time.monotonic()
        if now - self._said_since >= LINES_SECONDS:
            if self._said > MOST_LINES:
                LOG.warning("%d more connections refused", self._said - MOST_LINES)
            self._said, self._said_since = 0, now
        self._said += 1
        if self._said <= MOST_LINES:
            LOG.warning("%s", printable(line))


class Connection:
    """One client.

    Attributes
    ----------
    peer : str
        Its address.
    expires : float
        When the sweeper closes it, in ``time.monotonic``.
    unanswered : int
        Its requests that wait or are computed.
    is_welcome : bool
        Whether the handshake is over.
    """

    def __init__(self, server: Server, peer: str) -> None:
        self.server, self.peer = server, peer
        self.unanswered, self.is_open, self.is_welcome = 0, True, False
        self._threshold = 0.0
        self._waits_for = "the handshake"
        self._answered = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None
        self._limit("the handshake", server.limits.handshake_seconds)

    async def run(self, link: socket.socket) -> None:
        """Serve until either side ends; refuse in one line what is wrong."""
        try:
            reader = await self._opened(link)
            if await self._greeted(reader):
                await self._serve(reader)
        except FrameError as error:
            self._refuse("frame", str(error))
            await self._let_read()
        except asyncio.IncompleteReadError as error:
            if error.partial and self.is_open:
                self._note("frame", "closed in the middle of a frame")
            await self._last_answers()
        except (ssl.SSLError, ConnectionError) as error:
            if isinstance(error, ssl.SSLError):
                reason = (error.reason or "failed").lower().replace("_", " ")
                self._note("tls", f"no TLS: {reason}")
        except OSError as error:
            self._note("network", str(error.strerror or error))

    async def _opened(self, link: socket.socket) -> asyncio.StreamReader:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=UNSENT, loop=loop)
        options: dict[str, Any] = {}
        if self.server.tls is not None:
            options["ssl"] = self.server.tls
            options["ssl_handshake_timeout"] = self.server.limits.handshake_seconds
        transport, protocol = await loop.connect_accepted_socket(
            lambda: asyncio.StreamReaderProtocol(reader, loop=loop), link, **options
        )
        if not self.is_open:  # its time was over meanwhile
            transport.abort()
            raise ConnectionError("too late")
        transport.set_write_buffer_limits(high=UNSENT)
        self._writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        return reader

    # ------------------------------------------------------------ handshake

    async def _greeted(self, reader: asyncio.StreamReader) -> bool:
        """Return whether the client may stay."""
        server, served = self.server, self.server.served
        nonce = secrets.token_bytes(NONCE)
        self.send(Kind.CHALLENGE, nonce)
        _, body = await read_frame(reader, [Kind.HELLO])
        hello, is_known = read_hello(body, nonce, server.token)
        if not is_known:
            wanted = "its token is wrong or missing"
            if server.token is None:
                wanted = "it has a token, and this server needs none"
            self._refuse("token", wanted)
        elif server.is_stopping:
            self._refuse("stopping", "the server is stopping", Refusal.TEMPORARY)
        elif misfit(served, hello):
            self._refuse("pair", misfit(served, hello))
        else:
            self._threshold = hello.threshold
            limits = server.limits
            welcome = Welcome(
                served.mode,
                served.bits,
                served.pair,
                server.largest,
                limits.window,
                min(0xFFFF, max(1, math.ceil(limits.idle_seconds))),
                served.classes,
            )
            self.send(Kind.WELCOME, welcome.packed())
            self.is_welcome = True
            return True
        await self._let_read()
        return False

    async def _let_read(self) -> None:
        """Give the client a moment to read why it is refused."""
        if self._writer is None or not self.is_open:
            return
        self._limit("the end", min(1.0, self.server.limits.handshake_seconds))
        with suppress(NotImplementedError, OSError, RuntimeError):
            self._writer.write_eof()  # TLS has no half end
        with suppress(OSError):
            await self._writer.drain()

    async def _last_answers(self) -> None:
        """Answer a client that has sent all it wants to, and still reads."""
        self._limit("the end", self.server.limits.frame_seconds)
        while self.unanswered and self.is_there:
            self._answered.clear()
            await self._answered.wait()
        while self.unsent and self.is_there:
            await asyncio.sleep(0.01)

    # ------------------------------------------------------------ requests

    async def _serve(self, reader: asyncio.StreamReader) -> None:
        """Read request after request, as fast as answers are read."""
        server, limits = self.server, self.server.limits
        allowed = (Kind.PING, server.served.request)
        assert self._writer is not None
        while self.is_open:
            self._limit("answers to be read", limits.frame_seconds)
            await self._writer.drain()
            await self._room()
            self._limit("a request", limits.idle_seconds)
            kind, body = await self._frame(reader, allowed)
            server.metrics.count("received_bytes_total", 8 + len(body))
            if kind is Kind.PING:
                self.send(Kind.PONG, body[:8])
            elif not server.is_stopping:  # later ones are sent again elsewhere
                self._request(body)

    async def _frame(
        self, reader: asyncio.StreamReader, allowed: Sequence[Kind]
    ) -> tuple[Kind, bytes]:
        """Return the next frame; its body has its own time."""
        header = await reader.readexactly(HEADER.size)
        kind, length = read_header(header, allowed, self.server.largest)
        self._limit("the rest of a frame", self.server.limits.frame_seconds)
        return kind, await reader.readexactly(length)

    async def _room(self) -> None:
        """Wait while this client has more unanswered requests than it may have."""
        while self.unanswered > self.server.limits.window and self.is_there:
            self.expires = math.inf  # this wait is the server's own
            self._answered.clear()
            await self._answered.wait()

    def _request(self, body: bytes) -> None:
        server, now = self.server, time.monotonic()
        server.metrics.count("requests_total")
        try:
            number, milliseconds, item = server.served.read(body)
        except RequestError as error:
            self._fail(error.number, Failure.BAD, str(error))
            return

        def answer(outcome: Result | Failure | None, line: str = "") -> None:
            self.unanswered -= 1
            self._answered.set()
            if outcome is not None:
                self._answer(number, outcome, line, now)

        expires = now + 1e-3 * milliseconds if milliseconds else None
        kind = server.served.kind(item)
        wanted = Waiting(
            number, item, kind, now, expires, lambda: self.is_there, answer
        )
        self.unanswered += 1
        if not server.batcher.put(wanted):
            line = f"{len(server.batcher)} requests wait already"
            answer(Failure.BUSY, line)

    def _answer(
        self, number: int, outcome: Result | Failure, line: str, arrived: float
    ) -> None:
        if isinstance(outcome, Failure):
            self._fail(number, outcome, line)
            return
        try:
            body = pack_result(above(outcome, self._threshold))
            if len(body) > LARGEST_RESULT:
                raise ValueError(f"a result of {len(body)} bytes")
        except Exception as error:  # what a net returned
            LOG.error("a result cannot be sent: %s", error)
            self._fail(number, Failure.INTERNAL, "the result cannot be sent")
            return
        if self.is_there:
            self.send(Kind.RESULT, body)
            metrics = self.server.metrics
            metrics.count("answered_total")
            metrics.seconds.add(time.monotonic() - arrived)

    def _fail(self, number: int, failure: Failure, line: str) -> None:
        self.server.metrics.count("errors_total", kind=failure.name.lower())
        self.send(Kind.FAILED, pack_failed(number, failure, line))

    # ------------------------------------------------------------ the connection

    @property
    def is_there(self) -> bool:
        """Whether an answer can be sent."""
        writer = self._writer
        return self.is_open and writer is not None and not writer.is_closing()

    @property
    def unsent(self) -> int:
        """Bytes that the client has not taken yet."""
        if self._writer is None:
            return 0
        return self._writer.transport.get_write_buffer_size()

    def send(self, kind: Kind, body: bytes = b"") -> None:
        """Send a frame, unless the connection has ended."""
        if not self.is_there or self._writer is None:
            return
        data = frame(kind, body)
        self.server.metrics.count("sent_bytes_total", len(data))
        self._writer.write(data)

    def close(self) -> None:
        """End the connection; what was sent may still be read."""
        self.is_open, self.expires = False, math.inf
        self._answered.set()
        if self._writer is not None and self.unsent:
            self._writer.transport.abort()  # nobody will wait for the rest
        elif self._writer is not None:
            self._writer.close()

    def expire(self) -> None:
        """End the connection because it kept the server waiting."""
        if self._waits_for != "the end":
            self._note("slow", f"waited too long for {self._waits_for}")
        self.is_open, self.expires = False, math.inf
        self._answered.set()
        if self._writer is not None:
            self._writer.transport.abort()

    def _limit(self, what: str, seconds: float) -> None:
        self._waits_for = what
        self.expires = time.monotonic() + seconds

    def _refuse(self, kind: str, line: str, refusal: Refusal = Refusal.FINAL) -> None:
        self._note(kind, line)
        self.send(Kind.REFUSED, pack_refused(refusal, line))

    def _note(self, kind: str, line: str) -> None:
        self.server.refused(kind, f"{self.peer}: refused: {line}")


def misfit(served: Served, hello: Hello) -> str:
    """Return why a device does not belong to a server, or nothing."""
    if hello.mode is not served.mode:
        sends = {Mode.SPLIT: "tensors of a head", Mode.WHOLE: "images"}
        has = {Mode.SPLIT: "the tail of a split net", Mode.WHOLE: "a whole net"}
        return (
            f"the device sends {sends[hello.mode]}; the server has {has[served.mode]}"
        )
    if hello.pair != served.pair:
        ours, theirs = served.pair.hex()[:12], hello.pair.hex()[:12]
        return f"head {theirs} and tail {ours} do not belong together"
    if hello.bits != served.bits:
        return (
            f"the head sends {hello.bits} bits a number; the tail takes {served.bits}"
        )
    return ""


def above(result: Result, threshold: float) -> Result:
    """Return a result without scores below a threshold."""
    ids, scores, *rest = result.detections
    enough = scores >= threshold
    if threshold <= 0 or enough.all():
        return result
    detections = tuple(part[enough] for part in (ids, scores, *rest))
    return Result(result.number, result.waited, result.computed, detections)


def _listening(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises
    ------
    OSError
        That names the address.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except socket.gaierror as error:
        raise OSError(f"{host}:{port}: {error.strerror}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise OSError(f"{host}:{port}: {error.strerror}") from None
    return listener


async def _cancelled(tasks: Any) -> None:
    """Cancel tasks and wait for their end."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
