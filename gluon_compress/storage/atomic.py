"""Writes and reads files atomically, locks them, and names the file in every error."""

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

from gluon_compress.storage.reading import read_json

__all__ = [
    "errors_for",
    "file_lock",
    "read_json",
    "sha256",
    "write_atomically",
    "write_json",
]

LOG = logging.getLogger(__name__)

BLOCK = 1 << 20


def write_atomically(path: str | os.PathLike, data: bytes | str) -> None:
    """Write a file so that a reader sees the old or the new content, never a part.

    Parameters
    ----------
    path : path
        Its folder must exist.
    data : bytes or str
        Text is stored as UTF-8.

    Raises
    ------
    OSError
        If it cannot be written. The error names ``path``; the old content stays.
    """
    path = Path(path)
    content = data.encode("utf-8") if isinstance(data, str) else data
    # A unique name: two processes must not write to one temporary file.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with errors_for(path, instead=True):
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

    NaN is stored as null, for example the precision of a class without objects.

    Raises
    ------
    ValueError
        If a number is infinite, which JSON cannot express.
    """
    try:
        text = json.dumps(
            _without_nan(content), indent=2, ensure_ascii=False, allow_nan=False
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    # File names that are not UTF-8 contain lone surrogates; escaped, they are valid.
    write_atomically(path, (text + "\n").encode("utf-8", "backslashreplace"))


def _without_nan(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_without_nan(value) for value in content]
    if isinstance(content, float) and math.isnan(content):
        return None
    return content


def sha256(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    total = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(BLOCK), b""):
            total.update(block)
    return total.hexdigest()


@contextmanager
def file_lock(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """Open a file for reading and appending, and hold an exclusive lock on it.

    Other processes wait for the lock, and say so in the log. The system releases it
    when the process ends, however it ends. The holder may rename or remove the file;
    waiting processes then create a new one. A link is not followed but an OSError.
    """
    path = Path(path)
    while True:
        with open(path, "ab+", opener=_open_no_link) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                LOG.warning("%s: locked by another process, waiting", path)
                fcntl.flock(file, fcntl.LOCK_EX)
            if _is_at(path, file):
                yield file
                return


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _is_at(path: Path, file: IO[bytes]) -> bool:
    """Return whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def errors_for(path: str | os.PathLike, *, instead: bool = False) -> Iterator[None]:
    """Name a file in OSErrors that name none, such as "No space left on device".

    Parameters
    ----------
    path : path
    instead : bool
        Also replace other names, such as those of temporary files.

    Raises
    ------
    OSError
        The original error with this path as its file.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or (error.filename is not None and not instead):
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
