"""Reads results of experiments, guards them by checksums, and sums them up by seed."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any, Dict, Iterable, Mapping, Sequence

from experiments.sets import RESULT, read_set
from gluon_compress.storage.atomic import read_json, sha256, write_json
from gluon_compress.storage.locks import taking_turns
from gluon_compress.validation import parse

CHECKSUMS = "results.json"  # in the model zoo
PUBLISHED = "published.json"  # figures of others, which are guarded too
METRICS = ("mAP", "voc_mAP_50_95", "top1")
# The last stage by net and seed; None for one that was not run.
Groups = Dict[str, Dict[int, Any]]


# ---------------------------------------------------------------- checksums


def note(zoo: Path, *results: Path) -> None:
    """Write down the checksums of new result files: results are never edited."""
    file = zoo / CHECKSUMS
    with taking_turns(file):
        checksums = read_json(file) if file.exists() else {}
        checksums.update({_name(zoo, path): sha256(path) for path in results})
        write_json(file, dict(sorted(checksums.items())))


def check(zoo: Path) -> None:
    """Compare all result files of a zoo with their checksums.

    Raises
    ------
    ValueError
        Naming the one that is missing, altered, or was never noted.
    """
    file = zoo / CHECKSUMS
    checksums = parse(Dict[str, str], read_json(file), file)
    for name, checksum in checksums.items():
        if not (zoo / name).is_file():
            raise ValueError(f"{zoo / name}: this result is missing")
        if sha256(zoo / name) != checksum:
            raise ValueError(f"{zoo / name}: altered, its sha256 is another")
    for path in (zoo / PUBLISHED, *sorted(zoo.rglob(RESULT))):
        if path.is_file() and _name(zoo, path) not in checksums:
            raise ValueError(f"{path}: no run has noted this result in {file}")


def _name(zoo: Path, path: Path) -> str:
    return path.resolve().relative_to(zoo.resolve()).as_posix()


# ---------------------------------------------------------------- results


def results_of(folder: Path) -> dict[str, Any]:
    """Return the result of each experiment of a set by name, None without one.

    Raises
    ------
    ValueError
        Naming a result that no experiment has, or that has no figures.
    """
    experiments = read_set(folder)
    for path in sorted(folder.glob(f"*/{RESULT}")):
        if path.parent.name not in experiments:
            raise ValueError(f"{path}: there is no experiment of this name")
    results = {}
    for name, experiment in experiments.items():
        path = experiment.result
        results[name] = _renamed(read_json(path)) if path.exists() else None
        if results[name] is not None and not _has_figures(results[name]):
            raise ValueError(f"{path}: has no stages with figures from 0 to 1")
    return results


def _renamed(content: Any) -> Any:
    """Return a result whose older name of a metric, which claimed COCO's, is gone."""
    stages = content.get("stages") if isinstance(content, dict) else None
    for stage in stages.values() if isinstance(stages, dict) else ():
        if isinstance(stage, dict) and "mAP_50_95" in stage:
            stage.setdefault("voc_mAP_50_95", stage.pop("mAP_50_95"))
    return content


def _has_figures(content: Any) -> bool:
    stages = content.get("stages") if isinstance(content, dict) else None
    last = list(stages.values())[-1] if isinstance(stages, dict) and stages else None
    if not isinstance(last, dict):
        return False
    values = [last[key] for key in METRICS if key in last]
    return bool(values) and all(
        isinstance(value, (int, float)) and 0 <= value <= 1 for value in values
    )


def last_stage(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the last stage of a result."""
    return list(result["stages"].values())[-1]


def by_net(results: Mapping[str, Any]) -> Groups:
    """Return the last stage of each result, or None, by net and seed.

    The net is the experiment's name without ``_seedN``; without one its seed is 0.
    """
    groups: Groups = {}
    for name, result in results.items():
        net, _, seed = name.rpartition("_seed")
        if not seed.isdigit():
            net, seed = name, "0"
        groups.setdefault(net, {})[int(seed)] = result and last_stage(result)
    return groups


def mean_of(stages: Iterable, key: str) -> float | None:
    """Return the mean of a figure over the seeds that have a result."""
    values = [stage[key] for stage in stages if stage]
    return statistics.mean(values) if values else None


def pairs(net: Mapping[int, dict], other: Mapping[int, dict]) -> tuple[list, int]:
    """Return the results of both with the same seed, and how many are still missing."""
    shared = [(net[seed], other[seed]) for seed in net if seed in other]
    complete = [pair for pair in shared if all(pair)]
    return complete, len(shared) - len(complete)


def mean_differences(
    complete: Sequence[tuple], keys: Iterable[str]
) -> list[float | None]:
    """Return the mean differences of pairs of results in points; None without any."""
    if not complete:
        return [None for _ in keys]
    return [100 * statistics.mean(a[key] - b[key] for a, b in complete) for key in keys]


def signed(value: float | None) -> str:
    """Return a difference with its sign, or nothing."""
    digits = 2 if value and abs(value) < 0.05 else 1  # no +0.0 for more
    return "" if value is None else f"{value:+.{digits}f}"
