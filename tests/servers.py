"""A web server on loopback that behaves, or fails in ways that real ones do."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Callable, Iterator


class Server:
    """The files that are served by path, and the requests that came.

    ``misbehave`` maps a path to functions, one for each of its next requests:
    ``function(handler, content, begin)`` answers one for the bytes from ``begin``.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.misbehave: dict[str, list[Callable]] = {}
        self.requests: list[tuple[str, int]] = []  # path and first byte
        self.url = ""


@contextmanager
def serving() -> Iterator[Server]:
    """Run a server until the block ends."""
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range", "bytes=0-")
            begin = int(asked[len("bytes=") :].rstrip("-"))
            state.requests.append((self.path, begin))
            content = state.files.get(self.path)
            waiting = state.misbehave.get(self.path, [])
            if waiting:
                waiting.pop(0)(self, content, begin)
            elif content is None:
                self.send_error(404)
            else:
                answer(self, content, begin)

        def log_message(self, *ignored) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{httpd.server_address[1]}"
    try:
        yield state
    finally:
        httpd.shutdown()
        httpd.server_close()


def answer(
    handler,
    content: bytes,
    begin: int = 0,
    *,
    sent: int | None = None,
    pause: float = 0,
    **headers: str,
) -> None:
    """Send a file from a byte on; only ``sent`` bytes of what is announced."""
    handler.send_response(206 if begin else 200)
    if begin:
        stated = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        handler.send_header("Content-Range", stated)
    handler.send_header("Content-Length", str(len(content) - begin))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    part = content[begin:] if sent is None else content[begin : begin + sent]
    with suppress(ConnectionError):  # the client had enough
        for start in range(0, len(part), 1 << 14):
            handler.wfile.write(part[start : start + (1 << 14)])
            time.sleep(pause)
    handler.close_connection = sent is not None


def drop(after: int) -> Callable:
    """Close the connection after so many bytes."""
    return lambda h, content, begin: answer(h, content, begin, sent=after)


def slow(pause: float) -> Callable:
    """Wait after each block."""
    return lambda h, content, begin: answer(h, content, begin, pause=pause)


def silent(handler, content: bytes, begin: int) -> None:
    """Announce a file, and send nothing of it for half a second."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    time.sleep(0.5)
    handler.close_connection = True


def compressed(kind: str) -> Callable:
    """State that a file was compressed on the way."""
    return lambda h, content, begin: answer(h, content, begin, Content_Encoding=kind)


def without_ranges(handler, content: bytes, begin: int) -> None:
    """Ignore which range is asked for."""
    answer(handler, content)


def wrong(handler, content: bytes, begin: int) -> None:
    """Send other bytes, as many."""
    answer(handler, bytes(len(content)), begin)


def shifted(handler, content: bytes, begin: int) -> None:
    """Send another range than is asked for."""
    answer(handler, content, max(begin // 2, 1))


def endless(handler, content: bytes, begin: int) -> None:
    """Send without end, and without saying how much."""
    handler.send_response(200)
    handler.end_headers()
    handler.close_connection = True
    with suppress(ConnectionError):
        for _ in range(10000):
            handler.wfile.write(bytes(1 << 14))


def page(handler, content: bytes, begin: int) -> None:
    """Send a page, as networks do that ask for a password first."""
    answer(handler, b"<p>Who are you?</p>")


def status(code: int, **headers: str) -> Callable:
    """Answer with a status and nothing else."""

    def send(handler, content: bytes, begin: int) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return send
