"""Independent tasks, and where they run: one function for here and for a cluster."""

from __future__ import annotations

import json
import logging
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterable, Iterator, Mapping, Sequence

RETRIES = 3
FAILURES = (ValueError, OSError, ArithmeticError)  # of a task; others are bugs
LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sweep:
    """Where independent tasks run. Without workers and scheduler: here, in order.

    A cluster sees the same files as this process under the same names, and has the same
    package, Python, MXNet and NumPy.

    Parameters
    ----------
    workers : int, optional
        Begin so many processes on this machine.
    scheduler : str, optional
        Address of a running Dask scheduler, such as ``tcp://node1:8786``.
    retries : int
        How often a task begins again after the process that ran it has died. A
        scheduler has its own limit for lost workers, ``allowed-failures``.
    say : callable
        ``say(line)`` gets what a user should know: addresses, threads, restarts.

    Raises
    ------
    ValueError
        If both are given, or one is not allowed.
    """

    workers: int | None = None
    scheduler: str | None = None
    retries: int = RETRIES
    say: Callable[[str], Any] = LOGGER.info

    def __post_init__(self) -> None:
        if self.workers is not None and self.scheduler is not None:
            raise ValueError(
                f"workers is {self.workers} and scheduler {self.scheduler!r}; allowed: "
                "one of both"
            )
        for name, least in (("workers", 1), ("retries", 0)):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < least):
                raise ValueError(f"{name} is {value!r}; allowed: from {least}")

    @property
    def is_here(self) -> bool:
        """Whether tasks run in this process, one after the other."""
        return self.workers is None and self.scheduler is None


@dataclass(frozen=True)
class TaskOutcome:
    """What came of a task.

    Parameters
    ----------
    index : int
        Of its item.
    value : object
        What the function returned.
    error : Exception or None
        Why there is no value: a ValueError, OSError or ArithmeticError.
    """

    index: int
    value: Any = None
    error: Exception | None = None


def run_tasks(
    function: Callable[[Any], Any],
    items: Sequence[Any],
    *,
    sweep: Sweep | None = None,
    names: Sequence[str] | None = None,
    needs: Mapping[int, Sequence[int]] | None = None,
    alone: bool = False,
) -> Iterator[TaskOutcome]:
    """Call a function for each item, and yield the outcomes as they come.

    On a cluster, each task is a process of its own, so that tasks neither share MXNet's
    state nor outlive who asked for them: they are stopped, as by Ctrl-C, when this
    iterator is closed or this process ends. A task that fails does not stop others. One
    whose worker dies begins again, and should go on from what it has left in files.

    Parameters
    ----------
    function : callable
        ``function(item)``, of the top level of a module. What it returns is JSON.
    items : sequence
        JSON.
    sweep : Sweep, optional
        Where tasks run; None: here.
    names : sequence of str, optional
        Of the tasks, for messages and before each line that they print; by default
        their numbers.
    needs : mapping, optional
        Index of a task to those of earlier ones that must have succeeded before.
    alone : bool
        Whether tasks are measurements of time: one at a time on a machine.

    Yields
    ------
    TaskOutcome
        Of each task. Here they come in order, on a cluster as they finish.

    Raises
    ------
    ValueError
        If Dask is not installed, a worker has other code, or ``alone`` asks for several
        local workers.
    OSError
        If nothing answers at the scheduler's address, or it has no workers.
    """
    sweep, needs = sweep or Sweep(), needs or {}
    names = [str(i) for i in range(len(items))] if names is None else names
    if alone and (sweep.workers or 1) > 1:
        raise ValueError(
            f"workers is {sweep.workers}; allowed: 1, since time is measured by one "
            "process at a time on a machine"
        )
    if any(other >= i for i, others in needs.items() for other in others):
        raise ValueError("a task needs a later one; allowed: earlier ones")
    if sweep.is_here:
        yield from _in_order(function, items, names, needs)
        return
    from gluon_compress.sweeps.cluster import opened

    with opened(sweep) as cluster:
        yield from _as_they_finish(cluster, function, items, names, needs, alone)


