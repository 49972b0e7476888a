"""What ``scripts/pairs.py`` takes for right and wrong; the campaign itself is long."""

from __future__ import annotations

import contextlib

import pytest

from tools import pairs
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


class Quick(pairs.Campaign):
    """Runs nothing: counts every pair, and notes what it would have done when."""

    def __init__(self, place, names, seed=0):
        self.names, self._seed, self.bad = names, seed, []
        self.pairs = {name: pairs.Counter() for name in names}

    def try_pair(self, one, two):
        if len(self.tried) == self.stop_after:
            raise KeyboardInterrupt
        self.tried.append((one, two, self._draw.random()))
        self.pairs[one][BOTH] += 1


def tried(out, monkeypatch, *options, stop_after=None):
    monkeypatch.setattr(pairs, "Campaign", Quick)
    monkeypatch.setattr(Quick, "tried", [], raising=False)
    monkeypatch.setattr(Quick, "stop_after", stop_after, raising=False)
    parser = pairs.COMMAND.parser()
    argv = ["--commands", "plan", "export", "--out", str(out), *options]
    with contextlib.suppress(KeyboardInterrupt):
        pairs._run(parser.parse_args(argv))
    return Quick.tried


def test_stopped_campaign_goes_on_where_it_was(tmp_path, monkeypatch):
    whole = tried(tmp_path / "a", monkeypatch, "--rounds", "2")
    out, options = tmp_path / "b", ("--rounds", "2")
    first = tried(out, monkeypatch, *options, stop_after=3)
    rest = tried(out, monkeypatch, *options, "--resume")
    assert len(first) == 3
    assert first + rest == whole
    assert "8 of the 8 ordered pairs" in (out / pairs.PAGE).read_text()
    with pytest.raises(ValueError, match="--seed 1: .* has 0"):
        tried(out, monkeypatch, *options, "--seed", "1", "--resume")
