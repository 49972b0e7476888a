"""The processes of one launcher: begins them, watches them, and ends them together."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory
from typing import Any, Dict, Mapping, Sequence

from gluon_compress.distributed import server
from gluon_compress.distributed.children import Child, Children
from gluon_compress.distributed.hub import BAD_INPUT, DIVERGED, LOST
from gluon_compress.distributed.members import (
    ATTEMPT,
    HUB,
    NODE_HOST,
    RANK,
    SCRATCH,
    SIZE,
    TOKEN,
)
from gluon_compress.provenance import cores
from gluon_compress.stopping import Deferred

PAUSE = 0.05  # seconds between two looks at the processes
SECONDS_TO_SAVE = 25.0  # after a signal: for the step, and for its checkpoint
SECONDS_TO_SAY = 3.0  # for workers to say why they end, before they are ended


@dataclass(frozen=True)
class Outcome:
    """How a run ended: a status as of a shell, and why if that is not 0."""

    status: int
    reason: str = ""
    may_restart: bool = False


@dataclass
class Group:
    """The processes of one launcher, and how they are watched."""

    link: Any  # Hub or _Link
    children: Children
    settings: Mapping[str, str]
    local: int  # workers on this host
    workers: Dict[int, Child] = field(default_factory=dict)
    hosts: Dict[int, str] = field(default_factory=dict)
    scratch: TemporaryDirectory = field(
        default_factory=lambda: TemporaryDirectory(prefix="launch_")
    )

    def close(self) -> None:
        """End all that still run, and remove what they left behind."""
        self.children.end(0.5)
        self.link.close()
        self.scratch.cleanup()

    def serve(self, name: str, role: str, address: str) -> None:
        """Begin a scheduler or a server."""
        # As a file: it needs nothing of this package.
        argv = [sys.executable, server.__file__]
        variables = {**self.settings, "DMLC_ROLE": role, NODE_HOST: address}
        self.children.start(name, argv, {**environment_of(self.local), **variables})

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
            SCRATCH: self.scratch.name,
        }
        env = {**environment_of(self.local), **variables}
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
        name = child.name if rank is None else self._name(rank)
        status = child.status or 0
        was_killed = 128 < status < 193  # by a signal; 255 is ssh's own
        why = f": {child.last_error}" if child.last_error and not was_killed else ""
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
        for rank, worker in self.workers.items():
            if rank not in self.hosts:  # of the others, this would only end ssh
                worker.signal(number)
        Children.wait(list(self.workers.values()), SECONDS_TO_SAVE)
        return Outcome(128 + number)

    def _name(self, rank: int) -> str:
        host = self.hosts.get(rank)
        return f"worker {rank} on {host}" if host else f"worker {rank}"


def environment_of(local: int) -> Dict[str, str]:
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
