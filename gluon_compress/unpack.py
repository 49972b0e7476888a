"""Archives from elsewhere: checked before they are written, unpacked whole or not."""

from __future__ import annotations

import lzma
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Callable, Iterator, NamedTuple, Sequence, Union

from tqdm import tqdm

from gluon_compress.storage.atomic import named

Opened = Union[tarfile.TarFile, zipfile.ZipFile]
TAR_MODES = {".tar": "r:", ".tgz": "r:gz"}
# Raised where an archive is broken, or packed in a way that cannot be read: readers
# believe the numbers in it, and compute, seek and ask for memory by them.
BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    ArithmeticError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    ValueError,
)
TAR_END = bytes(2 * tarfile.BLOCKSIZE)
FILE, FOLDER, LINK, OTHER = "a file", "a folder", "a link", "a device or a pipe"
DEEPEST = 100  # folders; no data set needs more, and no system takes any number
BLOCK = 1 << 20


class Entry(NamedTuple):
    """A name in an archive, what is there, the bytes it states, how to read them."""

    name: str
    kind: str
    size: int
    read: Callable[[], IO[bytes]]


@dataclass(frozen=True)
class Member:
    """A file in an archive.

    Parameters
    ----------
    label : str
        The archive and its name there, for errors.
    parts : tuple of str
        Where it goes, below the folder that it is unpacked in.
    size : int
        The bytes that the archive states.
    read : function
        Opens it.
    """

    label: str
    parts: tuple[str, ...]
    size: int
    read: Callable[[], IO[bytes]]


def unpack(sources: Sequence[tuple[Path, str]], folder: Path) -> None:
    """Unpack archives, with plain permissions and as our own files.

    Parameters
    ----------
    sources : sequence of (path, str)
        A .zip, .tar or .tgz file and the folder in it to unpack; "" means all of it.
    folder : path
        It is made, and must not exist.

    Raises
    ------
    ValueError
        If an archive is broken, does not end as it should, holds a link, a device, a
        name that leads out of the folder or a file twice, needs more room than there
        is, or has a member that is not as long as it states. There is no folder then.
    OSError
        If a file cannot be opened or written, which the error names; nor then.
    """
    with ExitStack() as stack:
        found: list[Member] = []
        for path, inner in sources:
            archive = stack.enter_context(_opened(path))
            found += members(path, archive, inner)
        _refuse_twice(found)
        total = sum(member.size for member in found)
        check_room(total, folder)
        stack.enter_context(_made(folder))
        for parts in sorted(_folders(found) - {()}):
            folder.joinpath(*parts).mkdir(0o755)
        options = {"unit": "B", "unit_scale": True, "leave": False, "disable": None}
        with tqdm(total=total, desc="unpacking", **options) as bar:
            for member in found:
                write(member, folder.joinpath(*member.parts), bar)


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make a folder, which goes again if what is to be in it does not come whole."""
    folder.mkdir(0o755, parents=True)
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _folders(found: Sequence[Member]) -> set[tuple[str, ...]]:
    return {member.parts[:i] for member in found for i in range(len(member.parts))}


def _refuse_twice(found: Sequence[Member]) -> None:
    taken = _folders(found)
    for member in found:
        if member.parts in taken:
            raise ValueError(f"{member.label} is there twice, as a file or a folder")
        taken.add(member.parts)


def write(member: Member, path: Path, bar: tqdm) -> None:
    """Write a file; ValueError if it is not as long as its archive states."""
    left, plain = member.size, partial(os.open, mode=0o644)
    target = partial(open, path, "xb", opener=plain)
    with named(path), target() as file:
        for block in _blocks(member):
            left -= len(block)
            if left < 0:
                break
            file.write(block)
            bar.update(len(block))
    if left:
        raise ValueError(f"{member.label} is not of the {member.size} bytes it states")


def _blocks(member: Member) -> Iterator[bytes]:
    with _blaming(member.label), member.read() as source:
        yield from iter(partial(source.read, BLOCK), b"")


def check_room(needed: int, folder: Path) -> None:
    """Raise ValueError if so many bytes have no room where a folder is, or is to be."""
    place = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        sizes = f"{needed / 1e9:.2f} GB are needed, {free / 1e9:.2f} GB are free"
        raise ValueError(f"{place}: not enough room: {sizes}")


def members(path: Path, archive: Opened, inner: str) -> Iterator[Member]:
    """Return the files below a folder of an archive; "" means all.

    Raises
    ------
    ValueError
        If the archive is broken or does not end, or anything in it, also outside that
        folder, is a link or a device, or its name leads out of where it is unpacked.
    """
    begin = PurePosixPath(inner).parts
    with _blaming(path):
        entries = list(_entries(archive))
    for entry in entries:
        label, parts = f"{path}: {entry.name!r}", PurePosixPath(entry.name).parts
        if entry.kind not in (FILE, FOLDER):
            raise ValueError(f"{label} is {entry.kind}; only files are unpacked")
        if len(parts) > DEEPEST:
            shown = f"{path}: {entry.name[:60]!r}…"
            raise ValueError(
                f"{shown} lies {len(parts)} folders deep; allowed: {DEEPEST}"
            )
        if _leads_out(entry.name, parts):
            raise ValueError(f"{label} is a name that leads out of the folder")
        rest = parts[len(begin) :] if parts[: len(begin)] == begin else ()
        if entry.kind == FILE and rest:
            yield Member(label, rest, entry.size, entry.read)


def _leads_out(name: str, parts: tuple[str, ...]) -> bool:
    """Return whether a name might lead out on any system; NUL is for C's sake."""
    drive = bool(parts) and parts[0][1:2] == ":"
    return drive or name.startswith("/") or ".." in parts or bool({*"\\\0"} & {*name})


