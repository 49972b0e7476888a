"""What hostile and careless clients can do to a server: nothing."""

from __future__ import annotations

import gc
import os
import resource
import socket
import ssl
import struct
import subprocess
import threading
import time
import tracemalloc
from contextlib import ExitStack, suppress

import numpy as np
import pytest

from benchmarks.shaped_link import Shape, shaped
from gluon_compress.serving.client import Client
from gluon_compress.serving.frames import (
    Hello,
    Kind,
    Mode,
    SentTensor,
    frame,
    pack_tensor,
)
from gluon_compress.serving.security import client_tls
from gluon_compress.serving.served import ServedNet, ServedTail
from halves import FakeHead, FakeNet, FakeTail, assert_found, image
from running_server import address, running, talk

TOKEN = "a token of some length"
PAIR = bytes.fromhex("ab" * 32)
CHALLENGE = 8 + 16
HELLO = Hello(Mode.SPLIT, 8, PAIR)


@pytest.fixture(scope="module")
def server():
    served = ServedTail(FakeTail())
    with running(served, handshake_seconds=0.3, per_address=2000) as each:
        yield each


def greeted(port: int, hello: Hello = HELLO) -> socket.socket:
    """Return a connection that the server has welcomed."""
    link = socket.create_connection(("127.0.0.1", port), timeout=30)
    nonce = received(link)[1]
    link.sendall(frame(Kind.HELLO, hello.packed(nonce, None)))
    assert received(link)[0] == Kind.WELCOME
    return link


def received(link: socket.socket) -> tuple[int, bytes]:
    """Return kind and body of the next frame."""
    header = exactly(link, 8)
    return header[3], exactly(link, struct.unpack(">I", header[4:])[0])


def exactly(link: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = link.recv(size - len(data))
        assert part, "closed"
        data += part
    return data


def request(number: int, pixels=None, milliseconds: int = 0, **changes) -> bytes:
    message = FakeHead().encode(image(number) if pixels is None else pixels)
    message = SentTensor(**{**message.__dict__, **changes})
    return frame(Kind.TENSOR, pack_tensor(number, milliseconds, message))


def assert_lives(server) -> None:
    with Client(address(server), FakeHead()) as client:
        assert_found(client.detect(image(1)), image(1))


def eventually(condition, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


# ---------------------------------------------------------------- foreign frames


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", "an HTTP request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), "TLS"),
        (b"GC\x07\x02\0\0\0\x46" + bytes(70), "version 7"),
        (frame(Kind.PING, bytes(8)), "allowed now: hello"),
        (request(1), "allowed now: hello"),
        (b"GC\x01\x02\xff\xff\xff\xff", "4294967295 bytes"),
        (frame(Kind.HELLO, bytes(70)), "out of range"),
        (frame(Kind.HELLO, Hello(Mode.SPLIT, 8).packed(b"", None)), "belong together"),
        (frame(Kind.HELLO, Hello(Mode.SPLIT, 4, PAIR).packed(b"", None)), "4 bits"),
        (frame(Kind.HELLO, Hello(Mode.WHOLE).packed(b"", None)), "sends images"),
        (frame(Kind.HELLO, HELLO.packed(b"", "x" * 16)), "needs none"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_what_does_not_belong_is_refused_in_one_line(server, data, words, caplog):
    server._said = 0  # lines that were logged of late
    answer = talk(server.port, data)[CHALLENGE:]
    assert answer[3] == Kind.REFUSED
    assert words in answer[9:].decode()
    assert caplog.text.count("\n") == 1
    assert words in caplog.text
    assert_lives(server)


@pytest.mark.parametrize(
    "data",
    [
        b"GC\x01\x10\0\xff\xff\xff",
        frame(Kind.RESULT, bytes(17)),
        frame(Kind.IMAGE, bytes(17)),
        frame(Kind.PING, bytes(9000)),
        bytes(64),
    ],
    ids=["oversized", "result", "image", "long ping", "zeros"],
)
def test_a_foreign_frame_later_on_ends_its_connection_only(server, data):
    with greeted(server.port) as link, greeted(server.port) as other:
        link.sendall(data)
        assert received(link)[0] == Kind.REFUSED
        other.sendall(request(3))
        assert received(other)[0] == Kind.RESULT


def test_a_client_that_leaves_in_the_middle_of_a_frame_is_noted(server):
    before = server.metrics.value("refused_total", kind="frame")
    with greeted(server.port) as link:
        link.sendall(request(1)[:50])
    eventually(lambda: server.metrics.value("refused_total", kind="frame") > before)
    assert_lives(server)


def test_a_client_that_has_sent_all_gets_all_answers(server):
    with greeted(server.port) as link:
        link.sendall(request(1) + request(2) + request(3))
        link.shutdown(socket.SHUT_WR)
        assert [received(link)[0] for _ in range(3)] == 3 * [Kind.RESULT]
        assert link.recv(1) == b""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"payload": b"\1\2"}, "a payload of 2 bytes"),
        ({"step": float("nan")}, "no finite number"),
        ({"tensor": (1, 13, 13)}, "the net failed"),
    ],
    ids=["payload", "scale", "fault"],
)
def test_a_bad_tensor_is_answered_and_the_connection_goes_on(server, changes, words):
    with greeted(server.port) as link:
        link.sendall(request(1, **changes) + request(2))
        answers = dict([received(link), received(link)])
        assert words in answers[Kind.FAILED].decode("latin-1")
        assert Kind.RESULT in answers


