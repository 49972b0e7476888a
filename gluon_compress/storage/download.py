"""Downloads files that are checked by their checksum before they get their name."""

from __future__ import annotations

import logging
import os
import shutil
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Iterator
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pooch
import requests
import urllib3
from requests.adapters import HTTPAdapter
from tqdm import tqdm

from gluon_compress.storage.atomic import atomic_file, errors_for, file_lock
from gluon_compress.storage.reading import open_regular

LOG = logging.getLogger(__name__)
BLOCK = 1 << 16
RETRIES = 5  # connections in a row that bring nothing new
BACKOFF = 0.5  # seconds before the second try, twice as many before each further one
TIMEOUT = 30.0  # seconds without a byte
MOST_BYTES = 1 << 32  # of a file whose size is not known before
LONGEST = 6 * 3600.0  # seconds that one file may take, over all connections

ANOTHER_FILE = "another file arrived, its checksum differs"


def fetch(
    url: str, path: str | os.PathLike, checksum: str, *, size: int | None = None
) -> Path:
    """Return a cached file, after downloading it if it is missing or altered.

    Parameters
    ----------
    url : str
        An address of http, https or file.
    path : path
        Where the file is cached. Its folder is made.
    checksum : str
        ``"sha256:DIGITS"``; also ``sha1`` and ``md5``.
    size : int, optional
        Bytes of the file. A server that sends more is cut off; at most ``MOST_BYTES``
        are taken if it is not given.

    Returns
    -------
    Path
        An intact file that is there already is returned without a connection.

    Raises
    ------
    ValueError
        If the file cannot be downloaded, or is not the one that the checksum states.
        Nothing is left in its place.
    OSError
        If the cache cannot be written; the error names the file.
    """
    path = Path(path).expanduser()
    if path.is_file() and intact(path, checksum):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    with errors_for(path), file_lock(lock):  # a second process waits for the file
        try:
            if path.is_file():
                if intact(path, checksum):
                    return path
                LOG.warning("%s: altered or cut short, downloading it again", path)
            with _one_line_errors(url), atomic_file(path) as draft:
                with open(draft, "ab+") as file:
                    _fill(file, url, size)
                if not intact(draft, checksum):
                    raise ValueError(f"{url}: {ANOTHER_FILE}")
        finally:
            lock.unlink()
    return path


