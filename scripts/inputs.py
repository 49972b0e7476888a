"""What arguments mean: devices and numbers. Text first, for MXNet takes seconds."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Sequence


def devices(text: str) -> tuple[str, ...]:
    """Return the names of devices: ``gpu(0,1)`` is ``("gpu0", "gpu1")``.

    ``cpu(0,1)`` are one CPU twice: what several devices do, without any.
    """
    form = r"(cpu|gpu)(?:\((\d+(?:,\d+)*)\))?"
    found = re.fullmatch(form, text.replace(" ", ""))
    numbers = [int(n) for n in (found.group(2) or "0").split(",")] if found else []
    if not numbers or len(set(numbers)) < len(numbers):
        raise argparse.ArgumentTypeError(
            f"{text!r}; allowed: cpu, gpu, or either with numbers, gpu(0,1), each once"
        )
    return tuple(f"{found.group(1)}{number}" for number in numbers)


def contexts(names: Sequence[str]) -> tuple:
    """Return MXNet's contexts for names of devices.

    Raises
    ------
    ValueError
        If there is no such GPU.
    """
    import mxnet as mx

    if names[0].startswith("cpu"):
        return tuple(mx.cpu(int(name[3:])) for name in names)
    there = mx.context.num_gpus()
    missing = [name for name in names if int(name[3:]) >= there]
    if missing:
        raise ValueError(f"--ctx {missing[0]}: MXNet sees {there} GPUs here; use cpu")
    return tuple(mx.gpu(int(name[3:])) for name in names)


def folder(text: str) -> str:
    """Return the name of a folder that is there or can be made."""
    for place in (Path(text), *Path(text).parents):
        if place.exists() and not place.is_dir():
            raise argparse.ArgumentTypeError(
                f"{str(place)!r} is a file; allowed: a folder"
            )
    return text


def refuse(args: argparse.Namespace, names: Sequence[str], why: str) -> None:
    """Raise ValueError if one of these options was given, for it would do nothing."""
    for name in names:
        value = getattr(args, name)
        if value is not None:
            raise ValueError(f"--{name.replace('_', '-')} {value}: {why}")


def share(text: str) -> float:
    """Return a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: a number from 0 to 1")
    return value


def above_0(text: str) -> int:
    """Return a whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: a whole number from 1")
    return int(text)
