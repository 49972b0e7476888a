"""A rank of the benchmark: exchanges of many sizes, then steps of real trainings.

The command line is one JSON object: ``out``, a file for what rank 0 has measured,
``way``, ``rounds``, ``exchanges`` (keys, and numbers a key), ``nets`` (name, pixels and
batch), and ``cores`` that ranks are pinned to, in turn.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Iterator


def seconds_of(pid: int) -> float:
    """Return the CPU time of a process, of all its threads that live."""
    spent = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # it has just ended
            spent += int((task / "schedstat").read_text().split()[0])
    return spent / 1e9


def helpers() -> list[int]:
    """Return the processes of the launcher that are no workers, and itself."""
    launcher = os.getppid()
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    servers = [
        int(pid)
        for pid in children
        if b"server.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    return [launcher, *servers]


class Clock:
    """CPU time of a worker and of the servers, and time as on a clock."""

    def __init__(self, ranks: Any, rounds: int) -> None:
        self._ranks, self._rounds = ranks, rounds
        self._begun = self._now()

    def _now(self) -> tuple[float, float, float]:
        import mxnet as mx

        mx.nd.waitall()
        self._ranks.exchange("clock")
        servers = sum(map(seconds_of, helpers())) if self._ranks.leads else 0.0
        return time.process_time(), servers, time.perf_counter()

    def row(self) -> dict[str, float]:
        """Return seconds a round: the mean over workers, the servers', and in all."""
        spent = [end - begin for begin, end in zip(self._begun, self._now())]
        every, _ = self._ranks.exchange("spent", spent)
        worker = sum(row[0] for row in every) / len(every)
        names = ("worker", "server", "wall")
        figures = (worker, every[0][1], max(row[2] for row in every))
        return {name: figure / self._rounds for name, figure in zip(names, figures)}


def exchange(task: dict[str, Any], keys: int, numbers: int, ranks: Any) -> dict:
    """Return what adding arrays over all ranks costs, without computing."""
    import mxnet as mx

    from gluon_compress.distributed.sums import gradient_sums

    sums = gradient_sums("dist_sync", **settings(task["way"]))
    arrays = [[mx.nd.ones((numbers,))] for _ in range(keys)]
    empty = b"\0" * 4
    for number in range(task["rounds"] + 1):
        if number == 1:  # the first makes the keys
            clock = Clock(ranks, task["rounds"])
        sums.add(arrays)
        mx.nd.waitall()
        ranks.exchange("step", None, empty, "mean")  # as a step does
        for (array,) in arrays:
            array[:] = 1
    return {"keys": keys, "numbers": keys * numbers, **clock.row()}


def settings(way: str) -> dict[str, Any]:
    """Return a way of adding as ``gradient_sums`` takes it."""
    return {"threshold": 0.5 if way == "2bit" else None, "exact": way == "exact"}


class Noise:
    """The same batch again and again."""

    def __init__(self, count: int, shape: tuple, classes: int) -> None:
        import mxnet as mx

        self.count = count
        images = mx.nd.random.normal(shape=shape)
        targets = mx.nd.one_hot(mx.nd.arange(shape[0]) % classes, classes)
        self.batch = (images, targets)

    def __len__(self) -> int:
        return self.count

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple]:
        """Yield the batches of an epoch."""
        for _ in range(start, self.count):
            yield self.batch

    def part(self, rank: int, ranks: int) -> Noise:
        """Return itself: each rank has a batch of its own."""
        return self


def training(task: dict[str, Any], net: dict[str, Any], ranks: Any) -> dict[str, Any]:
    """Return what steps of ``train.fit`` cost."""
    from gluon_compress import models
    from gluon_compress.models import family_of, supervised_step
    from gluon_compress.train import Options, Schedule, fit

    classes = [str(number) for number in range(10)]
    built = models.build(net["name"], classes, size=net["pixels"], seed=0)
    family = family_of(built)
    block = family.training_net(built)
    block.hybridize(static_alloc=True, static_shape=True)
    rounds, clocks = task["rounds"], []
    shape = (net["batch"], 3, net["pixels"], net["pixels"])

    def note(_: Any, progress: Any) -> None:
        if progress.step == 2:  # the first steps make graphs and keys
            clocks.append(Clock(ranks, rounds))
        elif progress.step == 2 + rounds:
            clocks.append(clocks[0].row())

    chosen = settings(task["way"])
    options = Options(
        progress=False,
        gradient_threshold=chosen["threshold"],
        exact_sums=chosen["exact"],
        **({} if ranks.is_launched else {"kvstore": "device"}),
    )
    schedule = Schedule(epochs=1, batch_size=net["batch"], learning_rate=1e-6)
    with tempfile.TemporaryDirectory() as folder:
        fit(
            block,
            Noise(rounds + 3, shape, 10),
            supervised_step(family.loss(built)),
            schedule,
            folder,
            step_callbacks=[note],
            options=options,
        )
    trained = [p for p in block.collect_params().values() if p.grad_req != "null"]
    numbers = sum(parameter.data().size for parameter in trained)
    return {**net, "keys": len(trained), "numbers": numbers, **clocks[1]}


def measure(task: dict[str, Any]) -> None:
    """Do the task; rank 0 writes what was measured."""
    from gluon_compress.distributed import ranks

    here = ranks()
    if task["cores"]:
        os.sched_setaffinity(0, {task["cores"][here.rank % len(task["cores"])]})
    rows = [
        exchange(task, keys, numbers, here)
        for keys, numbers in task["exchanges"]
        if here.is_launched
    ]
    nets = [training(task, net, here) for net in task["nets"]]
    if here.leads:
        result = {"way": task["way"], "ranks": here.size}
        Path(task["out"]).write_text(
            json.dumps({**result, "exchanges": rows, "steps": nets})
        )


if __name__ == "__main__":
    measure(json.loads(sys.argv[1]))
