"""Files from elsewhere: resumed where they broke off, checked, and only then in place.

What has come so far lies in ``NAME.SUM.part`` beside the file. It stays there, whatever
goes wrong, unless it has all its bytes and is another file, or the disk is full. It is
also the lock: who fetches holds it, others wait for it and then find the file. The
system lets go of it when a process ends, however it ends.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Iterator, Optional, Tuple
from urllib.parse import unquote, urljoin, urlsplit

import requests
import urllib3  # what requests stands on
from tqdm import tqdm

from gluon_compress.storage.atomic import held, is_at, named

LOG = logging.getLogger(__name__)
BLOCK = 1 << 16
ENOUGH = 1 << 20  # bytes: a try that brought so many does not count as failed
WEB = ("http", "https")
LONGEST_WAIT = 60.0  # seconds, whatever a server asks for
RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")  # of what there is in all, if known
Stretch = Tuple[int, Optional[int], Optional[int]]
FULL = (errno.ENOSPC, errno.EDQUOT)
ALGORITHMS = {"sha256": 64, "sha1": 40, "md5": 32}  # and their hexadecimal digits


@dataclass(frozen=True)
class Patience:
    """How long to go on with a server that fails.

    Parameters
    ----------
    retries : int
        Tries after the first one. A try that brings a mebibyte is not counted.
    wait : float
        Seconds before the second try; twice as long before each further one.
    timeout : float
        Seconds without a byte after which a connection counts as lost.
    """

    retries: int = 5
    wait: float = 1.0
    timeout: float = 30.0


class _Refused(ValueError):
    """No further try would help."""


class _Broken(Exception):
    """Another try may help; ``after`` is what the server asks to wait, in seconds."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


class _Unfit(_Broken):
    """A range does not fit what has come so far: the next try asks for the whole."""


def fetch(
    url: str,
    path: str | os.PathLike,
    checksum: str,
    *,
    size: int | None = None,
    patience: Patience = Patience(),
) -> Path:
    """Return a file that is what its checksum says, from elsewhere if need be.

    Parameters
    ----------
    url : str
        Of kind http, https or file, and redirected to none but http or https.
    path : path
        Where the file is to be; its folder is made.
    checksum : str
        ``"sha256:DIGITS"``, ``"sha1:DIGITS"`` or ``"md5:DIGITS"``.
    size : int, optional
        Bytes; a server that offers another length is refused before it is read. Without
        it, the server alone says whether what has come so far is too long.
    patience : Patience

    Returns
    -------
    Path
        A file that was there already and is intact is returned as it is, which needs
        neither a connection nor a folder that can be written. An altered one is
        removed and fetched again, and the log says so.

    Raises
    ------
    ValueError
        If the server cannot be reached, has no such file, or serves something else;
        nothing is in place then, and what has come so far is kept.
    OSError
        If the folder cannot be written or its disk is full (what has come is removed
        then), or the file of an address cannot be read; the error names the file.
    """
    path = Path(path).expanduser()
    _algorithm(checksum)
    if path.is_file() and intact(path, checksum):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with _part(path, checksum) as part:
        if path.exists():
            if intact(path, checksum):  # another process has just put it there
                return path
            LOG.warning("%s: altered or cut short; it is fetched again", path)
            path.unlink()
        if not _is(part, checksum):
            _fill(part, url, checksum, size, patience)
        os.fsync(part.fileno())
        os.replace(part.name, path)
    return path


def intact(path: str | os.PathLike, checksum: str) -> bool:
    """Return whether a file has this checksum."""
    with open(path, "rb") as file:
        return _is(file, checksum)


def _algorithm(checksum: str) -> str:
    name, _, digits = checksum.partition(":")
    if ALGORITHMS.get(name) != len(digits):
        allowed = ", ".join(f"{n}: before {d} digits" for n, d in ALGORITHMS.items())
        raise ValueError(f"checksum {checksum!r}; allowed: {allowed}")
    return name


def _is(file: IO[bytes], checksum: str) -> bool:
    total = hashlib.new(_algorithm(checksum))
    file.seek(0)
    for block in iter(lambda: file.read(1 << 20), b""):
        total.update(block)
    return total.hexdigest() == checksum.split(":")[1].lower()


