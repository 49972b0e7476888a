"""Where results go, and that they replace none of anything else."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any, Mapping

from gluon_compress.provenance import environment
from inputs import folder

RESULT = "result.json"


def add_out(made: argparse.ArgumentParser, *keys: str, required: bool = True) -> None:
    """Add ``--out``, a folder for a result that has these keys.

    One that holds a result without them is refused, before anything is measured: it is
    that of a run, or of another script.
    """

    def check(text: str) -> str:
        path = Path(folder(text), RESULT)
        if path.exists() and not set(keys) <= _keys(path):
            allowed = "a folder without one, or with an earlier one of this script"
            message = f"{path} is the result of something else; allowed: {allowed}"
            raise argparse.ArgumentTypeError(message)
        return text

    where = "where to write result.json" + (" and the rest" if required else "")
    made.add_argument("--out", type=check, required=required, metavar="DIR", help=where)


def _keys(path: Path) -> set[str]:
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        return set()
    return set(found) if isinstance(found, dict) else set()


def write_result(folder: str | os.PathLike, content: Mapping[str, Any]) -> Path:
    """Write ``result.json`` with what was measured and the environment; return it."""
    from gluon_compress.storage.atomic import write_json

    path = Path(folder) / RESULT
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**content, **environment()})
    return path
