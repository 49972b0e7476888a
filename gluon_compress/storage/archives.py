"""Extracts archives without writing outside their folder, completely or not at all."""

from __future__ import annotations

import lzma
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Sequence

from tqdm import tqdm

from gluon_compress.storage.atomic import errors_for
from gluon_compress.validation import LONGEST_LINE, shortened

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
    if not hasattr(tarfile, "data_filter"):
        fixed = "3.8.17, 3.9.17, 3.10.12 and 3.11.4"
        raise ValueError(f"this Python cannot extract archives safely; {fixed} can")
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
    def member_filter(member: tarfile.TarInfo, target: str) -> tarfile.TarInfo | None:
        bar.update()
        tarfile.data_filter(member, target)  # refuses members outside ``inner``, too
        if not (member.isreg() or member.isdir()):
            raise ValueError(f"{member.name!r} is not a file or a folder")
        name = _below(member.name, inner)
        if name is None:
            return None
        return tarfile.data_filter(member.replace(name=name, deep=False), target)

    with tarfile.open(path) as archive:
        archive.extractall(folder, filter=member_filter)


def _extract_zip(path: Path, inner: str, folder: Path, bar: tqdm) -> None:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            bar.update()
            name = _below(member.filename, inner)
            if name is not None:
                member.filename = name + "/" * member.is_dir()
                archive.extract(member, folder)


def _below(name: str, inner: str) -> str | None:
    """Return a member's name relative to a folder in its archive; None if outside."""
    parts, begin = PurePosixPath(name).parts, PurePosixPath(inner).parts
    if name.startswith("/") or ".." in parts:
        raise ValueError(f"{name!r} leads out of the folder")
    if parts[: len(begin)] != begin:
        return None
    return "/".join(parts[len(begin) :]) or None
