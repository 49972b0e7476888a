"""Runs pairs of commands on one folder at the same time, and checks what is left.

The second command starts at a random moment of the first. Right is: both succeed, or
one is refused with a line that names the holder of the folder, or says that the folder
holds something else by now. The folder then holds what one of them leaves, or both,
complete and readable, and nothing else.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

from gluon_compress.cli.app import Command
from gluon_compress.cli.options import RESULT, above_0, add_out, write_result
from gluon_compress.markdown import table
from gluon_compress.provenance import environment
from gluon_compress.storage.atomic import read_json, write_atomically
from tools.kill import RECIPE, contents, processes, write_images

TEXT = """Run every pair of commands on one folder at once, and check what is left.

  %(prog)s --out runs/pairs
  %(prog)s --commands export detect --rounds 5 --seed 3 --out runs/pairs

Each command writes the folder, or reads it while the other writes. Writes result.json
and pairs.md: how many pairs succeeded, were refused, or went wrong. A campaign takes
hours; --resume continues one that was stopped.
"""
PAGE = "pairs.md"
INTRODUCTION = """# Two commands on one folder

Pairs of commands ran on one folder, the second from a random moment of the first on:
{tried} of the {all_pairs} ordered pairs of {count} commands. Commands that start with
*read* read what another one writes. Where not both succeed, one is refused with a line
that names the holder, or says that the folder holds something else, or nothing yet.
*Bad* is any other end, a folder that holds a part of something, or a file left over.
Seed {seed}; commit {commits}, {date}.
"""
LONGEST = 1800.0  # seconds, of a command; others may use the machine
BOTH, HOLDER, OTHER = "both succeed", "holder named", "something else there"
COLUMNS = (BOTH, HOLDER, OTHER, "bad")
NAMES_HOLDER = re.compile(r"is being written by process \d+ on ")
HOLDS_OTHER = re.compile(
    r"is not empty|is the result of something else|which does not belong to an export|"
    r"is another file|holds an export whose kind|already exists|is a file"
)
NOTHING_YET = re.compile(r"there is no such (file|folder)")
SEED = 1  # of the images


@dataclass(frozen=True)
class Task:
    """A command on the folder ``{out}``.

    Parameters
    ----------
    arguments : str
        Its command line; ``{base}`` is the folder of models and images.
    reads : str
        The task whose results are in the folder before; empty for a writer.
    again : bool
        Whether a writer replaces its own earlier results.
    """

    arguments: str
    reads: str = ""
    again: bool = True


_MODEL, _TOY = "{base}/detector", "{base}/toy"
TASKS: dict[str, Task] = {
    "run": Task("run --recipe {base}/run.json --out {out} --quiet", again=False),
    "train": Task("train --recipe {base}/train.json --out {out} --quiet", again=False),
    "prune": Task(
        "prune --recipe {base}/run.json --weights {base}/classifier --out {out} "
        "--quiet",
        again=False,
    ),
    "plan": Task("plan --recipe {base}/run.json --classes a b --out {out}"),
    "anchors": Task(f"anchors --images {_TOY} --out {{out}}/recipe.json"),
    "check-data": Task(f"check-data --images {_TOY} --out {{out}}"),
    "evaluate": Task(f"evaluate {_MODEL} --data {_TOY} --out {{out}}"),
    "detect": Task(f"detect {_MODEL} {_TOY}/JPEGImages --out {{out}}"),
    "compare": Task(
        f"compare {_MODEL} {_MODEL} {_TOY}/JPEGImages --limit 1 --out {{out}}/a.png"
    ),
    "export": Task(f"export {_MODEL} --name net --formats mxnet --out {{out}}"),
    "bench": Task(f"bench {_MODEL} --seconds 1 --out {{out}}"),
    "latency": Task(
        "latency {base}/classifier --size 32 --table {out}/table.json --out {out}"
    ),
    "download": Task("download pairs --mirror file://{base} --root {out}"),
    "read: evaluate": Task(
        f"evaluate {{out}} --runtime mxnet --data {_TOY}", reads="export"
    ),
    "read: detect": Task(
        f"detect {{out}} --runtime mxnet {_TOY}/JPEGImages/000001.jpg --out {{aside}}",
        reads="export",
    ),
    "read: bench": Task("bench {out} --runtimes mxnet --seconds 1", reads="export"),
    "read: latency": Task(
        "latency {base}/classifier --size 32 --table {out}/table.json", reads="latency"
    ),
}


# ---------------------------------------------------------------- what they work on


def prepare(base: Path) -> None:
    """Write images, recipes, an archive and two untrained models."""
    from gluon_compress import models
    from gluon_compress.data import make_toy
    from gluon_compress.data.toy import CLASSES

    write_images(base / "images")
    make_toy(base / "toy", images=40, size=64, seed=SEED)
    data = {**RECIPE["data"], "root": str(base / "images")}
    for name, left_out in (("run", ()), ("train", ("compression", "finetune"))):
        kept = {key: value for key, value in RECIPE.items() if key not in left_out}
        (base / f"{name}.json").write_text(json.dumps({**kept, "data": data}))
    net = models.build("ssd_300_mobilenet0.25", CLASSES)
    models.save(net, base / "detector", "net")
    names = sorted(path.name for path in (base / "images" / "train").iterdir())
    net = models.FAMILIES["classifier"].build("mobilenet0.25", names, size=32)
    models.save(net, base / "classifier", "net")
    with zipfile.ZipFile(base / "pairs.zip", "w") as archive:
        for number in range(50):
            archive.writestr(f"in/{number}.txt", bytes(20_000))


def child(argv: Sequence[str], base: Path, streams: Sequence[str]) -> None:
    """Run a command as a program does, its output going to files."""
    from gluon_compress.cli import main
    from gluon_compress.storage import public_datasets as public

    for number, path in zip((1, 2), streams):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    data = (base / "pairs.zip").read_bytes()
    digits = hashlib.sha256(data).hexdigest()
    archive = public.Archive("http://none/pairs.zip", len(data), digits, "in")
    dataset = public.PublicDataset("pairs", "none", (archive,), {"0.txt": 1})
    public.PUBLIC_DATASETS["pairs"] = dataset
    sys.argv = ["gluon-compress", *argv]
    main(argv)


# ---------------------------------------------------------------- the campaign


class Campaign:
    """Runs pairs of tasks, and judges what becomes of each.

    Parameters
    ----------
    place : Path
        An empty folder.
    names : sequence of str
        Rows of ``TASKS``.
    seed : int
        Decides the moments.
    """

    def __init__(self, place: Path, names: Sequence[str], seed: int = 0) -> None:
        self._place, self._base = place, place / "base"
        self._seed, self._draw = seed, random.Random(seed)
        self._processes = processes()
        self._base.mkdir()
        worker = self._processes.Process(target=prepare, args=(self._base,))
        worker.start()
        worker.join()
        if worker.exitcode:
            raise ValueError("models and images cannot be made")
        self.names = list(names)
        self.pairs: dict[str, Counter] = {name: Counter() for name in names}
        self.bad: list[str] = []
        self._seconds: dict[str, float] = {}
        self._left: dict[str, set[str]] = {}
        needed = {TASKS[name].reads for name in names} - {""}
        for name in sorted({*names, *needed}, key=lambda n: bool(TASKS[n].reads)):
            self._alone(name)

    def _alone(self, name: str) -> None:
        """Note how long a task takes by itself, and what it leaves."""
        out, start = self._place / f"alone {name}", time.monotonic()
        if TASKS[name].reads:
            shutil.copytree(self._place / f"alone {TASKS[name].reads}", out)
            start = time.monotonic()
        process = self._start(name, out, "alone")
        process.join(LONGEST)
        self._seconds[name] = time.monotonic() - start
        if process.exitcode != 0:
            raise ValueError(
                f"{name}: ends with {process.exitcode}: {self._said('alone')}"
            )
        self._left[name] = set(contents(out))

    def run(self, rounds: int) -> Iterator[None]:
        """Try every ordered pair so many times, in any order; yields after each.

        Those that are counted already were the first ones, and are left out.
        """
        order = in_order(self.names, self._seed, rounds)
        for number in range(sum(map(Counter.total, self.pairs.values())), len(order)):
            self._draw = random.Random(f"{self._seed} {number}")
            self.try_pair(*order[number])
            yield

    def resume(self, result: Mapping[str, Any]) -> None:
        """Take over what an earlier part of the campaign counted."""
        self.pairs = {name: Counter(row) for name, row in result["pairs"].items()}
        self.bad = list(result["bad"])

    def try_pair(self, one: str, two: str) -> None:
        """Run two tasks on one folder, and count what came of it."""
        out = self._place / "shared"
        earlier = self._earlier(one, two)
        if earlier:
            shutil.copytree(self._place / f"alone {earlier}", out)
        first = self._start(one, out, "first")
        time.sleep(self._draw.uniform(0, self._seconds[one]))
        second = self._start(two, out, "second")
        outcomes = []
        for process, name in ((first, "first"), (second, "second")):
            process.join(LONGEST)
            outcomes.append(judged(process.exitcode, self._said(name)))
            process.kill()  # or it would write into the folder of the next pair
            process.join()
        bad = [outcome for outcome in outcomes if outcome not in COLUMNS]
        if HOLDER not in outcomes and bad == [] and outcomes.count(OTHER) == 2:
            bad = [f"both refused: {self._said('first')}"]
        done = [n for n, o in zip((one, two), outcomes) if o == BOTH]
        bad += self._faults(out, [*done, *([earlier] if earlier else [])])
        self.bad += [f"{one}, then {two}: {fault}" for fault in bad]
        column = next((c for c in (HOLDER, OTHER) if c in outcomes), BOTH)
        self.pairs[one]["bad" if bad else column] += 1
        for path in (out, self._place / "aside"):
            shutil.rmtree(path, ignore_errors=True)

    def _earlier(self, one: str, two: str) -> str:
        """Return the task whose results are in the folder before; empty: none are."""
        needed = {TASKS[name].reads for name in (one, two)} - {""}
        if needed:
            return min(needed)
        both_replace = TASKS[one].again and one == two
        return one if both_replace and self._draw.random() < 0.5 else ""

    def _start(self, name: str, out: Path, stream: str) -> Any:
        places = {"base": self._base, "out": out, "aside": self._place / "aside"}
        argv = [word.format(**places) for word in TASKS[name].arguments.split()]
        streams = [str(self._place / f"{stream}.{kind}") for kind in ("out", "err")]
        process = self._processes.Process(
            target=child, args=(argv, self._base, streams)
        )
        process.start()
        return process

    def _said(self, name: str) -> str:
        return (self._place / f"{name}.err").read_text(errors="replace")

    def _faults(self, out: Path, done: Sequence[str]) -> list[str]:
        """Return what is wrong with the folder after these tasks succeeded in it."""
        stored = set(contents(out)) if out.exists() else set()
        hidden = [n for n in stored if Path(n).name.startswith(".")]
        beside = (
            {path.name for path in self._place.iterdir()} if out.exists() else set()
        )
        hidden += [name for name in beside if name.startswith(".")]
        faults = [f"{name} is left over" for name in sorted(hidden)]
        sets = [self._left[name] for name in done] or [set()]
        choices = [
            set().union(*some)
            for n in range(1, len(sets) + 1)
            for some in itertools.combinations(sets, n)
        ]
        if not faults and stored not in choices:
            more = sorted(stored - set().union(*sets))
            less = sorted(min((c - stored for c in choices), key=len))
            faults.append(f"mixed: {more[:3]} more, {less[:3]} missing")
        return faults + damaged(out)


def in_order(names: Sequence[str], seed: int, rounds: int) -> list[tuple[str, str]]:
    """Return the ordered pairs, as often as there are rounds, as they are tried."""
    draw, order = random.Random(seed), []
    for _ in range(rounds):
        pairs = list(itertools.product(names, names))
        draw.shuffle(pairs)
        order += pairs
    return order


def damaged(folder: Path) -> list[str]:
    """Return the JSON files and exports below a folder that cannot be read."""
    from gluon_compress.storage.artifacts import MANIFEST, verified

    faults = []
    for path in sorted(folder.rglob("*.json")):
        try:
            verified(path.parent) if path.name == MANIFEST else read_json(path)
        except ValueError as error:
            faults.append(str(error))
    return faults


def judged(status: int | None, said: str) -> str:
    """Return what became of a command: one of the columns, or what is wrong."""
    if status == 0:
        return BOTH
    lines = [line for line in said.splitlines() if ": error: " in line]
    if status != 2 or len(lines) != 1 or "Traceback" in said:
        return f"status {status}: {said[-200:]!r}"
    if NAMES_HOLDER.search(lines[0]):
        return HOLDER
    if HOLDS_OTHER.search(lines[0]) or NOTHING_YET.search(lines[0]):
        return OTHER
    return lines[0]


# ---------------------------------------------------------------- the command


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=above_0, default=1, metavar="N")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument(
        "--commands", nargs="+", choices=TASKS, metavar="NAME", help="default: all"
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue the campaign in --out"
    )
    add_out(parser, "commands", "pairs", files=[PAGE])


def _run(args: argparse.Namespace) -> None:
    """Carry out the campaign, and write and print what came of it."""
    names = args.commands or list(TASKS)
    settings = {"seed": args.seed, "rounds": args.rounds, "commands": names}
    result = earlier_part(Path(args.out) / RESULT, settings) if args.resume else {}
    commits = commits_of(result, environment()["commit"])
    with tempfile.TemporaryDirectory() as place:
        campaign = Campaign(Path(place), names, args.seed)
        if result:
            campaign.resume(result)
        for _ in campaign.run(args.rounds):
            content = {
                **settings,
                "commits": commits,
                "pairs": {
                    name: {column: counts[column] for column in COLUMNS}
                    for name, counts in campaign.pairs.items()
                },
                "bad": campaign.bad,
            }
            result = read_json(write_result(args.out, content))
            write_atomically(Path(args.out) / PAGE, page_of(result))
    print(page_of(result))
    if campaign.bad:
        sys.exit(1)


def earlier_part(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the campaign has counted so far; ValueError if it is another one."""
    result = read_json(path)
    for key, value in settings.items():
        if result.get(key) != value:
            raise ValueError(
                f"--{key} {value}: {path} has {result.get(key)}; allowed with "
                "--resume: the same"
            )
    return result


def commits_of(result: Mapping[str, Any], *more: str | None) -> list:
    """Return the commits that a campaign ran with, more than one if it was resumed."""
    earlier = result.get("commits") or [result["commit"]] if result else []
    return list(dict.fromkeys([*earlier, *more]))


def page_of(result: Mapping[str, Any]) -> str:
    """Return the page of a campaign as Markdown, from its result alone."""
    rows = result["pairs"].items()
    tried = sum(sum(row.values()) for _, row in rows)
    count = len(result["commands"])
    counts = {"count": count, "tried": tried, "all_pairs": result["rounds"] * count**2}
    facts = {"date": result["date"][:10], "commits": ", ".join(commits_of(result))}
    lines = [INTRODUCTION.format(**{**result, **counts, **facts})]
    total = [str(sum(row[column] for _, row in rows)) for column in COLUMNS]
    cells = [(name, *(str(row[column]) for column in COLUMNS)) for name, row in rows]
    lines.append(table(("first command", *COLUMNS), [*cells, ("all", *total)]))
    lines += [f"- {fault}\n" for fault in result["bad"]]
    return "\n".join(lines)


COMMAND = Command(TEXT, _add_options, _run)
