"""Kills one process of a training on several ranks, and compares how it goes on.

``launch`` runs a tiny recipe on several workers. At a random moment one process gets
SIGKILL: a worker, the scheduler, a server, or the launcher itself. Right is: all others
end within 10 seconds, and the launcher names the one that died; it begins again by
itself, or is begun again by hand; what is left then equals an undisturbed run byte for
byte; and no process is left. Clocks stand still in the workers, since results state
times.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import astuple, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Callable, Mapping, Sequence

from gluon_compress.cli.app import Command
from gluon_compress.cli.options import RESULT, above_0, add_out, write_result
from gluon_compress.distributed.members import RANK
from gluon_compress.markdown import table
from gluon_compress.provenance import environment
from gluon_compress.storage.atomic import read_json, write_atomically
from tools.kill import RECIPE, contents, without_clocks, write_images
from tools.pairs import commits_of, earlier_part

TEXT = """Kill one process of a training on several ranks, and compare how it goes on.

  %(prog)s --kills 20 --ranks 4 --out runs/kill_ranks

A tiny classifier is trained, pruned and fine-tuned by workers that 'launch' begins. One
process gets SIGKILL at a random moment; every second time --restarts goes on, else the
same command is given again. Writes result.json and kill_ranks.md: what was killed, how
long the others took to end, and what was different or left over.
"""
PAGE = "kill_ranks.md"
INTRODUCTION = """# Killed ranks

