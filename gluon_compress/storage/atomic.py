"""Writes and reads files atomically, locks them, and names the file in every error."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import math
import os
import re
import shutil
import stat
import tempfile
import time
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Iterator

from gluon_compress.storage.reading import open_regular, read_json

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
STEM = 50  # characters of a name that its drafts keep
DRAFT = re.compile(r"\.(?P<name>.*)\.[0-9a-f]{32}\.tmp", re.DOTALL)
FIRST = uuid.UUID(int=0)  # of the first draft of a file
PROBE = 1 << 16  # bytes
PAUSE = 0.02  # seconds between two attempts to lock


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
    content = data.encode("utf-8") if isinstance(data, str) else data
    with atomic_file(path) as draft:
        draft.write_bytes(content)


@contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yield an empty file that becomes ``path`` when the block succeeds.

    Parameters
    ----------
    path : path
        Its folder must exist. An existing file is replaced.

    Yields
    ------
    Path
        The draft to fill. It is removed if the block raises; if the process is killed,
        the next writer removes it, see ``remove_leftovers``.

    Raises
    ------
    OSError
        If it cannot be written. The error names ``path``; the old content stays.
    """
    path = Path(path)
    with errors_for(path, instead=True):
        draft, handle = _locked_file(path)
    try:
        with disk_errors(path, draft):
            yield draft
            os.fsync(handle)
        with errors_for(path, instead=True):
            os.replace(draft, path)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise
    finally:
        os.close(handle)


@contextmanager
def disk_errors(path: Path, draft: Path) -> Iterator[None]:
    """Name a file or folder in errors that occur while its draft is written.

    Some libraries say that they could not write, but not why: the disk is full if no
    more can be written to it.

    Raises
    ------
    OSError
        The error of the disk, with ``path`` or a file in it.
    """
    try:
        yield
    except OSError as error:
        name = Path(os.fsdecode(error.filename)) if error.filename else draft
        if error.errno is None or draft not in (name, *name.parents):
            raise
        file = os.fspath(path / name.relative_to(draft))
        raise OSError(error.errno, error.strerror, file) from error
    except Exception:
        _probe(path)
        raise


def _probe(path: Path) -> None:
    """Raise the error of the disk, with ``path``, if nothing can be written beside it.

    Raises
    ------
    OSError
    """
    with errors_for(path, instead=True), open(draft_name(path), "xb") as probe:
        try:
            probe.write(bytes(PROBE))
            probe.flush()
        finally:
            os.unlink(probe.name)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a temporary folder of the system, which is named if its disk is full."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        try:
            yield folder
        except Exception:
            _probe(folder)
            raise


def _locked_file(path: Path) -> tuple[Path, int]:
    """Make a draft of a file, with a lock on it, which marks it as alive."""
    # The first name is the same each time: what a killed writer left there is used up.
    with suppress(OSError):
        draft = draft_name(path, FIRST)
        handle = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        state = os.fstat(handle)
        try:
            is_file = stat.S_ISREG(state.st_mode) and state.st_nlink == 1
            is_ours = is_file and try_lock(handle) and _is_at(draft, handle)
        except NoLocks:
            draft.unlink()
            is_ours = False
        if is_ours:
            os.ftruncate(handle, 0)
            return draft, handle
        os.close(handle)
    while True:
        draft = draft_name(path)
        handle = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        if mark_alive(handle) and _is_at(draft, handle):
            return draft, handle
        os.close(handle)  # another process has taken it for a leftover


@contextmanager
def draft_folder(folder: Path) -> Iterator[Path]:
    """Make a draft beside a folder, and remove what is at its place at the end.

    A lock on it marks it as alive; drafts of killed writers are removed.
    """
    with errors_for(folder, instead=True):
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_drafts_of(folder)
        handle = None
        while handle is None:
            draft = draft_name(folder)
            draft.mkdir()
            handle = _open_locked(draft)
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        os.close(handle)


def _open_locked(draft: Path) -> int | None:
    """Lock a new draft; return None if another writer removed it before that."""
    try:
        handle = os.open(draft, os.O_RDONLY)
    except FileNotFoundError:
        return None
    if mark_alive(handle) and _is_at(draft, handle):
        return handle
    os.close(handle)
    return None


def mark_alive(draft: int) -> bool:
    """Lock an open draft; return False if ``remove_leftovers`` was faster."""
    try:
        return try_lock(draft)
    except NoLocks:
        return True


def draft_name(path: Path, number: uuid.UUID | None = None) -> Path:
    """Return a name for a draft of a file or folder, hidden beside it; a new one."""
    # Two processes must not write to one draft, nor may its name be too long.
    number = number or uuid.uuid4()
    return path.with_name(f".{path.name[:STEM]}.{number.hex}.tmp")


