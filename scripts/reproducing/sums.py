"""The sums of result files, noted when they come: what was measured is never edited."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

NAME = "results.json"  # in the model zoo
OTHERS = "published.json"  # figures of others, which are noted too


def note(zoo: Path, *results: Path) -> None:
    """Write down the sums of new result files."""
    from gluon_compress.storage.atomic import read_json, sha256, write_json

    known = read_json(zoo / NAME) if (zoo / NAME).exists() else {}
    known.update({_name(zoo, path): sha256(path) for path in results})
    write_json(zoo / NAME, dict(sorted(known.items())))


def check(zoo: Path) -> None:
    """Hold all result files of a zoo against their sums.

    Raises
    ------
    ValueError
        Naming the one that is missing, altered, or came by another way.
    """
    from typing import Dict

    from gluon_compress.storage.atomic import read_json, sha256
    from gluon_compress.validation import parse

    known = parse(Dict[str, str], read_json(zoo / NAME), zoo / NAME)
    for name, total in known.items():
        if not (zoo / name).is_file():
            raise ValueError(f"{zoo / name}: this result is missing")
        if sha256(zoo / name) != total:
            raise ValueError(f"{zoo / name}: altered, its sha256 is another")
    for path in (zoo / OTHERS, *found(zoo)):
        if path.is_file() and _name(zoo, path) not in known:
            raise ValueError(f"{path}: no run has noted this result in {zoo / NAME}")


def found(zoo: Path) -> Iterator[Path]:
    """Return the result files of a zoo."""
    return (path for path in sorted(zoo.rglob("result.json")))


def _name(zoo: Path, path: Path) -> str:
    return path.resolve().relative_to(zoo.resolve()).as_posix()
