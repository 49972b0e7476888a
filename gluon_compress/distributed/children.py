"""The processes that a launcher has begun: their output, their end, and ending them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Mapping, Sequence

from gluon_compress.printable import printable

SECONDS_TO_END = 2.0  # after SIGTERM, before SIGKILL


@dataclass
class Child:
    """A process, in a session of its own.

    Parameters
    ----------
    name : str
        Put before each line that it prints.
    process : Popen
    readers : tuple of threads
        They copy its output.
    """

    name: str
    process: subprocess.Popen
    readers: tuple[threading.Thread, ...]
    last_error: str = ""  # the last line on standard error

    @property
    def status(self) -> int | None:
        """Exit status as shells state it, 128 plus the signal; None: it runs."""
        code = self.process.poll()
        return code if code is None or code >= 0 else 128 - code

    def signal(self, number: int) -> None:
        """Send a signal to the process and to all that it has begun."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    def close(self) -> None:
        """Copy the last of its output, and close what leads to it."""
        for reader in self.readers:
            reader.join(1.0)
        if not any(reader.is_alive() for reader in self.readers):
            for stream in (
                self.process.stdin,
                self.process.stdout,
                self.process.stderr,
            ):
                if stream is not None:
                    stream.close()


class Children:
    """Several processes, whose output is copied with their names before each line."""

    def __init__(self) -> None:
        self._children: list[Child] = []
        self._lock = threading.Lock()

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str]) -> Child:
        """Begin a process.

        Its standard input stays open as long as this process lives.

        Raises
        ------
        OSError
            If it cannot be begun.
        """
        process = subprocess.Popen(
            list(argv),
            env=dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        child = Child(name, process, ())
        child.readers = tuple(
            threading.Thread(target=self._copy, args=[child, stream, out], daemon=True)
            for stream, out in (
                (process.stdout, sys.stdout),
                (process.stderr, sys.stderr),
            )
        )
        for reader in child.readers:
            reader.start()
        self._children.append(child)
        return child

    def __iter__(self):
        return iter(self._children)

    def end(self, seconds: float = SECONDS_TO_END) -> None:
        """End all that still run: first ask, after some seconds kill."""
        running = [child for child in self._children if child.status is None]
        for child in running:
            child.signal(signal.SIGTERM)
        self.wait(running, seconds)
        # The group may have members that outlive its leader.
        for child in self._children:
            child.signal(signal.SIGKILL)
        self.wait(running, seconds)
        for child in self._children:
            child.close()

    @staticmethod
    def wait(children: Sequence[Child], seconds: float) -> bool:
        """Wait until children have ended; return whether they have."""
        deadline = threading.Event()
        timer = threading.Timer(seconds, deadline.set)
        timer.daemon = True
        timer.start()
        while any(c.status is None for c in children) and not deadline.is_set():
            deadline.wait(0.02)
        timer.cancel()
        return all(child.status is not None for child in children)

    def _copy(self, child: Child, stream: IO[bytes], out: IO[str]) -> None:
        rest = b""
        while True:
            chunk = os.read(stream.fileno(), 1 << 16)
            *lines, rest = re.split(rb"[\r\n]+", rest + chunk)
            if not chunk and rest:
                lines.append(rest)
            for line in filter(None, lines):
                text = printable(line.decode("utf-8", "replace"), lines=True)
                if out is sys.stderr:
                    child.last_error = text
                with self._lock, suppress(OSError, ValueError):
                    out.write(f"[{child.name}] {text}\n")
                    out.flush()
            if not chunk:
                return
