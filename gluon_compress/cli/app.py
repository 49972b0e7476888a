"""The frame of every command: parser, one-line errors, exit status."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from typing import Any, Callable, Mapping, NoReturn, Sequence, Tuple

from gluon_compress.printable import printable
from gluon_compress.provenance import cores
from gluon_compress.stopping import Handling, Terminated, at_once, handled, last_line
from gluon_compress.storage.locks import release_all, sole_writer
from gluon_compress.version import __version__

BAD_INPUT, DIVERGED, LOST = 2, 1, 75  # exit statuses; after 75, try again

LONGEST_LINE = 300  # characters of an error


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and that takes operands behind options."""

    def parse_known_args(self, args=None, namespace=None):
        """Give operands behind an option to the list that may be empty."""
        parsed, rest = super().parse_known_args(args, namespace)
        lists = [a for a in self._actions if a.nargs == "*" and not a.option_strings]
        if lists and not any(word.startswith("-") for word in rest):
            earlier = getattr(parsed, lists[0].dest) or []
            setattr(parsed, lists[0].dest, [*earlier, *rest])
            rest = []
        return parsed, rest

    def error(self, message: str) -> NoReturn:
        """Print the message and exit with status 2."""
        self.exit(BAD_INPUT, f"{self.prog}: error: {message}; see --help\n")
        raise AssertionError("exit does not return")


@dataclass(frozen=True)
class Command:
    """A command: one function and its options, under any number of names.

    Parameters
    ----------
    description : str
        The text of ``--help``, preformatted; ``%(prog)s`` is the command's name.
        The first line is the summary in the list of commands.
    add_options : callable
        Adds the options to a parser. It must not import MXNet, so that ``--help`` is
        fast.
    run : callable
        Runs the command with parsed options. ``ValueError`` and ``OSError`` mean bad
        input, ``ArithmeticError`` that training diverged, ``ChildProcessError`` that a
        process of it was lost.
    writes : tuple of str
        Names of the options whose files or folders no other process may write
        meanwhile. Then ``args.check_locked``, if there is one, is called with the
        options before ``run``.
    """

    description: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]
    writes: Tuple[str, ...] = ("out",)

    @property
    def summary(self) -> str:
        """The first line of the description."""
        return self.description.strip().splitlines()[0]

    def parser(self) -> Parser:
        """Return the parser of this command as a script."""
        return self.fill(Parser(formatter_class=argparse.RawDescriptionHelpFormatter))

    def fill(self, parser: Parser) -> Parser:
        """Add the description and all options to a parser, and return it."""
        parser.description = self.description
        self.add_options(parser)
        parser.add_argument(
            "--traceback", action="store_true", help="show where an error comes from"
        )
        return parser

    def main(self, argv: Sequence[str] | None = None) -> NoReturn:
        """Parse, run, and exit."""
        with at_once():
            parser = self.parser()
            args = parser.parse_args(argv)
        execute(self, parser, args)


def dispatch(
    commands: Mapping[str, Command], argv: Sequence[str] | None = None
) -> NoReturn:
    """Run the command that the first argument names, and exit."""
    parser = Parser(
        prog="gluon-compress",
        description="Compress detectors and classifiers of Gluon, and deploy them.",
        epilog="gluon-compress COMMAND --help shows the options of a command.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    rows = parser.add_subparsers(metavar="COMMAND", required=True, dest="command")
    for name, command in commands.items():
        row = rows.add_parser(
            name,
            help=command.summary,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.fill(row).set_defaults(parser=row)
    with at_once():
        args = parser.parse_args(argv)
    execute(commands[args.command], args.parser, args)


def execute(command: Command, parser: Parser, args: argparse.Namespace) -> NoReturn:
    """Run a command, and exit with the status of its outcome."""
    # By default, MXNet uses half of the cores and logs its back end for every net.
    os.environ.setdefault("OMP_NUM_THREADS", str(cores()))
    os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")
    signals = Handling(parser.prog, release_all)
    try:  # around the handlers: a signal may arrive while they are set or reset
        with handled(signals):
            _run_or_fail(command, parser, args)
    except (KeyboardInterrupt, Terminated) as error:
        signals.number = getattr(error, "number", signal.SIGINT)
        line = last_line(parser.prog, signals.number, _one_line(error))
        signals.has_ended = True
        parser.exit(128 + signals.number, line)
    parser.exit(0)
    raise AssertionError("exit does not return")


def _run_or_fail(command: Command, parser: Parser, args: argparse.Namespace) -> None:
    """Run a command, and exit with one line if it fails."""
    try:
        _run(command, args)
    except BrokenPipeError:  # the reader has closed the pipe, as ``head`` does
        _close_output()
    except (ValueError, OSError, ArithmeticError) as error:
        if args.traceback:
            raise
        if isinstance(error, OSError) and error.errno and error.filename is None:
            _name_output(error)
        status = DIVERGED if isinstance(error, ArithmeticError) else BAD_INPUT
        status = LOST if isinstance(error, ChildProcessError) else status
        what = _short(_one_line(error) or type(error).__name__)
        parser.exit(status, f"{parser.prog}: error: {what}\n")


def _run(command: Command, args: argparse.Namespace) -> None:
    """Run a command as the sole writer of what it writes."""
    with ExitStack() as stack:
        for name in command.writes:
            if getattr(args, name, None):
                stack.enter_context(sole_writer(getattr(args, name)))
        if hasattr(args, "check_locked"):  # others may have written before the lock
            args.check_locked(args)
        with redirect_stdout(_Plain(sys.stdout)):
            command.run(args)
    sys.stdout.flush()


class _Plain:
    """Standard output, but for what a terminal would act on in names of others."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text."""
        self._stream.write(printable(text, lines=True))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _name_output(error: OSError) -> None:
    """Name standard output in an error without a file if it cannot be written."""
    try:
        sys.stdout.write("\n")
        sys.stdout.flush()
    except OSError as reason:
        if reason.errno == error.errno:
            error.filename = "standard output"
        _close_output()


def _close_output() -> None:
    """Let nothing be written to standard output any more, not even at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _short(text: str) -> str:
    """Return a line of at most 300 characters (as ``validation`` has it).

    That module is not imported here: ``--help`` must be fast.
    """
    return text if len(text) <= LONGEST_LINE else f"{text[: LONGEST_LINE - 3]}..."


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        file = f"{error.filename}: " if error.filename is not None else ""
        return printable(f"{file}{error.strerror}")
    return printable(" ".join(str(error).split()))
