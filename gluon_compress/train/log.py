"""Reads training logs: one JSON record a line, for each step and each validation."""

from __future__ import annotations

import json
import os
from pathlib import Path

LOG = "log.jsonl"


def read_log(path: str | os.PathLike) -> tuple[list[dict], list[dict]]:
    """Return the step records and the validation records of a ``log.jsonl``.

    An incomplete last line, as of a training that was killed, is left out.

    Raises
    ------
    ValueError
        If the file is missing, or an earlier line is not a record.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    records: dict[str, list] = {"step": [], "validation": []}
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            records[record["kind"]].append(record)
        except (ValueError, KeyError, TypeError):
            if number < len(lines):
                raise ValueError(f"{path}: line {number} is not a record") from None
    return records["step"], records["validation"]