`gluon-compress launch -n {ranks} --servers {servers}` trained, pruned and fine-tuned a
tiny classifier on one machine. One of its processes was killed (SIGKILL) at a random
moment, in {kills} of {wanted} runs. *Ended* is how long the slowest of the others
took; {limit} seconds are allowed. Then `--restarts` went on by itself, or the command
was given again. *Equal* are runs that left the same as an undisturbed one, byte for
byte. *Bad* is any other end, a line that does not name what was killed, or a process or
file left over.
Seed {seed}; commit {commits}, {date}.
"""
COUNTS = ("kills", "restarted", "by_hand", "equal", "bad")  # fields of a row
HEAD = ("killed", "kills", "by --restarts", "by hand", "ended, s", "equal", "bad")
SERVERS = 2
LIMIT = 10.0  # seconds, for all others to end
LONGEST = 1800.0  # seconds, of a run; other programs may use the machine
EARLY = 0.25  # share of kills before the run has a folder
MARK = "KILL_RANKS"  # a variable of all processes of a trial
LAUNCHER = "launch"
# What each worker runs.
WORKER = "import sys; from tools.kill_ranks import train; train(*sys.argv[1:])"


def train(data: str, folder: str) -> None:
    """Run the recipe as one of the ranks, from where it was.

    It ends with the last stage: rank 0 alone times nets and writes the report.
    """
    from gluon_compress import pipeline
    from gluon_compress import train as training
    from gluon_compress.recipe import parse_recipe

    without_clocks()
    run = importlib.import_module("gluon_compress.pipeline.run")
    run._with_speed = lambda job, results: {"stages": results}
    run.write_report = lambda *_: None
    schedules = {
        name: {**RECIPE[name], "batch_size": 4} for name in ("train", "finetune")
    }
    source = {**RECIPE["data"], "root": data}
    recipe = parse_recipe({**RECIPE, **schedules, "data": source}, "recipe")
    options = training.Options(progress=False, save_minutes=-1)
    pipeline.run(recipe, folder, resume=True, options=options, facts={})


# ---------------------------------------------------------------- processes


def processes_of(mark: str) -> dict[int, str]:
    """Return the processes that have a mark in their environment, with their roles."""
    roles = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            text = (path / "environ").read_text(errors="replace")
        except OSError:  # it has ended, or is somebody else's
            continue
        variables = dict(word.partition("=")[::2] for word in text.split("\0"))
        if variables.get(MARK) == mark:
            roles[int(path.name)] = _role(variables)
    return roles


def _role(variables: Mapping[str, str]) -> str:
    if RANK in variables:
        return f"worker {variables[RANK]}"
    role = variables.get("DMLC_ROLE", LAUNCHER)
    return role if role in ("scheduler", "server") else LAUNCHER


def seconds_to_end(pids: Sequence[int], most: float) -> float | None:
    """Return how long processes take to end; None if longer than some seconds."""
    begun = time.monotonic()
    while any(_runs(pid) for pid in pids):
        if time.monotonic() > begun + most:
            return None
        time.sleep(0.02)
    return time.monotonic() - begun


def _runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


# ---------------------------------------------------------------- the campaign


@dataclass
class Row:
    """What came of killing one kind of process."""

    kills: int = 0
    restarted: int = 0
    by_hand: int = 0
    slowest: float = 0.0  # seconds until all others had ended
    equal: int = 0
    bad: int = 0


@dataclass
class Launched:
    """A launcher that runs."""

    process: subprocess.Popen
    mark: str
    said: Path
    begun: float = field(default_factory=time.monotonic)

    def last_lines(self) -> list[str]:
        """Return what the launcher itself has said."""
        lines = self.said.read_text(errors="replace").splitlines()
        return [line for line in lines if line.startswith("launch: ")]


class Campaign:
    """Kills processes of launched runs, and compares what is left when they are done.

    Parameters
    ----------
    place : Path
        An empty folder.
    ranks : int
        Number of workers.
    seed : int
        Decides moments and processes.
    worker : sequence of str, optional
        The program of a worker; it is given the folders of images and of the run.
    """

    def __init__(
        self,
        place: Path,
        ranks: int,
        seed: int = 0,
        worker: Sequence[str] = (sys.executable, "-c", WORKER),
    ) -> None:
        self._place, self._ranks, self._worker = place, ranks, list(worker)
        self._seed, self._tried = seed, 0
        self.rows: dict[str, Row] = {}
        self.bad: list[str] = []
        write_images(place / "images")
        whole = self._launch("whole", restarts=0)
        until(lambda: (place / "whole").exists(), whole)
        self._until_begun = time.monotonic() - whole.begun
        whole.process.wait(LONGEST)
        self._seconds = time.monotonic() - whole.begun
        if whole.process.returncode != 0:
            raise ValueError(f"the undisturbed run fails: {whole.last_lines()}")
        self._expected = contents(place / "whole")

    @property
    def kills(self) -> int:
        """How many processes have been killed."""
        return sum(row.kills for row in self.rows.values())

    def resume(self, result: Mapping[str, Any]) -> None:
        """Take over what an earlier part of the campaign counted."""
        self.rows = {name: Row(**row) for name, row in result["killed"].items()}
        self.bad = list(result["bad"])

    def kill_one(self) -> None:
        """Kill a process of a run, let the run go on, and compare what it leaves."""
        # A run that was done before its moment does not count, and is drawn anew.
        draw = random.Random(f"{self._seed} {self.kills} {self._tried}")
        folder = f"run{self.kills + 1}"
        restarts, early, moment = (
            draw.random() < 0.5,
            draw.random() < EARLY,
            draw.random(),
        )
        run = self._launch(folder, restarts=int(restarts))
        if early:
            wait(moment * self._until_begun, run)
        else:
            until(lambda: (self._place / folder).exists(), run)
            wait(moment * (self._seconds - self._until_begun), run)
        others = processes_of(run.mark)
        victims = sorted((role, pid) for pid, role in others.items())
        if run.process.poll() is None and victims:
            self._tried = 0
            role, pid = draw.choice(victims)
            self._kill(role, pid, others, run, folder, restarts)
        else:
            self._tried += 1
            run.process.wait()
        shutil.rmtree(self._place / folder, ignore_errors=True)

    def _kill(
        self,
        role: str,
        pid: int,
        others: Mapping[int, str],
        run: Launched,
        folder: str,
        restarts: bool,
    ) -> None:
        kind = role.split()[0]
        row = self.rows.setdefault(kind, Row())
        os.kill(pid, signal.SIGKILL)
        ended = seconds_to_end(
            [other for other, name in others.items() if name != LAUNCHER], LIMIT
        )
        faults = []
        if ended is None:
            left = [n for other, n in others.items() if n != LAUNCHER and _runs(other)]
            faults.append(f"{left} still run {LIMIT:g} s later")
        row.kills += 1
        row.slowest = max(row.slowest, ended or LIMIT)
        by_itself = restarts and kind != LAUNCHER
        row.restarted += by_itself
        row.by_hand += not by_itself
        faults += self._went_on(role, run, folder, by_itself)
        different = self._differences(self._place / folder)
        row.equal += not different
        faults += different
        left = seconds_to_end(list(processes_of(run.mark)), LIMIT)
        if left is None:
            faults.append(f"{processes_of(run.mark)} are left")
        row.bad += bool(faults)
        self.bad += [f"{role} killed, {folder}: {fault}" for fault in faults]

    def _went_on(
        self, role: str, run: Launched, folder: str, by_itself: bool
    ) -> list[str]:
        """Let a run go on until it is done; return what is wrong with how it does."""
        faults = []
        status = self._wait(run)
        expected = 0 if by_itself else 128 + signal.SIGKILL
        if role == LAUNCHER:
            expected = -signal.SIGKILL
        if status != expected:
            faults.append(f"status {status} in place of {expected}: {run.last_lines()}")
        lines = run.last_lines()
        named = "server" if role == "server" else f"{role} ended with status 137"
        wanted = [] if role == LAUNCHER else [named]
        if [named in line for line in lines] != [True for _ in wanted]:
            faults.append(f"it said {lines}")
        if not by_itself:
            again = self._launch(folder, restarts=0)
            again_status = self._wait(again)
            if again_status != 0:
                faults.append(f"begun again: {again_status}: {again.last_lines()}")
        return faults

    def _wait(self, run: Launched) -> int | None:
        try:
            return run.process.wait(LONGEST)
        except subprocess.TimeoutExpired:
            for pid in processes_of(run.mark):
                os.kill(pid, signal.SIGKILL)
            return None

    def _differences(self, folder: Path) -> list[str]:
        stored = contents(folder) if folder.exists() else {}
        names = sorted({*stored, *self._expected})
        return [
            f"{name} {'is left over' if name not in self._expected else 'differs'}"
            for name in names
            if stored.get(name) != self._expected.get(name)
        ][:5]

    def _launch(self, folder: str, restarts: int) -> Launched:
        mark = uuid.uuid4().hex
        words = ["launch", "-n", str(self._ranks), "--servers", str(SERVERS)]
        words += ["--restarts", str(restarts), "--", *self._worker]
        words += [str(self._place / "images"), str(self._place / folder)]
        scripts = Path(__file__).resolve().parents[1]
        paths = [str(scripts), str(scripts.parent), os.environ.get("PYTHONPATH", "")]
        scratch = self._place / "scratch"  # the system's, which it cleans itself
        scratch.mkdir(exist_ok=True)
        variables = {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "TMPDIR": str(scratch),
            MARK: mark,
        }
        said = self._place / f"{mark}.txt"
        with said.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "gluon_compress", *words],
                env={**os.environ, **variables},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            )
        return Launched(process, mark, said)


def until(condition: Callable[[], bool], run: Launched) -> None:
    """Wait until something is so, or the run has ended."""
    while not condition() and run.process.poll() is None:
        time.sleep(0.02)


def wait(seconds: float, run: Launched) -> None:
    """Wait some seconds, or until the run has ended."""
    end = time.monotonic() + seconds
    until(lambda: time.monotonic() > end, run)


# ---------------------------------------------------------------- the command


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--kills", type=above_0, default=20, metavar="N", help="default: 20"
    )
    parser.add_argument(
        "--ranks", type=above_0, default=4, metavar="N", help="workers; default: 4"
    )
    parser.add_argument("--seed", type=int, default=0, help="of moments and processes")
    parser.add_argument(
        "--resume", action="store_true", help="continue the campaign in --out"
    )
    add_out(parser, "ranks", "killed", files=[PAGE])


def _run(args: argparse.Namespace) -> None:
    """Carry out the campaign, and write and print what came of it."""
    settings = {"seed": args.seed, "ranks": args.ranks}
    earlier = earlier_part(Path(args.out) / RESULT, settings) if args.resume else {}
    commits = commits_of(earlier, environment()["commit"])
    with TemporaryDirectory() as place:
        campaign = Campaign(Path(place), args.ranks, args.seed)
        if earlier:
            campaign.resume(earlier)
        while campaign.kills < args.kills:
            campaign.kill_one()
            content = {
                **settings,
                "wanted": args.kills,
                "servers": SERVERS,
                "limit": LIMIT,
                "commits": commits,
                "killed": {n: vars(row) for n, row in sorted(campaign.rows.items())},
                "bad": campaign.bad,
            }
            result = read_json(write_result(args.out, content))  # for it takes long
            write_atomically(Path(args.out) / PAGE, page_of(result))
    print(page_of(result))
    if campaign.bad:
        sys.exit(1)


def page_of(result: Mapping[str, Any]) -> str:
    """Return the page of a campaign as Markdown, from its result alone."""
    rows = {name: Row(**row) for name, row in result["killed"].items()}
    total = Row(
        *(sum(getattr(row, name) for row in rows.values()) for name in COUNTS[:3]),
        max(row.slowest for row in rows.values()),
        *(sum(getattr(row, name) for row in rows.values()) for name in COUNTS[3:]),
    )
    facts = {
        **result,
        "kills": total.kills,
        "date": result["date"][:10],
        "limit": f"{result['limit']:g}",
        "commits": ", ".join(result["commits"]),
    }
    cells = [
        (name, *(f"{v:.1f}" if isinstance(v, float) else str(v) for v in astuple(row)))
        for name, row in {**rows, "all": total}.items()
    ]
    lines = [INTRODUCTION.format(**facts), table(HEAD, cells)]
    lines += [f"- {fault}\n" for fault in result["bad"]]
    return "\n".join(lines)


COMMAND = Command(TEXT, _add_options, _run)
