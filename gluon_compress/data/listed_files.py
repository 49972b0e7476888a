"""Finds the files of a data set: what is data in a folder, and what a list names."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path
from typing import Iterator, Sequence
from urllib.parse import unquote

from gluon_compress.storage.reading import read_bytes
from gluon_compress.validation import shortened

MOST_BYTES = 1 << 28

# What systems and editors leave in folders, beside names that start with a dot.
CLUTTER = {
    "#recycle",
    "$recycle.bin",
    "@eadir",
    "@recycle",
    "__macosx",
    "__pycache__",
    "desktop.ini",
    "ehthumbs.db",
    "lost+found",
    "system volume information",
    "thumbs.db",
}
MARKS = (b"\xff\xfe", b"\xfe\xff")  # UTF-16's byte order marks
INVISIBLE = "\ufeff\u200b\u200e\u200f"  # byte order and text direction marks
LONGEST_NAME = 120  # in a message
FLAGS = ("1", "0", "-1")  # VOC's second column


def is_clutter(name: str) -> bool:
    """Return whether a file or folder of this name is no data."""
    return name.startswith(".") or name.lower() in CLUTTER


def files_in(folder: str | os.PathLike) -> list[Path]:
    """Return the files of a folder that may be data, sorted.

    A link to nothing is one of them: whoever reads it says so.
    """
    with os.scandir(os.fspath(folder)) as entries:
        names = [e.name for e in entries if not is_clutter(e.name) and _is_file(e)]
    return [Path(folder, name) for name in sorted(names)]


def folders_in(folder: str | os.PathLike) -> list[Path]:
    """Return the folders of a folder that may be data, sorted."""
    with os.scandir(os.fspath(folder)) as entries:
        names = [e.name for e in entries if not is_clutter(e.name) and e.is_dir()]
    return [Path(folder, name) for name in sorted(names)]


def _is_file(entry: os.DirEntry) -> bool:
    return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))


class FileIndex:
    """The files of a folder and its subfolders, by what a list may call them.

    Parameters
    ----------
    folder : path
    extensions : sequence of str
        Of the files that count, such as ``.jpg``; in any case.

    Raises
    ------
    ValueError
        If there is no such folder.
    """

    def __init__(self, folder: Path, extensions: Sequence[str]) -> None:
        if not folder.is_dir():
            raise ValueError(f"{folder}: there is no such folder")
        self.folder, self.extensions = folder, tuple(extensions)
        self._files: dict[str, list[Path]] = {}
        self._others: dict[str, Path] = {}
        for file in _walk(folder):
            name = _normal(file.relative_to(folder).with_suffix("").as_posix())
            if file.suffix.lower() in extensions:
                self._files.setdefault(name, []).append(file)
            else:
                self._others[name] = file
        self._folded = {name.casefold(): name for name in self._files}
        self._by_last = {name.rpartition("/")[2]: name for name in self._files}

    def __iter__(self) -> Iterator[Path]:
        return (file for files in self._files.values() for file in files)

    def find(self, text: str) -> tuple[str, Path]:
        """Return the name, without extension, and the file that a text stands for.

        Parameters
        ----------
        text : str
            A name in the folder, with or without its extension, or a path to it.

        Raises
        ------
        ValueError
            If it stands for no file, or for several; the message says what would do.
        """
        path = text.replace("\\", "/").rstrip("/")
        decoded = unquote(path)  # as in an address
        texts = [text, path, *_inside(path, self.folder)]
        if decoded != path:
            texts += [decoded, *_inside(decoded, self.folder)]
        for part in texts:
            files = self._files_of(part)
            if files:
                return _normal(_stem(files[0], self.folder)), self._only(files, part)
        raise ValueError(self._reason(text, path))

    def holds(self, text: str) -> bool:
        """Return whether a text stands for a file."""
        return bool(self._files_of(text))

    def _files_of(self, text: str) -> list[Path]:
        """Return the files of a name. An exact stem takes precedence."""
        name = _normal(text)
        if name in self._files:
            files = self._files[name]
        else:
            stem, dot, extension = name.rpartition(".")
            suffix = f".{extension.lower()}"
            files = [
                file
                for file in self._files.get(stem, [])
                if dot and file.suffix.lower() == suffix
            ]
        # Two files can differ in nothing but case, or how their letters are encoded.
        exact = [
            file
            for file in files
            if text in (_stem(file, self.folder), _path(file, self.folder))
        ]
        return exact or files

    def _only(self, files: list[Path], text: str) -> Path:
        if len(files) == 1:
            return files[0]
        names = " and ".join(file.name for file in files[:3])
        raise ValueError(
            f"{self.folder / text}: means {names}; allowed: one file of a name, or a "
            "list with extensions"
        )

    def _reason(self, text: str, path: str) -> str:
        place, name = self.folder / shortened(path, LONGEST_NAME), _normal(path)
        stem = name.rpartition(".")[0]
        for candidate in (name, stem):
            if candidate in self._others:
                allowed = ", ".join(self.extensions)
                return f"{self._others[candidate]}: its name must end in {allowed}"
            if candidate.casefold() in self._folded:
                near = self._folded[candidate.casefold()]
                return f"{place}: only {near!r} is there; allowed: names as files have"
        if os.path.exists(text):
            return f"{text}: not in {self.folder}; allowed: the files of that folder"
        last = name.rpartition("/")[2]
        if last != name and self._files_of(last):
            return f"{place}: only {last!r} is there; allowed: names in {self.folder}"
        for candidate in (last, last.rpartition(".")[0]):
            if candidate in self._by_last:
                there = self._by_last[candidate]
                return (
                    f"{place}: only {there!r} is there; allowed: names with subfolders"
                )
        return f"{place}: no such file ({', '.join(self.extensions)})"


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file that are not blank.

    Raises
    ------
    ValueError
        If it cannot be read, or is neither UTF-8 nor marked as UTF-16.
    """
    data = read_bytes(path, MOST_BYTES)
    if b"\0" in data and data[:2] not in MARKS:
        raise ValueError(f"{path}: has zero bytes; allowed: UTF-8, UTF-16 with BOM")
    marked = data[:2] in MARKS  # as PowerShell writes it
    try:
        text = data.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not UTF-8 text at byte {error.start}; allowed: UTF-8"
        ) from None
    lines = (_stripped(line) for line in re.split(r"[\r\n]+", text))
    return [line for line in lines if line]


