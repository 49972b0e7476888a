"""Damages files of every kind, and reads each as the package does."""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, Mapping

from gluon_compress.cli.app import Command
from gluon_compress.cli.options import above_0, add_out, write_result
from gluon_compress.markdown import table
from gluon_compress.storage.atomic import read_json, write_atomically
from tools.damage import DAMAGES
from tools.fuzz_samples import Sample, make_samples

TEXT = """Damage files of every kind, and read each as the package does.

  %(prog)s --trials 5000 --out docs/reliability/fuzz
  %(prog)s --kinds symbol params --seed 7 --trials 500 --out runs/fuzz

Each trial damages one file of a sound sample and reads it in a process of its own. It
is refused with one line, or accepted; anything else is bad: a crash, more than 10
seconds of processor time or 10 minutes, more than 1 GB of memory, another exception, a
longer line. Where a manifest lists checksums, half of the trials make them match the
damaged file.
"""
SECONDS = 10  # of the processor, which other programs may use, too
LONGEST_WAIT = 600  # seconds, for what waits; other programs may take the processor
MOST_MB = 1000  # beyond what the process had before
LONGEST_LINE = 300
REFUSED, ACCEPTED = "refused", "accepted"
PAGE = "fuzz.md"
INTRODUCTION = """# Damaged files

{trials:,} files were damaged, and each was read in a process of its own. *Bad* is a
crash, more than {seconds} seconds of processor time, more than {MB} MB of memory, an
exception other than ValueError and OSError, or an error of more than {characters}
characters. The slowest trial took {slowest_seconds} seconds of processor time, and the
largest {largest_MB} MB.

Made by `scripts/fuzz.py --trials {trials} --seed {seed}`; commit {commit}, {date}.
"""


def damaged(
    sample: Sample, others: list[bytes], draw: random.Random, folder: Path
) -> tuple[str, str]:
    """Write a sample with one damaged file; return the damage and the file."""
    name = draw.choice(sample.damaged)
    kind = draw.choice(sample.damages or sorted(DAMAGES))
    data = DAMAGES[kind](sample.files[name], draw, draw.choice(others))
    contents = {**sample.files, name: data}
    if sample.manifest and name != sample.manifest and draw.random() < 0.5:
        kind += " with sums"
        contents[sample.manifest] = sample.with_sums(contents)
    sample.write(folder, contents)
    return kind, name


def judged(sample: Sample, folder: Path) -> str:
    """Read a sample in this process; return what came of it."""
    try:
        sample.read(folder)
    except (ValueError, OSError) as error:
        text = str(error).replace(str(folder), "")
        if len(text) > LONGEST_LINE or "\n" in text:
            return f"a line of {len(text)} characters: {text[:80]!r}"
        if type(error) is UnicodeEncodeError:
            return f"UnicodeEncodeError: {text[:80]}"
        return REFUSED
    except BaseException as error:  # all that would be a traceback
        frame = _last_frame(error)
        return f"{type(error).__name__} in {frame}: {str(error)[:80]!r}"
    return ACCEPTED