@contextmanager
def _part(path: Path, checksum: str) -> Iterator[IO[bytes]]:
    """Open what has come so far, alone; it is kept if there is anything in it."""
    name = path.with_name(f"{path.name}.{checksum.split(':')[1][:8]}.part")
    # What the system could not write comes up again when the file is closed.
    with named(name), held(name) as part:
        try:
            yield part
        except OSError as error:
            if error.errno in FULL:  # what has come would keep the disk full
                name.unlink()
            raise
        finally:
            if is_at(name, part) and not name.stat().st_size:
                name.unlink()


def _fill(part, url: str, checksum: str, size: int | None, patience: Patience) -> None:
    """Read until the sum is right; go on where a try broke off."""
    failed, afresh, ranges = 0, True, True
    if size is not None and part.seek(0, os.SEEK_END) >= size:
        part.truncate(0)  # nothing is missing, and yet its sum is another
    while True:
        before = part.seek(0, os.SEEK_END)
        try:
            _read(part, url, size, patience.timeout, ranges)
            if _is(part, checksum):
                return
            part.truncate(0)
            # What was kept of an earlier try may be to blame, once.
            if not (before and afresh):
                raise _Refused(f"{url}: what came has another {_algorithm(checksum)}")
            afresh = False
        except _Broken as error:
            ranges = not isinstance(error, _Unfit)
            gained = part.seek(0, os.SEEK_END) - before
            failed = 0 if gained >= ENOUGH else failed + 1
            if failed > patience.retries:
                raise ValueError(_given_up(url, error, failed, part)) from error
            wait = max(patience.wait * 2 ** max(failed - 1, 0), error.after)
            wait = min(wait, LONGEST_WAIT)
            LOG.warning("%s: %s; another try in %g seconds", url, error, wait)
            time.sleep(wait)


def _given_up(url: str, error: Exception, failed: int, part: IO[bytes]) -> str:
    kept = part.seek(0, os.SEEK_END)
    more = f"; {kept} bytes have come, another call goes on from there" if kept else ""
    return f"{url}: {error}; tried {failed} times{more}"


