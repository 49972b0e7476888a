"""Stops a process on a signal where nothing is lost, with one line and its status.

Ctrl-C (SIGINT), SIGTERM and SIGHUP are alike: the first stops the work, which may put
it off to a better moment; the second ends the process at once. Exit statuses are 128
plus the number of the signal. Signals that the process ignores stay ignored.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Callable, Dict, Iterator, NoReturn

WORDS = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "terminated",
    signal.SIGHUP: "hung up",
}


class Terminated(SystemExit):
    """A signal other than Ctrl-C asked the process to end.

    Parameters
    ----------
    number : int
        The signal.
    note : str
        What to do next, for the last line.
    """

    def __init__(self, number: int, note: str = "") -> None:
        super().__init__(128 + number)
        self.number, self.note = number, note

    def __str__(self) -> str:
        return self.note


def stop(number: int, note: str = "") -> NoReturn:
    """Raise what a signal means: KeyboardInterrupt, or ``Terminated``."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt(note)
    raise Terminated(number, note)


def last_line(program: str, number: int, note: str = "") -> str:
    """Return what a stopped program says."""
    return f"{program}: {WORDS[signal.Signals(number)]}{note and f'; {note}'}\n"


class Deferred:
    """A signal that has arrived, if any, and waits for the end of a step."""

    def __init__(self) -> None:
        self.number: int | None = None

    def stop_if_asked(self, prepare: Callable[[], str]) -> None:
        """Stop if a signal has arrived; before that, prepare, which returns a note."""
        if self.number is not None:
            stop(self.number, prepare())


@contextmanager
def deferred() -> Iterator[Deferred]:
    """Let the first signal wait until the block asks for it.

    The second signal does what it would have done before. A signal that the block never
    asks for is raised at its end. Outside the main thread, nothing changes.
    """
    waiting = Deferred()

    def note(number: int, frame: FrameType | None) -> None:
        if waiting.number is None:
            waiting.number = number
        else:
            restore(before)
            signal.raise_signal(number)

    before = _install(note)
    try:
        yield waiting
    finally:
        restore(before)
    if waiting.number is not None:
        stop(waiting.number)


class Handling:
    """What a command does on signals.

    Parameters
    ----------
    program : str
        Its name, for the last line.
    clean_up : callable, optional
        Called before the process is ended at once.

    Attributes
    ----------
    number : int or None
        The signal that has arrived.
    has_ended : bool
        Whether the command has said its last line.
    """

    def __init__(
        self, program: str, clean_up: Callable[[], None] | None = None
    ) -> None:
        self.program, self.clean_up = program, clean_up
        self.number: int | None = None
        self.has_ended = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Stop the work; end the process if that was asked for before."""
        # Libraries swallow what is raised while they are imported.
        if self.number is not None or _is_importing(frame):
            self.leave(self.number or number)
        self.number = number
        stop(number)

    def leave(self, number: int, _: FrameType | None = None) -> NoReturn:
        """End the process without unwinding."""
        if not self.has_ended:
            with suppress(OSError):
                os.write(2, last_line(self.program, number).encode())
        if self.clean_up is not None:
            self.clean_up()
        os._exit(128 + number)


@contextmanager
def handled(handling: Handling) -> Iterator[None]:
    """Handle signals as a command does, while a block runs it."""
    before = _install(handling)
    # While Python ends, it would show a traceback.
    atexit.register(_install, handling.leave)
    try:
        yield
    finally:
        if handling.number is None:
            restore(before)


@contextmanager
def at_once() -> Iterator[None]:
    """End the process on a signal, with one line, while a command is imported."""
    program = Path(sys.argv[0]).name if sys.argv else ""
    if program in ("", "-m", "-c", "__main__.py"):
        program = "gluon-compress"
    before = _install(Handling(program).leave)
    try:
        yield
    finally:
        restore(before)


def restore(handlers: Dict[int, Any]) -> None:
    """Set handlers that were there before."""
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _install(handler: Callable[[int, Any], Any]) -> Dict[int, Any]:
    """Handle all signals that are not ignored; return the handlers before."""
    before: Dict[int, Any] = {}
    if threading.current_thread() is not threading.main_thread():
        return before
    for number in WORDS:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            before[number] = signal.signal(number, handler)
    return before


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
