"""Runs a server in a thread, or in a process that can be killed."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

from gluon_compress.serving.limits import Limits
from gluon_compress.serving.metrics import MetricsPort
from gluon_compress.serving.server import Server

TOY = Path(__file__).with_name("toy_server.py")


class Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def tasks(self) -> int:
        return len(asyncio.all_tasks(self._loop))

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextmanager
def looping() -> Iterator[Loop]:
    loop = Loop()
    try:
        yield loop
    finally:
        loop.close()


@contextmanager
def running(served: Any, *, metrics: bool = False, **options: Any) -> Iterator[Server]:
    """Run a server; its ``loop`` is the thread's."""
    names = Limits.model_fields
    limits = Limits(**{name: options.pop(name) for name in names if name in options})
    with looping() as loop:
        server: Any = Server(served, limits, **options)
        server.loop = loop
        loop.run(server.start())
        pages = MetricsPort(server.metrics, lambda: not server.is_stopping)
        if metrics:
            server.metrics_port = loop.run(pages.start("127.0.0.1", 0))
        try:
            yield server
        finally:
            loop.run(server.stop())
            loop.run(pages.stop())


def address(server: Any) -> str:
    return f"127.0.0.1:{server if isinstance(server, int) else server.port}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def started(port: int, *options: str) -> subprocess.Popen:
    """Start a server of the fake tail in a process, and wait until it listens."""
    process = subprocess.Popen(
        [sys.executable, str(TOY), str(port), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TOY.parents[1])},
    )
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise AssertionError(process.communicate()[1])
    return process


def talk(port: int, data: bytes, *, seconds: float = 30.0) -> bytes:
    """Send bytes, and return what comes until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as link:
        link.sendall(data)
        answer = b""
        while True:
            try:
                part = link.recv(1 << 16)
            except ConnectionResetError:
                return answer
            if not part:
                return answer
            answer += part
