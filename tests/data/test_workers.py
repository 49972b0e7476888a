"""Threads and processes that prepare batches: the same batches, and how they end."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon

from gluon_compress.cli.app import Command
from gluon_compress.data import Batches, ImageFolder, workers
from gluon_compress.data.workers import PROCESSES, LostWorker, by_processes, by_threads
from gluon_compress.train import fit
from images import write_folder
from training import EAGER, SHORT, cross_entropy


class Numbers:
    """A set of 12 one-coloured images; ``act`` may do something before each."""

    def __init__(self, act=lambda index: None) -> None:
        self.act = act

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple:
        self.act(index)
        return np.full((8, 8, 3), index, np.uint8), index


def plain(image, label, rng):
    return image, label


def children() -> set[str]:
    """Return the processes that this one has begun and not waited for."""
    tasks = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return {pid for task in tasks for pid in task.read_text().split()}


@pytest.fixture(autouse=True)
def no_child_is_left():
    before = children()
    yield
    assert children() <= before


def killed(index: int) -> None:
    if index == 5:
        os.kill(os.getpid(), signal.SIGKILL)


def test_processes_make_the_same_batches_as_threads(tmp_path):
    root = write_folder(tmp_path, train=4) / "train"
    (root / "red" / "1.png").write_bytes(b"no image")
    seen = []
    for options in ({"workers": 0}, {"workers": 3}, {"processes": 2}):
        dataset = ImageFolder(root)
        batches = Batches(dataset, plain, 3, seed=1, **options)
        arrays = [
            array.asnumpy().tobytes()
            for epoch in range(2)
            for batch in batches.epoch(epoch, start=1)
            for array in batch
        ]
        seen.append((arrays, batches.left_out, dataset.broken, dataset.problems))
    assert seen[0][1] == [9]
    assert seen[1] == seen[0]
    assert seen[2] == seen[0]


def test_processes_count_broken_images_together(tmp_path):
    root = write_folder(tmp_path, train=4) / "train"
    for number in range(4):
        (root / "red" / f"{number}.png").write_bytes(b"no image")
    batches = Batches(
        ImageFolder(root), plain, 1, shuffle=False, processes=4, most_broken=0.3
    )
    with pytest.raises(ValueError, match="4 of 12"):
        list(batches)


def test_environment_asks_for_processes(monkeypatch):
    monkeypatch.setenv(PROCESSES, "2")
    assert Batches(Numbers(), plain, 2).processes == 2
    for text in ("-1", "many", "999"):
        monkeypatch.setenv(PROCESSES, text)
        with pytest.raises(ValueError, match=PROCESSES):
            Batches(Numbers(), plain, 2)


def test_killed_process_is_named_with_its_signal_and_batch():
    batches = Batches(Numbers(killed), plain, 2, shuffle=False, processes=2)
    with pytest.raises(LostWorker) as error:
        list(batches)
    text = str(error.value)
    for part in ("worker 1 of 2", "SIGKILL", "batch 2", "memory"):
        assert part in text
    assert "\n" not in text


def test_death_is_noticed_while_another_process_is_waited_for():
    def act(index: int) -> None:
        if index == 0:
            time.sleep(60)
        os.kill(os.getpid(), signal.SIGKILL)

    begun = time.monotonic()
    with pytest.raises(LostWorker, match=r"worker 2 of 2 .* SIGKILL.* batch 1"):
        list(Batches(Numbers(act), plain, 1, shuffle=False, processes=2))
    assert time.monotonic() - begun < 30


def test_process_that_ends_by_itself_is_named():
    batches = Batches(Numbers(lambda i: os._exit(3)), plain, 2, processes=1)
    with pytest.raises(LostWorker, match=r"worker 1 of 1 .* status 3"):
        list(batches)


@pytest.mark.parametrize("how", [{"workers": 2}, {"processes": 2}], ids=["t", "p"])
def test_error_comes_at_its_batch(how):
    def act(index: int) -> None:
        if index == 7:
            raise LookupError("item 7")

    batches = iter(Batches(Numbers(act), plain, 2, shuffle=False, **how))
    for _ in range(3):
        next(batches)
    with pytest.raises(LookupError, match="item 7"):
        next(batches)


def test_processes_end_when_the_batches_are_closed():
    batches = Batches(Numbers(), plain, 1, processes=3).epoch(0)
    next(batches)
    batches.close()


def test_processes_end_with_their_parent():
    here, there = os.pipe()
    parent = os.fork()
    if not parent:
        made = by_processes(lambda number: os.getpid(), range(100), 2)
        os.write(there, f"{next(made)} {next(made)} ".encode())
        time.sleep(60)
        os._exit(0)
    children = [int(text) for text in os.read(here, 100).split()]
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    deadline = time.monotonic() + 30
    while any(is_running(child) for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_running(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("by", [by_threads, by_processes])
def test_slow_batches_are_told_of(by, caplog, monkeypatch):
    monkeypatch.setattr(workers, "SLOW", 0.05)

    def make(number: int) -> int:
        if number == 1:
            time.sleep(0.3)
        return number

    assert list(by(make, range(4), 2)) == [0, 1, 2, 3]
    assert "batch 1 " in caplog.text
    if by is by_processes:
        assert "worker 2 of 2" in caplog.text


def test_what_cannot_be_pickled_is_an_error():
    with pytest.raises(RuntimeError, match="lambda"):
        list(by_processes(lambda number: lambda: number, range(2), 1))


def test_a_command_that_lost_a_worker_may_be_tried_again(capsys):
    def run(args) -> None:
        raise LostWorker("data worker 1 of 2 was killed by SIGKILL")

    with pytest.raises(SystemExit) as end:
        Command("a text", lambda parser: None, run, writes=()).main([])
    assert end.value.code == 75
    assert "SIGKILL" in capsys.readouterr().err


def trained(folder, act, **how) -> list:
    """Return the parameters of a small net, trained on ``Numbers``."""
    net = gluon.nn.Dense(12, in_units=192)
    mx.random.seed(0)
    net.initialize(mx.init.Xavier())
    batches = Batches(Numbers(act), plain, 4, **how)

    def loss(net, batch):
        return cross_entropy(net, (batch[0].flatten(), batch[1]))

    schedule = SHORT.replace(learning_rate=0.01)
    options = replace(EAGER, resume=folder.exists())
    fit(net, batches, loss, schedule, folder, options=options)
    return [p.data().asnumpy().tolist() for p in net.collect_params().values()]


def test_a_training_goes_on_after_the_loss_of_a_worker(tmp_path):
    marks = [tmp_path / "first", tmp_path / "second"]

    def act(index: int) -> None:
        if index == 5:  # once in each epoch
            left = [mark for mark in marks if not mark.exists()]
            if left:
                left[0].touch()
            if len(left) == 1:
                os.kill(os.getpid(), signal.SIGKILL)

    expected = trained(tmp_path / "threads", lambda index: None)
    with pytest.raises(LostWorker):
        trained(tmp_path / "run", act, processes=2)
    assert all(mark.exists() for mark in marks)
    assert trained(tmp_path / "run", act, processes=2) == expected
