"""Files that are whole or absent: atomic writing, locks, JSON that names its errors."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import math
import os
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Iterator

LOG = logging.getLogger(__name__)

BLOCK = 1 << 20


def write_atomically(path: str | os.PathLike, data: bytes | str) -> None:
    """Write a file so that its name holds the old or the new content, never a part.

    Parameters
    ----------
    path : path
        Its folder must exist.
    data : bytes or str
        Text is stored as UTF-8.

    Raises
    ------
    OSError
        Of this path, if it cannot be written; what was there before is still there.
    """
    path = Path(path)
    content = data.encode("utf-8") if isinstance(data, str) else data
    # Its own name per writer: two processes must not fill one temporary file.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with named(path, instead=True):
            with open(temporary, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write JSON atomically: two spaces of indent, keys in their given order.

    NaN, the precision of a class without objects for instance, is stored as null.

    Raises
    ------
    ValueError
        For an infinite number, which JSON does not have.
    """
    try:
        text = json.dumps(
            _without_nan(content), indent=2, ensure_ascii=False, allow_nan=False
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    # A name of a file that is no UTF-8 has lone surrogates: escaped, they are JSON.
    write_atomically(path, (text + "\n").encode("utf-8", "backslashreplace"))


def _without_nan(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_without_nan(value) for value in content]
    if isinstance(content, float) and math.isnan(content):
        return None
    return content


def read_json(path: str | os.PathLike) -> Any:
    """Return what a JSON file holds.

    Raises
    ------
    ValueError
        If there is no such file, or it is not whole and valid JSON; the message
        names the file and the position. A key that occurs twice is an error too.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        return json.loads(text, object_pairs_hook=_distinct)
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"{path}: not JSON at {place}: {error.msg}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text at byte {error.start}") from None
    except _Twice as error:
        raise ValueError(f"{path}: key {error} is there twice") from None


class _Twice(Exception):
    """A key that an object has twice; JSON itself would keep the last silently."""


def _distinct(pairs: list) -> dict:
    content: dict = {}
    for key, value in pairs:
        if key in content:
            raise _Twice(repr(key))
        content[key] = value
    return content


def sha256(path: str | os.PathLike) -> str:
    """Return a file's SHA-256 sum as 64 hexadecimal digits."""
    total = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(BLOCK), b""):
            total.update(block)
    return total.hexdigest()


@contextmanager
def held(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """Open a file to read and append, alone: others wait, and the log says so.

    The system lets go of it when a process ends, however it ends. Who holds the file
    may rename or remove it; those who wait then make a new one.
    """
    path = Path(path)
    while True:
        with open(path, "ab+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                LOG.warning("%s: another process is at it, waiting", path)
                fcntl.flock(file, fcntl.LOCK_EX)
            if is_at(path, file):
                yield file
                return


@contextmanager
def named(path: str | os.PathLike, *, instead: bool = False) -> Iterator[None]:
    """Name a file in errors that name none, as the system's are on a full disk.

    Parameters
    ----------
    path : path
    instead : bool
        Name it in errors of other files, too: temporary ones, which nobody asked for.

    Raises
    ------
    OSError
        What the system raised, of the same number, with this path as its file.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or (error.filename is not None and not instead):
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def is_at(path: Path, file: IO[bytes]) -> bool:
    """Return whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
