"""Locks on what is written: one writer at a time, which others are told of by name.

The system releases a lock when its holder ends, however it ends. A lock file that a
killed process has left behind is taken over by the next writer.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Dict, Iterator

from gluon_compress.storage.atomic import (
    errors_for,
    file_lock,
    is_locked,
    remove_drafts_of,
    remove_leftovers,
)
from gluon_compress.storage.reading import read_json

PATIENCE = 0.5  # seconds; for a holder that is about to end
LONGEST_TURN = 60.0  # seconds
MOST_BYTES, MOST_CHARACTERS = 4096, 80  # of a lock file, and of a command in a message

LOCK = ".lock"  # in a folder whose parent cannot be written

_HELD: Dict[Path, IO[bytes]] = {}


@contextmanager
def sole_writer(path: str | os.PathLike) -> Iterator[None]:
    """Keep other processes from writing a folder or a file while a block writes it.

    The lock is the file ``.NAME.lock`` beside it, or ``.lock`` in a folder whose parent
    cannot be written, and is removed at the end. Folders that are missing above it are
    made, and removed at the end if they are empty then.

    Parameters
    ----------
    path : path
        It need not exist.

    Raises
    ------
    ValueError
        If another process writes it, or a folder that it lies in. The message names
        process, host, start and command.
    OSError
        If nothing can be written there; the error names ``path``.
    """
    target = Path(os.path.realpath(path))
    lock = _lock_file(target)
    with ExitStack() as stack:
        with errors_for(path, instead=True):
            stack.enter_context(made_folder(lock.parent))
            try:
                file = stack.enter_context(file_lock(lock, patience=PATIENCE))
            except BlockingIOError:
                raise ValueError(f"{path}: {_holder(lock)}") from None
        _HELD[lock] = file
        stack.callback(_release, lock)
        with suppress(OSError):  # on a full disk, the holder has no name
            file.truncate(0)
            file.write(json.dumps(_this_process()).encode())
            file.flush()
        for folder in target.parents:
            above = _lock_file(folder)
            if above not in _HELD and is_locked(above, patience=PATIENCE):
                raise ValueError(f"{path}: lies in {folder}: {_holder(above)}")
        remove_drafts_of(target)
        remove_leftovers(target)
        yield


def wait_for_writer(path: str | os.PathLike, patience: float) -> None:
    """Wait until no other process writes a folder or a file, but not for ever.

    Parameters
    ----------
    path : path
        It need not exist.
    patience : float
        Seconds.
    """
    is_locked(_lock_file(Path(os.path.realpath(path))), patience=patience)


@contextmanager
def taking_turns(path: str | os.PathLike) -> Iterator[None]:
    """Let processes that read, change and write a file or a folder take turns.

    The lock is ``.NAME.turn`` beside it, for moments only; ``sole_writer`` is for a
    whole command.
    """
    lock = turn_file(Path(path))
    with file_lock(lock, patience=LONGEST_TURN):
        try:
            yield
        finally:
            lock.unlink()


def turn_file(path: Path) -> Path:
    """Return the lock of ``taking_turns``."""
    return path.with_name(f".{path.name}.turn")


def release_all() -> None:
    """Remove the locks of this process, before it ends without unwinding."""
    for lock in list(_HELD):
        _release(lock)


def _lock_file(target: Path) -> Path:
    # What is mounted may be shared with machines where its parent is another folder.
    if target.is_dir() and (
        os.path.ismount(target) or not os.access(target.parent, os.W_OK)
    ):
        return target / LOCK
    return target.with_name(f".{target.name}.lock")


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """Make a folder and its parents, and remove again those that stay empty."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):
            for each in missing:
                each.rmdir()


def _release(lock: Path) -> None:
    if _HELD.pop(lock, None) is not None:  # else it is the parent's of a fork
        with suppress(OSError):
            lock.unlink()


def _forget() -> None:
    """Give up all locks in a forked process: they are its parent's."""
    for file in _HELD.values():
        file.close()
    _HELD.clear()


os.register_at_fork(after_in_child=_forget)


# ---------------------------------------------------------------- who holds a lock


def _this_process() -> Dict[str, Any]:
    program = Path(sys.argv[0]).name.replace("__main__.py", "gluon-compress")
    command = shlex.join([program, *sys.argv[1:]])
    return {
        "pid": os.getpid(),
        "host": platform.node(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "command": command[:MOST_CHARACTERS],
    }


def _holder(lock: Path) -> str:
    """Return who holds a lock, as its file says."""
    try:
        stated = read_json(lock, most=MOST_BYTES)
        name = "process {pid} on {host}, since {since}: {command}".format(**stated)
    except (OSError, ValueError, TypeError, LookupError):
        name = "another process"
    name = re.sub(r"[^\x20-\x7e]+", " ", name)[: 2 * MOST_CHARACTERS]
    return f"is being written by {name}"
