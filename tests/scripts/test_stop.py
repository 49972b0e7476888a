"""What ``scripts/stop.py`` takes for right and wrong; the campaign itself is long."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tools.stop import COLUMNS, alive, descendants, judged, page_of

LINE = "gluon-compress plan: terminated; the checkpoint is there"


@pytest.mark.parametrize(
    ("status", "said", "column"),
    [
        (0, "", "done before"),
        (143, f"epoch 1\repoch 2\r{LINE}\n", "stopped"),
        (143, "", "bad"),
        (143, f"Traceback\n{LINE}\n", "bad"),
        (143, f"{LINE}\n{LINE}\n", "bad"),
        (130, LINE, "bad"),
        (-15, "", "bad"),
        (None, LINE, "bad"),
    ],
)
def test_ends_are_judged(status, said, column):
    result, faults = judged(status, signal.SIGTERM, said)
    assert result == column
    assert bool(faults) == (column == "bad")


def test_processes_below_are_found_until_they_end():
    wait = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(wait, stdin=subprocess.PIPE) as process:
        assert process.pid in descendants(os.getpid())
        process.stdin.close()
        process.wait()
        assert alive([process.pid]) == []


def test_page_counts_what_was_stopped():
    stops = {name: dict.fromkeys(COLUMNS, 2) for name in ("plan", "export")}
    facts = {"seed": 0, "commit": "a", "date": "2020-01-02T", "bad": ["x"]}
    page = page_of({**facts, "stops": stops})
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in page.splitlines()]
    assert ["all", "4", "4", "4"] in rows
    assert "- x" in page