def _stripped(line: str) -> str:
    """Return a line without what cannot be seen around it, as in lists put together."""
    return line.strip().strip(INVISIBLE).strip()


def find_listed(line: str, index: FileIndex) -> tuple[str, Path]:
    """Return the name and the file that a line of a split's list stands for.

    A line is a name, which can hold spaces or stand in quotes, or a path; a flag (1, 0
    or -1, as in VOC's lists of one class) or the annotation's path may follow.

    Raises
    ------
    ValueError
        As ``FileIndex.find``.
    """
    texts = [line]
    rest = line.rsplit(None, 1)
    while len(rest) == 2 and (rest[1] in FLAGS or _unquoted(rest[1]).endswith("xml")):
        texts.append(rest[0])
        rest = rest[0].rsplit(None, 1)
    for text in texts:
        try:
            return index.find(_unquoted(text))
        except ValueError as error:
            reason = error
    first = _unquoted(re.split(r"[\s,;]", line, maxsplit=1)[0])
    if first not in texts and index.holds(first):
        raise ValueError(
            f"{index.folder}: no file {line[:100]!r}, but {first!r}; allowed behind a "
            f"name: {', '.join(FLAGS)}"
        )
    raise reason


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and its subfolders, each folder once."""
    waiting, seen = [folder], set()
    while waiting:
        here = waiting.pop()
        real = os.path.realpath(here)
        if real in seen:  # a link back
            continue
        seen.add(real)
        yield from files_in(here)
        waiting.extend(reversed(folders_in(here)))


def _normal(name: str) -> str:
    """Return a name as most systems encode it: macOS takes letters apart."""
    return unicodedata.normalize("NFC", name)


def _path(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix()


def _stem(file: Path, folder: Path) -> str:
    return file.relative_to(folder).with_suffix("").as_posix()


def _unquoted(text: str) -> str:
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    return text[1:-1].strip() if quoted else text


def _inside(path: str, folder: Path) -> list[str]:
    """Return what a path may mean in a folder, wherever the folder was before."""
    parts = path.split("/")
    if folder.name in parts[:-1]:
        last = len(parts) - 1 - parts[::-1].index(folder.name)
        return ["/".join(parts[last + 1 :])]
    if parts[0] == ".":
        return ["/".join(parts[1:])]
    if os.path.isabs(path) and os.path.exists(path):
        real, base = os.path.realpath(path), os.path.realpath(folder)
        if real.startswith(base + os.sep):
            return [os.path.relpath(real, base)]
    return []