def fetch_large(url: str, path: str | os.PathLike, checksum: str, *, size: int) -> Path:
    """Download a large file; what has arrived so far is kept for the next call.

    It is kept in ``NAME.part`` beside the file, which is also the lock: a second
    process waits, and then finds the file.

    Parameters
    ----------
    url : str
        An address of http, https or file.
    path : path
        Its folder is made.
    checksum : str
        As ``fetch`` takes it.
    size : int
        Bytes of the file; a server that offers another number is refused.

    Raises
    ------
    ValueError
        If the file cannot be downloaded, is not the one that the checksum states, or
        ``NAME.part`` is a link.
    OSError
        If the folder cannot be written; the error names the file.
    """
    path = Path(path).expanduser()
    part = path.with_name(f"{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    if part.is_symlink():
        raise ValueError(f"{part}: is a link, which is not written to; remove it")
    with errors_for(part), file_lock(part) as file:
        try:
            if not (path.is_file() and intact(path, checksum)):
                with _one_line_errors(url):
                    _complete(file, part, url, checksum, size)
                os.replace(part, path)
        finally:
            if part.exists() and not part.stat().st_size:
                part.unlink()
    return path


def _complete(file: IO[bytes], part: Path, url: str, checksum: str, size: int) -> None:
    """Fill what is there of a file; remove it if it then has another checksum."""
    if _length(file) >= size and not intact(part, checksum):
        file.truncate(0)
    if _length(file) < size:
        _fill(file, url, size)
    file.flush()
    os.fsync(file.fileno())
    if not intact(part, checksum):
        file.truncate(0)
        raise ValueError(f"{url}: {ANOTHER_FILE}")


def intact(path: str | os.PathLike, checksum: str) -> bool:
    """Return whether a file has this checksum."""
    algorithm, _, digits = checksum.partition(":")
    return pooch.file_hash(str(path), alg=algorithm) == digits.lower()


def _fill(file: IO[bytes], url: str, size: int | None) -> None:
    """Append what a file lacks, over as many connections as it takes."""
    address = urlsplit(url)
    if address.scheme == "file":
        return _copy(file, url, size)
    failures, name = 0, address.path.rsplit("/", 1)[-1]
    deadline = time.monotonic() + LONGEST
    shown = {"unit": "B", "unit_scale": True, "desc": name, "leave": False}
    with _session() as session, tqdm(total=size, disable=None, **shown) as bar:
        while True:
            before = _length(file)
            try:
                return _append(file, url, size, session, bar, deadline)
            except urllib3.exceptions.HTTPError as error:
                failures = 0 if _length(file) > before else failures + 1
                if failures > RETRIES:
                    reason = f"the connection broke off after {_length(file)} bytes"
                    raise ValueError(f"{url}: {reason}: {error}") from error
                time.sleep(BACKOFF * 2 ** max(failures - 1, 0))


def _append(
    file: IO[bytes],
    url: str,
    size: int | None,
    session: requests.Session,
    bar: tqdm,
    deadline: float,
) -> None:
    """Ask once for what a file lacks; urllib3's HTTPError if that breaks off."""
    begin = _length(file)
    # A server must not compress on the fly: lengths and ranges would not be the file's.
    headers = {"Accept-Encoding": "identity", "Range": f"bytes={begin}-"}
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        response.raise_for_status()
        if response.status_code != 206:
            begin = 0  # the server ignores ranges
        elif not response.headers.get("Content-Range", "").startswith(
            f"bytes {begin}-"
        ):
            raise ValueError(f"{url}: another range came than the one from {begin} on")
        length = response.headers.get("Content-Length", "")
        if size is not None and length.isdecimal() and begin + int(length) != size:
            offered = f"{begin + int(length)} bytes are offered"
            raise ValueError(f"{url}: {offered}; expected: {size}")
        file.truncate(begin)
        bar.n = begin
        # What is there by now: to wait for a full block may take weeks.
        blocks = partial(response.raw.read1, BLOCK, decode_content=False)
        for block in iter(blocks, b""):
            most = MOST_BYTES if size is None else size
            if _length(file) + len(block) > most:
                file.truncate(0)
                raise ValueError(f"{url}: more than the expected {most} bytes arrive")
            if time.monotonic() > deadline:
                hours = f"{LONGEST / 3600:g} hours"
                raise ValueError(f"{url}: {_length(file)} bytes after {hours}")
            file.write(block)
            bar.update(len(block))
    if size is not None and _length(file) < size:
        raise urllib3.exceptions.HTTPError(f"{size} bytes are expected")


def _copy(file: IO[bytes], url: str, size: int | None) -> None:
    address = urlsplit(url)
    if address.netloc not in ("", "localhost"):
        raise ValueError(f"{url}: host {address.netloc!r}; allowed: none")
    with open_regular(url2pathname(address.path)) as source:
        offered = os.fstat(source.fileno()).st_size
        if offered != (min(offered, MOST_BYTES) if size is None else size):
            allowed = f"at most {MOST_BYTES}" if size is None else size
            raise ValueError(f"{url}: {offered} bytes are offered; expected: {allowed}")
        file.truncate(0)
        shutil.copyfileobj(source, file)


def _length(file: IO[bytes]) -> int:
    return file.seek(0, os.SEEK_END)


def _session() -> requests.Session:
    """Return a session that repeats requests which a server fails to answer."""
    retries = urllib3.Retry(
        RETRIES,
        backoff_factor=BACKOFF,
        status_forcelist=(408, 425, 429, 500, 502, 503, 504),
        respect_retry_after_header=False,  # it may ask for hours
    )
    session = requests.Session()
    session.mount("http://", HTTPAdapter(max_retries=retries))
    session.mount("https://", HTTPAdapter(max_retries=retries))
    return session


@contextmanager
def _one_line_errors(url: str) -> Iterator[None]:
    """Raise what requests raises as one line that names the address."""
    try:
        yield
    except (requests.RequestException, ValueError) as error:
        cause = error.args[0] if error.args else error
        reason = " ".join(str(getattr(cause, "reason", error)).split())
        raise ValueError(reason if url in reason else f"{url}: {reason}") from error