def _in_order(
    function: Callable[[Any], Any],
    items: Sequence[Any],
    names: Sequence[str],
    needs: Mapping[int, Sequence[int]],
) -> Iterator[TaskOutcome]:
    failed: set[int] = set()
    for i, item in enumerate(items):
        outcome = _blocked(i, needs, failed, names)
        if outcome is None:
            try:
                outcome = TaskOutcome(i, function(item))
            except FAILURES as error:
                outcome = TaskOutcome(i, error=error)
        if outcome.error is not None:
            failed.add(i)
        yield outcome


def _as_they_finish(
    cluster: Any,
    function: Callable[[Any], Any],
    items: Sequence[Any],
    names: Sequence[str],
    needs: Mapping[int, Sequence[int]],
    alone: bool,
) -> Iterator[TaskOutcome]:
    """Keep each place busy with one task.

    No more are handed out: those that wait at a worker would count as its victims.
    """
    waiting, running = deque(range(len(items))), {}  # type: ignore[var-annotated]
    done: set[int] = set()
    failed: set[int] = set()
    while waiting or running:
        for i in list(waiting):
            outcome = _blocked(i, needs, failed, names)
            if outcome is not None:
                waiting.remove(i)
                failed.add(i)
                yield outcome
            elif done.issuperset(needs.get(i, ())):
                place = cluster.free_place(running.values(), alone)
                if place is None:
                    break
                waiting.remove(i)
                running[i] = cluster.begin(function, items[i], names[i], place)
        for i in cluster.finished(running):
            outcome = cluster.outcome(i, running.pop(i))
            (done if outcome.error is None else failed).add(i)
            yield outcome


def _blocked(
    i: int, needs: Mapping[int, Sequence[int]], failed: set[int], names: Sequence[str]
) -> TaskOutcome | None:
    """Return the outcome of a task that needs one which has failed, else None."""
    for other in needs.get(i, ()):
        if other in failed:
            return TaskOutcome(i, error=ValueError(f"needs {names[other]}"))
    return None


# ---------------------------------------------------------------- in a fixed order


class Announced:
    """A function whose values are wanted one by one, and computed ahead on a cluster.

    Parameters
    ----------
    function : callable
        ``function(item)``, which can be pickled by the names of modules. It runs in the
        process of a worker, where it may keep what is costly to prepare.
    cluster : Cluster
    """

    def __init__(self, function: Callable[[Any], Any], cluster: Any) -> None:
        self._function, self._cluster = function, cluster
        self._begun: Dict[str, Any] = {}

    def expect(self, items: Iterable[Any]) -> None:
        """Begin with items that will probably be asked for, in this order."""
        for item in items:
            self._begin(item)

    def __call__(self, item: Any) -> Any:
        """Return the value of an item, JSON; it is computed once.

        Raises
        ------
        ValueError, OSError, ArithmeticError
            What the function raised; with the worker's address.
        """
        return self._cluster.value(self._begin(item))

    def _begin(self, item: Any) -> Any:
        key = json.dumps(item, sort_keys=True)
        if key not in self._begun:
            self._begun[key] = self._cluster.submit(self._function, item)
        return self._begun[key]


@contextmanager
def announcing(function: Callable[[Any], Any], sweep: Sweep) -> Iterator[Announced]:
    """Open a sweep's cluster for a function; what is not done at the end is dropped.

    Parameters
    ----------
    function : callable
        As for ``Announced``.
    sweep : Sweep
        With workers or a scheduler.

    Raises
    ------
    ValueError, OSError
        As ``run_tasks``.
    """
    from gluon_compress.sweeps.cluster import opened

    with opened(sweep) as cluster:
        yield Announced(function, cluster)
