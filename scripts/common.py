"""What all scripts share: their options, and how they end."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Callable, Sequence

from gluon_compress.provenance import cores, environment  # noqa: F401  for scripts
from inputs import above_0, contexts, devices, folder, share  # noqa: F401
from outputs import add_out, write_result  # noqa: F401

BAD_INPUT, INTERRUPTED = 2, 130


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as all errors of these scripts are."""

    def error(self, message: str) -> None:
        """Name what is wrong and end with status 2."""
        self.exit(BAD_INPUT, f"{self.prog}: error: {message}; see --help\n")


def parser(description: str, *, run_options: bool = False) -> Parser:
    """Return a parser with the options that every script has.

    Parameters
    ----------
    description : str
        The script's docstring; it is shown as it is written.
    run_options : bool
        Add ``--recipe``, ``--out``, ``--resume`` and ``--kvstore``: it trains.
    """
    raw = argparse.RawDescriptionHelpFormatter
    made = Parser(description=description, formatter_class=raw)
    known = {"type": devices, "default": ("cpu0",), "metavar": "DEVICES"}
    made.add_argument("--ctx", **known, help="cpu, gpu or gpu(0,1,...); default: cpu")
    made.add_argument(
        "--traceback", action="store_true", help="show where an error came from"
    )
    if run_options:
        made.add_argument("--recipe", required=True, metavar="FILE", help="JSON")
        made.add_argument("--out", required=True, metavar="DIR", help="for results")
        made.add_argument(
            "--resume", action="store_true", help="go on with what is in DIR"
        )
        made.add_argument(
            "--kvstore", default="device", help="as in gluon.Trainer; default: device"
        )
    return made


def main(run: Callable, options: Parser, argv: Sequence[str] | None = None) -> None:
    """Run a script and end the process: 0, 2 and one line for bad input, or 130."""
    arguments = options.parse_args(argv)
    # By itself MXNet takes half of the cores, and names its back end for every net.
    os.environ.setdefault("OMP_NUM_THREADS", str(cores()))
    os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")
    try:
        run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        options.exit(INTERRUPTED, f"{options.prog}: interrupted\n")
    except BrokenPipeError:  # the reader has gone, as ``head`` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError, ArithmeticError) as error:
        if arguments.traceback:
            raise
        # ArithmeticError: a training that diverged; its input was not wrong.
        status = 1 if isinstance(error, ArithmeticError) else BAD_INPUT
        options.exit(status, f"{options.prog}: error: {_one_line(error)}\n")
    options.exit(0)


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename is not None else ""
        return f"{place}{error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
