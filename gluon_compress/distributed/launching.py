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
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Mapping, Sequence

from gluon_compress.distributed import frames, places, server
from gluon_compress.distributed.children import Child, Children
from gluon_compress.distributed.hub import BAD_INPUT, DIVERGED, LOST, End, Hub
from gluon_compress.distributed.places import Place
from gluon_compress.distributed.ranks import (
    ATTEMPT,
    HUB,
    JOIN_SECONDS,
    NODE_HOST,
    RANK,
    SIZE,
    TOKEN,
    joined,
    program,
)
from gluon_compress.provenance import cores
from gluon_compress.stopping import Deferred

PAUSE = 0.05  # seconds between two looks at the processes
SECONDS_TO_SAVE = 25.0  # after a signal: for the step, and for its checkpoint
SECONDS_TO_SAY = 3.0  # for workers to say why they end, before they are ended
# What reaches the processes on other hosts, besides what places them.
_FORWARDED = ("OMP_", "KMP_", "MXNET_", "DMLC_", "PS_", "GLUON_COMPRESS_DATA")
_FORWARDED += ("PYTHONPATH", "LD_LIBRARY_PATH")


@dataclass(frozen=True)
class Run:
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
        Seconds to wait for all ranks to join.
    say : callable
        Takes lines for the user.
    """

    command: Sequence[str]
    again: Sequence[str]
    servers: int | None = None
    restarts: int = 0
    patience: float = JOIN_SECONDS
    say: Callable[[str], Any] = lambda line: None


@dataclass(frozen=True)
class Outcome:
    """How a run ended: a status as of a shell, and why if that is not 0."""

    status: int
    reason: str = ""
    may_restart: bool = False


def lead(
    run: Run,
    size: int,
    signal: Deferred,
    *,
    hosts: Sequence[str] | None = None,
    port: int = 0,
) -> Outcome:
    """Run a command as so many ranks, here or on hosts, until all have ended.

    Parameters
    ----------
    run : Run
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
    count = run.servers or 1 + len(set(remote.values()))

    def attempt(number: int) -> Outcome:
        return _Leader(run, size, address, count, number).run(
            signal, remote, "0.0.0.0" if remote else address, port
        )

    return _attempts(run, attempt)


def take(run: Run, place: Place, signal: Deferred) -> Outcome:
    """Run a command as one rank, whose place something else has given.

    Parameters
    ----------
    run : Run
    place : Place
    signal : Deferred

    Raises
    ------
    OSError, ValueError
        As ``lead``, or if rank 0 does not answer.
    """
    address = places.numeric(place.address)
    is_local = address.startswith("127.")
    count = run.servers or (1 if is_local else place.size)

    def attempt(number: int) -> Outcome:
        if place.rank == 0:
            leader = _Leader(run, place.size, address, count, number)
            leader.token = os.environ.get(TOKEN, "")
            others = {rank: "" for rank in range(1, place.size)}
            listen = address if is_local else "0.0.0.0"
            return leader.run(signal, others, listen, place.port)
        return _follow(run, place, signal, number)

    return _attempts(run, attempt)


def _attempts(run: Run, attempt: Callable[[int], Outcome]) -> Outcome:
    for number in range(1, run.restarts + 1):
        outcome = attempt(number)
        if not outcome.may_restart:
            return outcome
        run.say(f"{outcome.reason}; beginning again, {number} of {run.restarts}")
    return attempt(run.restarts + 1)


