"""Kills a small run at every kind of moment, resumes it, and compares what is left.

Every kill is a SIGKILL: before a file operation (an open, rename, removal, mkdir or
fsync) or right after a file was opened for writing, or at a random moment. What the
resumed run leaves has to equal an undisturbed run, byte for byte, with nothing left
over. Clocks stand still in these runs, since results state times.
"""

from __future__ import annotations

import argparse
import builtins
import hashlib
import io
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import sys
import threading
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, Callable, Mapping

from tqdm import tqdm

from gluon_compress.cli.app import Command
from gluon_compress.cli.options import above_0, add_out, write_result
from gluon_compress.markdown import table
from gluon_compress.storage.atomic import write_atomically
from gluon_compress.storage.reading import read_json

TEXT = """Kill a small run at many moments, resume it, and compare what it leaves.

  %(prog)s --kills 200 --out runs/kill

The run makes the toy data, trains, prunes, fine-tunes, reports and deploys a tiny
classifier. Half of the kills are at a file operation, half at random moments; some hit
a resumed run again. Writes result.json and kill.md: what was tried, equal, different
and left over.
"""
PAGE = "kill.md"
INTRODUCTION = """# Killed runs

A small run has {operations} operations on files: it makes toy data, trains, prunes and
fine-tunes a classifier, reports, and deploys the net. It was killed at random ones of
them or at random moments, then resumed, and compared with a run that was not killed.
Seed {seed}; commit {commit}, {date}.
"""
HEAD = ("kills at an operation", "at a moment", "killed runs", "equal", "different")
HEAD += ("files left over",)
IMAGES = {"train": 6, "val": 2}  # of each class
RECIPE = {
    "paper": "none",
    "command": "kill.py",
    "hours": 0.001,
    "expected": {},
    "task": "classification",
    "model": {"name": "mobilenet0.25"},
    "data": {"kind": "folder", "root": "images", "size": 32},
    "train": {"epochs": 2, "batch_size": 6, "learning_rate": 0.001},
    "compression": [
        {"algorithm": "prune", "budget": {"macs_ratio": 0.5}, "multiple": 1}
    ],
    "finetune": {"epochs": 1, "batch_size": 6, "learning_rate": 0.001},
}
AGAIN = 0.3  # probability that a resumed run is killed again
LONGEST = 600.0  # seconds, of a run
CHANGES = ("rename", "remove", "mkdir", "rmdir", "link", "symlink", "truncate")
OPERATIONS = {"ctypes.dlsym", *(f"os.{name}" for name in CHANGES)}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


# ---------------------------------------------------------------- in the child


def small_run(data: Path, folder: Path) -> None:
    """Make toy data, run a recipe from training to report, and deploy its net."""
    from gluon_compress import deployment, models, pipeline, train
    from gluon_compress.data import make_toy
    from gluon_compress.recipe import parse_recipe

    make_toy(folder / "toy", images=10, size=64)
    content = {**RECIPE, "data": {**RECIPE["data"], "root": str(data)}}
    recipe = parse_recipe(content, "recipe")
    options = train.Options(progress=False, save_minutes=-1)
    pipeline.run(recipe, folder / "run", resume=True, options=options, facts={})
    net = models.load(folder / "run" / "compact" / "model")
    deployment.deploy(net, folder / "edge", "net")


def without_clocks() -> None:
    """Let results depend on nothing but what was computed, and load exports here."""
    import mxnet as mx
    import numpy as np

    from gluon_compress import cost, model_folder
    from gluon_compress.train import run

    def load(symbol, params, name, inputs, outputs):
        net = mx.gluon.SymbolBlock.imports(symbol, [name], params)
        result = net(mx.nd.array(np.load(inputs)))
        result = result if isinstance(result, (list, tuple)) else [result]
        np.savez(outputs, *[each.asnumpy() for each in result])

    run.time = SimpleNamespace(monotonic=lambda: 0.0)
    cost.time = SimpleNamespace(perf_counter=itertools.count().__next__)
    model_folder.run_export = load