def remove_leftovers(folder: str | os.PathLike, *, below: bool = False) -> None:
    """Remove drafts of files and folders whose writers were killed.

    A living writer holds a lock on its draft. Only the sole writer of a folder calls
    this, never a reader.

    Parameters
    ----------
    folder : path
        Nothing happens if it does not exist.
    below : bool
        Also in the folders in it.
    """
    for place, folders, files in os.walk(os.fspath(folder)):
        drafts = [name for name in (*folders, *files) if DRAFT.fullmatch(name)]
        for name in drafts:
            _remove_dead(Path(place, name))
        folders[:] = [name for name in folders if below and name not in drafts]


def remove_drafts_of(path: Path) -> None:
    """Remove the drafts of a file or folder whose writers were killed."""
    with suppress(OSError):
        for name in os.listdir(path.parent):
            match = DRAFT.fullmatch(name)
            if match and match["name"] == path.name[:STEM]:
                _remove_dead(path.with_name(name))


def _remove_dead(draft: Path) -> None:
    with suppress(OSError):
        is_folder = draft.is_dir()
        flags = os.O_RDONLY if is_folder else os.O_RDWR  # some disks lock no other
        handle = os.open(draft, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if try_lock(handle) and _is_at(draft, handle):
                shutil.rmtree(draft) if is_folder else draft.unlink()
        finally:
            os.close(handle)


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
    """Return the SHA-256 of a regular file as 64 hexadecimal digits."""
    total = hashlib.sha256()
    with open_regular(path) as file:
        for block in iter(lambda: file.read(BLOCK), b""):
            total.update(block)
    return total.hexdigest()


@contextmanager
def file_lock(
    path: str | os.PathLike, *, patience: float | None = None
) -> Iterator[IO[bytes]]:
    """Open a file for reading and appending, and hold an exclusive lock on it.

    Other processes wait for the lock, and say so in the log. The system releases it
    when the process ends, however it ends. The holder may rename or remove the file;
    waiting processes then create a new one. A link is not followed but an OSError. On
    a disk without locks, nothing is locked.

    Parameters
    ----------
    path : path
    patience : float, optional
        Wait for so many seconds, and say nothing. Default: as long as it takes.

    Raises
    ------
    BlockingIOError
        If the lock is not free in time.
    """
    path = Path(path)
    while True:
        with open(path, "ab+", opener=_open_no_link) as file:
            with suppress(NoLocks):
                if patience is not None:
                    _lock_within(file.fileno(), patience)
                elif not try_lock(file.fileno()):
                    LOG.warning("%s: locked by another process, waiting", path)
                    fcntl.flock(file, fcntl.LOCK_EX)
            if _is_at(path, file.fileno()):
                yield file
                return


class NoLocks(OSError):
    """The disk knows no locks."""


def try_lock(handle: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Lock an open file or folder; return False if another process holds the lock.

    Raises
    ------
    NoLocks
        If the disk knows none.
    """
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise NoLocks(error.errno, error.strerror) from error
    return True


def is_locked(path: str | os.PathLike, *, patience: float = 0) -> bool:
    """Return whether another process holds the lock on a file, without changing it."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        with suppress(NoLocks):
            _lock_within(handle, patience, fcntl.LOCK_SH)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def wait_until_free(path: str | os.PathLike) -> bool:
    """Wait while somebody holds the lock on a file; return whether anybody did."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        if try_lock(handle, fcntl.LOCK_SH):
            return False  # a killed process left the file behind
        fcntl.flock(handle, fcntl.LOCK_SH)
    except OSError:  # no locks
        return False
    finally:
        os.close(handle)
    return True


def _lock_within(handle: int, seconds: float, kind: int = fcntl.LOCK_EX) -> None:
    end = time.monotonic() + seconds
    while not try_lock(handle, kind):
        if time.monotonic() >= end:
            raise BlockingIOError(errno.EAGAIN, "another process holds the lock")
        time.sleep(PAUSE)


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


@contextmanager
def appended(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """Open a file to be appended to, or cut; a new one if there is none.

    Raises
    ------
    OSError
        If it cannot be written, or is a link, a pipe or a device; the error names it.
    """
    with errors_for(path), open(path, "ab", opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "is no regular file")
        yield file


def _open_at_once(path: str, flags: int) -> int:
    # A pipe that nobody reads from would be waited for.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


def _is_at(path: Path, handle: int) -> bool:
    """Return whether an open file or folder is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
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
