"""Levels are found from values alone, and stored in few bits."""

from __future__ import annotations

import gzip
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from gluon_compress.quantization.levels import Levels, levels_of, packed, unpacked
from gluon_compress.quantization.packing import pack, read_packed, write_packed


def on_grid(high: int, shape=(6, 5, 3, 3), seed: int = 0) -> tuple:
    random = np.random.RandomState(seed)
    levels = random.randint(-high, high + 1, shape)
    scale = random.uniform(-0.1, 0.1, shape[0]).astype(np.float32)
    values = levels * scale.reshape(-1, *[1] * (len(shape) - 1))
    return levels, scale, values.astype(np.float32)


@pytest.mark.parametrize(("high", "bits"), [(1, 2), (7, 4), (63, 8), (127, 8)])
def test_levels_are_found_whatever_the_scale(high, bits):
    levels, scale, values = on_grid(high)
    values[2] = 0
    found = levels_of(values)
    assert found is not None
    assert (found.bits, found.high) == (bits, high)
    assert np.abs(found.values - values).max() < 1e-6 * np.abs(values).max()
    whole = np.delete(np.sign(scale)[:, None] * levels.reshape(6, -1), 2, 0)
    assert np.array_equal(np.delete(found.levels.reshape(6, -1), 2, 0), whole)


def test_the_channels_may_lie_along_another_axis():
    _, _, values = on_grid(7)
    found = levels_of(np.ascontiguousarray(values.swapaxes(0, 1)), axis=1)
    assert found is not None
    assert np.abs(found.values.swapaxes(0, 1) - values).max() < 1e-6


def test_values_on_no_grid_have_no_levels():
    values = np.random.RandomState(0).normal(size=(4, 30)).astype(np.float32)
    assert levels_of(values) is None


def test_a_finer_scale_states_the_same_weight():
    _, _, values = on_grid(7)
    found = levels_of(values)
    finer = found.refined(63)
    assert np.abs(finer.levels).max() == 63
    assert np.abs(finer.values - found.values).max() < 1e-7


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("size", [1, 7, 64])
def test_packed_levels_come_back(bits, size):
    high = 2 ** (bits - 1) - 1
    levels = np.random.RandomState(0).randint(-high, high + 1, size).astype(np.int8)
    data = packed(levels, bits)
    assert len(data) == -(-size * bits // 8)
    assert np.array_equal(unpacked(data, bits, size), levels)


def test_the_first_level_is_in_the_lowest_bits():
    assert packed(np.int8([1, -2, 3]), 4) == bytes([0xE1, 0x03])
    assert packed(np.int8([1, -1, 0, 1]), 2) == bytes([0b01001101])


def test_a_file_holds_what_was_written_in_as_many_bits(tmp_path):
    values = {f"w{high}": on_grid(high)[2] for high in (1, 7, 127)}
    values["bias"] = np.float32([1.5, -2])
    axes = {"w1": 0, "w7": 0, "w127": 0}
    path = tmp_path / "x.bin"
    write_packed(path, pack(values, axes))
    back = read_packed(path)
    assert list(back) == list(values)
    for name, value in values.items():
        assert np.abs(back[name] - value).max() < 1e-6
    count, scales = 270, 3 * 6 * 4
    assert path.stat().st_size < count * (2 + 4 + 8) / 8 + scales + 8 + 130


def test_the_layout_is_the_documented_one(tmp_path):
    levels = Levels(np.int8([[1, -1], [0, 1]]), np.float32([0.5, 2]), 0, 1)
    write_packed(tmp_path / "x.bin", {"w": levels})
    expected = b"GCPQ" + bytes([1, 0, 0, 0, 1, 0, 0, 0])
    expected += b"\x01\x00w" + bytes([2, 2, 0, 0]) + bytes([2, 0, 0, 0, 2, 0, 0, 0])
    expected += np.float32([0.5, 2]).tobytes() + bytes([0b01001101])
    data = (tmp_path / "x.bin").read_bytes()
    assert data[: len(expected)] == expected
    assert len(data) % 4 == 0


def test_a_compressed_file_is_the_same_and_smaller(tmp_path):
    """As in trained nets, levels near 0 are more frequent than others."""
    levels = np.random.RandomState(0).normal(0, 2, (64, 999)).round().clip(-7, 7)
    given = pack({"w": levels.astype(np.float32)}, {"w": 0})
    for name in ("x.bin", "x.bin.gz", "y.bin.gz"):
        write_packed(tmp_path / name, given)
    plain, small, again = (
        (tmp_path / name).read_bytes() for name in ("x.bin", "x.bin.gz", "y.bin.gz")
    )
    assert gzip.decompress(small) == plain
    assert small == again
    assert len(small) < 0.85 * len(plain)
    np.testing.assert_array_equal(read_packed(tmp_path / "x.bin.gz")["w"], levels)
    (tmp_path / "x.bin.gz").write_bytes(small[:-20])
    with pytest.raises(ValueError, match="no packed parameters: no gzip file"):
        read_packed(tmp_path / "x.bin.gz")


def test_broken_files_are_refused(tmp_path):
    path = tmp_path / "x.bin"
    write_packed(path, pack({"w": on_grid(7)[2]}, {"w": 0}))
    data = path.read_bytes()
    for broken in (data[:-5], b"GCPX" + data[4:], data + b"1234", data[:14] + b"\xff"):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="no packed parameters"):
            read_packed(path)
    for place in range(0, len(data), 3):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        with suppress(ValueError):
            read_packed(path)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler")
