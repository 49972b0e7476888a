"""A Dask cluster as a place for tasks: the only module that imports Dask."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping

from gluon_compress.provenance import cores, threads
from gluon_compress.sweeps import worker
from gluon_compress.sweeps.tasks import Sweep, TaskOutcome

try:
    import dask
    import distributed
    from distributed.scheduler import KilledWorker
except ImportError:
    raise ValueError(
        "sweeps on several workers need Dask: pip install 'gluon_compress[sweeps]'"
    ) from None

SECONDS_TO_ANSWER = 5  # of a scheduler
SECONDS_FOR_WORKERS = 10.0
SECONDS_TO_BEGIN = 60  # of local workers
# Versions of Dask differ in which of both they raise.
CANCELLED = (asyncio.CancelledError, concurrent.futures.CancelledError)
TURN = 0.5  # seconds between two looks at which workers there are
# Tasks are few and large: a worker that has no memory left shall not wait for ever.
SETTINGS = {
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    # A local worker that takes long to come back, on a busy machine, is not given up.
    "distributed.deploy.lost-worker-timeout": "1 hour",
}


@dataclass(frozen=True)
class Begun:
    """A task that was handed out.

    Parameters
    ----------
    name : str
    future : Future
        Of Dask.
    host : str or None
        The machine that it has for itself.
    """

    name: str
    future: Any
    host: str | None = None


class Cluster:
    """Hands tasks to the workers of a cluster.

    Parameters
    ----------
    client : distributed.Client
    sweep : Sweep
    """

    def __init__(self, client: Any, sweep: Sweep) -> None:
        self._client, self._retries, self._say = client, sweep.retries, sweep.say
        self._identity = dict(worker.identity())
        self._futures: List[Any] = []
        self._workers = set(self._rows())

    def _rows(self) -> Mapping[str, Mapping[str, Any]]:
        """Return what is known of each worker, by address."""
        return self._client.scheduler_info(**_ALL)["workers"]

    def _wait(self, futures: List[Any]) -> None:
        """Wait for a moment, until one of some tasks is done; tell of lost workers.

        Raises
        ------
        ConnectionError
            If the scheduler is gone.
        """
        if not futures:  # no worker is left to take a task
            time.sleep(TURN)
        with self._client.as_current(), suppress(distributed.TimeoutError):
            distributed.wait(futures, timeout=TURN, return_when="FIRST_COMPLETED")
        if self._client.status not in ("running", "connecting"):
            raise ConnectionError("the scheduler of the cluster is gone")
        now = set(self._rows())
        for address in sorted(self._workers - now):
            self._say(f"{address}: worker lost; what it did begins again elsewhere")
        self._workers = now

    # Tasks in processes of their own.

    def free_place(self, running: Iterable[Begun], alone: bool) -> str | None:
        """Return where one more task may run: a machine, "" for anywhere, or None."""
        rows = self._rows().values()
        if not alone:
            places = sum(row["nthreads"] for row in rows)
            return "" if len(list(running)) < places else None
        busy = {begun.host for begun in running}
        hosts = sorted({row["host"] for row in rows} - busy)
        return hosts[0] if hosts else None

    def begin(
        self, function: Callable[[Any], Any], item: Any, name: str, place: str
    ) -> Begun:
        """Hand out a task that gets a process of its own."""
        where = f"{function.__module__}:{function.__qualname__}"
        options: Dict[str, Any] = {"workers": [place]} if place else {}
        future = self._client.submit(
            worker.in_own_process,
            *(self._identity, where, item, name),
            pure=False,
            retries=self._retries,
            **options,
        )
        self._futures.append(future)
        return Begun(name, future, place or None)

    def finished(self, running: Mapping[int, Begun]) -> list[int]:
        """Wait for a moment, and return which tasks have finished."""
        self._wait([begun.future for begun in running.values()])
        return [i for i, begun in running.items() if begun.future.done()]

    def outcome(self, index: int, begun: Begun) -> TaskOutcome:
        """Return what came of a task that has finished."""
        try:
            return TaskOutcome(index, self.value(begun))
        except (ValueError, OSError, ArithmeticError) as error:
            return TaskOutcome(index, error=error)

    # Tasks in the processes of workers.

    def submit(self, function: Callable[[Any], Any], item: Any) -> Begun:
        """Hand out a task that runs in the process of a worker."""
        future = self._client.submit(
            worker.in_this_process,
            *(self._identity, function, item),
            pure=False,
        )
        self._futures.append(future)
        return Begun("a task", future)

    def value(self, begun: Begun) -> Any:
        """Wait for the value of a task.

        Raises
        ------
        ValueError, OSError, ArithmeticError
            As the task did, or a ChildProcessError if its worker died too often.
        """
        try:
            while not begun.future.done():
                self._wait([begun.future])
            outcome = begun.future.result()
        except KilledWorker as error:
            address = getattr(error.last_worker, "address", error.last_worker)
            raise ChildProcessError(
                f"{begun.name}: its worker died each time, {address} last; it may have "
                "too little memory"
            ) from None
        except worker.TaskDied as error:
            raise ChildProcessError(
                f"{begun.name}: {error}, and so did {self._retries} earlier attempts; "
                "137: killed, perhaps because the memory was full"
            ) from None
        except ImportError as error:
            raise ValueError(f"a worker lacks {error.name}: {error}") from None
        except (*CANCELLED, OSError) as error:
            raise ConnectionError(
                f"{begun.name}: the cluster is gone: {error}"
            ) from None
        if "error" in outcome:
            raise worker.KINDS[outcome["kind"]](outcome["error"])
        return outcome["value"]

    def drop(self) -> None:
        """Give up all tasks, and wait until those with own processes have stopped."""
        if all(future.done() for future in self._futures):
            return
        with suppress(OSError, RuntimeError, distributed.TimeoutError):  # it is gone
            self._client.cancel(self._futures)
            end = time.monotonic() + worker.SECONDS_TO_STOP + 2
            while time.monotonic() < end:
                time.sleep(0.1)
                if not any(self._client.run(worker.is_busy).values()):
                    return


@contextmanager
def opened(sweep: Sweep) -> Iterator[Cluster]:
    """Open the cluster of a sweep; at the end its tasks are stopped.

    Raises
    ------
    OSError
        If nothing answers at the scheduler's address, or it has no workers.
    """
    with ExitStack() as stack:
        settings = {
            **SETTINGS,
            "distributed.scheduler.allowed-failures": sweep.retries,
            "distributed.comm.timeouts.connect": f"{SECONDS_TO_ANSWER}s",
        }
        stack.enter_context(dask.config.set(settings))
        if sweep.scheduler is not None:
            client = stack.enter_context(_connected(sweep.scheduler))
        else:
            client = stack.enter_context(_begun_here(sweep))
        services = client.scheduler_info(**_ALL).get("services", {})
        # A cluster of our own has pages only with Bokeh.
        if "dashboard" in services and (sweep.scheduler or find_spec("bokeh")):
            sweep.say(f"dashboard: {client.dashboard_link}")
        cluster = Cluster(client, sweep)
        stack.callback(cluster.drop)
        yield cluster


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    try:
        client = distributed.Client(
            address, timeout=SECONDS_TO_ANSWER, set_as_default=False
        )
    except (OSError, ValueError, distributed.TimeoutError):
        raise ConnectionError(
            f"{address}: no Dask scheduler answers there within {SECONDS_TO_ANSWER} "
            "seconds"
        ) from None
    with client:
        _wait_for_workers(client, address)
        yield client


def _wait_for_workers(client: Any, address: str) -> None:
    end = time.monotonic() + SECONDS_FOR_WORKERS
    while not client.scheduler_info(**_ALL)["workers"]:
        if time.monotonic() > end:
            raise ConnectionError(
                f"{address}: has no workers; begin some: dask worker {address}"
            )
        time.sleep(0.1)


@contextmanager
def _begun_here(sweep: Sweep) -> Iterator[Any]:
    """Begin workers on this machine, whose threads share its cores."""
    count = sweep.workers or 1
    each = min(threads(), max(1, cores() // count))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    sweep.say(f"workers: {count} processes of {each} threads on this machine")
    variables = {
        f"distributed.nanny.pre-spawn-environ.{name}": each
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    }
    with dask.config.set(variables), distributed.LocalCluster(
        n_workers=count,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        memory_limit=memory // count,
        preload=[worker.__name__],
        silence_logs=logging.CRITICAL,
    ) as local, distributed.Client(
        local, timeout=SECONDS_TO_BEGIN, set_as_default=False
    ) as client:
        yield client


# Newer versions tell of five workers unless asked for all.
_ALL: Dict[str, Any] = (
    {"n_workers": -1}
    if "n_workers" in distributed.Client.scheduler_info.__code__.co_varnames
    else {}
)
