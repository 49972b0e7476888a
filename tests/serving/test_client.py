"""The device's side: order, restarts, slow links, fallback."""

from __future__ import annotations

import random
import signal
import socket
import threading
import time
from contextlib import contextmanager, suppress

import numpy as np
import pytest

from benchmarks.shaped_link import Shape, shaped
from gluon_compress.serving import session
from gluon_compress.serving.client import Client, split_address
from gluon_compress.serving.frames import NONCE, Kind, frame
from gluon_compress.serving.served import ServedNet, ServedTail
from halves import FakeHead, FakeNet, FakeTail, assert_found, image
from running_server import address, free_port, running, started


@pytest.fixture(scope="module")
def server():
    with running(ServedTail(FakeTail())) as each:
        yield each


def error_of(kind: type, *arguments, **options) -> str:
    """Return the error of a client when it detects."""
    with Client(*arguments, **options) as client, pytest.raises(kind) as caught:
        client.detect(image(1))
    return str(caught.value)


def places(answers) -> list[str]:
    return [answer.where for answer in answers]


# ---------------------------------------------------------------- answers


def test_answers_come_in_the_order_of_the_images(server):
    pictures = [image(n, 8 + n % 5, 16) for n in range(60)]
    with Client(address(server), FakeHead(), in_flight=8) as client:
        answers = list(client.stream(pictures))
        assert client.classes == ("blue", "green", "red")
    for answer, pixels in zip(answers, pictures):
        assert_found(answer, pixels)
        assert answer.sent == 53 + pixels.shape[0] * pixels.shape[1]


def test_images_are_taken_when_they_are_needed(server):
    taken = []

    def endless():
        while True:
            taken.append(image(len(taken)))
            yield taken[-1]

    with Client(address(server), FakeHead(), in_flight=3) as client:
        answers = client.stream(endless())
        for number in range(5):
            assert_found(next(answers), taken[number])
        answers.close()
    assert len(taken) <= 8


def test_empty_images_are_not_sent_and_bad_ones_are_named(server):
    black, narrow = np.zeros((16, 16, 3), np.uint8), image(1, 4, 16)
    with Client(address(server), FakeHead()) as client:
        answers = list(client.stream([image(1), black, narrow, image(2)]))
    assert places(answers) == ["server", "filter", "nowhere", "server"]
    assert [part.shape for part in answers[1].detections] == [(0,), (0,), (0, 4)]
    assert "16 x 4 pixels" in answers[2].error


def test_threshold_holds_on_server_and_device(server):
    options = {"threshold": 0.5, "fallback": FakeNet()}
    with Client(address(server), FakeHead(), **options) as client:
        assert len(client.detect(image(1)).detections[0]) == 1
    with Client(f"127.0.0.1:{free_port()}", FakeHead(), **options) as client:
        answer = client.detect(image(1))
    assert (answer.where, len(answer.detections[0])) == ("device", 1)


def test_whole_images_keep_the_frame_of_the_image():
    class Sides:
        classes = ("a",)

        def __call__(self, images):
            sizes = [pixels.shape[:2] for pixels in images]
            box = [np.array([[0, 0, w, h]], np.float32) for h, w in sizes]
            return [(np.zeros(1, int), np.ones(1), each) for each in box]

    served = ServedNet(Sides(), pixels=1 << 20)
    with running(served) as whole, Client(address(whole), longest=20) as client:
        answers = list(client.stream([image(1, 40, 80), image(2, 10, 16)]))
    for answer, width, height in zip(answers, (80, 16), (40, 10)):
        np.testing.assert_allclose(answer.detections[2], [[0, 0, width, height]])


@pytest.mark.parametrize("text", ["", "host", "host:", ":70", "h:0", "h:65536", "h:a"])
def test_an_address_is_host_and_port(text):
    with pytest.raises(ValueError, match="server is"):
        Client(text, FakeHead())


@pytest.mark.parametrize(
    "options",
    [
        {"in_flight": 0},
        {"deadline": 0.0},
        {"patience": float("inf")},
        {"min_kbit": -1, "fallback": FakeNet()},
        {"min_kbit": 100},
        {"quality": 101, "head": None},
        {"longest": 0, "head": None},
    ],
    ids=", ".join,
)
def test_impossible_options_are_refused(options):
    head = options.pop("head", FakeHead())
    with pytest.raises(ValueError, match=f"{next(iter(options))} is "):
        Client("127.0.0.1:1", head, **options)


def test_addresses_of_version_6_stand_in_brackets():
    assert split_address("[::1]:70") == ("::1", 70)
    assert split_address("a.b:70") == ("a.b", 70)


