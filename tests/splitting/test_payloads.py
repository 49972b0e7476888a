"""Integers, their bytes, and what is refused of a payload."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from gluon_compress.splitting import packing

CASES = [(bits, coding) for bits in packing.BITS for coding in packing.CODINGS]


@pytest.mark.parametrize(("bits", "coding"), CASES)
@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_integers_come_back(bits, coding, count):
    integers = np.random.RandomState(0).randint(0, 2**bits, count)
    payload = packing.encode(
        integers.astype(np.uint16 if bits == 16 else np.uint8), bits, coding
    )
    back = packing.decode(payload, count, bits, coding)
    np.testing.assert_array_equal(back, integers)
    assert len(payload) <= packing.most_bytes(count, bits, coding)
    if coding == "none":
        assert (
            len(payload) == packing.packed_bytes(count, bits) == -(-count * bits // 8)
        )


def test_layout_of_payloads():
    def payload(integers, bits):
        return packing.encode(np.array(integers, np.uint16), bits, "none")

    assert packing.encode(np.array([1, 2, 3], np.uint8), 4, "none") == b"\x12\x30"
    assert payload([1, 255], 8) == b"\x01\xff"
    assert payload([1, 0x1234], 16) == b"\x01\x00\x34\x12"


@pytest.mark.parametrize("bits", packing.BITS)
def test_a_value_is_off_by_half_a_step_at_most(bits):
    tensor = np.random.RandomState(0).standard_normal((3, 5, 5)).astype(np.float32)
    integers, minimum, step = packing.quantised(tensor, bits)
    assert integers.min() == 0
    assert integers.max() == 2**bits - 1
    assert minimum == tensor.min()
    assert step == pytest.approx(
        (tensor.max() - tensor.min()) / (2**bits - 1), rel=1e-6
    )
    off = np.abs(packing.values(integers, minimum, step) - tensor).max()
    assert off <= step * 0.5 + 1e-6


@pytest.mark.parametrize("value", [0.0, -0.0, 3.5, -2.0])
def test_a_tensor_of_one_value_comes_back(value):
    integers, minimum, step = packing.quantised(np.full((2, 2), value, np.float32), 8)
    assert not integers.any()
    assert str(minimum) == str(value + 0.0)
    np.testing.assert_array_equal(packing.values(integers, minimum, step), value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_tensor_that_is_not_finite_is_refused(value):
    with pytest.raises(ValueError, match="NaN or infinity"):
        packing.quantised(np.array([0, value], np.float32), 8)


def deflated(length):
    return zlib.compress(bytes(length))


@pytest.mark.parametrize(
    ("payload", "coding"),
    [
        (b"", "none"),
        (bytes(9), "none"),
        (bytes(11), "none"),
        (b"", "deflate"),
        (bytes(10), "deflate"),
        (deflated(9), "deflate"),
        (deflated(11), "deflate"),
        (deflated(10)[:-1], "deflate"),
        (deflated(10) + b"x", "deflate"),
        (bytes(10_000), "deflate"),
    ],
)
def test_a_payload_of_another_length_is_refused(payload, coding):
    with pytest.raises(ValueError, match="payload"):
        packing.decode(payload, 10, 8, coding)


def test_a_decompression_bomb_is_not_inflated(monkeypatch):
    bomb = zlib.compress(bytes(1 << 24), 9)
    taken = []
    make = zlib.decompressobj

    class Watched:
        def __init__(self):
            self._stream = make()

        def decompress(self, data, limit):
            plain = self._stream.decompress(data, limit)
            taken.append(len(plain))
            return plain

        def __getattr__(self, name):
            return getattr(self._stream, name)

    monkeypatch.setattr(packing.zlib, "decompressobj", Watched)
    with pytest.raises(ValueError, match="does not decompress to 65536 bytes"):
        packing.decode(bomb, 1 << 16, 8, "deflate")
    assert taken == [(1 << 16) + 1]


def test_half_a_byte_too_many_must_be_0():
    assert packing.decode(b"\x10", 1, 4, "none").tolist() == [1]
    with pytest.raises(ValueError, match="half a byte"):
        packing.decode(b"\x11", 1, 4, "none")
