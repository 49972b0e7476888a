"""Files that others made: what is stated is checked before it is believed."""

from __future__ import annotations

import io
import json
import math
import os
import zipfile

import numpy as np
import pytest

from gluon_compress.storage.reading import (
    DEEPEST,
    parse_json,
    read_array,
    read_arrays,
    read_bytes,
    read_json,
    write_arrays,
)


def refused(read, path, message: str = ".") -> None:
    with pytest.raises(ValueError, match=message) as error:
        read(path)
    assert str(error.value).startswith(str(path))
    assert len(str(error.value)) - len(str(path)) < 300
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 3000 + "]" * 3000, "nested 3000 deep"),
        ('{"a":' * 3000 + "1" + "}" * 3000, "nested 3000 deep"),
        ("[" * 100_000, "nested 100000 deep"),
        (f"1{'0' * 400}", "more than 64 bits"),
        (f"-1{'0' * 400}", "more than 64 bits"),
        ("9" * 5000, "more than 64 bits"),
        (str(1 << 63), "more than 64 bits"),
        ("1e400", "too large"),
        ("-1e400", "too large"),
        ("NaN", "NaN"),
        ("[1, Infinity]", "Infinity"),
        ("-Infinity", "-Infinity"),
        (r'{"a": "\ud800"}', "Unicode"),
        (r'{"\uDBFF": 1}', "Unicode"),
        (json.dumps({"k" * 9999: 1})[:-1] + f', "{"k" * 9999}": 2}}', "twice"),
        ("\ufeff{}", "BOM"),
    ],
)
def test_json_that_harms_is_refused(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    refused(read_json, path, message)


@pytest.mark.parametrize(
    "content",
    [
        {"text": "[" * 500 + '\\"{' * 500},
        {"name": "\udc80.jpg", "other": "\U0001f600"},  # a name that is not UTF-8
        [(1 << 63) - 1, -(1 << 63) + 1, 1e308, 5e-324],
    ],
)
def test_json_that_is_only_unusual_is_read(content):
    assert parse_json(json.dumps(content), "a") == content


def test_json_may_be_as_deep_as_allowed():
    assert parse_json("[" * DEEPEST + "]" * DEEPEST, "a")
    with pytest.raises(ValueError, match="nested"):
        parse_json("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), "a")


def test_a_file_may_be_as_large_as_allowed(tmp_path):
    (tmp_path / "a").write_bytes(bytes(9))
    assert len(read_bytes(tmp_path / "a", 9)) == 9
    refused(lambda path: read_bytes(path, 8), tmp_path / "a", "has 9 bytes")


@pytest.mark.parametrize("read", [read_json, read_array, read_arrays])
def test_a_pipe_a_folder_and_nothing_are_refused(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    refused(read, tmp_path / "pipe", "no regular file")
    refused(read, tmp_path, "directory")
    refused(read, tmp_path / "none", "no such file")
    refused(read, "/dev/zero", "no regular file")


# --------------------------------------------------------------------- arrays


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "<f2", ">f4", "f8", "<i8"])
@pytest.mark.parametrize("shape", [(), (3,), (0, 4), (2, 3, 4)])
def test_arrays_come_back(tmp_path, dtype, shape):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    np.save(tmp_path / "a.npy", array.copy(order="F"))
    np.savez_compressed(tmp_path / "a.npz", x=array)
    for result in (
        read_array(tmp_path / "a.npy"),
        read_arrays(tmp_path / "a.npz")["x"],
    ):
        assert result.dtype == array.dtype
        assert np.array_equal(result, array)
        assert result.shape == shape
    (tmp_path / "b.npz").write_bytes(write_arrays({"y": array}))
    assert np.array_equal(read_arrays(tmp_path / "b.npz")["y"], array)


def header(descr="<f4", shape="(2,)", order="False", tail="") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}{tail}"
    return b"\x93NUMPY\x01\0" + (len(text) + 1).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        header() + b"\n" + bytes(7),
        header() + b"\n" + bytes(9),
        header(shape="(1000000000000,)") + b"\n" + bytes(8),
        header(shape=f"({'9' * 18}, {'9' * 18})") + b"\n",
        header(shape=f"({'9' * 5000},)") + b"\n",
        header(shape=f"(0, {'9' * 18}, {'9' * 18})") + b"\n",
        header(shape="(" + "1, " * 40 + ")") + b"\n" + bytes(4),
        header(shape="(-1,)") + b"\n" + bytes(8),
        header(shape="(" * 900 + ")" * 900) + b"\n",
        header(descr="|O") + b"\n" + bytes(16),
        header(descr="<U2") + b"\n" + bytes(16),
        header(descr="<M8") + b"\n" + bytes(16),
        header(descr="|b8") + b"\n" + bytes(16),
        header(order="__import__('os')") + b"\n" + bytes(8),
        b"\x93NUMPY\x02\0\xff\xff\xff\xff" + bytes(100),
        b"\x80\x04cos\nsystem\n",  # a pickle
    ],
)
def test_other_arrays_are_refused(tmp_path, content):
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    refused(read_array, path)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", content)
    refused(read_arrays, tmp_path / "a.npz", "x.npy")


def test_an_array_of_objects_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object))
    refused(read_array, tmp_path / "a.npy", "plain numbers")


def bomb(name: str = "x.npy", size: int = 1 << 29) -> bytes:
    """Return a small archive whose member becomes half a gigabyte."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, b"")
    # The directory, at the end, states the size that counts.
    content = bytearray(file.getvalue())
    place = content.index(b"PK\x01\x02") + 24
    content[place : place + 4] = size.to_bytes(4, "little")
    return bytes(content)


def members(*names: str, compression: int = zipfile.ZIP_STORED) -> bytes:
    file, one = io.BytesIO(), io.BytesIO()
    np.save(one, np.zeros(2))
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name in names:
            archive.writestr(name, one.getvalue())
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bomb(), "536870912 bytes"),
        (members("x.npy", "y.npy").replace(b"y.npy", b"x.npy"), "x.npy"),
        (members("x.txt"), "x.txt"),
        (members("x.npy", compression=zipfile.ZIP_LZMA), "compression"),
        (members("x.npy")[:-30], "zip"),
        (b"PK\x05\x06" + b"\xff" * 18, "complete"),
    ],
)
def test_other_archives_are_refused(tmp_path, content, message):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    refused(read_arrays, path, message)


def test_a_caller_may_check_numbers_itself():
    content = parse_json("[NaN, -Infinity, 1e400]", "it", only_finite=False)
    assert [math.isnan(value) for value in content] == [True, False, False]
    assert content[1:] == [-math.inf, math.inf]
    with pytest.raises(ValueError, match="an integer of more than 64 bits"):
        parse_json("9" * 30, "it", only_finite=False)