# ---------------------------------------------------------------- restarts


def test_a_killed_server_costs_no_image_and_doubles_none():
    """Over a slow link, the server is killed, and stopped, at random."""
    port, pictures = free_port(), [image(n) for n in range(60)]
    moments = random.Random(7).sample(range(5, 50), 2)
    signals = dict(zip(moments, (signal.SIGKILL, signal.SIGTERM)))
    server, answers = started(port, "0.004"), []
    with shaped(port, Shape(4000, 4000, 6)) as link:
        client = Client(address(link), FakeHead(), patience=20)
        with client:
            for answer in client.stream(pictures):
                answers.append(answer)
                number = signals.get(len(answers))
                if number is not None:
                    ended = stopped(server, number)
                    assert ended == (-9 if number == signal.SIGKILL else 0)
                    server = started(port, "0.004")
    assert len(answers) == 60
    for answer, pixels in zip(answers, pictures):
        assert_found(answer, pixels)
    assert stopped(server, signal.SIGINT) == 0


def stopped(server, number: int) -> int:
    """Stop a server by a signal; return its status. It says nothing of errors."""
    server.send_signal(number)
    output, errors = server.communicate(timeout=10)
    assert errors == ""
    assert output == ("" if number == signal.SIGKILL else f"ended by {int(number)}\n")
    return server.returncode


def test_a_server_that_is_away_is_an_error_after_a_while():
    name = f"127.0.0.1:{free_port()}"
    line = error_of(OSError, name, FakeHead(), patience=0.1)
    assert line.startswith(f"{name}: cannot be reached: ")


