"""The meeting point of all ranks of a distributed run: small exchanges, and the end.

Gradients go through MXNet's parameter server. Everything that has to be exact, rare or
small goes through the hub: what the ranks must agree on, running statistics, the wish
to stop, and the news that one of them has died. It lives in the process of ``launch``
that starts the scheduler.
"""

from __future__ import annotations

import platform
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, NamedTuple

import numpy as np

from gluon_compress.distributed import frames
from gluon_compress.distributed.frames import Packet
from gluon_compress.version import __version__

PROTOCOL = 1
BAD_INPUT, DIVERGED = 2, 1  # as the statuses of commands
LOST = 75  # of a process that ends because another one has; it may be started again
GREETING_SECONDS = 10.0
WAIT = "wait"  # for the next attempt


class End(NamedTuple):
    """Why all ranks have to end.

    Parameters
    ----------
    reason : str
        One line.
    status : int
        Of the processes.
    """

    reason: str
    status: int


@dataclass
class _Place:
    """What the hub knows of a rank."""

    host: str = ""
    worker: socket.socket | None = None
    node: socket.socket | None = None
    has_left: bool = False  # the worker, after its work
    status: int | None = None  # of the worker's process
    round: Packet | None = None  # what it has sent, until all have


@dataclass
class _State:
    places: Dict[int, _Place]
    end: End | None = None
    is_closed: bool = False
    lock: threading.RLock = field(default_factory=threading.RLock)


