"""Parameter files are read without MXNet, and only if they say what they hold."""

from __future__ import annotations

import struct

import mxnet as mx
import numpy as np
import pytest

from gluon_compress.storage.params import read_params

TYPES = ("float32", "float64", "float16", "uint8", "int32", "int8", "int64")


def test_values_are_those_that_mxnet_wrote(tmp_path):
    values = {
        f"arg:{kind}": mx.nd.array(np.arange(6).reshape(1, 2, 3), dtype=kind)
        for kind in TYPES
    }
    mx.nd.save(str(tmp_path / "a.params"), values)
    read = read_params(tmp_path / "a.params")
    assert list(read) == list(values)
    for name, value in values.items():
        assert read[name].dtype == value.dtype
        assert np.array_equal(read[name], value.asnumpy())


def content(
    *,
    magic=0x112,
    arrays=1,
    kind=0xF993FAC9,
    storage=0,
    shape=(2,),
    number=0,
    data=bytes(8),
    names=(b"arg:a",),
) -> bytes:
    head = struct.pack("<QQQ", magic, 0, arrays)
    array = struct.pack("<Iii", kind, storage, len(shape))
    array += struct.pack(f"<{len(shape)}q", *shape) + struct.pack("<iii", 1, 0, number)
    tail = struct.pack("<Q", len(names))
    for name in names:
        tail += struct.pack("<Q", len(name)) + name
    return head + array + data + tail


def test_a_file_made_by_hand_is_read(tmp_path):
    (tmp_path / "a.params").write_bytes(content())
    assert read_params(tmp_path / "a.params")["arg:a"].tolist() == [0, 0]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        content(magic=1),
        content(arrays=2),
        content(arrays=2**63),
        content(kind=0xF993FAC8),
        content(storage=1),
        content(storage=-1),
        content(shape=(3,)),
        content(shape=(2**62, 2**62)),
        content(shape=(-2,)),
        content(shape=(0,)),
        content(shape=()),
        content(shape=(1,) * 40),
        content(number=1),
        content(number=99),
        content(number=-1),
        content(names=()),
        content(names=(b"a", b"b")),
        content(names=(b"a\0b",)),
        content(names=(b"\xff",)),
        content(names=(b"x" * 5000,)),
        content()[:-1],
        content() + b"\0",
    ],
)
def test_other_files_are_refused(tmp_path, data):
    path = tmp_path / "a.params"
    path.write_bytes(data)
    with pytest.raises(
        ValueError, match=r"a\.params: not a file of parameters"
    ) as error:
        read_params(path)
    assert len(str(error.value)) - len(str(path)) < 300
