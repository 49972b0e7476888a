"""Compares policies of pruning before any training: accuracy, and time to decide."""

from __future__ import annotations

import argparse
import json
import time
from functools import cached_property
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

from benchmarks.policies_page import EXPERIMENTS, PAGE, SEARCHES, Row, page_of
from gluon_compress.cli.app import Command
from gluon_compress.cli.options import (
    RESULT,
    above_0,
    add_out,
    share,
    write_result,
)
from gluon_compress.storage.atomic import (
    read_json,
    write_atomically,
    write_json,
)

TEXT = """Compare policies of pruning and searches, each with both ways to repair a cut.

  %(prog)s mobilenet --model runs/trunks/mobilenet1.0_imagenet --data imagenette \\
      --work runs/policies --out docs/benchmark/policies
  %(prog)s detector --model model_zoo/ssd_300_mobilenet1.0_bccd --data bccd \\
      --work runs/policies --out docs/benchmark/policies

For each budget, repair and policy: makes a plan, slims and repairs the net, and
measures it. Searches score their plans on training images, at equal numbers of
episodes; results are of validation images. Nothing is trained.

May be stopped at any time. When started again it goes on: searches at the episode they
had come to, by their logs in --work. --shares, --repairs, --policies and --seeds choose
some of an experiment's rows: several processes may do different ones, all but one of
them without --out. With --out, result.json has all that were ever measured, and
policies.md says which are not there yet. Rows of searches with other --search-size,
--sample or --episodes are made anew.
"""
SETTINGS = ("size", "images", "fit", "points")
SEARCH_SETTINGS = ("search_size", "sample", "episodes")
PLAN, TIME, FIGURES = "plan.json", "time.json", "figures.json"
EFFECTS = "effects.json"
BATCH = 50


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("experiment", choices=list(EXPERIMENTS))
    parser.add_argument("--model", required=True, metavar="FOLDER", help="of the net")
    parser.add_argument("--data", required=True, metavar="DIR")
    parser.add_argument("--work", required=True, metavar="DIR", help="plans and logs")
    parser.add_argument("--shares", type=share, nargs="+", metavar="SHARE")
    for name in ("repairs", "policies"):
        parser.add_argument(f"--{name}", nargs="+", metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", metavar="N")
    parser.add_argument("--table", metavar="FILE", help="of latency, for milliseconds")
    parser.add_argument("--size", type=above_0, default=160, help="pixels")
    parser.add_argument("--search-size", type=above_0, default=128, help="pixels")
    parser.add_argument("--images", type=above_0, default=400, help="to measure on")
    parser.add_argument("--sample", type=above_0, default=100, help="to score plans on")
    parser.add_argument("--fit", type=above_0, default=200, help="images to repair on")
    parser.add_argument("--points", type=above_0, default=40)
    parser.add_argument("--episodes", type=above_0, default=40)
    add_out(parser, "experiments", required=False, files=[PAGE])


def _benchmark(args: argparse.Namespace) -> None:
    """Plan and measure row after row."""
    by_time = EXPERIMENTS[args.experiment].limit == "latency_ms"
    if by_time != bool(args.table):
        raise ValueError(f"--table {args.table}: allowed: for milliseconds, and then")
    known = _known(args)
    rows = [row for row in _chosen(args) if not _is_there(row, known, args)]
    whole = not rows and "full" in known
    subject = None if whole else Subject(args)  # which takes a while
    for row in rows:
        _plan(row, subject, args)
        figures = _measured(row, subject, args)
        write_json(_folder(row, args) / FIGURES, figures)
        print(f"{row.key}: {100 * figures['accuracy']:.1f}", flush=True)
        if args.out:
            _write(args, subject)
    if args.out:
        _write(args, subject)


def _is_there(row: Row, known: Mapping[str, Any], args: argparse.Namespace) -> bool:
    """Return whether a row was measured, after a search with the same settings."""
    there = known["rows"].get(row.key)
    return there is not None and there == {**there, **_search(row, args)}


def _chosen(args: argparse.Namespace) -> Iterator[Row]:
    """Yield the rows of an experiment that the options choose.

    Raises
    ------
    ValueError
        If an option names what the experiment does not have.
    """
    rows = EXPERIMENTS[args.experiment].rows()
    for field, option in zip(Row._fields, ("shares", "repairs", "policies", "seeds")):
        chosen, there = getattr(args, option), [getattr(row, field) for row in rows]
        for value in chosen or ():
            if value not in there:
                allowed = ", ".join(dict.fromkeys(map(str, there)))
                raise ValueError(f"--{option} {value}: allowed: {allowed}")
        if chosen:
            rows = [row for row in rows if getattr(row, field) in chosen]
    yield from rows


def _known(args: argparse.Namespace) -> dict[str, Any]:
    """Return what was measured of the experiment; refuse it if settings differ."""
    path = Path(args.out or "") / RESULT
    there = args.out and path.exists()
    results = read_json(path)["experiments"] if there else {}
    settings = {name: getattr(args, name) for name in SETTINGS}
    names = {"model": Path(args.model).name, "data": Path(args.data).name}
    known = results.get(args.experiment, {**names, **settings, "rows": {}})
    for name, value in {**names, **settings}.items():
        if known[name] != value:
            raise ValueError(
                f"{path}: rows of {args.experiment!r} have {name} {known[name]!r}, not "
                f"{value!r}; allowed: the same, or another --out"
            )
    for row in EXPERIMENTS[args.experiment].rows():
        file = _folder(row, args) / FIGURES
        if file.exists():
            known["rows"][row.key] = {**read_json(file), **_search(row, args)}
    return known


def _search(row: Row, args: argparse.Namespace) -> dict[str, int]:
    """Return the settings of a row's search; none if it is no search."""
    if row.policy not in SEARCHES:
        return {}
    return {name: getattr(args, name) for name in SEARCH_SETTINGS}


def _write(args: argparse.Namespace, subject: Subject | None) -> None:
    """Write the result of all rows that are there, and its page."""
    known, path = _known(args), Path(args.out) / RESULT
    if subject is not None and "full" not in known:
        known["full"] = subject.accuracy(subject.net)
        known["cost"] = subject.full_cost
    results = read_json(path)["experiments"] if path.exists() else {}
    content = {"experiments": {**results, args.experiment: known}}
    result = write_result(args.out, content)
    page = page_of(json.loads(result.read_text(encoding="utf-8")))
    write_atomically(Path(args.out) / PAGE, page)


# ---------------------------------------------------------------- net and images


class Subject:
    """A net, and the images that plans are scored, repaired and measured on."""

    def __init__(self, args: argparse.Namespace) -> None:
        import gluon_compress as gc
        from gluon_compress import models
        from gluon_compress.models import family_of

        self.args, self.net = args, models.load(args.model)
        self.family = family_of(self.net)
        self.is_detector = EXPERIMENTS[args.experiment].detector
        self.graph = gc.trace(self.net, (1, 3, args.size, args.size))
        cost = gc.count(self.graph)
        self.full_cost = {"macs": cost.macs, "bytes": cost.bytes}
        self.table = gc.LatencyTable.load(args.table) if args.table else None
        if self.table is not None:
            self.full_cost["latency_ms"] = gc.predict_latency(self.graph, self.table)

    def _images(self, split: str) -> Any:
        from gluon_compress import data
        from gluon_compress.data.folders import folder_of
        from gluon_compress.recipe.detection import DetectionData

        classes = self.family.classes_of(self.net)
        if self.is_detector:
            settings = DetectionData(kind="voc", root=self.args.data, size=300)
            names = {"train": "trainval", "val": "test"}
            return settings.open(names[split], classes)
        return data.ImageFolder(folder_of(self.args.data) / split)

    def _batches(self, images: Any, size: int) -> list:
        from gluon_compress import data

        preprocess = self.family.preprocess(self.net)
        if not self.is_detector:
            preprocess = preprocess.replace(height=size, width=size)
        batches = data.Batches(
            images,
            preprocess.sample,
            8 if self.is_detector else BATCH,
            shuffle=False,
            normalized=preprocess.inputs,
        )
        return list(batches.epoch(0))

    @cached_property
    def _drawn(self) -> tuple[Any, Any]:
        """Training images to repair on, and others to score plans on."""
        from gluon_compress import data

        images, fit = self._images("train"), self.args.fit
        drawn = data.draw_subset(images, fit + self.args.sample)
        parts = drawn.indices[:fit], drawn.indices[fit:]
        repair, sample = (type(drawn)(images, indices) for indices in parts)
        absent = data.absent_classes(sample, images.classes)
        if absent:
            raise ValueError(
                f"--sample {self.args.sample}: no {', '.join(absent)}; "
                "allowed: so many that every class occurs"
            )
        return repair, sample

    @cached_property
    def sample(self) -> list:
        """Batches that searches score plans on."""
        return self._batches(self._drawn[1], self.args.search_size)

    @cached_property
    def search_repair(self) -> list:
        """Batches that searches repair plans on: as many images as they score on."""
        repair = self._drawn[0]
        few = type(repair)(repair.dataset, repair.indices[: self.args.sample])
        return self._batches(few, self.args.search_size)

    @cached_property
    def repair(self) -> list:
        """Batches that nets are repaired on before they are measured."""
        return self._batches(self._drawn[0], self.args.size)

    @cached_property
    def _validation(self) -> list:
        from gluon_compress import data

        images = data.draw_subset(self._images("val"), self.args.images)
        return self._batches(images, self.args.size)

    def accuracy(self, net: Any) -> float:
        """Return top-1 or mAP on the validation images."""
        return self.on(net, self._validation)

    def on(self, net: Any, batches: Sequence) -> float:
        """Return top-1 or mAP on some batches."""
        from gluon_compress import evaluate

        net.hybridize(static_alloc=True)
        if not self.is_detector:
            return evaluate.top1(net, batches)
        classes = self.family.classes_of(net)
        found = evaluate.voc_map(
            lambda images: self.family.results(net, images), batches, classes, size=300
        )
        return found["mAP"]

    def score(self, repair: str) -> Any:
        """Return what scores plans in a search that repairs them in a way."""
        from gluon_compress import prune

        if repair == "reconstructed":
            return prune.PlanScore(
                self.net,
                lambda net: self.on(net, self.sample),
                fitter=self._fitter,
                graph=self.graph,
            )

        def recalibrated(net: Any) -> float:
            return self.on(prune.recalibrate(net, self.search_repair), self.sample)

        return prune.PlanScore(self.net, recalibrated, graph=self.graph)

    @cached_property
    def _fitter(self) -> Any:
        from gluon_compress import prune

        points = self.args.points
        return prune.WeightFitter(
            self.net, self.search_repair, points=points, graph=self.graph
        )


# ---------------------------------------------------------------- rows


def _folder(row: Row, args: argparse.Namespace) -> Path:
    """Return the folder of a row's plan and log, in one of the settings."""
    names = (*SETTINGS, *SEARCH_SETTINGS)
    settings = "_".join(str(getattr(args, name)) for name in names)
    return Path(args.work) / args.experiment / settings / row.key


def _plan(row: Row, subject: Subject, args: argparse.Namespace) -> None:
    """Leave the plan of a row in its folder, with the CPU seconds that it took."""
    import gluon_compress as gc
    from gluon_compress.plan import Constraints

    folder = _folder(row, args)
    if (folder / PLAN).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    clock = _Clock(folder / TIME)
    policy = _policy(row, subject, args, clock)
    limit = EXPERIMENTS[args.experiment].limit
    budget = gc.Budget(**{limit: row.share * subject.full_cost[limit]})
    constraints = Constraints(multiple=EXPERIMENTS[args.experiment].multiple)
    plan = gc.select(
        subject.graph,
        budget,
        selection=policy,
        constraints=constraints,
        table=subject.table,
    )
    clock.save()
    plan.save(folder / PLAN)


def _policy(row: Row, subject: Subject, args: argparse.Namespace, clock: _Clock) -> Any:
    from gluon_compress import plan
    from gluon_compress.plan.policies.episodes import SEARCH_LOG

    if row.policy == "greedy_measured":
        return plan.Greedy(_effects(subject, args, clock))
    if row.policy not in SEARCHES:
        return row.policy
    few = args.episodes // 4
    own = {
        plan.AMC.name: {"warmup": few},
        plan.LeGR.name: {"population": few, "samples": max(few // 4, 1)},
    }
    score = subject.score(row.repair)
    clock.begin()  # what a search prepares is measured once for all, see the page
    return plan.SEARCHES[row.policy](
        score,
        episodes=args.episodes,
        seed=row.seed,
        log=_folder(row, args) / SEARCH_LOG,
        progress=lambda episode: clock.save(),
        **own.get(row.policy, {}),
    )


def _effects(subject: Subject, args: argparse.Namespace, clock: _Clock) -> Any:
    """Return the output sensitivity of each group; the same for all budgets."""
    import gluon_compress as gc

    file = _folder(Row(0, "", "", 0), args).parent / EFFECTS
    if not file.exists():
        images = [batch[0] for batch in subject.search_repair]
        effects = gc.effects(subject.net, images, graph=subject.graph)
        clock.save()
        write_json(file, {"effects": effects, "seconds": clock.seconds})
    known = read_json(file)
    clock.begin(known["seconds"])
    return known["effects"]


class _Clock:
    """CPU seconds of a row's plan, over interruptions."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.begin(read_json(file)["seconds"] if file.exists() else 0.0)

    def begin(self, seconds: float | None = None) -> None:
        """Count from now, and from a number of seconds if one is given."""
        self._before = self._before if seconds is None else seconds
        self._begun = time.process_time()

    @property
    def seconds(self) -> float:
        """What it took so far."""
        return round(self._before + time.process_time() - self._begun, 2)

    def save(self) -> None:
        """Write it down."""
        write_json(self.file, {"seconds": self.seconds})


def _measured(row: Row, subject: Subject, args: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of a row."""
    import gluon_compress as gc
    from gluon_compress.provenance import commit, cpu_name

    plan = gc.Plan.load(_folder(row, args) / PLAN)
    graph, begun = subject.graph, time.process_time()
    if row.repair == "reconstructed":
        net = gc.reconstruct(
            subject.net, plan, subject.repair, points=args.points, graph=graph
        )
    else:
        slim = gc.slim(subject.net, plan, graph=graph)
        net = gc.recalibrate(slim, subject.repair)
    seconds = time.process_time() - begun
    cost, search = gc.count(graph, plan), plan.made_by.get("search", {})
    return {
        **row._asdict(),
        "accuracy": subject.accuracy(net),
        "macs": cost.macs,
        "bytes": cost.bytes,
        "plan_seconds": read_json(_folder(row, args) / TIME)["seconds"],
        "repair_seconds": round(seconds, 2),
        **{name: search.get(name) for name in ("tried", "score", "reference_score")},
        "widths": [len(plan.keep[g.name]) for g in graph.groups if not g.frozen],
        "cpu": cpu_name(),
        "commit": commit(),
    }


COMMAND = Command(TEXT, _add_options, _benchmark)
