"""Stops commands by a signal at random moments, and checks what is left.

Right is: one line that says so, exit status 128 plus the signal's number, no process
and no lock left behind, and no file that cannot be read. The same command, with
--resume if it is a run, then ends as if nothing had happened: with the same files.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Mapping, Sequence

from gluon_compress.cli.app import Command
from gluon_compress.cli.options import above_0, add_out, write_result
from gluon_compress.markdown import table
from gluon_compress.stopping import WORDS
from gluon_compress.storage.atomic import read_json, write_atomically
from tools.kill import contents, processes
from tools.pairs import LONGEST, TASKS, child, damaged, prepare

TEXT = """Stop commands by signals at random moments, and check what is left.

  %(prog)s --out runs/stops
  %(prog)s --commands export detect --stops 20 --seed 3 --out runs/stops

Each command is stopped by SIGINT, SIGTERM or SIGHUP, and then run again. Writes
result.json and stops.md: how often it was stopped, or done before, and what went wrong.
"""
PAGE = "stops.md"
INTRODUCTION = """# Commands stopped by a signal

Commands got SIGINT, SIGTERM or SIGHUP at random moments, and were then run again; a run
goes on with `--resume`. *Stopped* is one line, the signal's exit status, nothing hidden
or damaged and no process left, and a second run that leaves what an undisturbed one
leaves. *Done before* the signal took effect is right, too. *Bad* is any other end.
Seed {seed}; commit {commit}, {date}.
"""
COLUMNS = ("stopped", "done before", "bad")
# All that write; what reads is stopped while it computes, which evaluate does, too.
WRITERS = [name for name, task in TASKS.items() if not task.reads]
PATIENCE = 60.0  # seconds until the processes that a command has started are gone


class Campaign:
    """Stops commands, and judges what becomes of each.

    Parameters
    ----------
    place : Path
        An empty folder.
    names : sequence of str
        Rows of ``TASKS`` that write.
    seed : int
        Decides the moments and the signals.
    """

    def __init__(self, place: Path, names: Sequence[str], seed: int = 0) -> None:
        self._place, self._base = place, place / "base"
        self._draw = random.Random(seed)
        self._processes = processes()
        self._base.mkdir()
        worker = self._processes.Process(target=prepare, args=(self._base,))
        worker.start()
        worker.join()
        if worker.exitcode:
            raise ValueError("models and images cannot be made")
        self.stops: dict[str, Counter] = {name: Counter() for name in names}
        self.bad: list[str] = []
        self._seconds: dict[str, float] = {}
        self._left: dict[str, set[str]] = {}
        for name in names:
            start = time.monotonic()
            self._finish(name, place / f"alone {name}")
            self._seconds[name] = time.monotonic() - start
            self._left[name] = set(contents(place / f"alone {name}"))

    def stop_one(self, name: str) -> None:
        """Stop a command once, run it again, and count what came of it."""
        out = self._place / "out" / "folder"
        number = self._draw.choice(list(WORDS))
        process = self._start(name, out)
        process.join(self._draw.uniform(0, self._seconds[name]))
        below = descendants(process.pid)
        if process.exitcode is None:
            os.kill(process.pid, number)
        process.join(LONGEST)
        if process.exitcode == -number and not self._said():
            shutil.rmtree(out.parent, ignore_errors=True)
            self.stop_one(name)  # Python had not begun with the command
            return
        column, faults = judged(process.exitcode, number, self._said())
        process.kill()  # if it goes on for ever
        faults += [f"process {pid} goes on" for pid in alive(below)]
        faults += self._faults(out)
        if not faults:
            faults += self._again(name, out)
        self.bad += [f"{name}, {signal.Signals(number).name}: {f}" for f in faults]
        self.stops[name]["bad" if faults else column] += 1
        shutil.rmtree(out.parent, ignore_errors=True)

    def _again(self, name: str, out: Path) -> list[str]:
        """Run a command again, and return what is wrong with what it leaves."""
        kept = not TASKS[name].again and out.exists() and any(out.iterdir())
        if name == "anchors":  # which replaces no recipe
            shutil.rmtree(out, ignore_errors=True)
        try:
            self._finish(name, out, *(["--resume"] if kept else []))
        except ValueError as error:
            return [f"run again: {error}"]
        stored = set(contents(out))
        if stored != self._left[name]:
            return [f"run again: {sorted(stored ^ self._left[name])[:3]} differ"]
        return self._faults(out)

    def _faults(self, out: Path) -> list[str]:
        """Return what is left over, and what cannot be read."""
        if not out.parent.exists():
            return []
        stored = contents(out.parent)
        hidden = sorted(n for n in stored if Path(n).name.startswith("."))
        return [f"{name} is left over" for name in hidden] + damaged(out.parent)

    def _finish(self, name: str, out: Path, *more: str) -> None:
        process = self._start(name, out, *more)
        process.join(LONGEST)
        if process.exitcode != 0:
            raise ValueError(f"{name}: ends with {process.exitcode}: {self._said()}")

    def _start(self, name: str, out: Path, *more: str) -> Any:
        places = {"base": self._base, "out": out, "aside": self._place / "aside"}
        argv = [word.format(**places) for word in TASKS[name].arguments.split()]
        streams = [str(self._place / f"stream.{kind}") for kind in ("out", "err")]
        process = self._processes.Process(
            target=child, args=([*argv, *more], self._base, streams)
        )
        process.start()
        return process

    def _said(self) -> str:
        return (self._place / "stream.err").read_text(errors="replace")


def judged(status: int | None, number: int, said: str) -> tuple[str, list[str]]:
    """Return what became of a command, a column, and what is wrong with it."""
    if status == 0:
        return "done before", []
    word = re.escape(WORDS[signal.Signals(number)])
    lines = [
        line
        for line in said.replace("\r", "\n").splitlines()
        if re.match(rf"gluon-compress\b.*: {word}", line)
    ]
    if status == 128 + number and len(lines) == 1 and "Traceback" not in said:
        return "stopped", []
    return "bad", [f"status {status}: {said[-300:]!r}"]


def descendants(pid: int) -> list[int]:
    """Return the processes that a process has started, and those below."""
    below: list[int] = []
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(_fields(path)[1])
        except (OSError, IndexError, ValueError):
            continue
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        children = [child for child, of in parents.items() if of == parent]
        below += children
        waiting += children
    return below


def alive(pids: Sequence[int]) -> list[int]:
    """Return those of some processes that do not end."""
    end = time.monotonic() + PATIENCE
    while True:
        left = [pid for pid in pids if _runs(pid)]
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.1)


def _runs(pid: int) -> bool:
    try:
        return _fields(Path(f"/proc/{pid}/stat"))[0] != "Z"
    except (OSError, IndexError):
        return False


def _fields(stat: Path) -> list[str]:
    """Return the fields of a process after its name: state, parent, ..."""
    return stat.read_text().rpartition(")")[2].split()


# ---------------------------------------------------------------- the command


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--stops", type=above_0, default=5, metavar="N", help="of each; default: 5"
    )
    parser.add_argument("--seed", type=int, default=0, help="of moments and signals")
    parser.add_argument(
        "--commands", nargs="+", choices=WRITERS, metavar="NAME", help="default: all"
    )
    add_out(parser, "commands", "stops", files=[PAGE])


def _run(args: argparse.Namespace) -> None:
    """Carry out the campaign, and write and print what came of it."""
    names = args.commands or WRITERS
    with tempfile.TemporaryDirectory() as place:
        campaign = Campaign(Path(place), names, args.seed)
        for name in [name for _ in range(args.stops) for name in names]:
            campaign.stop_one(name)
            content = {
                "seed": args.seed,
                "commands": names,
                "stops": {
                    name: {column: counts[column] for column in COLUMNS}
                    for name, counts in campaign.stops.items()
                },
                "bad": campaign.bad,
            }
            result = read_json(write_result(args.out, content))  # for it takes long
            write_atomically(Path(args.out) / PAGE, page_of(result))
    print(page_of(result))
    if campaign.bad:
        sys.exit(1)


def page_of(result: Mapping[str, Any]) -> str:
    """Return the page of a campaign as Markdown, from its result alone."""
    lines = [INTRODUCTION.format(**{**result, "date": result["date"][:10]})]
    rows = result["stops"].items()
    cells = [(name, *(str(row[column]) for column in COLUMNS)) for name, row in rows]
    total = [str(sum(row[column] for _, row in rows)) for column in COLUMNS]
    lines.append(table(("command", *COLUMNS), [*cells, ("all", *total)]))
    lines += [f"- {fault}\n" for fault in result["bad"]]
    return "\n".join(lines)


COMMAND = Command(TEXT, _add_options, _run)
