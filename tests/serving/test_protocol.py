from __future__ import annotations

import struct

import numpy as np
import pytest

from gluon_compress.serving.frames import (
    Failure,
    FrameError,
    Hello,
    Kind,
    Mode,
    Refusal,
    RequestError,
    Result,
    SentTensor,
    Welcome,
    frame,
    overhead,
    pack_failed,
    pack_image,
    pack_refused,
    pack_result,
    pack_tensor,
    read_failed,
    read_header,
    read_hello,
    read_image,
    read_refused,
    read_result,
    read_tensor,
    read_welcome,
)

MESSAGE = SentTensor(b"\1\2\3", -1.5, 0.25, 480, 640, (3, 1, 1))
TOKEN, NONCE = "a token of some length", bytes(range(16))


def test_a_tensor_is_laid_out_as_documented():
    body = pack_tensor(7, 300, MESSAGE)
    assert body == b"".join(
        [
            struct.pack(">II", 7, 300),
            struct.pack(">dd", -1.5, 0.25),
            struct.pack(">II", 480, 640),
            b"\x03",
            struct.pack(">III", 3, 1, 1),
            b"\1\2\3",
        ]
    )
    assert frame(Kind.TENSOR, body)[:8] == b"GC\x01\x10" + struct.pack(">I", len(body))
    assert len(frame(Kind.TENSOR, body)) == overhead(Mode.SPLIT) + 3


def test_what_is_sent_is_what_arrives():
    assert read_tensor(pack_tensor(7, 300, MESSAGE)) == (7, 300, MESSAGE)
    assert read_image(pack_image(8, 0, b"pixels")) == (8, 0, b"pixels")
    welcome = Welcome(Mode.SPLIT, 8, bytes(32), 4096, 16, 120, ("cat", "hörse"))
    assert read_welcome(welcome.packed()) == welcome
    failed = pack_failed(9, Failure.BUSY, "64 wait")
    assert read_failed(failed) == (9, Failure.BUSY, "64 wait")
    assert read_refused(pack_refused(Refusal.FINAL, "no")) == (True, "no")
    assert read_refused(pack_refused(Refusal.TEMPORARY, "no")) == (False, "no")


@pytest.mark.parametrize("rows", [0, 3])
@pytest.mark.parametrize("has_boxes", [True, False])
def test_a_result_keeps_every_bit(rows, has_boxes):
    draw = np.random.RandomState(0)
    detections = [np.arange(rows), draw.rand(rows).astype(np.float32)]
    if has_boxes:
        detections.append(draw.rand(rows, 4).astype(np.float32))
    result = read_result(pack_result(Result(1, 0.5, 0.25, tuple(detections))))
    assert (result.number, result.waited, result.computed) == (1, 0.5, 0.25)
    assert len(result.detections) == len(detections)
    for part, wanted in zip(result.detections, detections):
        assert part.dtype == wanted.dtype
        np.testing.assert_array_equal(part, wanted)


@pytest.mark.parametrize(
    ("sent", "has", "is_known"),
    [
        (TOKEN, TOKEN, True),
        (TOKEN, "another token", False),
        (None, TOKEN, False),
        (TOKEN, None, False),
        (None, None, True),
    ],
)
def test_the_token_is_proved(sent, has, is_known):
    hello = Hello(Mode.SPLIT, 8, bytes(range(32)), 0.5)
    body = hello.packed(NONCE, sent)
    assert read_hello(body, NONCE, has) == (hello, is_known)
    assert TOKEN.encode() not in body


def test_a_proof_is_good_for_one_nonce_and_one_hello():
    body = Hello(Mode.SPLIT, 8).packed(NONCE, TOKEN)
    assert not read_hello(body, bytes(16), TOKEN)[1]
    assert not read_hello(b"\x02" + body[1:], NONCE, TOKEN)[1]


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"GET / HT", "an HTTP request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", "TLS"),
        (b"SSH-2.0-", "starts with b'SSH-2.0-'"),
        (b"GC\x02\x05\0\0\0\x08", "version 2"),
        (b"GC\x01\x63\0\0\0\x08", "kind 99"),
        (b"GC\x01\x20\0\0\0\x20", "kind result"),
        (b"GC\x01\x05\0\0\0\x07", "7 bytes"),
        (b"GC\x01\x10\xff\xff\xff\xff", "4294967295 bytes"),
        (b"GC\x01\x10\0\0\x10\1", "4097 bytes; allowed: 33 to 4096"),
    ],
)
def test_a_foreign_header_is_refused_in_one_line(header, words):
    with pytest.raises(FrameError, match=words) as refusal:
        read_header(header, [Kind.PING, Kind.TENSOR], 4096)
    assert len(str(refusal.value)) < 300
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "change",
    [
        {"minimum": float("nan")},
        {"step": float("inf")},
        {"step": -1.0},
        {"height": 0},
        {"height": 1 << 20, "width": 1 << 20},
        {"tensor": (3, 0, 1)},
        {"tensor": ()},
        {"tensor": (1,) * 9},
    ],
    ids=str,
)
def test_a_tensor_out_of_range_is_a_bad_request(change):
    body = pack_tensor(7, 0, SentTensor(**{**MESSAGE.__dict__, **change}))
    with pytest.raises(RequestError, match="tensor") as refusal:
        read_tensor(body)
    assert refusal.value.number == 7


def test_a_tensor_that_ends_in_its_shape_is_a_bad_request():
    with pytest.raises(RequestError, match="3 axes in 44 bytes"):
        read_tensor(pack_tensor(7, 0, MESSAGE)[:44])


def test_a_result_of_another_length_than_it_states_is_refused():
    body = pack_result(Result(1, 0.0, 0.0, (np.zeros(2, int), np.zeros(2))))
    for other in (body[:-1], body + b"\0", body[:12] + b"\x03" + body[13:]):
        with pytest.raises(FrameError, match="rows"):
            read_result(other)


def test_what_the_other_side_says_cannot_steer_a_terminal():
    line = read_refused(b"\x01" + b"\x1b[2Jgone\n" + b"x" * 999)[1]
    assert line.startswith(r"\x1b[2Jgone x")
    assert len(line) == 300
