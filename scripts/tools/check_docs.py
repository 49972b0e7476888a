"""Runs every command that README and docs show, in a folder with small data."""

from __future__ import annotations

import argparse
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from gluon_compress.cli.app import Command
from gluon_compress.provenance import ROOT
from tools.card import PYTHON

TEXT = """Run every command that README and docs show, in a folder with small data.

  %(prog)s
  %(prog)s --page README.md

Recipes have their usual names there, with a small net and one epoch. `make` and `pip`
are not run. Commands of model cards train for hours or need data: only their options
and recipes are checked.
"""
LONGEST = 1200  # seconds, for one command
SHOWN = 1500  # characters of what a failed one wrote
LEFT_OUT = ("make", "pip")
PROGRAMS = (".venv/bin/python ", ".venv/bin/gluon-compress ", "gluon-compress ")
PROGRAMS += ("scripts/", "make ", "pip ")
SMALL = {"name": "ssd_300_mobilenet0.25", "extras": [32, 32, 32]}
ONCE = {"epochs": 1, "batch_size": 8, "learning_rate": 0.01}
BUDGET = {"macs_ratio": 0.6}

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^ {4,}\S.*\n)+", re.MULTILINE)
_CONTINUED = re.compile(r"\\\n\s*")
_REMARK = re.compile(r"\s+#\s.*$", re.MULTILINE)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--page", action="append", metavar="FILE", help="default: all")


def _run(args: argparse.Namespace) -> None:
    """Run the commands page by page; name those that fail."""
    pages = [Path(page).resolve() for page in args.page or ()]
    pages = pages or [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    cards = [] if args.page else sorted((ROOT / "model_zoo").glob("*/README.md"))
    failed = [_check(command) for card in cards for command in commands_of(card)]
    with TemporaryDirectory() as place:
        furnish(Path(place))
        for page in pages:
            failed += [_execute(command, place) for command in commands_of(page)]
    if any(failed):
        raise ValueError(f"{sum(failed)} commands fail")


# ---------------------------------------------------------------- commands of pages


@dataclass(frozen=True)
class ShellCommand:
    """Shell text of a page, and the line that it starts on."""

    page: Path
    line: int
    text: str

    def __str__(self) -> str:
        """Return the place and the text on one line."""
        return f"{self.page.name}:{self.line}: {'; '.join(self.text.splitlines())}"


def commands_of(page: Path) -> list[ShellCommand]:
    """Return what a page says to run, in its order.

    A fenced ``bash`` block is one command, for its lines share variables. In indented
    blocks every line that starts with a known program is one.
    """
    text = page.read_text(encoding="utf-8")
    commands = []
    for block in _FENCE.finditer(text):
        if block[1] == "bash":
            commands.append(_command(page, text, block.start(2), block[2]))
    # Without fences, but every line where it was.
    bare = _FENCE.sub(lambda block: "\n" * block[0].count("\n"), text)
    for block in _INDENTED.finditer(bare):
        for row in re.finditer(r"^ +((?:.*\\\n)*.*)$", block[0], re.MULTILINE):
            if row[1].startswith(PROGRAMS):
                start = block.start() + row.start()
                commands.append(_command(page, bare, start, row[1]))
    return sorted(commands, key=lambda command: command.line)


def _command(page: Path, text: str, start: int, shown: str) -> ShellCommand:
    joined = _REMARK.sub("", _CONTINUED.sub(" ", shown)).strip()
    return ShellCommand(page, text.count("\n", 0, start) + 1, joined)


def _execute(command: ShellCommand, place: str) -> bool:
    """Run a command; return whether it failed."""
    if command.text.split()[0] in LEFT_OUT:
        print(f"left   {command}", flush=True)
        return False
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command.text],
        cwd=place,
        env={**os.environ, "PATH": path},
        timeout=LONGEST,
        capture_output=True,
        text=True,
        check=False,
    )
    print(f"{'FAILED' if done.returncode else 'ran   '} {command}", flush=True)
    if done.returncode:
        print((done.stdout + done.stderr)[-SHOWN:])
    return done.returncode != 0


def _check(command: ShellCommand) -> bool:
    """Check a card's options and recipe; return whether they are wrong."""
    python, script, *options = shlex.split(command.text)
    parser = runpy.run_path(str(ROOT / script))["COMMAND"].parser()
    recipe = getattr(parser.parse_args(options), "recipe", None) or script
    failed = python != PYTHON or not Path(ROOT, recipe).is_file()
    print(f"{'FAILED' if failed else 'parsed'} {command}", flush=True)
    return failed


# ---------------------------------------------------------------- a folder to run in


def furnish(folder: Path) -> None:
    """Put into a folder what a reader of the pages has: images, recipes, a demo."""
    from gluon_compress import pipeline, train
    from gluon_compress.data import make_toy
    from gluon_compress.recipe import load_recipe

    (folder / ".venv").symlink_to(ROOT / ".venv")
    for name in ("scripts", "docs", "gluon_compress"):
        (folder / name).symlink_to(ROOT / name)
    make_toy(folder / "runs" / "toy", images=32)
    for name in ("pets", "photos"):
        shutil.copytree(folder / "runs" / "toy", folder / name)
    shutil.copytree(
        folder / "pets" / "JPEGImages", folder / "photos", dirs_exist_ok=True
    )
    _photograph(folder)
    for path in sorted((ROOT / "model_zoo").glob("*/recipe.json")):
        _shrink(path, folder / "model_zoo" / path.parent.name / path.name)
    shutil.copytree(
        ROOT / "model_zoo" / "imagenette",
        folder / "model_zoo" / "imagenette",
        ignore=shutil.ignore_patterns("*.params"),
    )
    demo = load_recipe(folder / "model_zoo" / "ssd_300_toy" / "recipe.json")
    pipeline.run(demo, folder / "runs" / "demo", options=train.Options(progress=False))


def _photograph(folder: Path) -> None:
    import cv2

    first = cv2.imread(str(sorted((folder / "photos").glob("*.jpg"))[0]))
    for name in ("photo.jpg", "photo.ppm"):
        cv2.imwrite(str(folder / name), first)


def _shrink(source: Path, target: Path) -> None:
    """Write a detector's recipe with a small net and one epoch; others are left out."""
    from gluon_compress.storage.atomic import read_json, write_json

    recipe = read_json(source)
    if not recipe["model"]["name"].startswith("ssd"):
        return
    recipe["model"] = SMALL
    recipe["data"].pop("size", None)  # that of a model with fewer maps
    for part in ("train", "finetune"):
        if part in recipe:
            recipe[part] = ONCE
    for row in recipe.get("compression", ()):
        row.pop("train", None)
        if row["algorithm"] == "prune":
            row.update(budget=BUDGET, groups=["*"], classes=None)
    target.parent.mkdir(parents=True)
    write_json(target, recipe)


COMMAND = Command(TEXT, _add_options, _run)