def test_the_c_program_reads_the_same_values(tmp_path):
    source = Path(__file__).parents[2] / "docs" / "deploy" / "unpack.c"
    program = tmp_path / "unpack"
    command = ["gcc", "-std=c99", "-Wall", "-Werror", str(source), "-o", str(program)]
    subprocess.run(command, check=True)
    values = {f"w{high}": on_grid(high)[2] for high in (1, 7, 127)}
    values["other"] = np.ascontiguousarray(on_grid(7)[2].swapaxes(0, 1))
    values["bias"] = np.float32([1.5, -2])
    axes = {"w1": 0, "w7": 0, "w127": 0, "other": 1}
    path = tmp_path / "x.bin"
    write_packed(path, pack(values, axes))
    text = subprocess.check_output([str(program), str(path)], text=True)
    rows = [line.rsplit(")", 1) for line in text.splitlines()]
    assert [row[0].split()[:2] for row in rows] == [
        *(["w1", "1"], ["w7", "4"], ["w127", "8"], ["other", "4"], ["bias", "32"])
    ]
    for row, value in zip(rows, values.values()):
        count, total, squares = map(float, row[1].split())
        assert count == value.size
        assert total == pytest.approx(value.sum(dtype=float), rel=1e-3, abs=1e-4)
        assert squares == pytest.approx(np.square(value, dtype=float).sum(), rel=1e-4)
    path.write_bytes(path.read_bytes()[:-8])
    assert (
        subprocess.run([str(program), str(path)], capture_output=True).returncode == 2
    )


def signs(shape=(6, 5, 3, 3), zeros: float = 0.0) -> np.ndarray:
    random = np.random.RandomState(0)
    levels = np.where(random.rand(*shape) < 0.5, -1, 1)
    levels = np.where(random.rand(*shape) < zeros, 0, levels)
    scale = random.uniform(0.1, 1, (shape[0], *[1] * (len(shape) - 1)))
    return (levels * scale).astype(np.float32)


def test_zeros_take_one_bit_and_signs_one(tmp_path):
    random = np.random.RandomState(1)
    values = {
        "sparse": np.where(random.rand(9, 40) < 0.9, 0, random.rand(9, 40)),
        "minus": np.float32([[-0.0, 0, 0, 0, 0, 0, 0, 5]]),
        "levels": on_grid(127)[2] * (random.rand(6, 5, 3, 3) < 0.1),
        "few": on_grid(7)[2] * (random.rand(6, 5, 3, 3) < 0.2),
        "signs": signs(),
        "three": signs(zeros=0.6),
        "empty": signs() * np.float32([1, 0, 1, 1, 0, 1]).reshape(6, 1, 1, 1),
        "none": np.zeros((4, 30)),
    }
    values = {name: value.astype(np.float32) for name, value in values.items()}
    axes = dict.fromkeys(("levels", "few", "signs", "three", "empty", "none"), 0)
    path, sizes = tmp_path / "x.bin", {}
    for name, value in values.items():
        write_packed(path, pack({name: value}, {n: 0 for n in axes if n == name}))
        assert path.read_bytes()[4] == 2
        back = read_packed(path)[name]
        assert np.abs(back - value).max() < 1e-6, name
        heads = 12 + 2 + len(name) + 4 + 4 * value.ndim
        scales = 4 * len(value) if name in axes else 0
        sizes[name] = path.stat().st_size - heads - scales
    count = {name: int((value != 0).sum()) for name, value in values.items()}
    expected = {
        "sparse": 45 + 4 * count["sparse"],
        "minus": 1 + 4,
        "levels": 34 + count["levels"],
        "few": 34 + count["few"] / 2,
        "signs": 34,
        "three": 34 + count["three"] / 8,
        "empty": 34,
        "none": 15,
    }
    for name, size in expected.items():
        assert size <= sizes[name] < size + 5, name
    if shutil.which("gcc"):
        write_packed(path, pack(values, axes))
        check_c_program(tmp_path, values)


def check_c_program(folder, values) -> None:
    source = Path(__file__).parents[2] / "docs" / "deploy" / "unpack.c"
    command = ["gcc", "-std=c99", "-Wall", "-Werror", str(source), "-o"]
    subprocess.run([*command, str(folder / "unpack")], check=True)
    command = [str(folder / "unpack"), str(folder / "x.bin")]
    lines = subprocess.check_output(command, text=True).splitlines()
    for line, value in zip(lines, values.values()):
        count, total, squares = map(float, line.rsplit(")", 1)[1].split())
        assert count == value.size
        assert total == pytest.approx(value.sum(dtype=float), rel=1e-4, abs=1e-4)
        assert squares == pytest.approx(np.square(value, dtype=float).sum(), rel=1e-4)
