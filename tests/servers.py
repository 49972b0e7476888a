"""A web server on loopback that behaves, or fails in ways that real ones do."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Callable, Iterator


class Server:
    """What is served by path, how it misbehaves, and which requests came.

    ``misbehave`` maps a path to functions, one for each of its next requests:
    ``function(handler, content, begin)`` answers it, or returns False to let it be
    answered as it should.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.misbehave: dict[str, list[Callable]] = {}
        self.requests: list[tuple[str, str]] = []  # path and range
        self.accepted: set[str] = set()  # how answers may be packed
        self.url = ""


@contextmanager
def serving() -> Iterator[Server]:
    """Run a server until the block ends."""
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range", "")
            state.requests.append((self.path, asked))
            state.accepted.add(self.headers.get("Accept-Encoding", ""))
            content = state.files.get(self.path)
            begin = int(asked[6:].rstrip("-")) if asked else 0
            waiting = state.misbehave.get(self.path, [])
            if waiting and waiting.pop(0)(self, content, begin) is not False:
                return
            if content is None:
                self.send_error(404)
            elif begin and begin >= len(content):
                self.send_error(416)
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
    """Send a file from a byte on; ``sent`` bytes of it, if less than it says."""
    handler.send_response(206 if begin else 200)
    if begin:
        stated = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        handler.send_header("Content-Range", stated)
    handler.send_header("Content-Length", str(len(content) - begin))
    send_headers(handler, headers)
    handler.end_headers()
    part = content[begin:] if sent is None else content[begin : begin + sent]
    try:
        for start in range(0, len(part), 1 << 14):
            handler.wfile.write(part[start : start + (1 << 14)])
            time.sleep(pause)
    except ConnectionError:
        pass  # the client had enough
    if sent is not None:
        handler.close_connection = True


def send_headers(handler, headers: dict[str, str]) -> None:
    """Send headers that are named in Python's way."""
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)


def drop(after: int) -> Callable:
    """Close the connection after so many bytes."""
    return lambda h, content, begin: answer(h, content, begin, sent=after)


def whole(handler, content: bytes, begin: int) -> None:
    """Ignore what range was asked for."""
    answer(handler, content)


def wrong(handler, content: bytes, begin: int) -> None:
    """Send other bytes, as many."""
    answer(handler, bytes(len(content)), begin)


def longer(handler, content: bytes, begin: int) -> None:
    """Send more than there is."""
    answer(handler, content + b"more", begin)


def endless(handler, content: bytes, begin: int) -> None:
    """Send without saying how much."""
    handler.send_response(200)
    handler.end_headers()
    handler.close_connection = True
    try:
        for _ in range(10000):
            handler.wfile.write(bytes(1 << 14))
    except ConnectionError:
        pass


def shifted(handler, content: bytes, begin: int) -> None:
    """Send another range than was asked for."""
    answer(handler, content, max(begin // 2, 1))


def packed(kind: str, sent: int | None = None) -> Callable:
    """Say of a file that is packed that it was packed on the way."""
    named = {"Content_Encoding": kind}
    return lambda h, content, begin: answer(h, content, begin, sent=sent, **named)


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> Callable:
    """Send in chunks, which state no length of the whole."""

    def send(handler, content: bytes, begin: int) -> None:
        handler.protocol_version = "HTTP/1.1"
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for chunk in chunks:
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        handler.wfile.write(end)
        handler.close_connection = True

    return send


def ahead(handler, content: bytes, begin: int) -> bool | None:
    """Leave out a byte of any range."""
    return answer(handler, content, begin + 1) if begin else False


def sparing(most: int) -> Callable:
    """Send no more at once than so many bytes, and say so."""

    def send(handler, content: bytes, begin: int) -> None:
        end = min(begin + most, len(content))
        handler.send_response(206)
        stated = f"bytes {begin}-{end - 1}/{len(content)}"
        handler.send_header("Content-Range", stated)
        handler.send_header("Content-Length", str(end - begin))
        handler.end_headers()
        handler.wfile.write(content[begin:end])

    return send


def again(after: int) -> Callable:
    """Ignore what range was asked for, and close the connection after so many bytes."""
    return lambda h, content, begin: answer(h, content, sent=after)


def page(text: bytes, *, sized: bool = True) -> Callable:
    """Send a page in place of a file, as networks do that want a password first."""

    def send(handler, content: bytes, begin: int) -> None:
        handler.send_response(200)
        if sized:
            handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)
        handler.close_connection = True

    return send


def status(code: int, **headers: str) -> Callable:
    """Answer with an error."""

    def send(handler, content: bytes, begin: int) -> None:
        handler.send_response(code)
        send_headers(handler, headers)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return send


def silent(seconds: float) -> Callable:
    """Say nothing for a while."""

    def send(handler, content: bytes, begin: int) -> None:
        time.sleep(seconds)
        handler.close_connection = True

    return send


def slow(pause: float) -> Callable:
    """Send a block after each pause."""
    return lambda h, content, begin: answer(h, content, begin, pause=pause)