@contextmanager
def _blaming(what: object) -> Iterator[None]:
    """Turn what the readers raise into one line that names the archive."""
    try:
        yield
    except BROKEN as error:
        if getattr(error, "filename", None) is not None:
            raise  # of the system: there is no such file, for instance
        why = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{what}: cannot be unpacked: {why}") from error


def _opened(path: Path) -> Opened:
    """Open an archive; ValueError if it is none."""
    with _blaming(path):
        if path.suffix == ".zip":
            return zipfile.ZipFile(path)
        return tarfile.open(path, TAR_MODES[path.suffix])


def _entries(archive: Opened) -> Iterator[Entry]:
    """Return all entries, in the order they lie in."""
    if isinstance(archive, zipfile.ZipFile):
        return (_of_zip(archive, info) for info in archive.infolist())
    return _entries_of_tar(archive)


def _entries_of_tar(archive: tarfile.TarFile) -> Iterator[Entry]:
    """Return all entries; ReadError if what comes after them is not the end."""
    for info in archive:
        if archive.offset < info.offset_data:  # we would go round and round
            raise tarfile.ReadError(f"{info.name!r} states less than 0 bytes")
        yield _of_tar(archive, info)
    # To the reader, anything that is no header is the end.
    place, stream = f"byte {archive.offset}", archive.fileobj
    stream.seek(archive.offset)
    if stream.read(len(TAR_END)) != TAR_END:
        raise tarfile.ReadError(f"neither a header nor the end at {place}")
    for block in iter(partial(stream.read, BLOCK), b""):  # to the sum of a .tgz
        if any(block):
            raise tarfile.ReadError(f"more comes after the end at {place}")


def _of_tar(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Entry:
    link = LINK if info.issym() or info.islnk() else OTHER
    kind = FILE if info.isreg() else FOLDER if info.isdir() else link
    return Entry(info.name, kind, info.size, partial(archive.extractfile, info))


def _of_zip(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Entry:
    kinds = {stat.S_IFREG: FILE, stat.S_IFDIR: FOLDER, stat.S_IFLNK: LINK}
    kinds[0] = FILE  # not packed on Unix
    kind = kinds.get(stat.S_IFMT(info.external_attr >> 16), OTHER)
    kind = FOLDER if kind == FILE and info.is_dir() else kind
    return Entry(info.filename, kind, info.file_size, partial(archive.open, info))
