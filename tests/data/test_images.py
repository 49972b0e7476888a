"""Reading of image files: orientation, limits, and what is refused."""

from __future__ import annotations

import io
import logging
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from gluon_compress.data import images
from gluon_compress.data.images import (
    PIXEL_LIMIT,
    Header,
    ImageStore,
    decode_image,
    read_header,
    read_image,
)

PIXELS = np.zeros((24, 32, 3), np.uint8)  # a red corner, and a green one beside it
PIXELS[:8, :8, 0] = PIXELS[:8, 24:, 1] = 255


def encoded(kind, pixels=PIXELS, *, orientation=None, **options) -> bytes:
    if orientation is not None:
        options["exif"] = Image.Exif()
        options["exif"][images.ORIENTATION] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    """Return the chunks of a PNG: their names, and their bytes in the file."""
    parts, offset = [], 8
    while offset < len(png):
        size = int.from_bytes(png[offset : offset + 4], "big") + 12
        parts.append((png[offset + 4 : offset + 8], png[offset : offset + size]))
        offset += size
    return parts


def chunk(name: bytes, content: bytes) -> bytes:
    check = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)


def with_exif_last(png: bytes) -> bytes:
    """Return a PNG with its EXIF data moved behind the pixels."""
    parts = chunks(png)
    exif = [part for name, part in parts if name == b"eXIf"]
    others = [part for name, part in parts if name != b"eXIf"]
    return b"".join([png[:8], *others[:-1], *exif, others[-1]])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "PNG, EXIF last", "WEBP"])
def test_orientation_is_one_for_header_and_pixels(kind, orientation, tmp_path):
    name = kind.split(",")[0]
    options = {"lossless": True} if name == "WEBP" else {}
    if name == "JPEG":
        options = {"quality": 95, "subsampling": 0}
    data = encoded(name, orientation=orientation, **options)
    if name != kind:
        data = with_exif_last(data)
    path = tmp_path / "a.jpg"  # names do not decide
    path.write_bytes(data)
    exif = Image.Exif()
    exif[images.ORIENTATION] = orientation
    expected = np.asarray(ImageOps.exif_transpose(_with_exif(PIXELS, exif)))
    header = read_header(path)
    assert header == Header(32, 24, orientation)
    assert header.upright == expected.shape[1::-1]
    for upright, right in ((True, expected), (False, PIXELS)):
        image = read_image(path, upright=upright)
        assert image.shape == right.shape
        assert np.abs(image.astype(int) - right)[2:-2:4, 2:-2:4].max() < 40


def _with_exif(pixels, exif):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", exif=exif)
    return Image.open(file)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_unknown_orientation_is_upright(value):
    data = encoded("JPEG", orientation=value)
    assert decode_image(data, "x").shape == PIXELS.shape


def test_damaged_exif_is_no_orientation():
    data = encoded("JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert decode_image(data, "x").shape == PIXELS.shape


# ---------------------------------------------------------------- limits


def bomb(width: int, height: int) -> bytes:
    """Return the start of a PNG of any size; its pixels are missing."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", b""), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("size", [(1 << 13, 1 << 14), (1 << 30, 1), (1 << 16, 1 << 16)])
def test_too_many_pixels_are_refused_before_decoding(size, tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(bomb(*size))
    monkeypatch.setattr(cv2, "imdecode", None)
    for read in (read_header, read_image, lambda p: decode_image(p.read_bytes(), "a")):
        with pytest.raises(
            ValueError, match=f"a.* {size[0]} x {size[1]} .*{PIXEL_LIMIT}"
        ):
            read(path)


def test_limit_of_pixels_can_be_set(monkeypatch):
    monkeypatch.setenv(PIXEL_LIMIT, str(24 * 32 - 1))
    with pytest.raises(ValueError, match="32 x 24"):
        decode_image(encoded("PNG"), "x")
    monkeypatch.setenv(PIXEL_LIMIT, "many")
    with pytest.raises(ValueError, match=f"{PIXEL_LIMIT}.*'many'"):
        decode_image(encoded("PNG"), "x")


def test_long_files_are_refused_before_reading(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded("JPEG") + bytes(10_000))
    monkeypatch.setenv(PIXEL_LIMIT, "1000")
    with pytest.raises(ValueError, match=r"a\.jpg: .* bytes"):
        read_image(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_image_cut_short_is_refused(kind, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(kind)[:-12])
    for read in (read_header, read_image):
        with pytest.raises(ValueError, match="cut short"):
            read(path)


@pytest.mark.parametrize("data", [b"", b"<html>", encoded("GIF"), encoded("TIFF")])
def test_other_kinds_of_file_are_refused(data):
    with pytest.raises(ValueError, match="x: not a readable image"):
        decode_image(data, "x")


def test_folder_is_no_image(tmp_path):
    with pytest.raises(ValueError, match="not a file"):
        read_image(tmp_path)


# ---------------------------------------------------------------- 16 bits


def deep(values: np.ndarray, significant: int | None = None) -> bytes:
    """Return a grey PNG of 16 bits, and how many of them it says are significant."""
    png = cv2.imencode(".png", values.astype(np.uint16))[1].tobytes()
    head, *rest = (part for _, part in chunks(png))
    extra = [] if significant is None else [chunk(b"sBIT", bytes([significant]))]
    return b"".join([png[:8], head, *extra, *rest])


GREY = np.linspace(0, 4095, 64).reshape(8, 8)


def test_stated_bits_scale_a_16_bit_image():
    image = decode_image(deep(GREY, 12), "x")
    assert np.abs(image[..., 0] - GREY * 255 / 4095).max() < 1


def test_stated_bits_of_a_full_range_change_nothing():
    image = decode_image(deep(GREY * 16, 12), "x")
    np.testing.assert_array_equal(image[..., 0], (GREY * 16).astype(np.uint16) // 257)


def test_unstated_bits_are_said_once(caplog, monkeypatch):
    monkeypatch.setattr(images, "_dark", [])
    with caplog.at_level(logging.WARNING):
        for name in ("first.png", "second.png"):
            decode_image(deep(GREY), name)
    (record,) = caplog.records
    assert "first.png" in record.getMessage()
    assert "12" in record.getMessage()


# ---------------------------------------------------------------- many problems


def test_problems_are_listed_once_each():
    store = ImageStore([])
    for _ in range(2):
        for number in range(3):
            store.report(f"{number}.xml", "no box")
    assert store.problems == [(f"{number}.xml", "no box") for number in range(3)]
