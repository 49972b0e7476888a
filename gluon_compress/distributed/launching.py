"""Begins the processes of a distributed run, watches them, and ends them together.

The launcher of rank 0 leads: it has the hub, and the scheduler of MXNet's parameter
server. It begins the other ranks itself, here or through ssh; or these are begun by
Slurm, MPI or Kubernetes, and follow. When one process dies, MXNet would let the others
wait for ever: so the launchers end them all, and may begin again.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Callable, Mapping, Sequence

from gluon_compress.distributed import frames, places
from gluon_compress.distributed.children import Children
from gluon_compress.distributed.group import Group, Outcome
from gluon_compress.distributed.hub import BAD_INPUT, LOST, End, Hub
from gluon_compress.distributed.members import (
    ATTEMPT,
    JOIN_SECONDS,
    TOKEN,
    joined,
    program,
)
from gluon_compress.distributed.places import Place
from gluon_compress.stopping import Deferred

# What reaches the processes on other hosts, besides what places them.
_FORWARDED = (
    "DMLC_",
    "GLUON_COMPRESS_DATA",
    "GLUON_COMPRESS_INDICES",
    "GLUON_COMPRESS_PROCESSES",
    "KMP_",
    "LD_LIBRARY_PATH",
    "MXNET_",
    "OMP_",
    "PS_",
    "PYTHONPATH",
)


@dataclass(frozen=True)
class Launch:
    """What is to run on all ranks.

    Parameters
    ----------
    command : sequence of str
    again : sequence of str
        The command for further attempts, which goes on from a checkpoint.
    servers : int, optional
        Of MXNet's parameter server; by default one for each host.
    restarts : int
        How often to begin again after a process has died.
    patience : float
        Seconds to wait for ranks that begin elsewhere.
    say : callable
        Takes lines for the user.
    """

    command: Sequence[str]
    again: Sequence[str]
    servers: int | None = None
    restarts: int = 0
    patience: float = JOIN_SECONDS
    say: Callable[[str], Any] = lambda line: None


def lead(
    launch: Launch,
    size: int,
    signal: Deferred,
    *,
    hosts: Sequence[str] | None = None,
    port: int = 0,
) -> Outcome:
    """Run a command as so many ranks, here or on hosts, until all have ended.

    Parameters
    ----------
    launch : Launch
    size : int
        Number of ranks.
    signal : Deferred
        Says when the user wants to end.
    hosts : sequence of str, optional
        Of each rank; by default all are here. Rank 0 is here in any case.
    port : int
        Of the hub; 0: any.

    Raises
    ------
    OSError
        If the port is in use, or a process cannot be begun.
    ValueError
        If a host has no address.
    """
    hosts = list(hosts or ["localhost"] * size)
    if hosts[0] not in places.LOCAL:
        hosts[0] = "localhost"
    remote = {r: host for r, host in enumerate(hosts) if host not in places.LOCAL}
    address = "127.0.0.1"
    if remote:
        address = places.address_towards(next(iter(remote.values())).split("@")[-1])
    count = launch.servers or 1 + len(set(remote.values()))

    def attempt(number: int) -> Outcome:
        return _Leader(launch, size, address, count, number).run(
            signal, remote, "0.0.0.0" if remote else address, port
        )

    return _attempts(launch, attempt)


def take(launch: Launch, place: Place, signal: Deferred) -> Outcome:
    """Run a command as one rank, whose place something else has given.

    Parameters
    ----------
    launch : Launch
    place : Place
    signal : Deferred

    Raises
    ------
    OSError, ValueError
        As ``lead``, or if rank 0 does not answer.
    """
    address = places.numeric(place.address)
    is_local = address.startswith("127.")
    count = launch.servers or (1 if is_local else place.size)

    def attempt(number: int) -> Outcome:
        if place.rank == 0:
            leader = _Leader(launch, place.size, address, count, number)
            leader.token = os.environ.get(TOKEN, "")
            others = dict.fromkeys(range(1, place.size), "")
            listen = address if is_local else "0.0.0.0"
            return leader.run(signal, others, listen, place.port)
        return _follow(launch, place, signal, number)

    return _attempts(launch, attempt)


def _attempts(launch: Launch, attempt: Callable[[int], Outcome]) -> Outcome:
    for number in range(1, launch.restarts + 1):
        outcome = attempt(number)
        if not outcome.may_restart:
            return outcome
        launch.say(f"{outcome.reason}; beginning again, {number} of {launch.restarts}")
    return attempt(launch.restarts + 1)


def servers_of(rank: int, size: int, servers: int) -> list[int]:
    """Return the numbers of the servers beside a rank: they are spread evenly."""
    return [number for number in range(servers) if number * size // servers == rank]


class _Leader:
    """One attempt of the launcher that has the hub."""

    def __init__(
        self, launch: Launch, size: int, address: str, servers: int, number: int
    ) -> None:
        self.launch, self.size, self.address = launch, size, address
        self.servers, self.number = servers, number
        self.token = secrets.token_hex(16)

    def run(
        self, signal: Deferred, others: Mapping[int, str], listen: str, port: int
    ) -> Outcome:
        """Begin the processes of all ranks, except of those that begin elsewhere.

        ``others`` are the ranks on other hosts: those with a name are begun through
        ssh.
        """
        settings = {
            "DMLC_ROLE": "worker",
            "DMLC_PS_ROOT_URI": self.address,
            "DMLC_PS_ROOT_PORT": str(places.free_port(self.address)),
            "DMLC_NUM_WORKER": str(self.size),
            "DMLC_NUM_SERVER": str(self.servers),
        }
        hub = Hub(
            self.size, address=listen, port=port, token=self.token, settings=settings
        )
        local = [rank for rank in range(self.size) if rank not in others]
        group = Group(hub, Children(), settings, len(local))
        try:
            group.serve("scheduler", "scheduler", self.address)
            beside = range(self.size) if not others else [0]
            for rank in beside:
                for number in servers_of(rank, self.size, self.servers):
                    group.serve(f"server {number}", "server", self.address)
            place = f"{self.address}:{hub.port}"
            for rank in local:
                hub.expect(rank)
                group.work(rank, self._command, place, self.token, self.number)
            for rank, host in others.items():
                if host:
                    self._begin_on(group, rank, host, hub.port)
            return group.watch(signal, self.launch.patience)
        finally:
            group.close()

    @property
    def _command(self) -> Sequence[str]:
        return self.launch.command if self.number == 1 else self.launch.again

    def _begin_on(self, group: Group, rank: int, host: str, port: int) -> None:
        variables = {
            **{n: v for n, v in os.environ.items() if n.startswith(_FORWARDED)},
            "RANK": str(rank),
            "WORLD_SIZE": str(self.size),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(port),
            TOKEN: self.token,
            ATTEMPT: str(self.number),
        }
        wait = ["--patience", str(self.launch.patience)]
        argv = [*program(), "launch", "--from-environment", *wait, "--"]
        remote = places.remote_command(
            host, [*argv, *self._command], variables, os.getcwd()
        )
        name = f"worker {rank}"
        group.workers[rank] = group.children.start(name, remote, os.environ)
        group.hosts[rank] = host


class _Link:
    """What a launcher that follows knows of the hub, through a connection."""

    def __init__(self, connection: socket.socket, signal: Deferred) -> None:
        self._connection, self._signal = connection, signal
        self.end: End | None = None
        self.is_done = False
        threading.Thread(target=self._listen, daemon=True).start()

    absent: Sequence[int] = ()

    def ended(self, rank: int, status: int) -> None:
        """Tell how the process of the rank has ended."""
        with suppress(OSError):
            frames.send(self._connection, {"ended": status})

    def stop(self, reason: str, status: int) -> None:
        """Tell that something has ended that all need."""
        with suppress(OSError):
            frames.send(self._connection, {"failed": reason, "status": status})
        self.end = self.end or End(reason, status)

    def forward(self, number: int) -> None:
        """Let the other launchers be; whoever sent the signal sends it to all."""

    def close(self) -> None:
        """End the connection."""
        frames.close(self._connection)

    def _listen(self) -> None:
        while True:
            message = frames.receive(self._connection)
            if message is None:
                self.end = self.end or End("the launcher of rank 0 is gone", LOST)
                return
            if "stop" in message.value:
                value = message.value
                self.end = self.end or End(value["stop"], value["status"])
            elif "signal" in message.value:
                self._signal.number = self._signal.number or message.value["signal"]
            elif "done" in message.value and self.end is None:
                self.is_done = True
                return


def _follow(launch: Launch, place: Place, signal: Deferred, number: int) -> Outcome:
    """One attempt of a launcher that has one rank and no hub."""
    token, hub = os.environ.get(TOKEN, ""), (place.address, place.port)
    greeting = {"rank": place.rank, "role": "node", "token": token}
    connection, settings = joined(hub, greeting, launch.patience)
    link = _Link(connection, signal)
    group = Group(link, Children(), settings, 1)
    own = connection.getsockname()[0]
    servers = int(settings["DMLC_NUM_SERVER"])
    number = max(number, int(os.environ.get(ATTEMPT, "1")))
    try:
        if int(settings["DMLC_NUM_WORKER"]) != place.size:
            theirs = settings["DMLC_NUM_WORKER"]
            link.stop(
                f"rank {place.rank}: has {place.size} ranks around it, rank 0 {theirs}",
                BAD_INPUT,
            )
        for each in servers_of(place.rank, place.size, servers):
            group.serve(f"server {each}", "server", own)
        command = launch.command if number == 1 else launch.again
        address = f"{place.address}:{place.port}"
        group.work(place.rank, command, address, token, number)
        return group.watch(signal, launch.patience)
    finally:
        group.close()
