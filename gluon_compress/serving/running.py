"""Runs a server until a signal asks it to end."""

from __future__ import annotations

import asyncio
import signal
import ssl
from typing import Any, Callable, Dict

from gluon_compress.serving.limits import Limits
from gluon_compress.serving.metrics import MetricsPort
from gluon_compress.serving.served import Served
from gluon_compress.serving.server import Server
from gluon_compress.stopping import WORDS

METRICS_HOST = "127.0.0.1"


def serve(
    served: Served,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    limits: Limits | None = None,
    token: str | None = None,
    tls: ssl.SSLContext | None = None,
    metrics_port: int | None = None,
    metrics_host: str = METRICS_HOST,
    ready: Callable[[Server, int], None] | None = None,
) -> int:
    """Serve until SIGINT, SIGTERM or SIGHUP; answer what is due; return the signal.

    A second signal does what it would have done without a server. Only in the main
    thread; elsewhere, use ``Server``.

    Parameters
    ----------
    served : Served
        See ``open_served``.
    host, port
        Where to listen; port 0: any that is free.
    limits : Limits, optional
    token : str, optional
        That clients must know.
    tls : ssl.SSLContext, optional
        See ``server_tls``.
    metrics_port : int, optional
        Where ``/metrics`` and ``/health`` are; 0: any port that is free.
    metrics_host : str
    ready : callable
        Called with the server and the port of its metrics once it listens.

    Raises
    ------
    OSError
        If an address cannot be had.
    """
    server = Server(served, limits, token=token, tls=tls)
    return asyncio.run(
        _serve(server, (host, port), (metrics_host, metrics_port), ready)
    )


async def _serve(
    server: Server,
    address: tuple[str, int],
    metrics: tuple[str, int | None],
    ready: Callable[[Server, int], None] | None,
) -> int:
    loop = asyncio.get_running_loop()
    asked: asyncio.Future = loop.create_future()
    pages = MetricsPort(server.metrics, lambda: not server.is_stopping)
    port = 0
    await server.start(*address)
    try:
        if metrics[1] is not None:
            port = await pages.start(metrics[0], metrics[1])
        before = _handle(loop, asked)
        try:
            if ready is not None:
                ready(server, port)
            return await asked
        finally:
            await server.stop()
            _restore(loop, before)
    finally:
        await server.stop()
        await pages.stop()


def _handle(loop: asyncio.AbstractEventLoop, asked: asyncio.Future) -> Dict[int, Any]:
    """Let the first signal end the wait; return the handlers before."""
    before: Dict[int, Any] = {}

    def note(number: int) -> None:
        if asked.done():
            _restore(loop, before)
            signal.raise_signal(number)
        else:
            asked.set_result(number)

    for number in WORDS:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            before[number] = signal.getsignal(number)
            loop.add_signal_handler(number, note, number)
    return before


def _restore(loop: asyncio.AbstractEventLoop, before: Dict[int, Any]) -> None:
    for number, handler in before.items():
        loop.remove_signal_handler(number)
        signal.signal(number, handler)
