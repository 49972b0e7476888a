"""Tasks of the tests of sweeps: the processes of workers import them by name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest


def square(number):
    if number < 0:
        raise ValueError(f"{number}: below 0")
    return number**2


def halved(number):
    """Return a value whose last digit shows whether it came here exactly."""
    return {"value": number / 3}


def wait_for_go(item):
    """Say that a task has begun, and by whom; end when the file ``go`` is there."""
    folder = Path(item["folder"])
    with open(folder / item["name"], "a", encoding="utf-8") as file:
        file.write(f"{os.getpid()} {os.getppid()}\n")
    while not (folder / "go").exists():
        time.sleep(0.02)
    return item["name"]


def die(folder):
    """End as the system ends processes when the memory is full."""
    with open(Path(folder) / "died", "a", encoding="utf-8") as file:
        file.write("x")
    os.kill(os.getpid(), signal.SIGKILL)


def busy(item):
    """Leave the times at which a task began and ended."""
    begun = time.time()
    time.sleep(0.3)
    return [begun, time.time(), item]


def score_tiny(*given):
    """Score a plan, as ``pipeline.scoring`` does, of a recipe with a tiny net."""
    from gluon_compress.pipeline.scoring import score_one

    _with_tiny_nets()
    return score_one(*given)


def _with_tiny_nets():
    from tiny_nets import register

    register(pytest.MonkeyPatch())