class Killer:
    """Counts operations on files, and kills the process at one of them."""

    def __init__(self, at: int | None) -> None:
        self.at, self.count = at, 0

    def tick(self) -> None:
        """Count an operation."""
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self) -> None:
        """Count from now on. It cannot be undone."""
        sys.addaudithook(self._on_event)
        os.fsync = self._before(os.fsync)
        for module in (builtins, io):
            module.open = self._after(module.open, _opens_for_writing)
        os.open = self._after(os.open, lambda _, flags, *__, **___: flags & WRITING)

    def _on_event(self, event: str, args: tuple) -> None:
        if event in OPERATIONS or (event == "open" and (args[2] or 0) & WRITING):
            self.tick()

    def _before(self, call: Callable) -> Callable:
        def counted(*args: Any, **options: Any) -> Any:
            self.tick()
            return call(*args, **options)

        return counted

    def _after(self, call: Callable, is_counted: Callable) -> Callable:
        def counted(*args: Any, **options: Any) -> Any:
            result = call(*args, **options)
            if is_counted(*args, **options):
                self.tick()
            return result

        return counted


def _opens_for_writing(file: Any, mode: str = "r", *_: Any, **__: Any) -> bool:
    return mode[:1] in "wax" or "+" in mode


def child(
    work: Callable, data: Path, folder: Path, scratch: Path, at: int | None, says: Any
) -> None:
    """Work until it is done or killed; say when it begins, and how many operations."""
    warnings.simplefilter("ignore")  # MXNet's, of types that it does not need
    # Its own lock is a semaphore of the system, which a killed process leaves behind.
    tqdm.set_lock(threading.RLock())
    os.environ["TMPDIR"] = str(scratch)
    without_clocks()
    killer = Killer(at)
    killer.watch()
    says.send("begins")
    work(data, folder)
    says.send(killer.count)


# ---------------------------------------------------------------- the campaign


class Campaign:
    """Kills runs, lets them go on, and compares them with one that was not killed.

    Parameters
    ----------
    work : callable
        ``work(data, folder)`` is what is killed: called again, it goes on. It must be
        importable.
    data : Path
        What it reads.
    place : Path
        An empty folder for runs.
    seed : int
        Decides the moments.

    Attributes
    ----------
    operations : int
        How many operations on files the work has: moments to be killed at.
    kills : dict
        How many were before an operation, and how many at a random moment.
    runs : dict
        How many killed runs were tried, and how many ended equal or different.
    leftovers, differences : list of str
        Files that should not be there, and those that are missing or differ.
    """

    def __init__(self, work: Callable, data: Path, place: Path, seed: int = 0) -> None:
        self._work, self._data, self._place = work, data, place
        self._draw = random.Random(seed)
        self._processes = processes()
        self.kills = {"operations": 0, "moments": 0}
        self.runs = {"tried": 0, "equal": 0, "different": 0}
        self.leftovers: list[str] = []
        self.differences: list[str] = []
        start = time.monotonic()
        whole = place / "whole"
        self.operations = self._finish(whole)
        self._seconds = time.monotonic() - start
        self._expected = contents(whole)

    def run(self, kills: int) -> None:
        """Kill until there were so many kills."""
        while sum(self.kills.values()) < kills:
            self.kill_one()

    def kill_one(self) -> None:
        """Kill a run once or more often, and compare it when it is done."""
        folder = self._place / f"run{self.runs['tried'] + 1}"
        before = sum(self.kills.values())
        while True:
            self._kill(folder)
            if self._draw.random() >= AGAIN:
                break
        if sum(self.kills.values()) > before:  # else it was done before each kill
            self._finish(folder)
            self._compare(folder)
        shutil.rmtree(folder)

    def _kill(self, folder: Path) -> None:
        is_counted = self._draw.random() < 0.5
        at = self._draw.randint(1, self.operations) if is_counted else None
        start = time.monotonic()
        process, hears = self._start(folder, at)
        if not is_counted:
            hears.poll(LONGEST)
            process.join(self._draw.uniform(0, self._seconds))
            process.kill()
        process.join(LONGEST)
        if process.exitcode == -signal.SIGKILL:
            self.kills["operations" if is_counted else "moments"] += 1
        else:  # it was done before: other programs leave it more time now
            self._seconds = time.monotonic() - start

    def _finish(self, folder: Path) -> int:
        """Go on without a kill; return the number of operations."""
        process, hears = self._start(folder, None)
        count = 0
        while hears.poll(LONGEST):
            try:
                count = hears.recv()
            except EOFError:
                break
        process.join(LONGEST)
        if process.exitcode != 0:
            self.differences.append(f"{folder.name}: ended with {process.exitcode}")
        return count

    def _start(self, folder: Path, at: int | None) -> tuple[Any, Any]:
        scratch = self._place / "scratch"  # the system's, which it cleans itself
        for each in (scratch, folder):
            each.mkdir(parents=True, exist_ok=True)
        hears, says = self._processes.Pipe(duplex=False)
        process = self._processes.Process(
            target=child, args=(self._work, self._data, folder, scratch, at, says)
        )
        process.start()
        says.close()
        return process, hears

    def _compare(self, folder: Path) -> None:
        stored, count = contents(folder), len(self.differences)
        names = sorted({*stored, *self._expected})
        for name in names:
            if name not in self._expected:
                self.leftovers.append(f"{folder.name}/{name}")
            elif stored.get(name) != self._expected[name]:
                self.differences.append(f"{folder.name}/{name}")
        self.runs["tried"] += 1
        is_equal = stored == self._expected and len(self.differences) == count
        self.runs["equal" if is_equal else "different"] += 1