def _read(part, url: str, size: int | None, timeout: float, ranges: bool) -> None:
    """Append what is missing of a file; of the whole of it, if ranges do not work."""
    with _explained(url):
        kind = urlsplit(url).scheme
        if kind == "file":
            _read_file(part, url, size)
        elif kind in WEB:
            # A server may send less than what it is asked for.
            while not _read_http(part, url, size, timeout, ranges):
                pass
        else:
            raise _Refused(f"{url}: kind {kind!r}; allowed: 'http', 'https', 'file'")


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Say in a few words what is wrong with an address, or on the way to it."""
    try:
        yield
    except _Refused:
        raise
    except (ValueError, requests.exceptions.TooManyRedirects) as error:
        raise _Refused(f"{url}: {' '.join(str(error).split())}") from error
    except requests.exceptions.RequestException as error:
        raise _reason(error) from error


def _read_file(part: IO[bytes], url: str, size: int | None) -> None:
    have, where = part.seek(0, os.SEEK_END), urlsplit(url)
    if where.netloc not in ("", "localhost"):
        allowed = "none, as in 'file:///folder/name'"
        raise _Refused(f"{url}: host {where.netloc!r}; allowed: {allowed}")
    with open(unquote(where.path), "rb") as source:
        _check_size(os.fstat(source.fileno()).st_size, size, part, url)
        _copy(_rest(source, have), part, size, url)


def _rest(source: IO[bytes], begin: int) -> Iterator[bytes]:
    with named(source.name):
        source.seek(begin)
        yield from iter(lambda: source.read(BLOCK), b"")


def _read_http(part, url: str, size: int | None, timeout: float, ranges: bool) -> bool:
    """Append what a server sends; return whether it goes to the end of the file."""
    have = part.seek(0, os.SEEK_END)
    # Packed on the way, lengths and ranges would be those of something else.
    headers = {"Accept-Encoding": "identity"}
    if have and ranges:
        headers["Range"] = f"bytes={have}-"
    options = {"stream": True, "timeout": timeout}
    hooks = {"response": partial(_check_target, url)}
    with requests.get(url, headers=headers, hooks=hooks, **options) as answer:
        if answer.status_code == 416 and size is None:
            part.truncate(0)  # as much as there is, or more, and another sum
        _check_status(answer, url)
        begin, end, total = _stretch(answer, have, size)
        _check_size(total, size, part, url)
        _copy(_after(_blocks(answer), have - begin), part, end, url)
        return end == total or total is None


def _check_target(url: str, answer: requests.Response, **ignored) -> None:
    """Refuse to be led from the web to another kind of place, or nowhere."""
    if not answer.is_redirect:
        return
    target = answer.headers["Location"]
    with suppress(ValueError):  # brackets or a port that cannot be understood
        where = urlsplit(urljoin(answer.url, target))
        if where.port != 0 and where.scheme in WEB:
            return
    answer.close()
    allowed = "addresses of kind 'http' or 'https'"
    raise _Refused(f"{url}: leads to {target!r}; allowed: {allowed}")


def _check_size(offered: int | None, size: int | None, part, url: str) -> None:
    """Refuse another length than is expected, and less than has come so far."""
    have = part.seek(0, os.SEEK_END)
    if size is not None and offered != size:
        raise _Refused(f"{url}: {offered} bytes are offered, {size} are expected")
    if offered is not None and offered < have:
        came = f"{have} came before; if those are wrong, remove {part.name}"
        raise _Refused(f"{url}: {offered} bytes are offered, {came}")


def _check_status(answer: requests.Response, url: str) -> None:
    status = answer.status_code
    if status in (408, 425, 429) or status >= 500:
        after = answer.headers.get("Retry-After", "")
        seconds = float(after) if after.isdecimal() else 0.0
        raise _Broken(f"status {status} {answer.reason}", seconds)
    if status == 416:
        raise _Unfit("the server has nothing after what was kept")
    if status not in (200, 206):
        raise _Refused(f"{url}: status {status} {answer.reason}")


def _stretch(answer: requests.Response, have: int, size: int | None) -> Stretch:
    """Return where what is sent begins and ends, and how much there is in all."""
    if answer.status_code == 200:
        length = answer.headers.get("Content-Length", "")
        whole = int(length) if length.isdecimal() else size
        return 0, whole, whole
    stated = RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if stated:
        begin, end = int(stated[1]), int(stated[2]) + 1
        total = size if stated[3] == "*" else int(stated[3])
        if begin <= have < end and (total is None or end <= total):
            return begin, end, total
    raise _Unfit("another range came than was asked for")


def _blocks(answer: requests.Response) -> Iterator[bytes]:
    """Read what is sent, as it is: of a .tgz, servers say that they packed it."""
    # urllib3 would throw away the last block of a file that breaks off; whether all has
    # come, we see ourselves.
    answer.raw.enforce_content_length = False
    try:
        yield from answer.raw.stream(BLOCK, decode_content=False)
    except urllib3.exceptions.TimeoutError as error:
        raise _Broken("no answer in time") from error
    except urllib3.exceptions.HTTPError as error:
        raise _Broken("the connection was lost") from error


def _after(blocks: Iterator[bytes], have: int) -> Iterator[bytes]:
    """Read past what is there already: nothing of it is lost if this try breaks off."""
    came = 0
    for block in blocks:
        yield block[max(have - came, 0) :]
        came += len(block)
    if came < have:
        raise _Broken(f"{came} bytes came, where {have} had come before")


def _copy(blocks: Iterator[bytes], part: IO[bytes], end: int | None, url: str) -> None:
    """Append blocks up to where they are to end."""
    have = before = part.seek(0, os.SEEK_END)
    name = urlsplit(url).path.rsplit("/", 1)[-1]
    options = {"unit": "B", "unit_scale": True, "desc": name, "leave": False}
    with tqdm(total=end, initial=have, disable=None, **options) as bar:
        for block in blocks:
            have += len(block)
            if end is not None and have > end:
                part.truncate(before)  # whatever it is that came, it is not the file
                raise _Refused(f"{url}: more than the {end} bytes that are expected")
            part.write(block)
            bar.update(len(block))
    part.flush()
    if end is not None and have < end:
        raise _Broken(f"{have} of {end} bytes came")


def _reason(error: requests.exceptions.RequestException) -> Exception:
    """Return what broke, in a few words."""
    broken = requests.exceptions
    if isinstance(error, broken.SSLError):
        return _Refused(f"{error.request.url}: its certificate is not trusted")
    if isinstance(error, broken.Timeout):
        return _Broken("no answer in time")
    if isinstance(error, broken.ConnectionError):
        if "NameResolutionError" in str(error) or "gaierror" in str(error):
            return _Broken("no server of that name is found; is there a connection?")
        if "Connection refused" in str(error):
            return _Broken("the server refuses the connection")
        return _Broken("the server cannot be reached, or closed the connection")
    return _Broken("the connection was lost")