def _last_frame(error: BaseException) -> str:
    """Return where in the package an exception passed last."""
    trace, place = error.__traceback__, "?"
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if "gluon_compress" in file:
            place = f"{Path(file).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def tried(sample: Sample, folder: Path) -> tuple[str, float, float]:
    """Read a sample in a forked process; return what came of it, its seconds and MB."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _read_and_exit(sample, folder, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    _, status, usage = os.wait4(child, 0)
    seconds = usage.ru_utime + usage.ru_stime
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        hung = number in (signal.SIGALRM, signal.SIGPROF)
        return ("hang" if hung else signal.Signals(number).name), seconds, 0.0
    if not answer:
        return f"exit status {os.WEXITSTATUS(status)}", seconds, 0.0
    outcome, megabytes = json.loads(answer)
    if megabytes > MOST_MB:
        outcome = f"{megabytes:.0f} MB"
    return outcome, seconds, megabytes


def _read_and_exit(sample: Sample, folder: Path, writing: int) -> None:
    """Read within limits, write what came of it to a pipe, and end the process."""
    try:
        for number in (signal.SIGALRM, signal.SIGPROF):
            signal.signal(number, signal.SIG_DFL)
        before = _peak_mb()
        most = _address_space() + (4 * MOST_MB << 20)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        quiet = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(quiet, stream)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.alarm(LONGEST_WAIT)
        outcome = judged(sample, folder)
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        answer = json.dumps([outcome, max(0.0, _peak_mb() - before)])
        os.write(writing, answer.encode("utf-8", "backslashreplace"))
    finally:
        os._exit(0)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return pages * resource.getpagesize()


def campaign(
    samples: dict[str, Sample], *, trials: int, seed: int, scratch: Path
) -> dict[str, Any]:
    """Return what came of many trials, by kind of file and by kind of damage."""
    for name, sample in samples.items():
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            sample.write(Path(folder), sample.files)
            outcome, *_ = tried(sample, Path(folder))
        if outcome != ACCEPTED:
            raise ValueError(f"{name}: the sound sample is not accepted: {outcome}")
    others = [data for s in samples.values() for data in s.files.values()]
    by_kind = {name: Counter() for name in samples}
    by_damage: dict[str, Counter] = {}
    bad, slowest, largest, names = [], 0.0, 0.0, sorted(samples)
    for trial in range(trials):
        draw = random.Random(f"{seed} {trial}")
        kind = names[trial % len(names)]
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            damage, file = damaged(samples[kind], others, draw, Path(folder))
            outcome, seconds, megabytes = tried(samples[kind], Path(folder))
        slowest, largest = max(slowest, seconds), max(largest, megabytes)
        column = outcome if outcome in (REFUSED, ACCEPTED) else "bad"
        by_kind[kind][column] += 1
        by_damage.setdefault(damage, Counter())[column] += 1
        if column == "bad":
            row = {"trial": trial, "kind": kind, "file": file, "damage": damage}
            bad.append({**row, "outcome": outcome})
            print(f"trial {trial}: {kind}, {damage} of {file}: {outcome}", flush=True)
    return {
        "trials": trials,
        "seed": seed,
        "limits": {"seconds": SECONDS, "MB": MOST_MB, "characters": LONGEST_LINE},
        "kinds": {name: _row(counts) for name, counts in by_kind.items()},
        "damages": {name: _row(by_damage[name]) for name in sorted(by_damage)},
        "slowest_seconds": round(slowest, 2),
        "largest_MB": round(largest),
        "bad": bad,
    }


def _row(counts: Counter) -> dict[str, int]:
    columns = (REFUSED, ACCEPTED, "bad")
    return {"tried": sum(counts.values()), **{c: counts[c] for c in columns}}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--trials", type=above_0, default=500, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--kinds", nargs="+", metavar="KIND", help="default: all")
    add_out(parser, "kinds", "damages", "bad", files=[PAGE])


def run(args: argparse.Namespace) -> None:
    """Make the samples, damage them, and write result.json."""
    with tempfile.TemporaryDirectory() as scratch:
        samples = make_samples(Path(scratch) / "samples", args.kinds)
        result = campaign(
            samples, trials=args.trials, seed=args.seed, scratch=Path(scratch)
        )
    path = write_result(args.out, result)
    write_atomically(Path(args.out) / PAGE, page_of(read_json(path)))
    print(path)
    if result["bad"]:
        sys.exit(1)


def page_of(result: Mapping[str, Any]) -> str:
    """Return the page of a campaign as Markdown, from its result alone."""
    facts = {**result, **result["limits"], "date": result["date"][:10]}
    lines = [INTRODUCTION.format(**facts)]
    columns = ("tried", REFUSED, ACCEPTED, "bad")
    for subject in ("kinds", "damages"):
        rows = result[subject].items()
        total = [str(sum(row[c] for _, row in rows)) for c in columns]
        cells = [(name, *(str(row[c]) for c in columns)) for name, row in rows]
        lines.append(table((subject[:-1], *columns), [*cells, ("all", *total)]))
    lines += [
        f"- {row['kind']}, {row['file']}: {row['outcome']}" for row in result["bad"]
    ]
    return "\n".join(lines)


COMMAND = Command(TEXT, add_options, run)