def processes() -> Any:
    """Return a context that forks from a process which has everything imported."""
    context = multiprocessing.get_context("forkserver")
    modules = ("pipeline", "deployment", "data", "recipe")
    context.set_forkserver_preload([f"gluon_compress.{name}" for name in modules])
    return context


def write_images(folder: Path) -> None:
    """Write noise of two colours as a data set of two classes."""
    import cv2
    import numpy as np

    draw = np.random.RandomState(0)
    for (split, count), name in itertools.product(IMAGES.items(), ("blue", "red")):
        (folder / split / name).mkdir(parents=True)
        for number in range(count):
            image = draw.randint(0, 99, (40, 40, 3), np.uint8)
            image[..., 0 if name == "blue" else 2] += 150
            cv2.imwrite(str(folder / split / name / f"{number}.png"), image)


def contents(folder: Path) -> dict[str, str]:
    """Return the sha256 of each file below a folder, and "" for each folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else ""
        for path in sorted(folder.rglob("*"))
    }


# ---------------------------------------------------------------- the command


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--kills", type=above_0, default=200, metavar="N", help="default: 200"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    add_out(parser, "kills", "runs", files=[PAGE])


def _kill(args: argparse.Namespace) -> None:
    """Carry out the campaign, and write and print what came of it."""
    with TemporaryDirectory() as place:
        data = Path(place, "images")
        write_images(data)
        campaign = Campaign(small_run, data, Path(place, "runs"), args.seed)
        while sum(campaign.kills.values()) < args.kills:
            campaign.kill_one()
            content = {
                "seed": args.seed,
                "operations": campaign.operations,
                "kills": campaign.kills,
                "runs": campaign.runs,
                "leftovers": campaign.leftovers,
                "differences": campaign.differences,
            }
            result = write_result(args.out, content)  # each time, for it takes long
    page = page_of(read_json(result))
    write_atomically(Path(args.out) / PAGE, page)
    print(page)


def page_of(result: Mapping[str, Any]) -> str:
    """Return the page of a campaign as Markdown, from its result alone."""
    row = (*result["kills"].values(), *result["runs"].values())
    facts = {**result, "date": result["date"][:10]}
    lines = [INTRODUCTION.format(**facts)]
    lines.append(table(HEAD, [(*map(str, row), str(len(result["leftovers"])))]))
    lines += [f"- {name}\n" for name in (*result["leftovers"], *result["differences"])]
    return "\n".join(lines)


COMMAND = Command(TEXT, _add_options, _kill)
