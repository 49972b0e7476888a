"""What ``scripts/pairs.py`` takes for right and wrong; the campaign itself is long."""

from __future__ import annotations

import pytest

from tools.pairs import BOTH, COLUMNS, HOLDER, OTHER, TASKS, damaged, judged, page_of

HELD = "gluon-compress plan: error: out: is being written by process 7 on here, since"


@pytest.mark.parametrize(
    ("status", "said", "outcome"),
    [
        (0, "", BOTH),
        (2, HELD, HOLDER),
        (2, "x: error: out: is not empty; --resume continues an earlier run", OTHER),
        (2, "x: error: out: there is no such folder", OTHER),
    ],
)
def test_right_ends(status, said, outcome):
    assert judged(status, said) == outcome


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (1, "Traceback (most recent call last):"),
        (2, "x: error: out/a.json: altered or cut short, its sha256 differs"),
        (2, f"{HELD}\n{HELD}"),
        (-11, ""),
        (None, ""),
    ],
)
def test_wrong_ends(status, said):
    assert judged(status, said) not in COLUMNS


def test_what_cannot_be_read_is_found(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "result.json").write_text("{")
    (tmp_path / "manifest.json").write_text("{}")
    assert len(damaged(tmp_path)) == 2


def test_readers_read_what_a_task_writes():
    assert {task.reads for task in TASKS.values()} <= {"", *TASKS}


def test_page_counts_what_was_tried():
    pairs = {name: dict.fromkeys(COLUMNS, 1) for name in ("plan", "export")}
    facts = {"seed": 0, "rounds": 2, "commit": "a", "date": "2020-01-02T", "bad": ["x"]}
    page = page_of({**facts, "commands": list(pairs), "pairs": pairs})
    assert "8 of the 8 ordered pairs of 2 commands" in page
    assert "- x" in page
