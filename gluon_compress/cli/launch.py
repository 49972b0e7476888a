"""The command that begins a training on several processes and machines."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from typing import Any, Sequence

from gluon_compress.cli.app import Command
from gluon_compress.cli.options import above_0, refuse

TRAINING = ("run", "train", "prune")  # commands that can be distributed

TEXT = r"""Run a command on several processes or machines, which train together.

  %(prog)s -n 4 -- run --recipe RECIPE --out runs/mine
  %(prog)s -n 8 --hosts hosts.txt --restarts 3 -- run --recipe RECIPE --out DIR
  srun gluon-compress launch --from-environment -- run --recipe RECIPE --out DIR

Starts N workers, and the scheduler and servers of MXNet's parameter server. The command
is run, train or prune, or any program that calls gluon_compress.train.fit. Each worker
computes its part of every batch, so the recipe's batch_size must be a multiple of N.
Lines of output begin with [worker RANK]. When one process dies, all end within 10
seconds; --restarts begins again, from the last checkpoint. Ctrl-C and SIGTERM end all
after the step and its checkpoint.

hosts.txt names a host a line, as ssh takes it, "node1" or "node1 slots=2"; package,
data, recipe and DIR must be at the same places on all of them. With --from-environment
this process is one worker of many: rank and size are those that Slurm (SLURM_PROCID),
MPI (OMPI_COMM_WORLD_RANK, PMI_RANK) or Kubernetes (RANK, WORLD_SIZE) has set, and
MASTER_ADDR and MASTER_PORT say where rank 0 is.

The status is 0, that of the first process that failed, or 128 plus the signal.
"""


def _above_or_0(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: a whole number from 0")
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: 1 to 65535")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: seconds above 0")
    return value


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-n", type=above_0, metavar="N", help="number of workers")
    parser.add_argument(
        "--servers",
        type=above_0,
        metavar="S",
        help="servers that add up gradients; default: one for each host",
    )
    parser.add_argument("--hosts", metavar="FILE", help="hosts to run on, through ssh")
    parser.add_argument(
        "--from-environment",
        action="store_true",
        help="be one worker, of the rank that the environment states",
    )
    parser.add_argument(
        "--restarts",
        type=_above_or_0,
        default=0,
        metavar="N",
        help="begin again so often when a process has died; default: 0",
    )
    parser.add_argument(
        "--port",
        type=_port,
        help="where workers meet; default: any that is free, or MASTER_PORT",
    )
    parser.add_argument(
        "--patience",
        type=_seconds,
        default=60.0,
        metavar="SECONDS",
        help="how long to wait for workers that begin elsewhere; default: 60",
    )
    parser.add_argument(
        "words",
        nargs=argparse.REMAINDER,
        metavar="-- COMMAND",
        help="what to run, with its options",
    )


def command_of(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the command of every worker, and how it goes on after a restart.

    Parameters
    ----------
    words : sequence of str
        A command of ``gluon-compress`` that trains, or any program.

    Raises
    ------
    ValueError
        If there is none.
    """
    from gluon_compress import cli
    from gluon_compress.distributed import program

    words = list(words[1:] if words[:1] == ["--"] else words)
    allowed = f"{', '.join(TRAINING)}, or a program"
    if not words:
        raise ValueError(f"-- COMMAND is missing; allowed: {allowed}")
    name, *options = words
    if name in TRAINING:
        # So that a wrong option is told of once, before anything begins.
        parser = cli.COMMANDS[name].parser()
        parser.prog = f"gluon-compress {name}"
        parser.parse_args(options)
        command = [*program(), *words]
        return command, command + ["--resume"] * ("--resume" not in options)
    if name in cli.COMMANDS or shutil.which(name) is None:
        raise ValueError(f"command is {name!r}; allowed: {allowed}")
    return words, words


def _run(args: argparse.Namespace) -> None:
    from gluon_compress import distributed
    from gluon_compress.stopping import deferred

    command, again = command_of(args.words)
    launch = distributed.Launch(
        command,
        again,
        servers=args.servers,
        restarts=args.restarts,
        patience=args.patience,
        say=lambda line: print(f"launch: {line}", file=sys.stderr, flush=True),
    )
    with deferred() as signal:
        if args.from_environment:
            refuse(args, ("n", "hosts"), "not with --from-environment")
            variables: Any = dict(os.environ)
            if args.port is not None:
                variables["MASTER_PORT"] = str(args.port)
            place = distributed.place_of(variables)
            outcome = distributed.take(launch, place, signal)
        else:
            if args.n is None:
                raise ValueError("-n is missing; allowed: a whole number from 1")
            hosts = args.hosts and distributed.read_hosts(args.hosts, args.n)
            outcome = distributed.lead(
                launch, args.n, signal, hosts=hosts, port=args.port or 0
            )
    if outcome.status:
        print(f"launch: error: {outcome.reason}", file=sys.stderr)
        raise SystemExit(outcome.status)


LAUNCH = Command(TEXT, _add_options, _run, writes=())
