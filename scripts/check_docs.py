#!/usr/bin/env python
"""Run every command that README and docs show, in a folder with small data.

  scripts/check_docs.py
  scripts/check_docs.py --page README.md

Recipes are there under their names with a small net and one epoch. `make` and `pip` are
left to who made this environment. The commands of model cards train for hours or need
data: their options and recipes are checked, and they are not run.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

from checking.commands import Command, commands_of
from common import main, parser
from gluon_compress.provenance import ROOT
from releasing.training import PYTHON

LONGEST = 1200  # seconds, for one command
SHOWN = 1500  # characters of what a failed one wrote


def arguments():
    """Return the parser of this script."""
    made = parser(__doc__)
    made.add_argument("--page", action="append", metavar="FILE", help="default: all")
    return made


def run(args) -> None:
    """Run the commands page by page; name those that fail."""
    from checking.place import furnish

    pages = [Path(page).resolve() for page in args.page or ()]
    pages = pages or [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    cards = [] if args.page else sorted((ROOT / "model_zoo").glob("*/README.md"))
    failed = [_parse(command) for card in cards for command in commands_of(card)]
    with TemporaryDirectory() as place:
        furnish(Path(place))
        for page in pages:
            failed += [_run(command, place) for command in commands_of(page)]
    if any(failed):
        raise ValueError(f"{sum(map(bool, failed))} commands fail")


def _run(command: Command, place: str) -> bool:
    """Run a command; return whether it failed."""
    if command.text.split()[0] in ("make", "pip"):
        print(f"left   {command}", flush=True)
        return False
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    shell = ["bash", "-euo", "pipefail", "-c", command.text]
    known = {"cwd": place, "env": {**os.environ, "PATH": path}, "timeout": LONGEST}
    done = subprocess.run(shell, **known, capture_output=True, text=True, check=False)
    print(f"{'FAILED' if done.returncode else 'ran   '} {command}", flush=True)
    if done.returncode:
        print((done.stdout + done.stderr)[-SHOWN:])
    return done.returncode != 0


def _parse(command: Command) -> bool:
    """Check a card's options and recipe; return whether they are wrong."""
    python, script, *options = shlex.split(command.text)
    known = import_module(Path(script).stem).arguments().parse_args(options)
    recipe = getattr(known, "recipe", None) or script
    failed = python != PYTHON or not Path(ROOT, recipe).is_file()
    print(f"{'FAILED' if failed else 'parsed'} {command}", flush=True)
    return failed


if __name__ == "__main__":
    main(run, arguments())
