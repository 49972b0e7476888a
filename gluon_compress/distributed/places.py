"""Where ranks run: hosts of a file, or a rank that Slurm, MPI or Kubernetes gave."""

from __future__ import annotations

import os
import re
import shlex
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping, Sequence

PORT = 9400  # of the hub, where a launcher of another kind states none
LOCAL = ("localhost", "127.0.0.1", "::1")
MOST_RANKS = 4096

# Who gives ranks, in the order of asking; a program that MPI starts within a job of
# Slurm has both, and the inner one counts.
_VARIABLES = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),  # Open MPI
    ("PMI_RANK", "PMI_SIZE"),  # MPICH, Intel MPI
    ("RANK", "WORLD_SIZE"),  # Kubernetes' training operators, torchrun
    ("SLURM_PROCID", "SLURM_NTASKS"),
)
_ONE_HOST = (  # variables that are equal if all ranks run on one host
    ("OMPI_COMM_WORLD_LOCAL_SIZE", "OMPI_COMM_WORLD_SIZE"),
    ("MPI_LOCALNRANKS", "PMI_SIZE"),
    ("LOCAL_WORLD_SIZE", "WORLD_SIZE"),
)


@dataclass(frozen=True)
class Place:
    """A rank, and where the hub of its run is.

    Parameters
    ----------
    rank, size : int
    address : str
        Of the host of rank 0.
    port : int
    """

    rank: int
    size: int
    address: str
    port: int


def place_of(variables: Mapping[str, str]) -> Place:
    """Return the place that variables of the environment give to a process.

    Raises
    ------
    ValueError
        Naming the variable that is missing or wrong.
    """
    for rank_name, size_name in _VARIABLES:
        if rank_name in variables:
            size = _number(variables, size_name, 1, MOST_RANKS)
            rank = _number(variables, rank_name, 0, size - 1)
            port = PORT
            if "MASTER_PORT" in variables:
                port = _number(variables, "MASTER_PORT", 1, 65535)
            return Place(rank, size, _address(variables, size), port)
    names = ", ".join(name for name, _ in _VARIABLES)
    raise ValueError(f"--from-environment: none of {names} is set")


def _number(variables: Mapping[str, str], name: str, least: int, most: int) -> int:
    text = variables.get(name)
    if text is None:
        raise ValueError(f"{name} is not set; allowed: {least} to {most}")
    if not re.fullmatch(r"\d{1,9}", text) or not least <= int(text) <= most:
        raise ValueError(f"{name} is {text[:40]!r}; allowed: {least} to {most}")
    return int(text)


def _address(variables: Mapping[str, str], size: int) -> str:
    stated = variables.get("MASTER_ADDR")
    if stated:
        return stated
    alone = size == 1 or variables.get("SLURM_JOB_NUM_NODES") == "1"
    for here, everywhere in _ONE_HOST:
        alone |= here in variables and variables[here] == variables.get(everywhere)
    if not alone:
        raise ValueError(
            "MASTER_ADDR is not set; allowed: the host of rank 0, unless all ranks "
            "run on one host"
        )
    return "127.0.0.1"


def numeric(host: str) -> str:
    """Return the IPv4 address of a host: MXNet's servers take no names.

    Raises
    ------
    ValueError
        If there is none.
    """
    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        raise ValueError(f"{host}: {(error.strerror or str(error)).lower()}") from None
    return str(found[0][4][0])


def address_towards(host: str) -> str:
    """Return the address of this machine that another one can reach it by."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((numeric(host), 9))  # sends nothing
            return str(probe.getsockname()[0])
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise ValueError(f"{host}: {why}") from None


def free_port(address: str) -> int:
    """Return a port that nobody listens at just now."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def read_hosts(path: str | os.PathLike, ranks: int) -> list[str]:
    """Return the host of each rank, from a file with a host a line.

    Parameters
    ----------
    path : path
        Each line names a host, as ssh takes it, and with ``slots=N`` how many ranks it
        takes; 1 by default. ``#`` begins a comment.
    ranks : int

    Raises
    ------
    ValueError
        Naming file and line, or if there are too few slots.
    """
    hosts: list[str] = []
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is no text") from None
    for number, line in enumerate(lines, 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        match = re.fullmatch(r"(?:slots=(\d{1,4}))?", "".join(words[1:]))
        # A word that begins with a dash would be an option of ssh.
        if match is None or not re.fullmatch(r"[\w.@:\[\]][\w.@:\[\]-]*", words[0]):
            raise ValueError(
                f"{path}: line {number} is {line.strip()[:60]!r}; allowed: HOST, or "
                "HOST slots=N"
            )
        hosts += [words[0]] * int(match.group(1) or 1)
    if len(hosts) < ranks:
        raise ValueError(
            f"{path}: has {len(hosts)} slots; allowed: at least {ranks}, one for each "
            "of -n"
        )
    return hosts[:ranks]


def remote_command(
    host: str, argv: Sequence[str], variables: Mapping[str, str], folder: str
) -> list[str]:
    """Return the command that runs another one on a host, through ssh.

    Parameters
    ----------
    host : str
    argv : sequence of str
    variables : mapping
        Of its environment.
    folder : str
        In which it runs; it has to exist there.
    """
    settings = [f"{name}={value}" for name, value in sorted(variables.items())]
    line = f"cd {shlex.quote(folder)} && exec env {shlex.join([*settings, *argv])}"
    options = ["-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]
    options += ["-o", "ServerAliveInterval=3", "-o", "ServerAliveCountMax=3"]
    return ["ssh", *options, host, line]
