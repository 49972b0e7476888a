"""Threads or processes that prepare batches ahead of their use, and how they end.

Threads share the cache of decoded images, and wait for each other where Python itself
computes. Processes do not; they keep no images, so that their memory stays small. A
process can be killed, as the system does when memory is full: then there is no batch to
wait for, and ``LostWorker`` says which process it was, and why.
"""

from __future__ import annotations

import gc
import logging
import os
import pickle
import signal
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, Callable, Generator, NoReturn, Sequence

import cv2

from gluon_compress.data.images import keep_no_images

LOG = logging.getLogger(__name__)

PROCESSES = "GLUON_COMPRESS_PROCESSES"  # environment variable
MOST_PROCESSES = 256
SLOW = 60.0  # seconds without a batch, after which the log says so
# What probably was the reason, by signal.
HINTS = {
    signal.SIGKILL: f"the system does so when memory is full; a smaller {PROCESSES} "
    "takes less",
    signal.SIGBUS: "a file that was being read has been cut short",
    signal.SIGSEGV: f"a library has crashed; {PROCESSES}=0 reads in threads instead",
}


class LostWorker(ChildProcessError):
    """A process that prepares batches has died; it may be tried again."""


def processes() -> int:
    """Return how many processes the environment asks for; 0: threads.

    Raises
    ------
    ValueError
        If the variable holds no such number.
    """
    text = os.environ.get(PROCESSES, "0")
    if text.isascii() and text.isdigit() and int(text[:9]) <= MOST_PROCESSES:
        return int(text)
    raise ValueError(
        f"{PROCESSES} is {text[:40]!r}; allowed: a whole number up to {MOST_PROCESSES}"
    )


def by_threads(
    make: Callable[[int], Any], numbers: Sequence[int], count: int
) -> Generator[Any, None, None]:
    """Yield what is made of numbers, in order; when closed, wait for the threads.

    Parameters
    ----------
    make : callable
    numbers : sequence of int
    count : int
        Threads; they are ahead by as many numbers and one.
    """
    pool = ThreadPoolExecutor(count, thread_name_prefix="batches")
    waiting: deque = deque()
    try:
        for number in numbers:
            waiting.append((number, pool.submit(make, number)))
            if len(waiting) > count + 1:
                yield _awaited(*waiting.popleft())
        while waiting:
            yield _awaited(*waiting.popleft())
    finally:
        for _, future in waiting:
            future.cancel()
        pool.shutdown()


def _awaited(number: int, future: Future) -> Any:
    while True:
        try:
            return future.result(SLOW)
        except NotYet:
            if future.done():  # it is what making has raised
                raise
            _tell_of_delay(number, "a thread")


def by_processes(
    make: Callable[[int], Any], numbers: Sequence[int], count: int
) -> Generator[Any, None, None]:
    """Yield what processes make of numbers, in order; when closed, end them.

    Parameters
    ----------
    make : callable
        It runs in copies of this process, so what it changes stays there, and must not
        run MXNet's operators. What it returns or raises is pickled.
    numbers : sequence of int
    count : int
        Processes; each is ahead by two numbers.

    Raises
    ------
    LostWorker
        As soon as one of them has died, with its number, its signal and a hint.
    """
    workers: list[_Worker] = []
    made: dict[int, Any] = {}
    try:
        for i in range(min(count, len(numbers))):
            workers.append(_Worker(i, count, make))
        for i in range(len(numbers) + 2 * count):
            if i < len(numbers):
                workers[i % count].begin(numbers[i])
            place = i - 2 * count
            if place < 0:
                continue
            number = numbers[place]
            while number not in made:
                _receive(workers, made, number)
            succeeded, result = made.pop(number)
            if not succeeded:
                raise result
            yield result
    finally:
        for worker in workers:
            worker.end()


