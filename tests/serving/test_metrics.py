from __future__ import annotations

import socket
import urllib.error
import urllib.request
from contextlib import suppress

import pytest

from gluon_compress.serving.client import Client
from gluon_compress.serving.metrics import Histogram
from gluon_compress.serving.served import ServedTail
from halves import FakeHead, FakeTail, image
from running_server import address, running, talk


@pytest.fixture(scope="module")
def server():
    with running(ServedTail(FakeTail()), metrics=True) as each:
        with Client(address(each), FakeHead()) as client:
            for _ in client.stream([image(n) for n in range(10)]):
                pass
        yield each


def page(server, path: str) -> tuple[int, str]:
    url = f"http://127.0.0.1:{server.metrics_port}{path}"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_figures_are_what_happened(server):
    status, text = page(server, "/metrics")
    assert status == 200
    rows = [line for line in text.splitlines() if not line.startswith("#")]
    figures = dict(line.rsplit(" ", 1) for line in rows)
    name = "gluon_compress_"
    assert figures[f"{name}requests_total"] == "10"
    assert figures[f"{name}answered_total"] == "10"
    assert figures[f"{name}queue_length"] == "0"
    assert figures[f"{name}request_seconds_count"] == "10"
    assert figures[f'{name}request_seconds_bucket{{le="+Inf"}}'] == "10"
    batches = int(figures[f"{name}batch_size_count"])
    assert figures[f"{name}batch_size_sum"] == "10"
    assert 1 <= batches <= 10
    assert float(figures[f"{name}received_bytes_total"]) > 10 * 24 * 32
    assert float(figures[f"{name}sent_bytes_total"]) > 10 * 48


def test_every_figure_is_declared_once_and_is_a_number(server):
    lines = page(server, "/metrics")[1].splitlines()
    declared = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(declared) == len(set(declared))
    for line in lines:
        if not line.startswith("#"):
            figure, value = line.rsplit(" ", 1)
            float(value)
            family = figure.split("{")[0]
            for ending in ("_bucket", "_sum", "_count"):
                if family not in declared and family.endswith(ending):
                    family = family[: -len(ending)]
            assert family in declared


def test_health_and_other_pages(server):
    assert page(server, "/health") == (200, "serving\n")
    assert page(server, "/")[0] == 404
    port = server.metrics_port
    assert talk(port, b"POST /metrics HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 405 ")
    assert talk(port, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert talk(port, b"HEAD /health HTTP/1.1\r\n\r\n").endswith(b"\r\n\r\n")


def test_an_endless_head_is_not_read(server):
    assert talk(server.metrics_port, b"GET /" + bytes(40_000)) == b""
    assert page(server, "/health")[0] == 200


def test_readers_are_limited(server):
    links = [
        socket.create_connection(("127.0.0.1", server.metrics_port)) for _ in range(30)
    ]
    closed = 0
    for link in links:
        link.settimeout(0.05)
        with suppress(socket.timeout, TimeoutError):
            closed += link.recv(1) == b""
    for link in links:
        link.close()
    assert closed == 14


def test_histogram_counts_cumulatively():
    histogram = Histogram([1, 2])
    for value in (0.5, 1, 1.5, 9):
        histogram.add(value)
    assert histogram.lines("a") == [
        "# TYPE a histogram",
        'a_bucket{le="1"} 2',
        'a_bucket{le="2"} 3',
        'a_bucket{le="+Inf"} 4',
        "a_sum 12",
        "a_count 4",
    ]
