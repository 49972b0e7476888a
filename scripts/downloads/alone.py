"""One process at a time in a folder: the others wait."""

from __future__ import annotations

import fcntl
import logging
import os
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Iterator

LOG = logging.getLogger(__name__)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Make a folder and hold it; the system lets go of it when the process ends."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".downloading"
    while True:
        with open(path, "ab") as lock:
            _wait(lock, folder)
            if not _is_at(path, lock):
                continue  # whoever held it has removed it, and another may hold its own
            try:
                yield
            finally:
                path.unlink()
            return


def _wait(lock: IO[bytes], folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        LOG.warning("%s: another process downloads to it, waiting", folder)
        fcntl.flock(lock, fcntl.LOCK_EX)


def _is_at(path: Path, lock: IO[bytes]) -> bool:
    try:
        return os.path.samestat(os.fstat(lock.fileno()), path.stat())
    except FileNotFoundError:
        return False
