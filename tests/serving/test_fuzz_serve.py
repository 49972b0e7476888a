"""A small, fixed share of ``scripts/fuzz_serve.py``, with a server in this process."""

from __future__ import annotations

import time

import numpy as np
import pytest

from gluon_compress.serving.client import Client
from gluon_compress.serving.frames import (
    Hello,
    Kind,
    Mode,
    Result,
    frame,
    pack_refused,
    pack_result,
    pack_tensor,
)
from gluon_compress.serving.served import ServedTail
from halves import PAIR, FakeHead, FakeTail, expected, image
from running_server import address, running
from tools.fuzz_serve import KINDS, campaign, judged

PIXELS = image(5)


def test_damaged_frames_do_a_server_no_harm(caplog):
    sound = frame(Kind.TENSOR, pack_tensor(1, 0, FakeHead().encode(PIXELS)))
    hello = Hello(Mode.SPLIT, 8, bytes.fromhex(PAIR))
    options = {"handshake_seconds": 1.0, "frame_seconds": 1.0, "idle_seconds": 1.0}
    with running(ServedTail(FakeTail()), **options) as server:

        def is_sound() -> bool:
            with Client(address(server), FakeHead()) as client:
                answer = client.detect(PIXELS)
            return all(map(np.array_equal, answer.detections, expected(PIXELS)))

        result = campaign(server.port, hello, sound, is_sound, trials=160, seed=1)
        assert result["bad"] == []
        end = time.monotonic() + 5
        while server._connections and time.monotonic() < end:
            time.sleep(0.01)
        assert server.loop.tasks() == 3  # who accepts, computes and sweeps
    for kind in KINDS:
        assert result["kinds"][kind]["tried"] == 20
    outcomes = ("refused", "answered", "closed")
    seen = {o for row in result["kinds"].values() for o in outcomes if row[o]}
    assert seen == set(outcomes)
    assert "failed:" not in caplog.text
    assert max(map(len, caplog.messages)) < 400


@pytest.mark.parametrize(
    ("came", "outcome"),
    [
        (b"", "closed"),
        (frame(Kind.REFUSED, pack_refused(1, "no")), "refused"),
        (frame(Kind.RESULT, pack_result(Result(1, 0, 0, ([], [])))), "answered"),
        (b"HTTP/1.1 200 OK", "an answer that starts with b'HTTP/1.1'"),
        (frame(Kind.REFUSED, b"\x01two\nlines and more"), "a line with a break"),
        (frame(Kind.GOODBYE, b"x"), "a GOODBYE of 1 bytes"),
    ],
    ids=["nothing", "refusal", "result", "HTTP", "lines", "size"],
)
def test_what_a_server_says_is_judged(came, outcome):
    assert judged(came).startswith(outcome)