class Hub:
    """Accepts the ranks of a run, and answers when all of them have asked.

    Parameters
    ----------
    size : int
        Number of ranks.
    address : str
        To listen at.
    port : int
        0: any that is free.
    token : str
        What ranks have to know.
    settings : mapping
        What every rank is told when it joins: variables of the environment.

    Raises
    ------
    OSError
        If the port is in use; the message names it.
    """

    def __init__(
        self,
        size: int,
        *,
        address: str = "127.0.0.1",
        port: int = 0,
        token: str = "",
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.size, self.token, self.settings = size, token, dict(settings or {})
        self._state = _State({rank: _Place() for rank in range(size)})
        self._listener = _listening(address, port)
        self.address, self.port = self._listener.getsockname()[:2]
        threading.Thread(target=self._accept, daemon=True, name="hub").start()

    @property
    def end(self) -> End | None:
        """Why all ranks have to end, if they have to."""
        return self._state.end

    @property
    def absent(self) -> list[int]:
        """The ranks that nothing is known of: neither expected here, nor joined."""
        return [r for r, place in self._state.places.items() if not place.host]

    def expect(self, rank: int) -> None:
        """Take a rank as there: its process has begun on this host."""
        self._state.places[rank].host = platform.node() or "unnamed"

    @property
    def is_done(self) -> bool:
        """Whether the processes of all ranks have ended well."""
        return all(place.status == 0 for place in self._state.places.values())

    def name(self, rank: int) -> str:
        """Return a rank as messages name it."""
        return _name(rank, self._state.places[rank].host)

    def ended(self, rank: int, status: int) -> None:
        """Note how the process of a rank ended; stop the others if it failed."""
        with self._state.lock:
            self._state.places[rank].status = status
        if status:
            self.stop(f"{self.name(rank)} ended with status {status}", LOST)

    def stop(self, reason: str, status: int) -> None:
        """Tell all ranks to end, for the first reason that is given."""
        with self._state.lock:
            if self._state.end is None:
                self._state.end = End(reason, status)
                self._tell({"stop": reason, "status": status})

    def forward(self, number: int) -> None:
        """Tell the hosts of other ranks that a signal has arrived."""
        self._tell({"signal": number}, workers=False)

    def close(self) -> None:
        """End all connections."""
        with self._state.lock:
            self._state.is_closed = True
            self._tell({"done": True}, workers=False)
            for place in self._state.places.values():
                for connection in (place.worker, place.node):
                    if connection is not None:
                        frames.close(connection)
        frames.close(self._listener)

    def _tell(self, value: Any, *, workers: bool = True) -> None:
        with self._state.lock:
            for place in self._state.places.values():
                for connection in (place.worker if workers else None, place.node):
                    _try_to_send(connection, value)

    # ------------------------------------------------------------ connections

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(
                target=self._serve, args=[connection], daemon=True, name="hub"
            )
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        frames.configure(connection)
        try:
            rank, role = self._greet(connection)
        except (ValueError, TypeError, KeyError, OSError) as error:
            end = self._state.end
            if end is not None and end.status != LOST:
                answer: Any = {"stop": end.reason, "status": end.status}
            else:
                answer = {"refused": str(error)}
            _try_to_send(connection, answer)
            frames.close(connection)
            return
        while True:
            try:
                message = frames.receive(connection)
            except ValueError as error:
                self.stop(f"{self.name(rank)}: sent {error}", BAD_INPUT)
                message = None
            if message is None:
                break
            self._take(rank, message)
        frames.close(connection)
        self._lose(rank, role)

    def _greet(self, connection: socket.socket) -> tuple[int, str]:
        """Let one join that knows the token; return its rank and role."""
        connection.settimeout(GREETING_SECONDS)
        message = frames.receive(connection, frames.MOST_GREETING, 0)
        connection.settimeout(None)
        if message is None or not isinstance(message.value, dict):
            raise ValueError("no greeting")
        value = message.value
        if value.get("token") != self.token:
            raise ValueError("token is that of another run")
        rank, role, host = value["rank"], value["role"], str(value["host"])
        if type(rank) is not int or not 0 <= rank < self.size:
            raise ValueError(f"rank is {rank!r}; allowed: 0 to {self.size - 1}")
        with self._state.lock:
            if self._state.is_closed or self._state.end is not None:
                raise ValueError(WAIT)
            place = self._state.places[rank]
            if getattr(place, role) is not None:
                self.stop(
                    f"{_name(rank, host)}: is there already, on "
                    f"{place.host}; allowed: each rank once",
                    BAD_INPUT,
                )
                raise ValueError(f"rank {rank} is there already")
            if not self._is_of_this_version(rank, value):
                raise ValueError("version")
            place.host = host
            setattr(place, role, connection)
            frames.send(connection, {"settings": self.settings})
        return rank, role

    def _is_of_this_version(self, rank: int, value: Mapping) -> bool:
        here, there = (PROTOCOL, __version__), (value["protocol"], value["version"])
        if there == here:
            return True
        self.stop(
            f"{_name(rank, str(value['host']))}: version of gluon_compress is "
            f"{there[1]!r}, that of the launcher {here[1]!r}; all need the same",
            BAD_INPUT,
        )
        return False

    def _take(self, rank: int, message: Packet) -> None:
        value = message.value
        if "round" in value:
            self._collect(rank, message)
        elif "failed" in value:
            who = "" if value.get("agreed") else f"{self.name(rank)}: "
            self.stop(f"{who}{value['failed']}", int(value["status"]))
        elif "left" in value:
            self._state.places[rank].has_left = True
            self._check_waiting()
        elif "ended" in value:
            self.ended(rank, int(value["ended"]))

    def _lose(self, rank: int, role: str) -> None:
        """Note that a connection has ended."""
        place = self._state.places[rank]
        expected = place.has_left if role == "worker" else place.status is not None
        if not expected and not self._state.is_closed:
            self.stop(f"{self.name(rank)} is gone", LOST)

    # ------------------------------------------------------------ exchanges

    def _collect(self, rank: int, message: Packet) -> None:
        """Keep what a rank has sent; answer all when the last has."""
        with self._state.lock:
            places = self._state.places
            places[rank].round = message
            rounds = [places[r].round for r in range(self.size)]
            messages = [m for m in rounds if m is not None]
            self._check_waiting()
            if len(messages) < self.size or self._state.end is not None:
                return
            for place in places.values():
                place.round = None
            problem = self._mismatch(messages)
            if problem:
                self.stop(problem, BAD_INPUT)
                return
            values = [m.value["value"] for m in messages]
            payload = combined(messages[0].value["how"], [m.payload for m in messages])
            for place in places.values():
                _try_to_send(place.worker, {"values": values}, payload)

    def _check_waiting(self) -> None:
        """Stop if a rank waits for one that has done its work."""
        with self._state.lock:
            places = self._state.places.items()
            waiting = [rank for rank, place in places if place.round is not None]
            left = [rank for rank, place in places if place.has_left]
            if waiting and left:
                first = self._state.places[waiting[0]].round
                assert first is not None
                self.stop(
                    f"{self.name(left[0])}: has ended, but rank {waiting[0]} is at "
                    f"{first.value['round']!r}; all ranks must do the same",
                    BAD_INPUT,
                )

    def _mismatch(self, messages: list[Packet]) -> str:
        """Return what is wrong if the ranks do not ask for the same."""
        first = messages[0].value
        for rank, message in enumerate(messages):
            for key in ("round", "how"):
                if message.value[key] != first[key]:
                    return (
                        f"{self.name(rank)}: is at {message.value[key]!r}, rank 0 at "
                        f"{first[key]!r}; all ranks must do the same"
                    )
            if first["how"] in ("mean", "max"):
                size, expected = len(message.payload), len(messages[0].payload)
                if size != expected:
                    return (
                        f"{self.name(rank)}: has {size} bytes for "
                        f"{first['round']!r}, rank 0 {expected}; their nets differ"
                    )
        return ""


def combined(how: str | None, payloads: list[bytes]) -> bytes:
    """Return what all ranks get for what each has sent.

    Parameters
    ----------
    how : str or None
        ``mean`` or ``max`` of float32 numbers, added in the order of the ranks so that
        the sum does not depend on who was first; ``first``: those of rank 0.
    payloads : list of bytes
        In the order of the ranks.
    """
    if how == "first":
        return payloads[0]
    if how not in ("mean", "max"):
        return b""
    arrays = [np.frombuffer(payload, np.float32) for payload in payloads]
    total = arrays[0].copy()
    for array in arrays[1:]:
        if how == "mean":
            total += array
        else:
            np.maximum(total, array, out=total)
    if how == "mean":
        total /= np.float32(len(arrays))
    return total.tobytes()


def _listening(address: str, port: int) -> socket.socket:
    try:
        listener = socket.create_server((address, port), backlog=1024)
    except OSError as error:
        place = f"port {port} of {address}"
        why = f"{(error.strerror or str(error)).lower()}; choose another with --port"
        raise OSError(f"{place}: {why}") from None
    listener.settimeout(None)
    return listener


def _try_to_send(
    connection: socket.socket | None, value: Any, payload: bytes = b""
) -> None:
    if connection is not None:
        with suppress(OSError):  # its own thread notices that it is gone
            frames.send(connection, value, payload)


def _name(rank: int, host: str) -> str:
    return f"rank {rank} ({host})" if host else f"rank {rank}"
