"""Folders that are whole or absent: files, and a manifest that states their sums."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

from gluon_compress.checks import (
    key,
    list_of,
    map_of,
    part,
    section,
    text,
    whole,
    wrong,
)
from gluon_compress.storage.atomic import named, read_json, sha256

FORMAT = 1
MANIFEST = "manifest.json"


def _digits(value: Any, place: str) -> str:
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{64}", value):
        raise wrong(place, value, "64 hexadecimal digits")
    return value


@section
class Sum:
    """What a manifest states of a file."""

    sha256: str = key(_digits)
    bytes: int = key(whole(0))


def sums(value: Any, place: str) -> dict[str, Sum]:
    """Accept the sums of files that lie in the folder itself, by their names."""
    found = map_of(part(Sum))(value, place)
    for name in found:
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise wrong(place, name, "names of files in the folder itself")
    return found


@contextmanager
def drafted(folder: str | os.PathLike, kind: str | None = None) -> Iterator[Path]:
    """Hand out an empty folder that becomes ``folder`` if all goes well.

    Parameters
    ----------
    folder : path
    kind : str, optional
        What the new manifest states as its ``kind``.

    Raises
    ------
    ValueError
        If the folder holds anything but an export of this kind; nothing has been
        changed then, as after any error in between.
    """
    folder = Path(folder)
    _restore(folder)
    _check_replaceable(folder, kind)
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
    with named(folder, instead=True):
        draft.mkdir()
    try:
        yield draft
        with named(folder, instead=True):
            _put_in_place(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def sums_of(folder: Path) -> dict[str, dict]:
    """Return sha256 and size of each file in a folder, for its manifest."""
    return {p.name: _sum_of(p) for p in sorted(folder.iterdir())}


def verified(folder: str | os.PathLike) -> dict:
    """Return the manifest of an export whose files are as they were written.

    Raises
    ------
    ValueError
        Naming the file that is missing, altered or of a newer format.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    for name, facts in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{path}: this file of the export is missing")
        if sha256(path) != facts["sha256"]:
            raise ValueError(f"{path}: altered or cut short, its sha256 is another")
    return manifest


def read_manifest(folder: str | os.PathLike) -> dict:
    """Return the manifest of an export.

    Raises
    ------
    ValueError
        If there is none, it is of a newer format or not a manifest, or it states sums
        of anything but files in the folder.
    """
    folder = Path(folder)
    _restore(folder)
    path = folder / MANIFEST
    manifest = read_json(path)
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        raise ValueError(f"{path}: format is {found!r}; this version reads {FORMAT}")
    missing = {"name", "input", "outputs", "files"} - set(manifest)
    if missing:
        raise ValueError(f"{path}: key {min(missing)!r} is missing")
    try:
        text(manifest["name"], "name")
        list_of(whole(1))(_of(manifest["input"], "shape"), "input.shape")
        sums(manifest["files"], "files")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return manifest


def _of(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def kind_checked(folder: str | os.PathLike, kind: str) -> dict:
    """Return the manifest of an export of a kind; raise ValueError for any other."""
    manifest = read_manifest(folder)
    if manifest.get("kind") != kind:
        raise wrong(
            f"{Path(folder) / MANIFEST}: kind", manifest.get("kind"), repr(kind)
        )
    return manifest


def _sum_of(path: Path) -> dict:
    return {"sha256": sha256(path), "bytes": path.stat().st_size}


def _check_replaceable(folder: Path, kind: str | None) -> None:
    """Refuse to replace a folder that holds anything but an export of a kind."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder}: is a file; an export is a folder")
    present = {p.name for p in folder.iterdir()}
    manifest = read_manifest(folder) if MANIFEST in present else None
    known = {MANIFEST, *manifest["files"]} if manifest else set()
    if present - known:
        raise ValueError(
            f"{folder}: holds {min(present - known)!r}, which is not of an export; "
            "choose a new folder"
        )
    if manifest and manifest.get("kind") != kind:
        raise ValueError(
            f"{folder}: holds an export whose kind is {manifest.get('kind')!r}; "
            f"allowed: {kind!r}; choose a new folder"
        )


def _earlier(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.earlier")


def _put_in_place(draft: Path, folder: Path) -> None:
    earlier = _earlier(folder)
    if folder.exists():
        os.rename(folder, earlier)
    os.rename(draft, folder)
    shutil.rmtree(earlier, ignore_errors=True)


def _restore(folder: Path) -> None:
    """Bring back the earlier export if we were stopped between the two renames."""
    if not folder.exists() and _earlier(folder).exists():
        os.rename(_earlier(folder), folder)
