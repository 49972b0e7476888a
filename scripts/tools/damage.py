"""Kinds of damage to a file: by chance, and as an attacker who knows the format."""

from __future__ import annotations

import io
import json
import random
import zipfile
from typing import Any, Callable

import numpy as np

# What a number or a text of a file is replaced by.
NUMBERS: tuple = (
    *(0, 1, -1, 2, 255, 4096, 2**31 - 1, 2**31, 2**32, 2**63, 10**18),
    *(0.5, -0.0, 1e-320, 1e38, 1e308, float("nan"), float("inf")),
)
TEXTS = (
    *("", "a", "../../a", "/etc/passwd", "a\0b", "a\nb", "\ud800", "x" * 5000),
    *("None", "(1, 1)", "(" + "1, " * 100 + ")", "[" * 3000, "9" * 5000, "_Native"),
    *("(1000000, 1000000)", "%s%n", "\u202e", "-1", "1e400", "null"),
)
BRACKETS = 3000


def bits(data: bytes, draw: random.Random, other: bytes) -> bytes:
    """Flip one bit or several."""
    changed = bytearray(data or b"\0")
    for _ in range(draw.choice((1, 1, 2, 8, 64))):
        changed[_place(changed, draw)] ^= 1 << draw.randrange(8)
    return bytes(changed)


def cut(data: bytes, draw: random.Random, other: bytes) -> bytes:
    """Cut off the end."""
    return data[: _place(data, draw)]


def splice(data: bytes, draw: random.Random, other: bytes) -> bytes:
    """Put a part of this file or another one elsewhere."""
    source = draw.choice((data, other)) or b"\0"
    start = _place(source, draw)
    part = source[start : start + draw.choice((1, 4, 16, 256, 4096))]
    place = _place(data, draw)
    return data[:place] + part + data[place + draw.choice((0, len(part))) :]


def swap(data: bytes, draw: random.Random, other: bytes) -> bytes:
    """Replace the file by another one."""
    return draw.choice((other, b"", b"\0" * 100, b"null", b"{}", b"[]"))


def words(data: bytes, draw: random.Random, other: bytes) -> bytes:
    """Replace four or eight bytes by a number of the machine."""
    size = draw.choice((2, 4, 8))
    place = _place(data, draw)
    if draw.random() < 0.7:  # heads state the sizes
        place = draw.randrange(min(len(data), 512) or 1)
    number = draw.choice((0, 1, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**64 - 1))
    part = (number % (1 << 8 * size)).to_bytes(size, draw.choice(("little", "big")))
    return data[:place] + part + data[place + size :]


def digits(data: bytes, draw: random.Random, other: bytes) -> bytes:
    """Replace a number in a text by another one."""
    places = [i for i, byte in enumerate(data[: 1 << 16]) if 48 <= byte < 58]
    if not places:
        return words(data, draw, other)
    start = end = draw.choice(places)
    while end < len(data) and 48 <= data[end] < 58:
        end += 1
    new = draw.choice(("0", "-1", "99999999999", "9" * 5000, "1e400", "2147483648", ""))
    return data[:start] + new.encode() + data[end:]


def structure(data: bytes, draw: random.Random, other: bytes) -> bytes:
    """Change JSON: drop, double, retype or replace a value anywhere, or nest deeply."""
    try:
        content = json.loads(data)
    except ValueError:
        return digits(data, draw, other)
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        holder, key = _somewhere(content, draw)
        if holder is None:
            break
        _change(holder, key, draw)
    text = json.dumps(content, ensure_ascii=draw.random() < 0.5)
    if draw.random() < 0.1:
        deep = "[" * BRACKETS + "1" + "]" * BRACKETS
        text = text.replace("1", deep, 1) if "1" in text else deep
    if draw.random() < 0.1:
        text = text.replace("1", draw.choice(("1" + "0" * 400, "9" * 5000, "1e999")), 1)
    if draw.random() < 0.05 and text.startswith("{"):
        text = "{" + text[1:-1] + "," + text[1:]
    return text.encode("utf-8", "surrogatepass")


def members(data: bytes, draw: random.Random, other: bytes) -> bytes:
    """Change a member of an archive of arrays; the archive itself is sound."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, KeyError, ValueError):
        return words(data, draw, other)
    name = draw.choice(sorted(parts))
    part = parts[name]
    kind = draw.randrange(6)
    if kind == 0:
        del parts[name]
    elif kind == 1:
        parts[draw.choice(sorted(parts))] = part
    elif kind == 2:
        parts[name] = _saved(np.array([{}, "x"], dtype=object))
    elif kind == 3:
        shape = draw.choice(((0,), (1,), (3, 3), (1 << 10, 1 << 10)))
        value = draw.choice((0, 1, float("nan"), float("inf")))
        dtype = draw.choice(("f4", "f8", "f2", "i8", "u1"))
        with np.errstate(all="ignore"):
            parts[name] = _saved(np.full(shape, value).astype(dtype))
    elif name.startswith("meta") and kind == 4:
        start = part.index(b"\n") + 1
        text = structure(part[start:], draw, other)
        parts[name] = _saved(np.frombuffer(text, np.uint8))
    else:
        parts[name] = draw.choice((bits, words, digits))(part, draw, other)
    buffer = io.BytesIO()
    compression = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for key, value in parts.items():
            archive.writestr(key, value)
    return buffer.getvalue()


DAMAGES: dict[str, Callable[[bytes, random.Random, bytes], bytes]] = {
    function.__name__: function
    for function in (bits, cut, splice, swap, words, digits, structure, members)
}


def _place(data: Any, draw: random.Random) -> int:
    return draw.randrange(len(data) or 1)


def _saved(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _somewhere(content: Any, draw: random.Random) -> tuple[Any, Any]:
    """Return a container within JSON and one of its keys, at any depth."""
    holder, key = None, None
    while isinstance(content, (dict, list)) and content:
        keys = list(content) if isinstance(content, dict) else range(len(content))
        holder, key = content, draw.choice(keys)
        content = content[key]
        if draw.random() < 0.25:
            break
    return holder, key


def _change(holder: Any, key: Any, draw: random.Random) -> None:
    kind = draw.randrange(7)
    if kind == 0:
        del holder[key]
    elif kind == 1:
        holder[key] = draw.choice(NUMBERS)
    elif kind == 2:
        holder[key] = draw.choice(TEXTS)
    elif kind == 3:
        holder[key] = draw.choice((None, True, [], {}, [[]], {"a": {}}, [holder[key]]))
    elif kind == 4 and isinstance(holder, dict):
        holder[draw.choice(TEXTS)] = holder[key]
    elif kind == 4:
        holder.insert(key, holder[key])
    elif kind == 5 and isinstance(holder[key], list) and len(holder[key]) < 1000:
        holder[key] = holder[key] * draw.choice((2, 100))
    else:
        other = draw.choice(
            list(holder) if isinstance(holder, dict) else range(len(holder))
        )
        holder[key], holder[other] = holder[other], holder[key]
