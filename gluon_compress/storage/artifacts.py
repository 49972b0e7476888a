"""Artifact folders: complete or absent, with a manifest that lists their checksums.

A folder is written under a temporary name beside its final one and put in place in a
single step, so a reader sees either the earlier folder or the new one. Reading never
changes anything on disk: what a killed writer left behind is cleaned up by the next
writer of the same folder.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Optional, Tuple, TypeVar

from pydantic import ConfigDict, Field
from typing_extensions import Annotated, Literal

from gluon_compress.storage.atomic import (
    disk_errors,
    draft_folder,
    errors_for,
    read_json,
    sha256,
    wait_until_free,
)
from gluon_compress.storage.locks import taking_turns, turn_file
from gluon_compress.validation import (
    Allowed,
    CountOrZero,
    NonEmptyStr,
    NonNegative,
    Settings,
    Sha256,
    parse,
    shown,
    wrong,
)

FORMAT = 1
MANIFEST = "manifest.json"
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of renameat2(2)
NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
Read = TypeVar("Read", bound=Callable[..., Any])


class FileChecksum(Settings):
    """The checksum and the size of a file, as a manifest states them.

    Parameters
    ----------
    sha256 : str
    bytes : int
    """

    sha256: Sha256
    bytes: CountOrZero


Axis = Annotated[int, Field(ge=1, lt=1 << 31), Allowed("a whole number from 1")]
FileName = Annotated[
    str, Field(pattern=r"^\w[\w.-]*$"), Allowed("names of files in the folder itself")
]
FileChecksums = Dict[FileName, FileChecksum]


class ManifestInput(Settings):
    """What every manifest states of the net's input.

    Parameters
    ----------
    name : str
    shape : tuple of int
        With the batch axis.
    resize : dict
        How images are resized, in deployed folders of earlier versions.
    """

    name: NonEmptyStr
    shape: Annotated[Tuple[Axis, ...], Field(min_length=1, max_length=8)]
    resize: Optional[Dict[str, str]] = None


class ManifestOutput(Settings):
    """What every manifest states of an output of the net.

    Parameters
    ----------
    name : str
    shape : tuple of int
        With the batch axis.
    """

    name: NonEmptyStr
    shape: Annotated[Tuple[Axis, ...], Field(max_length=8)]


class LargestDifference(Settings):
    """How far a reloaded net was from the one that was exported."""

    absolute: NonNegative
    relative: NonNegative


class CommonManifest(Settings):
    """What the manifest of every artifact may state; each kind adds its own keys.

    Parameters
    ----------
    format : int
    name : str
        Beginning of the names of its files.
    kind : str
        Kind of the net, if it has one.
    input : ManifestInput
    outputs : tuple of ManifestOutput
    files : dict
        The checksum of each file.
    max_difference : LargestDifference
        Absent if the folder was not checked.
    versions : dict
        By package, for humans.
    """

    model_config = ConfigDict(extra="ignore")

    format: Literal[1]
    name: FileName
    kind: Optional[NonEmptyStr] = None
    input: ManifestInput
    outputs: Annotated[Tuple[ManifestOutput, ...], Field(min_length=1)]
    files: FileChecksums
    max_difference: Optional[LargestDifference] = None
    versions: Dict[str, str] = {}


def valid_checksums(value: Any, place: str) -> FileChecksums:
    """Return the ``files`` of a manifest; raise ValueError if they are invalid."""
    return parse(FileChecksums, value, place)


@contextmanager
def atomic_directory(
    folder: str | os.PathLike, kind: str | None = None
) -> Iterator[Path]:
    """Yield an empty folder that becomes ``folder`` when the block succeeds.

    Parameters
    ----------
    folder : path
        A new folder, or an artifact of the same kind, which is replaced in one step.
    kind : str, optional
        The ``kind`` of the new manifest.

    Yields
    ------
    Path
        The draft to fill. It is removed if the block raises.

    Raises
    ------
    ValueError
        If ``folder`` holds anything but an artifact of this kind. It is left as it was,
        as after any other error.
    OSError
        If the draft cannot be written; the error names ``folder``.
    """
    folder = Path(folder)
    if folder.is_symlink():
        folder = folder.resolve()  # the link stays, what it leads to is replaced
    _undo_interrupted_swap(folder)
    _check_replaceable(folder, kind)
    with draft_folder(folder) as draft:
        with disk_errors(folder, draft):
            yield draft
        with errors_for(folder, instead=True):
            _flush(draft)
            _check_replaceable(folder, kind)  # others may have written meanwhile
            _put_in_place(draft, folder)


def checksums(folder: Path) -> dict[str, dict]:
    """Return sha256 and size of each file in a folder, for its manifest."""
    return {
        path.name: {"sha256": sha256(path), "bytes": path.stat().st_size}
        for path in sorted(folder.iterdir())
    }


def one_state(read: Read) -> Read:
    """Let a function that reads an artifact folder see one state of it.

    Its first argument is the folder. The function is called again if a writer has
    replaced the folder meanwhile.
    """

    @functools.wraps(read)
    def repeated(folder: str | os.PathLike, *args: Any, **options: Any) -> Any:
        while True:
            handle = _opened(folder)
            try:
                result = read(folder, *args, **options)
            except (ValueError, OSError):
                if not _is_replaced(folder, handle):
                    raise
            else:
                if not _is_replaced(folder, handle):
                    return result
            finally:
                if handle is not None:
                    os.close(handle)

    return repeated  # type: ignore[return-value]


def _opened(folder: str | os.PathLike) -> int | None:
    """Return a handle, which keeps the folder's number from being used again."""
    swapping = True
    while True:
        try:
            return os.open(folder, os.O_DIRECTORY | getattr(os, "O_PATH", os.O_RDONLY))
        except FileNotFoundError:
            if not swapping:
                return None
            # Once more even if nobody swaps: a swap may have ended just now.
            swapping = wait_until_free(turn_file(Path(folder)))
        except OSError:
            return None


