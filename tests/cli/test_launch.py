from __future__ import annotations

import sys

import pytest

from gluon_compress.cli.launch import command_of
from gluon_compress.distributed import program
from refusals import assert_refused

RUN = ["run", "--recipe", "r.json", "--out", "runs/x"]


def test_command_goes_on_from_its_checkpoint():
    command, again = command_of(["--", *RUN])
    assert command == [*program(), *RUN]
    assert again == [*command, "--resume"]
    assert command_of([*RUN, "--resume"])[1][-1:] == ["--resume"]
    assert command_of([*RUN, "--resume"])[1].count("--resume") == 1


def test_any_program_can_be_launched():
    words = [sys.executable, "train.py", "--resume"]
    assert command_of(words) == (words, words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["-n", "2"],
            "-- COMMAND is missing; allowed: run, train, prune, or a program",
        ),
        (["-n", "2", "--", "evaluate"], "command is 'evaluate'; allowed: run, train"),
        (["-n", "2", "--", "no-such-program"], "command is 'no-such-program'"),
        (["--", *RUN], "-n is missing"),
        (["-n", "0", "--", *RUN], "-n: '0'; allowed: a whole number from 1"),
        (["-n", "2", "--restarts", "-1", "--", *RUN], "--restarts"),
        (["-n", "2", "--port", "70000", "--", *RUN], "'70000'; allowed: 1 to 65535"),
        (["-n", "2", "--patience", "x", "--", *RUN], "'x'; allowed: seconds above 0"),
        (["-n", "2", "--hosts", "no/file", "--", *RUN], "no/file: No such file"),
        (["--from-environment", "-n", "2", "--", *RUN], "not with --from-environment"),
        (["--from-environment", "--", *RUN], "SLURM_PROCID is set"),
    ],
)
def test_wrong_options_are_refused_before_anything_begins(
    call, monkeypatch, words, message
):
    for name in ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    assert_refused(call("launch", *words), message)


def test_wrong_options_of_the_command_are_told_of_once(call):
    status, _, error = call("launch", "-n", "4", "--", "run", "--recip", "x")
    assert status == 2
    assert error.count("error:") == 1
    assert "gluon-compress run: error:" in error


def test_status_of_the_workers_is_the_launchers(call):
    code = "import sys; sys.exit('no such thing')"
    status, _, error = call("launch", "-n", "2", "--", sys.executable, "-S", "-c", code)
    assert status == 1
    assert "ended with status 1: no such thing" in error.splitlines()[-1]
