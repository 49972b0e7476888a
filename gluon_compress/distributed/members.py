"""What a process knows of the others that it trains with, and how they agree.

``ranks()`` is the same object for the whole life of a process: alone by default, or
joined to a hub if ``gluon-compress launch`` began the process. All ranks run the same
program, so they ask for the same exchanges in the same order.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import platform
import queue
import socket
import sys
import threading
import time
from contextlib import contextmanager, suppress
from typing import Any, Callable, Dict, Iterator, Mapping, NoReturn, Sequence, TypeVar

import numpy as np

from gluon_compress.distributed import frames
from gluon_compress.distributed.frames import Packet
from gluon_compress.distributed.hub import BAD_INPUT, DIVERGED, LOST, PROTOCOL, WAIT
from gluon_compress.printable import printable
from gluon_compress.version import __version__

# Variables by which the launcher tells a process of its place.
HUB, RANK, SIZE, TOKEN = (
    "GLUON_COMPRESS_HUB",
    "GLUON_COMPRESS_RANK",
    "GLUON_COMPRESS_RANKS",
    "GLUON_COMPRESS_TOKEN",
)
ATTEMPT = "GLUON_COMPRESS_ATTEMPT"  # from 1, for programs that restart by themselves
SCRATCH = "GLUON_COMPRESS_SCRATCH"  # a folder that the launcher removes
NODE_HOST = "DMLC_NODE_HOST"  # the address that MXNet's parameter server is told
JOIN_SECONDS = 60.0  # for ranks that start later than others
UNWIND_SECONDS = 5.0  # for the main thread, once it knows that it has to end

T = TypeVar("T")


class Agreed(ValueError):
    """All ranks know of this error, and each says the same."""


class Ranks:
    """The ranks of a run; this class is a process that is alone.

    Attributes
    ----------
    rank : int
        From 0. Rank 0 writes what the run leaves.
    size : int
        Number of ranks.
    is_launched : bool
        Whether a launcher began the process.
    """

    rank, size, is_launched = 0, 1, False

    @property
    def leads(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def exchange(
        self, what: str, value: Any = None, payload: bytes = b"", how: str | None = None
    ) -> tuple[list, bytes]:
        """Give a JSON value to all ranks, and bytes to ``hub.combined``.

        Parameters
        ----------
        what : str
            Names the exchange; all ranks have to be at the same.
        value : any
        payload : bytes
        how : str, optional
            ``mean``, ``max`` or ``first``.

        Returns
        -------
        (list, bytes)
            The values of all ranks, in their order, and the bytes combined.

        Raises
        ------
        ValueError
            One line that says which rank has to end, and why.
        """
        return [value], payload

    def agree(self, what: str, facts: Mapping[str, Any]) -> None:
        """Refuse to go on unless all ranks state the same JSON values.

        Raises
        ------
        ValueError
            Names the first rank that differs from rank 0, the fact, and both values.
        """
        if self.size == 1:
            return
        every, _ = self.exchange(what, facts)
        for rank, other in enumerate(every):
            for name in {**every[0], **other}:
                mine, theirs = every[0].get(name), other.get(name)
                if mine != theirs:
                    raise Agreed(
                        f"rank {rank}: {name} is {_text(theirs)}, that of rank 0 is "
                        f"{_text(mine)}; all ranks need the same"
                    )

    def together(self, what: str, work: Callable[[], T]) -> T:
        """Do something on each rank, and go on only if it worked on all.

        Raises
        ------
        ValueError
            On all ranks, with the name of the first that failed.
        """
        if self.size == 1:
            return work()
        problem = result = None
        try:
            result = work()
        except (ValueError, OSError) as error:
            problem = " ".join(_line(error).split())
        every, _ = self.exchange(what, problem)
        failed = [rank for rank, text in enumerate(every) if text is not None]
        if failed:
            alike, first = len(set(every)) == 1, failed[0]
            raise Agreed(every[0] if alike else f"rank {first}: {every[first]}")
        return result  # type: ignore[return-value]  # it worked

    def from_first(self, what: str, work: Callable[[], Any]) -> Any:
        """Return what rank 0 finds out, a JSON value; the others wait for it."""
        if self.size == 1:
            return work()
        every, _ = self.exchange(what, work() if self.leads else None)
        return every[0]

    def combined(self, what: str, array: np.ndarray, how: str) -> np.ndarray:
        """Return the ``mean`` or ``max`` of float32 arrays of the same shape."""
        if self.size == 1:
            return array
        content = np.ascontiguousarray(array, np.float32)
        _, payload = self.exchange(what, None, content.tobytes(), how)
        return np.frombuffer(payload, np.float32).reshape(content.shape)

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Tell the other ranks why, if the block fails; leave them in the end."""
        yield

    def leave(self) -> None:
        """Say that this rank has done its work."""


