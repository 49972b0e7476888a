"""A trial in another process ends there whatever a file does to it."""

from __future__ import annotations

import pytest

from gluon_compress.deployment import Predictor, trial


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import os; os.abort()", "SIGABRT"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("print('ValueError: no such file'); exit(2)", "no such file"),
        ("exit(255)", "no reason given"),
        ("import time; time.sleep(9)", "more than 0.5 seconds"),
    ],
)
def test_what_ends_a_trial_is_one_line(tmp_path, monkeypatch, program, message):
    monkeypatch.setattr(trial, "PROGRAM", program)
    monkeypatch.setattr(trial, "SECONDS", 0.5)
    for call in (
        lambda: trial.try_apart(tmp_path, "ncnn", "float32"),
        lambda: Predictor(tmp_path, "ncnn", trusted=False),
    ):
        with pytest.raises(ValueError, match=f"in ncnn failed: .*{message}") as error:
            call()
        assert str(error.value).startswith(str(tmp_path))


def test_a_trial_that_succeeds_says_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "PROGRAM", "")
    assert trial.try_apart(tmp_path, "mxnet", "float32") is None
