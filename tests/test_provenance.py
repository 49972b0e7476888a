from __future__ import annotations

import re
import subprocess

import mxnet as mx
import pytest

from gluon_compress import provenance
from gluon_compress.provenance import environment


def test_environment_states_where_a_result_comes_from():
    facts = environment()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", facts["date"])
    assert facts["versions"]["mxnet"] == mx.__version__
    assert facts["hardware"]["cores"] >= 1
    assert facts["commit"] is None or re.fullmatch("[0-9a-f]{40}", facts["commit"])


def test_outside_a_checkout_there_is_no_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    facts = environment()
    assert (facts["commit"], facts["modified"]) == (None, None)


def test_commit_and_changes_are_the_ones_of_the_checkout(monkeypatch, tmp_path):
    def git(*command: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=no"]
        git_here = ["git", "-C", str(tmp_path)]
        return subprocess.check_output([*git_here, *who, *command], text=True).strip()

    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-qm", "first")
    clean = environment()
    (tmp_path / "a").write_text("2")
    assert (clean["commit"], clean["modified"]) == (git("rev-parse", "HEAD"), False)
    assert environment()["modified"] is True


@pytest.mark.parametrize(("value", "threads"), [("3", 3), ("4,2", 4)])
def test_threads_are_the_ones_that_are_set(monkeypatch, value, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert environment()["hardware"]["threads"] == threads