def servers_of(rank: int, size: int, servers: int) -> list[int]:
    """Return the numbers of the servers beside a rank: they are spread evenly."""
    return [number for number in range(servers) if number * size // servers == rank]


class _Leader:
    """One attempt of the launcher that has the hub."""

    def __init__(
        self, run: Run, size: int, address: str, servers: int, number: int
    ) -> None:
        self.run_, self.size, self.address = run, size, address
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
        group = _Group(hub, Children(), settings, len(local))
        try:
            group.serve("scheduler", "scheduler", self.address)
            beside = range(self.size) if not others else [0]
            for rank in beside:
                for number in servers_of(rank, self.size, self.servers):
                    group.serve(f"server {number}", "server", self.address)
            place = f"{self.address}:{hub.port}"
            for rank in local:
                group.work(rank, self._command, place, self.token, self.number)
            for rank, host in others.items():
                if host:
                    self._begin_on(group, rank, host, hub.port)
            return group.watch(signal, self.run_.patience)
        finally:
            group.children.end(0.5)
            hub.close()

    @property
    def _command(self) -> Sequence[str]:
        return self.run_.command if self.number == 1 else self.run_.again

    def _begin_on(self, group: _Group, rank: int, host: str, port: int) -> None:
        variables = {
            **{n: v for n, v in os.environ.items() if n.startswith(_FORWARDED)},
            "RANK": str(rank),
            "WORLD_SIZE": str(self.size),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(port),
            TOKEN: self.token,
            ATTEMPT: str(self.number),
        }
        wait = ["--patience", str(self.run_.patience)]
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


def _follow(run: Run, place: Place, signal: Deferred, number: int) -> Outcome:
    """One attempt of a launcher that has one rank and no hub."""
    token, hub = os.environ.get(TOKEN, ""), (place.address, place.port)
    greeting = {"rank": place.rank, "role": "node", "token": token}
    connection, settings = joined(hub, greeting, run.patience)
    link = _Link(connection, signal)
    group = _Group(link, Children(), settings, 1)
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
        command = run.command if number == 1 else run.again
        address = f"{place.address}:{place.port}"
        group.work(place.rank, command, address, token, number)
        return group.watch(signal, run.patience)
    finally:
        group.children.end(0.5)
        link.close()


@dataclass
class _Group:
    """The processes of one launcher, and how they are watched."""

    link: Any  # Hub or _Link
    children: Children
    settings: Mapping[str, str]
    local: int  # workers on this host
    workers: Dict[int, Child] = field(default_factory=dict)
    hosts: Dict[int, str] = field(default_factory=dict)

    def serve(self, name: str, role: str, address: str) -> None:
        """Begin a scheduler or a server."""
        # As a file: it needs nothing of this package.
        argv = [sys.executable, server.__file__]
        variables = {**self.settings, "DMLC_ROLE": role, NODE_HOST: address}
        self.children.start(name, argv, {**_environment(self.local), **variables})

    def work(
        self, rank: int, command: Sequence[str], hub: str, token: str, number: int
    ) -> None:
        """Begin the worker of a rank."""
        variables = {
            HUB: hub,
            RANK: str(rank),
            SIZE: self.settings["DMLC_NUM_WORKER"],
            TOKEN: token,
            ATTEMPT: str(number),
        }
        env = {**_environment(self.local), **variables}
        self.workers[rank] = self.children.start(f"worker {rank}", command, env)

    def watch(self, signal: Deferred, patience: float) -> Outcome:
        """Wait until all have ended; end the others when one has died."""
        link, begun = self.link, time.monotonic()
        told: set[int] = set()
        while True:
            self._look(told)
            if link.end is not None:
                return self._ended(signal)
            if link.is_done:
                return Outcome(0)
            if signal.number is not None:
                return self._stopped(signal.number)
            absent = link.absent
            if absent and time.monotonic() > begun + patience:
                who = ", ".join(self._name(rank) for rank in absent[:6])
                link.stop(f"{who} did not join within {patience:g} s", BAD_INPUT)
            time.sleep(PAUSE)

    def _look(self, told: set[int]) -> None:
        """Tell the hub what has ended since the last look."""
        ranks = {id(child): rank for rank, child in self.workers.items()}
        for child in self.children:
            status, rank = child.status, ranks.get(id(child))
            if status is None or id(child) in told:
                continue
            told.add(id(child))
            if rank is None or status:
                self._fail(child, rank, status)
            if rank is not None:
                self.link.ended(rank, status)

    def _fail(self, child: Child, rank: int | None, status: int) -> None:
        final = rank is not None and status in (BAD_INPUT, DIVERGED)
        self.link.stop(self._line(child, rank), status if final else LOST)

    def _line(self, child: Child, rank: int | None) -> str:
        """Return how a process has ended, with the last that it said."""
        for reader in child.readers:
            reader.join(1.0)
        name, status = child.name if rank is None else self._name(rank), child.status
        why = f": {child.last_error}" if child.last_error and (status or 0) < 128 else ""
        return f"{name} ended with status {status}{why}"

    def _ended(self, signal: Deferred) -> Outcome:
        """Return the outcome when all have to end."""
        end = self.link.end
        Children.wait(list(self.workers.values()), SECONDS_TO_SAY)
        if signal.number is not None:  # which all have followed, each by itself
            return Outcome(128 + signal.number)
        if end.status != LOST:
            return Outcome(end.status, end.reason)
        died = self._died()
        if died is None:
            return Outcome(LOST, end.reason, True)
        return Outcome(*died, True)

    def _died(self) -> tuple[int, str] | None:
        """Return the status of what died here, and a line on it."""
        ranks = {id(child): rank for rank, child in self.workers.items()}
        for child in self.children:
            status = child.status
            if status not in (None, 0, LOST):
                return int(status or 0), self._line(child, ranks.get(id(child)))
        return None

    def _stopped(self, number: int) -> Outcome:
        """End all because the user wants it: after the step, and its checkpoint."""
        self.link.forward(number)
        workers = list(self.workers.values())
        for worker in workers:
            worker.signal(number)
        Children.wait(workers, SECONDS_TO_SAVE)
        return Outcome(128 + number)

    def _name(self, rank: int) -> str:
        host = self.hosts.get(rank)
        return f"worker {rank} on {host}" if host else f"worker {rank}"


def _environment(local: int) -> Dict[str, str]:
    """Return the environment of the processes of a run on this host.

    ``PORT`` would be taken by MXNet's servers for the port of their own; variables of
    an MXNet that is launched around us are not those of this run.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PORT", "DMLC_ROLE") and not name.startswith("DMLC_PS_ROOT")
    }
    threads = str(max(1, cores() // max(1, local)))
    return {"OMP_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1", **kept}
