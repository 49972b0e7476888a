"""Runs the experiments of a set, here or on a cluster; writes or checks its page."""

from __future__ import annotations

import argparse
import os
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Callable, Sequence

from experiments.results import check, last_stage, note
from experiments.sets import PLAN, Experiment, read_set, starts_of
from gluon_compress.cli.options import add_sweep, refuse, sweep_of
from gluon_compress.provenance import ROOT, environment, runs_of


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a command that runs a set of experiments."""
    parser.add_argument("--out", metavar="DIR", help="for the runs")
    parser.add_argument("--data", metavar="DIR", help="folder that the images are in")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="of names")
    parser.add_argument(
        "--again", action="store_true", help="run what has a result too, and compare"
    )
    parser.add_argument(
        "--check", action="store_true", help="fail if the page is stale"
    )
    add_sweep(parser, "train experiments")


def carry_out(
    folder: Path,
    page: Path,
    make_page: Callable[[Path], str],
    args: argparse.Namespace,
) -> None:
    """Run what has no result yet, where asked to; then write or check the page."""
    from gluon_compress.recipe import DATA_FOLDER

    if args.data is not None:
        os.environ[DATA_FOLDER] = str(Path(args.data).resolve())
    check(folder.parent)
    sweep = sweep_of(args)
    if args.out is None:
        refuse(args, ("workers", "scheduler"), "only with --out")
    else:
        chosen = [
            experiment
            for experiment in _chosen(folder, args.only)
            if args.again or not experiment.result.exists()
        ]
        out = Path(args.out).resolve()
        if sweep.is_here:
            for experiment in chosen:
                run_one(experiment, out)
        else:
            run_swept(chosen, out, sweep)
    write_or_check(page, make_page(folder), check=args.check)


def write_or_check(page: Path, text: str, *, check: bool) -> None:
    """Write a page, or raise ValueError if it is not what it should be."""
    from gluon_compress.storage.atomic import write_atomically

    if not check:
        write_atomically(page, text)
        print(page)
    elif not page.exists() or page.read_text(encoding="utf-8") != text:
        raise ValueError(f"{page}: is stale; without --check it is written")


def _chosen(folder: Path, pattern: str) -> list[Experiment]:
    experiments = read_set(folder)
    names = [name for name in experiments if fnmatchcase(name, pattern)]
    if not names:
        raise ValueError(f"--only {pattern!r} fits no experiment of {folder}")
    return [experiments[name] for name in names]


def run_one(experiment: Experiment, out: Path) -> None:
    """Run an experiment, and before it what it starts from; store or compare."""
    from gluon_compress import pipeline, train
    from gluon_compress.recipe import parse_recipe
    from gluon_compress.storage.atomic import read_json, write_atomically

    os.chdir(ROOT)  # recipes name their files from here
    for other in _missing(experiment):
        run_one(other, _usual_place(other).parent)
    place = out / experiment.name
    print(f"{experiment.name}: begins", flush=True)
    options = train.Options(progress=False)
    recipe = parse_recipe(experiment.recipe, experiment.name)
    pipeline.run(recipe, place, resume=True, options=options, facts=environment())
    result = place / experiment.result.name
    if experiment.result.exists():
        here, stored = (_metric(read_json(f)) for f in (result, experiment.result))
        file = experiment.result.relative_to(ROOT)
        print(f"{experiment.name}: {here} here, {stored} in {file}")
        return
    experiment.folder.mkdir(exist_ok=True)
    if (place / PLAN).exists():
        write_atomically(experiment.folder / PLAN, (place / PLAN).read_bytes())
    write_atomically(experiment.result, result.read_bytes())
    note(experiment.folder.parents[1], experiment.result)


def run_swept(chosen: Sequence[Experiment], out: Path, sweep: Any) -> None:
    """Train experiments on a cluster, and before them what they start from.

    Their nets are timed at the end, here, one after the other: a machine that trains
    meanwhile would be slow.

    Raises
    ------
    ValueError
        If some have failed, after all others have been stored.
    """
    from gluon_compress import pipeline
    from gluon_compress.recipe import DATA_FOLDER
    from gluon_compress.storage.locks import sole_writer
    from gluon_compress.sweeps import run_tasks

    # Each with its folder; what one starts from comes before it.
    needed: dict[Path, Sequence[Path]] = {}
    experiments: dict[Path, Experiment] = {}

    def add(experiment: Experiment, place: Path) -> None:
        if place not in needed:
            starts = {_usual_place(other): other for other in _missing(experiment)}
            needed[place] = list(starts)
            for start, other in starts.items():
                add(other, start)
            experiments[place] = experiment

    for experiment in chosen:
        add(experiment, out / experiment.name)
    places = list(experiments)
    items = [
        {
            "name": experiment.name,
            "recipe": experiment.recipe,
            "out": str(place),
            "data": os.environ.get(DATA_FOLDER),
        }
        for place, experiment in experiments.items()
    ]
    failed: dict[Path, str] = {}
    with sole_writer(out / "sweep"):  # two would train the same
        for outcome in run_tasks(
            pipeline.run_stages,
            items,
            sweep=sweep,
            names=[item["name"] for item in items],
            needs={
                i: [places.index(p) for p in needed[q]] for i, q in enumerate(places)
            },
        ):
            name, error = items[outcome.index]["name"], outcome.error
            print(f"{name}: {'trained' if error is None else error}", flush=True)
            if error is not None:
                failed[places[outcome.index]] = f"{name}: {error}"
        for place in places:
            if place not in failed:
                run_one(experiments[place], place.parent)
    if failed:
        first = next(iter(failed.values()))
        raise ValueError(f"{len(failed)} of {len(places)} failed; {first}")


def _usual_place(experiment: Experiment) -> Path:
    """Return the folder of a run that others start from."""
    return ROOT / "runs" / experiment.set_name / experiment.name


def _missing(experiment: Experiment) -> list[Experiment]:
    """Return the experiments that one starts from and whose nets are not there."""
    absent = [run for run in runs_of(experiment.recipe) if not Path(ROOT, run).exists()]
    names = {run.parts[1:3] for run in absent}
    starts = starts_of(experiment.recipe, experiment.folder.parents[1])
    return [start for start in starts if (start.set_name, start.name) in names]


def _metric(result: dict[str, Any]) -> str:
    stage = last_stage(result)
    key = next(key for key in ("mAP", "top1") if key in stage)
    return f"{key} {stage[key]:.4f}"
