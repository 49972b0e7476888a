"""Kills a small run at every kind of moment, resumes it, and compares what is left.

Every kill is a SIGKILL: before a file operation (an open, rename, removal, mkdir or
fsync) or right after a file was opened for writing, or at a random moment. What the
resumed run leaves has to equal an undisturbed run, byte for byte, with nothing left over.
Clocks stand still in these runs, since results state times.
"""

from __future__ import annotations

import argparse
import builtins
import hashlib
import io
import itertools
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, Callable, Sequence

from gluon_compress.cli.app import Command
from gluon_compress.cli.options import above_0, add_out, write_result

TEXT = """Kill a small run at many moments, resume it, and compare what it leaves.

  %(prog)s --kills 200 --out runs/kill

The run makes the toy data, trains, prunes, fine-tunes, reports and deploys a tiny
classifier. Half of the kills are before a file operation, half at random moments; some
hit a resumed run again. Writes result.json: tried, equal, different, leftovers.
"""
IMAGES = {"train": 6, "val": 2}  # of each class
RECIPE = {
    "paper": "none",
    "command": "kill.py",
    "hours": 0.001,
    "expected": {},
    "task": "classification",
    "model": {"name": "mobilenet0.25"},
    "data": {"kind": "folder", "root": "images", "size": 32},
    "train": {"epochs": 2, "batch_size": 6, "learning_rate": 0.01},
    "compression": [
        {"algorithm": "prune", "budget": {"macs_ratio": 0.5}, "multiple": 1}
    ],
    "finetune": {"epochs": 1, "batch_size": 6, "learning_rate": 0.01},
}
AGAIN = 0.3  # probability that a resumed run is killed again
LONGEST = 600.0  # seconds, of a run
CHANGES = ("rename", "remove", "mkdir", "rmdir", "link", "symlink", "truncate")
OPERATIONS = {"ctypes.dlsym", *(f"os.{name}" for name in CHANGES)}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


# ---------------------------------------------------------------- in the child


def work(data: Path, folder: Path) -> None:
    """Do what is killed: everything in it can be called again to go on."""
    import numpy as np

    from gluon_compress import deployment, models, pipeline, train
    from gluon_compress.data import make_toy
    from gluon_compress.recipe import parse_recipe

    make_toy(folder / "toy", images=10, size=64)
    content = {**RECIPE, "data": {**RECIPE["data"], "root": str(data)}}
    recipe = parse_recipe(content, "recipe")
    options = train.Options(progress=False, save_minutes=-1)
    pipeline.run(recipe, folder / "run", resume=True, options=options, facts={})
    net = models.load(folder / "run" / "compact" / "model")
    images = np.zeros((1, 3, 32, 32), np.float32)
    deployment.deploy(net, folder / "edge", "net", images=images)


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


def child(data: Path, folder: Path, scratch: Path, at: int | None, says: Any) -> None:
    """Work until it is done or killed; say when it begins, and how many operations."""
    os.environ["TMPDIR"] = str(scratch)
    without_clocks()
    killer = Killer(at)
    killer.watch()
    says.send("begins")
    work(data, folder)
    says.send(killer.count)


# ---------------------------------------------------------------- the campaign


@dataclass
class Campaign:
    """Kills and what came of them.

    Parameters
    ----------
    place : Path
        An empty folder for runs.
    seed : int
    """

    place: Path
    seed: int = 0
    tally: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            ("tried", "operations", "moments", "runs", "equal", "different"), 0
        )
    )
    leftovers: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._draw = random.Random(self.seed)
        self._processes = processes()
        self._data = self.place / "images"
        write_images(self._data)
        start = time.monotonic()
        whole = self.place / "whole"
        self.count = self._finish(whole)
        self.seconds = time.monotonic() - start
        self._expected = contents(whole)

    def run(self, kills: int) -> None:
        """Kill until there were so many kills."""
        while self.tally["tried"] < kills:
            folder = self.place / f"run{self.tally['runs']}"
            while True:
                self._kill(folder)
                if self._draw.random() >= AGAIN or self.tally["tried"] >= kills:
                    break
            self._finish(folder)
            self._compare(folder)

    def _kill(self, folder: Path) -> None:
        by_operation = self._draw.random() < 0.5
        at = self._draw.randint(1, self.count) if by_operation else None
        process, hears = self._start(folder, at)
        if not by_operation:
            hears.poll(LONGEST)
            process.join(self._draw.uniform(0, self.seconds))
            process.kill()
        process.join(LONGEST)
        if process.exitcode == -signal.SIGKILL:  # else it was done before
            self.tally["tried"] += 1
            self.tally["operations" if by_operation else "moments"] += 1

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
        scratch = self.place / "scratch"
        scratch.mkdir(exist_ok=True)
        folder.mkdir(exist_ok=True)
        hears, says = self._processes.Pipe(duplex=False)
        process = self._processes.Process(
            target=child, args=(self._data, folder, scratch, at, says)
        )
        process.start()
        says.close()
        return process, hears

    def _compare(self, folder: Path) -> None:
        found = contents(folder)
        left = sorted(set(found) - set(self._expected))
        off = [f for f, content in self._expected.items() if found.get(f) != content]
        self.leftovers += [f"{folder.name}/{name}" for name in left]
        self.differences += [f"{folder.name}/{name}" for name in off]
        self.tally["runs"] += 1
        self.tally["different" if off else "equal"] += 1


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