# ---------------------------------------------------------------- slow ones


@pytest.fixture
def many_files():
    """Let this process have as many files open as a thousand connections need."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < 3000:
        pytest.skip("a thousand connections need 3000 open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], 3000), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_half_open_connections_are_let_go_and_leave_nothing(many_files):
    """A thousand connections that say nothing, or one byte."""
    limits = {"handshake_seconds": 0.5, "connections": 100, "per_address": 100}
    with running(ServedTail(FakeTail()), **limits) as server:
        assert_lives(server)
        eventually(lambda: not server._connections)
        tasks, files = server.loop.tasks(), len(os.listdir("/proc/self/fd"))
        with ExitStack() as stack:
            for number in range(1000):
                link = stack.enter_context(socket.socket())
                link.settimeout(30)
                link.connect(("127.0.0.1", server.port))
                if number % 2:
                    link.sendall(b"G")
                assert len(server._connections) <= 100
            eventually(lambda: server.metrics.value("connections_total") == 1001)
            eventually(lambda: not server._connections)  # their time is over
            assert_lives(server)
            refused = server.metrics.value
            kinds = ("slow", "limit", "frame")
            assert sum(refused("refused_total", kind=kind) for kind in kinds) == 1000
            assert refused("refused_total", kind="slow") >= 100
        eventually(lambda: len(os.listdir("/proc/self/fd")) <= files)
        eventually(lambda: server.loop.tasks() <= tasks)
        assert server._by_address == {}


def test_connections_of_one_address_are_limited():
    with running(ServedTail(FakeTail()), per_address=2) as server:
        with greeted(server.port), greeted(server.port):
            refusal = talk(server.port, b"")
            assert refusal[3:4] == bytes([Kind.REFUSED])
            assert b"too many connections from 127.0.0.1" in refusal
        eventually(lambda: not server._connections)
        assert_lives(server)


def test_a_slow_frame_and_a_silent_client_are_let_go():
    served = ServedTail(FakeTail())
    with running(served, frame_seconds=0.3, idle_seconds=0.4) as server:
        with greeted(server.port) as slow, greeted(server.port) as silent:
            slow.sendall(request(1)[:40])
            assert slow.recv(1) == silent.recv(1) == b""
        assert server.metrics.value("refused_total", kind="slow") == 2
        assert_lives(server)


class WideTail(FakeTail):
    """Finds so much that an answer has 480 kB."""

    def detect(self, messages: list) -> list:
        rows = 20_000
        found = np.zeros(rows, int), np.ones(rows, np.float32), np.ones((rows, 4))
        return [found for _ in messages]


def test_a_client_that_does_not_read_is_let_go():
    with running(ServedTail(WideTail()), frame_seconds=0.2, window=4) as server:
        unsent = []
        with greeted(server.port) as link, suppress(ConnectionError):
            for number in range(100_000):
                link.sendall(request(number))
                if not number % 100:
                    unsent += [c.unsent for c in list(server._connections)]
        assert number < 99_999
        assert max(unsent) < 6 * 480_100
        assert server.metrics.value("refused_total", kind="slow") == 1
        assert server.metrics.value("answered_total") < 40


def test_a_client_is_not_read_beyond_its_window():
    tail = FakeTail(seconds=0.05)
    with running(ServedTail(tail), window=2, batch=1, queue=50) as server:
        with greeted(server.port) as link:
            link.sendall(b"".join(map(request, range(1, 9))))
            seen = []
            for _ in range(8):
                seen.append(len(server.batcher))
                assert received(link)[0] == Kind.RESULT
        assert max(seen) <= 3


def test_a_client_that_breaks_off_frees_its_place():
    """It has more requests on the way than it may, and is not being read."""
    tail = FakeTail(seconds=0.2)
    with running(ServedTail(tail), window=1, batch=1, wait_ms=0) as server:
        link = greeted(server.port)
        link.sendall(b"".join(map(request, range(1, 6))))
        eventually(lambda: server.metrics.value("requests_total") == 2)
        linger = struct.pack("ii", 1, 0)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        link.close()
        eventually(lambda: not server._connections)
        assert len(server.batcher) == 0


def test_busy_is_an_answer():
    tail = FakeTail(seconds=0.1)
    with running(ServedTail(tail), queue=1, batch=1, wait_ms=0) as server:
        with greeted(server.port) as link:
            link.sendall(b"".join(map(request, range(1, 6))))
            kinds = [received(link)[0] for _ in range(5)]
        assert kinds.count(Kind.FAILED) >= 3
        assert kinds.count(Kind.RESULT) >= 1
        assert server.metrics.value("errors_total", kind="busy") >= 3


def test_too_old_requests_are_not_computed():
    batches: list = []
    tail = FakeTail(seconds=0.1, batches=batches)
    options = {"batch": 1, "wait_ms": 0}
    with running(ServedTail(tail), **options) as server, greeted(server.port) as link:
        link.sendall(request(1) + request(2, milliseconds=20))
        assert [received(link)[0] for _ in range(2)] == [Kind.RESULT, Kind.FAILED]
    assert batches == [1]


# ---------------------------------------------------------------- many at once


def test_requests_of_all_clients_share_link_and_batches():
    """Four clients send 10 images each over one link of 8 Mbit/s and 10 ms."""
    batches: list = []
    tail = FakeTail(seconds=0.02, batches=batches)
    limits = {"batch": 8, "wait_ms": 5}
    shape = Shape(8000, 8000, 10)
    with running(ServedTail(tail), **limits) as server, shaped(
        server.port, shape
    ) as link:

        def work(seed: int) -> None:
            pictures = [image(100 * seed + number) for number in range(10)]
            with Client(address(link), FakeHead()) as client:
                for pixels, answer in zip(pictures, client.stream(pictures)):
                    assert_found(answer, pixels)
                    done.append(seed)

        done: list = []
        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        begun = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.monotonic() - begun
        assert link.bytes_up > 40 * (53 + 24 * 32)
        assert seconds > 8e-3 * link.bytes_up / 8000
    assert len(done) == sum(batches) == 40
    assert max(batches) > 4


def test_requests_leave_no_memory_behind(server):
    pictures = [image(n) for n in range(20)]
    with Client(address(server), FakeHead()) as client:
        list(client.stream(pictures))
        tracemalloc.start()
        try:
            list(client.stream(pictures))
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(4):
                list(client.stream(pictures))
            gc.collect()
            after = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
    assert after - before < 40_000  # a tensor is 768 bytes, and there were 80


def test_whole_images_are_decoded_and_bombs_are_not():
    with running(ServedNet(FakeNet(), pixels=1000)) as server:
        with Client(address(server)) as client:
            answers = list(client.stream([image(1, 20, 30), image(1, 40, 40), b"x"]))
        assert answers[0].where == "server"
        assert "1600" not in answers[0].error
        assert "40 x 40 pixels; allowed: 1000" in answers[1].error
        assert "not a readable image" in answers[2].error


# ---------------------------------------------------------------- TLS and token


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"]
    command += ["ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("openssl is needed to make a certificate")
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture(scope="module")
def guarded(certificate):
    from gluon_compress.serving.security import server_tls

    options = {"token": TOKEN, "tls": server_tls(*certificate)}
    with running(ServedTail(FakeTail()), handshake_seconds=0.3, **options) as each:
        yield each


def error_of(server: str, **options) -> str:
    """Return the error of a client when it detects."""
    client = Client(server, FakeHead(), **options)
    with client, pytest.raises((ValueError, OSError)) as caught:
        client.detect(image(1))
    return str(caught.value)


def test_tls_and_token_let_a_client_in(guarded, certificate, caplog):
    tls, name = client_tls(certificate[0]), f"localhost:{guarded.port}"
    with Client(name, FakeHead(), token=TOKEN, tls=tls) as client:
        assert_found(client.detect(image(1)), image(1))
    for wrong in (None, "another token, not it"):
        line = error_of(name, token=wrong, tls=tls)
        assert "its token is wrong or missing" in line
    assert TOKEN not in caplog.text


def test_a_certificate_must_be_known_and_name_the_server(guarded, certificate):
    tls, name = client_tls(certificate[0]), f"localhost:{guarded.port}"
    assert "its certificate: IP" in error_of(address(guarded), token=TOKEN, tls=tls)
    assert "its certificate: self" in error_of(name, token=TOKEN, tls=client_tls())


def test_without_tls_nobody_gets_in(guarded):
    name = f"localhost:{guarded.port}"
    assert name in error_of(name, token=TOKEN, patience=0.2)
    with socket.create_connection(("127.0.0.1", guarded.port)) as silent:
        silent.settimeout(30)
        assert silent.recv(1) == b""  # no time for TLS is endless
    eventually(lambda: not guarded._connections)


def test_plain_server_tells_a_tls_client_apart(server):
    tls = ssl.create_default_context()
    line = error_of(address(server), tls=tls, patience=0.1)
    assert "no tls: wrong version number" in line


# ---------------------------------------------------------------- the end


def test_a_stopped_server_answers_what_is_due():
    tail = FakeTail(seconds=0.05)
    with running(ServedTail(tail), batch=2) as server, greeted(server.port) as link:
        link.sendall(b"".join(map(request, range(1, 6))))
        eventually(lambda: server.metrics.value("requests_total") == 5)
        server.loop.run(server.stop())
        kinds = [received(link)[0] for _ in range(6)]
        assert sorted(kinds) == [Kind.GOODBYE] + 5 * [Kind.RESULT]
        assert link.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port))
        assert server.loop.tasks() == 0


def test_a_server_that_stops_does_not_confuse_who_comes_now():
    with running(ServedTail(FakeTail())) as server, socket.socket() as link:
        link.settimeout(30)
        link.connect(("127.0.0.1", server.port))
        assert received(link)[0] == Kind.CHALLENGE
        server.loop.run(server.stop())
        assert link.recv(1) == b""  # no goodbye in place of a welcome


def test_a_server_that_cannot_finish_stops_all_the_same(caplog):
    options = {"batch": 1, "drain_seconds": 0.05}
    served = ServedTail(FakeTail(seconds=1.5))
    with running(served, **options) as server, greeted(server.port) as link:
        link.sendall(request(1) + request(2))
        eventually(lambda: server.metrics.value("requests_total") == 2)
        begun = time.monotonic()
        server.loop.run(server.stop())
        assert time.monotonic() - begun < 1.2
    assert "1 requests unanswered" in caplog.text


def test_an_address_that_cannot_be_had_is_named(server):
    from gluon_compress.serving.server import Server

    other = Server(ServedTail(FakeTail()))
    with pytest.raises(OSError, match=f"127.0.0.1:{server.port}: Address already"):
        server.loop.run(other.start("127.0.0.1", server.port))
    with pytest.raises(OSError, match="no.such.host.invalid:1: "):
        server.loop.run(other.start("no.such.host.invalid", 1))