def _receive(workers: Sequence[_Worker], made: dict[int, Any], number: int) -> None:
    """Take what is ready of any worker, so that the death of each is noticed."""
    by_connection = {worker.connection: worker for worker in workers}
    ready = wait(list(by_connection), timeout=SLOW)
    if not ready:
        names = [f"{worker}" for worker in workers if number in worker.begun]
        _tell_of_delay(number, *names)
    for connection in ready:
        worker = by_connection[connection]  # type: ignore[index]
        try:
            result = worker.connection.recv()
        except (EOFError, ConnectionError):
            worker.raise_lost()
        made[worker.begun.popleft()] = result


class _Worker:
    """A copy of this process that makes something of one number after the other."""

    def __init__(self, index: int, count: int, make: Callable[[int], Any]) -> None:
        self.name = f"data worker {index + 1} of {count}"
        self.begun: deque[int] = deque()  # numbers, the one in work first
        self.connection, there = Pipe()
        self.process = os.fork()
        if not self.process:
            _serve(there, make)
        there.close()

    def __str__(self) -> str:
        return f"{self.name} (process {self.process})"

    def begin(self, number: int) -> None:
        """Hand over a number."""
        self.begun.append(number)
        with suppress(ConnectionError):  # whoever receives from it says why
            self.connection.send(number)

    def raise_lost(self) -> NoReturn:
        """Say how the process has ended, and with which batch."""
        name, status = str(self), self._wait()
        how, hint = f"ended with status {os.WEXITSTATUS(status)}", ""
        if os.WIFSIGNALED(status):
            number = signal.Signals(os.WTERMSIG(status))
            how = f"was killed by {number.name}"
            hint = f"; {HINTS[number]}" if number in HINTS else ""
        batch = f", with batch {self.begun[0]}" if self.begun else ""
        raise LostWorker(f"{name} {how}{batch}{hint}")

    def end(self) -> None:
        """End the process, whatever it is doing."""
        self.connection.close()
        if self.process:
            with suppress(ProcessLookupError):
                os.kill(self.process, signal.SIGKILL)
            self._wait()

    def _wait(self) -> int:
        process, self.process = self.process, 0
        with suppress(ChildProcessError):  # somebody else has waited for it
            return os.waitpid(process, 0)[1]
        return 0


def _serve(connection: Connection, make: Callable[[int], Any]) -> NoReturn:
    """Make what is asked for until the other end is closed, and end this process."""
    try:
        _give_up_files(connection.fileno())
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM):  # the parent ends it
            signal.signal(number, signal.SIG_IGN)
        gc.freeze()  # looking for cycles would copy what is shared with the parent
        cv2.setNumThreads(0)  # threads of the parent are not there
        keep_no_images()
        while True:
            number = connection.recv()
            connection.send_bytes(_outcome(make, number))
    except (EOFError, OSError):
        pass
    finally:
        os._exit(0)


def _give_up_files(kept: int) -> None:
    """Let go of all files of the parent but one, and its standard streams.

    Connections stay open while a copy has them: nobody would notice that the parent has
    ended. What they are replaced by keeps their numbers from being used again.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in map(int, os.listdir("/dev/fd")):
        if number > 2 and number not in (kept, nothing):
            with suppress(OSError):  # it was that of the list
                os.fstat(number)
                os.dup2(nothing, number, inheritable=False)


def _outcome(make: Callable[[int], Any], number: int) -> bytes:
    """Return whether making succeeded, and what it returned or raised, pickled."""
    outcome: tuple[bool, Any]
    try:
        outcome = True, make(number)
    except Exception as error:
        outcome = False, error
    try:
        return pickle.dumps(outcome, pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        told = f"{type(outcome[1]).__name__}: {outcome[1]} ({error})"
        return pickle.dumps((False, RuntimeError(told)))


def _tell_of_delay(number: int, *workers: str) -> None:
    LOG.warning(
        "batch %d has been in work for over %g s, by %s; is the disk or the network "
        "that holds the images slow?",
        number,
        SLOW,
        ", ".join(workers) or "no worker",
    )
