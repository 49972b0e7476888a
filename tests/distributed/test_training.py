"""Trainings of several processes equal those of one, bit for bit."""

from __future__ import annotations

import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from gluon_compress.distributed import Launch, lead, program
from gluon_compress.stopping import Deferred
from gluon_compress.train import LAST
from images import few_toys
from rank import SCHEDULE, train
from recipes import RECIPE, quick_run, recipe_in
from training import QUIET, content, conv_net, outcome

pytestmark = pytest.mark.usefixtures("tiny_nets")

WORKER = str(Path(__file__).parents[1] / "rank.py")
TWO = replace(QUIET, ctx=(mx.cpu(0), mx.cpu(1)))


def launched(*command: str, size: int = 2, restarts: int = 0) -> list[str]:
    """Launch a program, and return what the launcher said."""
    said: list = []
    run = Launch(command, command, restarts=restarts, say=said.append)
    result = lead(run, size, Deferred())
    assert (result.status, result.reason) == (0, "")
    return said


def fit_in(folder: Path, step: int, number: int = signal.SIGKILL) -> list[str]:
    """Return the command of a training whose rank 1 gets a signal after a step."""
    return [sys.executable, WORKER, "fit", str(folder), str(step), str(int(number))]


def train_on_two_devices(folder: Path):
    net = conv_net(0.0)
    net.collect_params().reset_ctx(list(TWO.ctx))
    return train(net, folder, TWO)


def test_killed_and_restarted_workers_equal_one_process_on_two_devices(tmp_path):
    begun = time.monotonic()
    # Rank 1 begins with other values, and dies after the second step.
    command = fit_in(tmp_path / "ranks", 2)
    said = launched(*command, restarts=1)
    assert said == ["worker 1 ended with status 137; beginning again, 1 of 1"]
    assert time.monotonic() - begun < 300
    assert train_on_two_devices(tmp_path / "devices").step == 3 * SCHEDULE.epochs
    # Parameters, running statistics, momenta, averages, and the log.
    assert outcome(tmp_path / "ranks") == outcome(tmp_path / "devices")
    assert sorted(content(tmp_path / "ranks")) == sorted(content(tmp_path / "devices"))
    with np.load(tmp_path / "ranks" / LAST) as stored:
        assert {name[0] for name in stored.files} == {"m", "p", "s", "a"}


STEPS = {"epochs": 1, "batch_size": 4, "learning_rate": 0.01}
ROWS = [
    *RECIPE["compression"],  # masks, and branches that are deleted
    {"algorithm": "sparsify", "level": 0.5, "growth": {"every": 1}, "train": STEPS},
    {
        "algorithm": "quantize",
        "batches": 1,
        "activations": {"ranges": "moving", "every": 1},
        "train": STEPS,
    },
]


@pytest.mark.long
def test_any_recipe_trains_on_two_workers_as_on_two_devices(tmp_path):
    # And goes on where it was, in the third of five trainings, when a worker dies.
    few_toys(tmp_path / "toy", 20, train=8, test=4)
    recipe = recipe_in(tmp_path, compression=ROWS)  # with a teacher in the end
    file = str(tmp_path / "recipe.json")
    command = [WORKER, "recipe", file, str(tmp_path / "ranks"), "3_sparsify"]
    (said,) = launched(sys.executable, *command, restarts=1)
    assert said == "worker 1 ended with status 137; beginning again, 1 of 1"
    quick_run(recipe, tmp_path / "devices", options=TWO)
    files = [path for path in (tmp_path / "devices").rglob("*") if path.is_file()]
    names = {path.relative_to(tmp_path / "devices") for path in files}
    assert names == {
        path.relative_to(tmp_path / "ranks")
        for path in (tmp_path / "ranks").rglob("*")
        if path.is_file()
    }
    stages = sorted({name.parent for name in names if name.name == LAST})
    assert len(stages) == 5
    for stage in stages:
        ranks = outcome(tmp_path / "ranks" / stage)
        assert ranks == outcome(tmp_path / "devices" / stage)
    for name in names:
        if name.suffix == ".params":
            first, second = (
                mx.nd.load(str(tmp_path / side / name)) for side in ("ranks", "devices")
            )
            assert all(
                np.array_equal(first[key].asnumpy(), second[key].asnumpy())
                for key in first
            )


@pytest.mark.long
def test_ranks_stop_after_the_same_step_and_its_checkpoint(tmp_path):
    # Rank 1 alone is asked to stop, in the middle of an epoch.
    command = fit_in(tmp_path / "ranks", 1, signal.SIGTERM)
    (said,) = launched(*command, restarts=1)
    assert "ended with status 143" in said
    train_on_two_devices(tmp_path / "devices")
    assert outcome(tmp_path / "ranks") == outcome(tmp_path / "devices")


@pytest.mark.long
def test_four_workers_restart_exactly(tmp_path):
    for name, step in (("whole", 99), ("killed", 4)):
        said = launched(*fit_in(tmp_path / name, step), size=4, restarts=1)
        assert len(said) == (name == "killed")
    assert outcome(tmp_path / "whole") == outcome(tmp_path / "killed")


@pytest.mark.long
def test_command_says_once_what_all_ranks_refuse(tmp_path):
    recipe_in(tmp_path, model={"name": "ssd_300_mobilenet0.25"})
    command = [*program(), "run", "--recipe", str(tmp_path / "recipe.json")]
    command += ["--out", str(tmp_path / "run")]
    result = lead(Launch(command, command), 2, Deferred())  # there are no images
    assert result.status == 2
    assert str(tmp_path / "toy") in result.reason
    assert not (tmp_path / "run").exists()
