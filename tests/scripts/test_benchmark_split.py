"""The page on splitting, made of a result; and the link that it is checked on."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from benchmarks import split, split_page
from benchmarks.shaped_link import Direction, Shape, shaped
from refusals import assert_refused

PARTS = {
    "seconds": {
        "whole": 0.1,
        "compact": 0.02,
        "head": 0.02,
        "tail": 0.07,
        "jpeg": 0.004,
        "decoded_whole": 0.103,
        "shrunk_jpeg": 0.003,
        "decoded_shrunk": 0.101,
    },
    "bytes": {
        "jpeg": [50_000, 70_000],
        "shrunk": [14_000, 16_000],
        "tensor": [5_000, 5_200],
        "found": 900.0,
        "split_found": 700,
    },
    "overhead": 0.002,
    "tensor": [3, 42, 42],
    "bits": 8,
    "longest": 300,
    "size": [480, 640],
}


def check(kbit: float, *departs: float) -> dict:
    row = {"kbit": kbit, "round_trip": 40, "device": 5}
    for name, departure in zip(split_page.CHECKED, departs):
        row[name] = {"ms": 100 * (1 + departure), "formula_ms": 100}
        row[name]["departs"] = departure
    return row


@pytest.fixture
def result() -> dict:
    return {
        "model": "ssd",
        "compact": "ssd_small",
        "trained_halves": False,
        "bottleneck": {"after": "pool0", "channels": 3},
        "images": 2,
        "rounds": 5,
        "parts": PARTS,
        "ways": {name: dict(way) for name, way in split.ways_of(PARTS).items()},
        "checks": [
            check(250, 0.1, 0.05, 0.0, -0.2),
            check(1000, 0.01, -0.02, 0.03, -0.1),
        ],
        "hardware": {"cpu": "a processor"},
        "commit": "c0ffee",
        "date": "2026-01-01T00:00:00Z",
    }


def test_ways_hold_what_was_measured():
    ways = split.ways_of(PARTS)
    assert ways["local"].is_local
    assert ways["compact"].is_local
    assert (ways["remote"].device, ways["remote"].up) == (0.004, 60_000)
    assert ways["remote"].server == pytest.approx(0.105)
    assert ways["shrunk"].up == 15_000
    assert (ways["split"].up, ways["split"].down) == (5_100, 700)
    assert ways["split"].server == pytest.approx(0.072)
    assert split.replace_up(ways["split"], 5_200).up == 5_200


def test_page_says_which_way_is_for_whom(result):
    page = split_page.page_of(result)
    text = " ".join(page.split())
    assert "bottleneck with random weights (after pool0, channels 3)" in text
    assert "| split          |         20.0 |         72.0 |      5,100 |" in page
    # 100 ms against 20 + 72 + 40 ms: nothing sent can pay for this device.
    assert "- device as measured: local at any bandwidth." in page
    # 500 ms against 100 + 72 + 40 + 8 x 5.8 / Mbit/s, and 20 + 105 + 40 + 8 x 60.9 / …
    assert (
        "local below 0.16 Mbit/s, split from 0.16 to 9.4 Mbit/s, remote above" in page
    )
    assert "7 of 8 runs are within 15 %; the largest departure is 20.0 %" in page
    assert "Fastest as measured, 1 Mbit/s, device 5 times slower: split." in page
    assert "(-20 %)" in page


def test_page_of_trained_halves_says_so(result):
    page = split_page.page_of({**result, "trained_halves": True, "bottleneck": None})
    assert "trained halves" in page
    assert "random weights" not in page


def test_chart_and_page_are_written(result, tmp_path):
    split.write_page(tmp_path, result)
    names = [path.name for path in sorted(tmp_path.iterdir())]
    assert names == ["split.md", "split.png"]


def test_slowed_takes_a_multiple_of_the_time():
    def work(seconds: float) -> str:
        time.sleep(seconds)
        return "done"

    begun = time.monotonic()
    assert split.Slowed(work, 3)(0.02) == "done"
    assert time.monotonic() - begun >= 0.06


def test_benchmark_refuses_what_has_no_images(call, tmp_path):
    options = ("--images", tmp_path, "--out", tmp_path / "out")
    assert_refused(call("benchmark_split", *options), "no image")


# ---------------------------------------------------------------- the link


def test_a_direction_lets_bytes_through_at_its_rate():
    direction, begun = Direction(), time.monotonic()
    ends = [direction.reserve(1000, 80) for _ in range(3)]
    steps = [later - earlier for earlier, later in zip(ends, ends[1:])]
    assert ends[0] - begun == pytest.approx(0.1, abs=0.05)
    assert steps == pytest.approx([0.1, 0.1])


def test_a_link_delays_shapes_and_keeps_bytes():
    """2,000 bytes there and back: 2 x 8 x 2000 / 400 kbit/s, and the round trip."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def echo() -> None:
            link = listener.accept()[0]
            with link:
                while True:
                    part = link.recv(1 << 16)
                    if not part:
                        return
                    link.sendall(part)

        threading.Thread(target=echo, daemon=True).start()
        data = bytes(range(250)) * 8
        shape = Shape(400, 400, 50)
        with shaped(listener.getsockname()[1], shape) as proxy, socket.socket() as link:
            link.connect(("127.0.0.1", proxy.port))
            begun = time.monotonic()
            link.sendall(data)
            came = b""
            while len(came) < len(data):
                came += link.recv(1 << 16)
            seconds = time.monotonic() - begun
            passed = (proxy.bytes_up, proxy.bytes_down)
    assert came == data
    assert passed == (2000, 2000)
    # Packets of 1,400 bytes go back while others still come.
    assert 0.05 + 0.04 + 0.012 - 0.005 <= seconds < 0.5