def _is_replaced(folder: str | os.PathLike, handle: int | None) -> bool:
    if handle is None:
        return False
    try:
        return not os.path.samestat(os.fstat(handle), os.stat(folder))
    except FileNotFoundError:
        return wait_until_free(turn_file(Path(folder))) or Path(folder).exists()


@one_state
def verified(folder: str | os.PathLike) -> dict:
    """Return the manifest of an artifact after checking every file against it.

    Raises
    ------
    ValueError
        If a file is missing or altered, or the manifest is invalid; the file is named.
    """
    manifest = read_manifest(folder)
    _check_files(Path(folder), manifest)
    return manifest


def _check_files(folder: Path, manifest: dict) -> None:
    for name, stated in manifest["files"].items():
        path = folder / name
        try:
            digits = sha256(path)
        except (FileNotFoundError, IsADirectoryError):
            raise ValueError(f"{path}: this file of the export is missing") from None
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from None
        if digits != stated["sha256"]:
            raise ValueError(f"{path}: altered or cut short, its sha256 differs")


@one_state
def read_manifest(folder: str | os.PathLike, kind: str | None = None) -> dict:
    """Return the manifest of an artifact folder.

    Parameters
    ----------
    folder : path
    kind : str, optional
        The only ``kind`` to accept. Default: any.

    Raises
    ------
    ValueError
        If there is no manifest, or it is invalid, of another format, or of another
        kind.
    """
    path = Path(folder) / MANIFEST
    manifest = read_json(path)
    number = manifest.get("format") if isinstance(manifest, dict) else None
    if type(number) is not int or number != FORMAT:
        read = f"this version reads {FORMAT}"
        raise ValueError(f"{path}: format is {shown(number)}; {read}")
    parse(CommonManifest, manifest, path)
    if kind is not None and manifest.get("kind") != kind:
        raise wrong(f"{path}: kind", manifest.get("kind"), repr(kind))
    return manifest


@one_state
def _check_replaceable(folder: Path, kind: str | None) -> None:
    """Refuse to replace a folder that holds anything but an artifact of a kind."""
    try:
        present = {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise ValueError(f"{folder}: is a file; an export is a folder") from None
    manifest = read_manifest(folder) if MANIFEST in present else None
    foreign = present - {MANIFEST, *(manifest["files"] if manifest else ())}
    if foreign:
        raise ValueError(
            f"{folder}: holds {min(foreign)!r}, which does not belong to an export; "
            "choose a new folder"
        )
    if manifest and manifest.get("kind") != kind:
        raise ValueError(
            f"{folder}: holds an export whose kind is {shown(manifest.get('kind'))}; "
            f"allowed: {kind!r}; choose a new folder"
        )


def _flush(draft: Path) -> None:
    """Make sure that a power cut cannot leave the folder without its content."""
    for path in (*draft.rglob("*"), draft):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _put_in_place(draft: Path, folder: Path) -> None:
    """Give a draft its name; an earlier folder takes the draft's name instead."""
    with taking_turns(folder):
        try:
            _exchange(draft, folder)
        except FileNotFoundError:
            os.rename(draft, folder)
        except OSError as error:
            if error.errno not in NO_EXCHANGE:
                raise
            if folder.exists():
                _swap(draft, folder)
            else:
                os.rename(draft, folder)


def _exchange(first: Path, second: Path) -> None:
    """Exchange two names in one step, where the kernel and the disk can do that."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):  # glibc before 2.28, or not Linux
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    names = (AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second))
    if libc.renameat2(*names, RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fspath(second))


def _swap(draft: Path, folder: Path) -> None:
    """Exchange two names in two steps; for a moment there is no such folder."""
    aside = _aside(folder)
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(folder, aside)
    try:
        os.rename(draft, folder)
    except BaseException:
        os.rename(aside, folder)
        raise
    os.rename(aside, draft)


def _undo_interrupted_swap(folder: Path) -> None:
    """Bring back the earlier folder if a writer was killed in the middle of a swap."""
    if not _aside(folder).exists():
        return
    with taking_turns(folder):
        if folder.exists():
            shutil.rmtree(_aside(folder), ignore_errors=True)
        elif _aside(folder).exists():
            os.rename(_aside(folder), folder)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.earlier")