@contextmanager
def saying(*parts: bytes):
    """Listen, and say something to each who connects; yield the port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def serve():
            with suppress(OSError):
                while True:
                    link = listener.accept()[0]
                    with link, suppress(OSError):
                        link.sendall(parts[0])
                        for part in parts[1:]:
                            link.recv(1 << 16)
                            link.sendall(part)
                        link.recv(1 << 16)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "starts with b'HTTP/1.1'"),
        (b"\x15\x03\x03\0\2\2\x46\0", "TLS"),
        (b"GC\x05\x01\0\0\0\x10" + bytes(16), "version 5"),
        (frame(Kind.WELCOME, bytes(99)), "allowed now: challenge, refused"),
    ],
)
def test_a_foreign_server_is_told_apart_at_once(data, words):
    with saying(data) as port:
        line = error_of(ValueError, address(port), FakeHead())
    assert line.startswith(f"{address(port)}: ")
    assert words in line


def test_a_server_that_lies_about_its_pair_is_left():
    welcome = b"\x01\x08" + bytes(32) + b"\0\0\x10\0\0\x10\0\x10" + b'{"classes": []}'
    parts = frame(Kind.CHALLENGE, bytes(NONCE)), frame(Kind.WELCOME, welcome)
    with saying(*parts) as port:
        assert "not belong" in error_of(ValueError, address(port), FakeHead())


def test_a_server_that_answers_nonsense_is_given_up():
    welcome = b"\x01\x08" + b"\xab" * 32 + b"\0\0\x10\0\0\x10\0\x10"
    parts = [frame(Kind.CHALLENGE, bytes(NONCE))]
    parts += [frame(Kind.WELCOME, welcome + b'{"classes": []}'), bytes(100)]
    with saying(*parts) as port, Client(address(port), FakeHead()) as client:
        answer = client.detect(image(1))
    assert "broke 8 times" in answer.error


# ---------------------------------------------------------------- slow links


def eventually(condition, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_device_computes_while_the_server_is_away(server):
    with shaped(server.port, Shape(100_000, 100_000)) as link:
        client = Client(address(link), FakeHead(), fallback=FakeNet())
        with client:
            answers = [client.detect(image(0))]
            link.target = ("127.0.0.1", free_port())
            for each in list(link._tasks):  # the connection breaks
                each.get_loop().call_soon_threadsafe(each.cancel)
            eventually(lambda: not client._session.is_connected)
            answers.append(client.detect(image(1)))
            link.target = ("127.0.0.1", server.port)
            eventually(lambda: client._session.is_connected)
            answers.append(client.detect(image(2)))
    for number, answer in enumerate(answers):
        assert_found(answer, image(number), answer.where)
    assert places(answers) == ["server", "device", "server"]
    assert "server away" in answers[1].reason


def test_device_computes_what_is_late(server):
    options = {"fallback": FakeNet(), "deadline": 0.3}
    with shaped(server.port, Shape(100_000, 100_000)) as link:
        client = Client(address(link), FakeHead(), **options)
        with client:
            eventually(lambda: client._session.is_connected)
            link.shape.is_cut = True
            answer = client.detect(image(1))
    assert_found(answer, image(1), "device")
    assert "no answer within 0.3 seconds" in answer.reason
    assert answer.sent > 0


def test_a_link_too_slow_for_the_deadline_is_not_used(server):
    options = {"fallback": FakeNet(), "deadline": 0.3}
    pictures = [image(n, 48, 64) for n in range(5)]
    with shaped(server.port, Shape(40, 1000)) as link:  # 3,125 bytes take 0.63 s
        client = Client(address(link), FakeHead(), **options)
        with client:
            answers = list(map(client.detect, pictures))
            eventually(lambda: client.kbit is not None)  # it is measured meanwhile
            sent = link.bytes_up
            answers += map(client.detect, pictures)
            assert link.bytes_up == sent
    for answer, pixels in zip(answers, 2 * pictures):
        assert_found(answer, pixels, "device")
    assert {answer.sent for answer in answers[5:]} == {0}
    assert "link too slow" in answers[-1].reason


def test_a_slow_link_is_not_taken_for_a_dead_one(server, monkeypatch):
    """A request is longer on its way than a connection may be silent."""
    monkeypatch.setattr(session, "SILENCE", 0.3)
    pixels = image(1, 48, 64)  # 3,125 bytes take 0.8 s
    with shaped(server.port, Shape(31, 1000)) as link:
        client = Client(address(link), FakeHead())
        with client:
            assert_found(client.detect(pixels), pixels)
        assert link.bytes_up < 2 * 3125


def test_a_dead_link_is_given_up(server, monkeypatch):
    monkeypatch.setattr(session, "SILENCE", 0.2)
    with shaped(server.port, Shape(100_000, 100_000)) as link:
        client = Client(address(link), FakeHead(), fallback=FakeNet())
        with client:
            eventually(lambda: client._session.is_connected)
            link.shape.is_cut = True
            eventually(lambda: not client._session.is_connected)
            assert_found(client.detect(image(1)), image(1), "device")


def test_a_link_of_fewer_kbit_than_wanted_is_not_used(server):
    with shaped(server.port, Shape(4000, 4000)) as link:
        for least, where in ((10_000, "device"), (50, "server")):
            options = {"fallback": FakeNet(), "min_kbit": least}
            with Client(address(link), FakeHead(), **options) as client:
                client.detect(image(0, 64, 64))
                eventually(lambda client=client: client.kbit is not None)
                answer = client.detect(image(1))
                assert client.kbit < 4400
            assert_found(answer, image(1), where)
            assert ("kbit/s" in answer.reason) == (where == "device")


def test_without_a_fallback_a_late_image_is_an_error():
    served, deadline = ServedTail(FakeTail(seconds=0.3)), 0.1
    with running(served, batch=1) as slow:
        client = Client(address(slow), FakeHead(), deadline=deadline)
        with client:
            answers = list(client.stream([image(1), image(2)]))
    assert places(answers) == ["nowhere", "nowhere"]
    assert "within 0.1 seconds" in answers[0].error


def test_busy_is_tried_again():
    tail = FakeTail(seconds=0.02)
    with running(ServedTail(tail), queue=1, batch=1, wait_ms=0) as slow:
        pictures = [image(n) for n in range(12)]
        with Client(address(slow), FakeHead(), in_flight=8) as client:
            for answer, pixels in zip(client.stream(pictures), pictures):
                assert_found(answer, pixels)
        assert slow.metrics.value("errors_total", kind="busy") > 0


def test_fallback_of_other_classes_is_refused(server):
    class Other(FakeNet):
        classes = ("cat", "dog")

    line = error_of(ValueError, address(server), FakeHead(), fallback=Other())
    assert "['cat', 'dog']" in line


def test_time_over_a_shaped_link_is_that_of_the_formula(server):
    """Within what a busy machine adds; the measured page says how close it is."""
    size = 53 + 24 * 32
    with shaped(server.port, Shape(200, 1000, 60)) as link:
        client = Client(address(link), FakeHead())
        with client:
            answers = [client.detect(image(n)) for n in range(5)]
    expected = 8e-3 * size / 200 + 8e-3 * 73 / 1000 + 0.06
    measured = min(answer.seconds for answer in answers)
    assert expected < measured < expected + 0.3


def test_a_client_leaves_no_thread_and_no_file(server):
    before = threading.active_count()
    for _ in range(3):
        with Client(address(server), FakeHead()) as client:
            client.detect(image(1))
    eventually(lambda: threading.active_count() <= before)
