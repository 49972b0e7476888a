"""Training logs: one JSON record a line, for each step and each validation."""

from __future__ import annotations

import json
import math
import os
from typing import Any

from gluon_compress.storage.reading import parse_json, read_bytes

LOG = "log.jsonl"
MOST_BYTES = 1 << 28


def read_log(path: str | os.PathLike) -> tuple[list[dict], list[dict]]:
    """Return the step records and the validation records of a ``log.jsonl``.

    An incomplete last line, as of a training that was killed, is left out.

    Raises
    ------
    ValueError
        If the file is missing, or an earlier line is not a record.
    """
    lines = read_bytes(path, MOST_BYTES).decode("utf-8", "replace").splitlines()
    records: dict[str, list] = {"step": [], "validation": []}
    for number, line in enumerate(lines, 1):
        try:
            record = parse_json(line, path)
            if not _is_record(record):
                raise ValueError
            records[record["kind"]].append(record)
        except ValueError:
            if number < len(lines):
                raise ValueError(f"{path}: line {number} is not a record") from None
    return records["step"], records["validation"]


def log_line(record: dict) -> str:
    """Return the line of a record; what is not finite becomes null."""
    return json.dumps(_finite(record), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _is_record(record: Any) -> bool:
    """Tell whether JSON is a record: its kind, its place in the run, and numbers.

    A step also has ``parts``, the numbers that its loss is made of.
    """
    if not isinstance(record, dict) or record.get("kind") not in ("step", "validation"):
        return False
    place = "step" if record["kind"] == "step" else "epoch"
    parts = record.get("parts", {})  # of the loss of a step
    if not isinstance(parts, dict):
        return False
    others = {k: v for k, v in record.items() if k not in ("kind", "parts")}
    numbers = [*others.values(), *parts.values()]
    return type(record.get(place)) is int and all(
        value is None or type(value) in (int, float) for value in numbers
    )
