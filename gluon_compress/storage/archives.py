"""Extracts archives without writing outside their folder, completely or not at all."""

from __future__ import annotations

import lzma
import shutil
import tarfile
import zipfile
import zlib
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Callable, Sequence

from tqdm import tqdm

from gluon_compress.storage.atomic import errors_for
from gluon_compress.validation import LONGEST_LINE, shortened, shown

BLOCK = 1 << 20
BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    LookupError,
    RuntimeError,
    ValueError,
)


def unpack(sources: Sequence[tuple[Path, str]], folder: Path) -> None:
    """Extract archives into a new folder.

    Parameters
    ----------
    sources : sequence of (path, str)
        A .zip, .tar or .tgz file, and the folder inside it whose content is extracted;
        ``""`` extracts everything.
    folder : path
        Must not exist.

    Raises
    ------
    ValueError
        If an archive is broken, or a member would be written outside the folder or is
        a link or a device. The folder is removed.
    OSError
        If a file cannot be read or written. The folder is removed.
    """
    folder.mkdir(parents=True)
    try:
        for path, inner in sources:
            _extract(path, inner, folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _extract(path: Path, inner: str, folder: Path) -> None:
    bar = tqdm(desc=f"unpacking {path.name}", unit=" files", leave=False, disable=None)
    extract = _extract_zip if path.suffix == ".zip" else _extract_tar
    try:
        with bar, errors_for(folder):
            extract(path, inner, folder, bar)
    except (*BROKEN, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the system; a broken .tgz has no number
        reason = " ".join(str(error).split()) or type(error).__name__
        reason = shortened(reason, LONGEST_LINE // 2)
        raise ValueError(f"{path}: cannot be unpacked: {reason}") from error


def _extract_tar(path: Path, inner: str, folder: Path, bar: tqdm) -> None:
    with tarfile.open(path) as archive:
        for member in archive:
            bar.update()
            name = _below(member.name, inner)
            if not (member.isreg() or member.isdir()):
                raise ValueError(f"{shown(member.name)} is not a file or a folder")
            opens = None if member.isdir() else partial(archive.extractfile, member)
            _write(folder, name, member.name, opens)


def _extract_zip(path: Path, inner: str, folder: Path, bar: tqdm) -> None:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            bar.update()
            name = _below(member.filename, inner)
            opens = None if member.is_dir() else partial(archive.open, member)
            _write(folder, name, member.filename, opens)


def _write(
    folder: Path, name: str | None, stated: str, opens: Callable[[], Any] | None
) -> None:
    """Write what a call opens to a name, or make a folder; leave out a None of a name.

    Owner, permissions and times are those of a new file, whatever the archive states.
    """
    if name is None:
        return
    target = folder / name
    try:
        if opens is None:
            target.mkdir(parents=True, exist_ok=True)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with opens() as content, open(target, "xb") as file:
            shutil.copyfileobj(content, file, BLOCK)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"{shown(stated)} is where another member is") from None


def _below(name: str, inner: str) -> str | None:
    """Return a member's name relative to a folder in its archive; None if outside."""
    parts, begin = PurePosixPath(name).parts, PurePosixPath(inner).parts
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise ValueError(f"{shown(name)} leads out of the folder")
    if parts[: len(begin)] != begin:
        return None
    return "/".join(parts[len(begin) :]) or None