class Member(Ranks):
    """One of several ranks, connected to their hub.

    Parameters
    ----------
    rank, size : int
    hub : (str, int)
        Address and port.
    token : str
    patience : float
        Seconds to wait for the hub.
    on_lost : callable, optional
        Called with reason and status when the process has to end and the main thread
        cannot know, because it waits for MXNet's parameter server. By default it ends
        the process.

    Raises
    ------
    ValueError
        If no hub answers, or it refuses the rank.
    """

    is_launched = True

    def __init__(
        self,
        rank: int,
        size: int,
        hub: tuple[str, int],
        token: str = "",
        *,
        patience: float = JOIN_SECONDS,
        on_lost: Callable[[str, int], Any] | None = None,
    ) -> None:
        self.rank, self.size = rank, size
        self._connection, self.settings = joined(
            hub, {"rank": rank, "role": "worker", "token": token}, patience
        )
        self.address = self._connection.getsockname()[0]
        self._on_lost = on_lost or self._end_process
        self._answers: queue.Queue[Packet] = queue.Queue()
        self._knows = threading.Event()  # the main thread, that it has to end
        self._has_left = False
        threading.Thread(target=self._listen, daemon=True, name="ranks").start()

    def exchange(
        self, what: str, value: Any = None, payload: bytes = b"", how: str | None = None
    ) -> tuple[list, bytes]:
        """Give a value and bytes to all ranks (``Ranks.exchange``)."""
        with suppress(OSError):  # the listening thread knows why
            frames.send(
                self._connection,
                {"round": what, "value": value, "how": how},
                payload,
            )
        answer = self._answers.get()
        if "stop" in answer.value:
            self._knows.set()
            raise ValueError(answer.value["stop"])
        return answer.value["values"], answer.payload

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Tell the other ranks why, if the block fails; leave them in the end."""
        try:
            yield
        except (ValueError, OSError, ArithmeticError) as error:
            status = DIVERGED if isinstance(error, ArithmeticError) else BAD_INPUT
            status = LOST if isinstance(error, ChildProcessError) else status
            if not self._knows.is_set():
                agreed = isinstance(error, Agreed)
                told = {"failed": _line(error), "status": status, "agreed": agreed}
                self._say(told)
            self._knows.set()
            raise

    def leave(self) -> None:
        """Say that this rank has done its work; a process that ends does so too."""
        if not self._has_left:
            self._has_left = True
            self._say({"left": True})
            frames.close(self._connection)

    def _say(self, value: Any) -> None:
        with suppress(OSError):
            frames.send(self._connection, value)

    def _listen(self) -> None:
        """Hand over answers; end the process when the hub says so, or is gone."""
        while True:
            message = frames.receive(self._connection)
            if message is None:
                end = ("the launcher is gone", LOST)
            elif "stop" in message.value:
                end = (message.value["stop"], message.value["status"])
            else:
                self._answers.put(message)
                continue
            break
        frames.close(self._connection)
        if self._has_left:
            return
        reason, status = end
        if status != LOST:
            # If it waits for an answer, it ends by itself, with this line.
            self._answers.put(Packet({"stop": reason}))
            if self._knows.wait(1.0):
                time.sleep(UNWIND_SECONDS)
        self._on_lost("" if self._knows.is_set() else reason, status)

    def _end_process(self, reason: str, status: int) -> NoReturn:
        if reason:
            line = f"rank {self.rank}: ended: {printable(reason)}\n"
            with suppress(OSError):
                os.write(2, line.encode())
        os._exit(status)


def joined(
    hub: tuple[str, int], greeting: Mapping[str, Any], patience: float
) -> tuple[socket.socket, Dict[str, str]]:
    """Return a connection to a hub, and what it tells those that join.

    Parameters
    ----------
    hub : (str, int)
    greeting : mapping
        ``rank``, ``role`` and ``token``.
    patience : float
        Seconds.

    Raises
    ------
    ValueError
        If no hub answers, or it refuses the rank.
    """
    greeting = {
        **greeting,
        "protocol": PROTOCOL,
        "version": __version__,
        "host": platform.node() or "unnamed",
    }
    place, until = f"{hub[0]}:{hub[1]}", time.monotonic() + patience
    why = "no answer"
    while True:
        connection = answer = None
        try:
            connection = socket.create_connection(hub, timeout=5.0)
            connection.settimeout(None)
            frames.configure(connection)
            frames.send(connection, greeting)
            answer = frames.receive(connection)
        except socket.gaierror:
            why = "there is no such host"
        except OSError as error:
            why = (error.strerror or str(error)).lower()
        if connection is not None:
            if answer is not None and "settings" in answer.value:
                return connection, answer.value["settings"]
            frames.close(connection)
        if answer is not None and "stop" in answer.value:
            raise ValueError(answer.value["stop"])
        if answer is not None and answer.value.get("refused") != WAIT:
            refused = answer.value.get("refused")
            raise ValueError(f"rank {greeting['rank']}: refused by {place}: {refused}")
        if time.monotonic() > until:
            raise ValueError(
                f"rank {greeting['rank']}: rank 0 at {place} does not answer within "
                f"{patience:g} s: {why}"
            )
        time.sleep(0.2)


ALONE = Ranks()
_OWN: Dict[str, Ranks] = {}


def ranks() -> Ranks:
    """Return the ranks that this process belongs to; join them at the first call.

    Raises
    ------
    ValueError
        As ``Member``.
    """
    if "ranks" not in _OWN:
        _OWN["ranks"] = _from_environment()
    return _OWN["ranks"]


def is_launched() -> bool:
    """Return whether a launcher began this process, without joining its ranks."""
    return HUB in os.environ or ranks().is_launched


def _from_environment() -> Ranks:
    # Processes that this one starts are no ranks.
    place = {name: os.environ.pop(name, "") for name in (HUB, RANK, SIZE, TOKEN)}
    if not place[HUB]:
        return ALONE
    address, _, port = place[HUB].rpartition(":")
    member = Member(
        int(place[RANK]),
        int(place[SIZE]),
        (address, int(port)),
        place[TOKEN],
    )
    atexit.register(member.leave)
    os.environ.update({NODE_HOST: member.address, **member.settings})
    # MXNet would take it for the port of its own server.
    os.environ.pop("PORT", None)
    return member


def digest(*parts: bytes | np.ndarray) -> str:
    """Return the first 12 digits of the SHA-256 of some bytes or arrays."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            total.update(f"{part.dtype}{part.shape}".encode())
            total.update(np.ascontiguousarray(part).tobytes())
        else:
            total.update(part)
    return total.hexdigest()[:12]


def _text(value: Any) -> str:
    return "missing" if value is None else str(value)[:60]


def _line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        file = f"{error.filename}: " if error.filename is not None else ""
        return f"{file}{error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def program() -> Sequence[str]:
    """Return the command that runs ``gluon-compress`` with this Python."""
    return [sys.executable, "-m", "gluon_compress"]
