"""Counts what nets of the tables cost, and guards the plans that were counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping

from experiments.nets import CLASSIFIERS, NETS, SETS
from experiments.sets import PLAN, read_set
from gluon_compress.storage.atomic import sha256


def counted(zoo: Path) -> dict[str, Any]:
    """Return MACs, FLOPs, parameters and bytes of all nets of the tables."""
    import gluon_compress as gc

    detectors, classifiers = {}, {}
    for name, net in NETS.items():
        graph = gc.trace(net.build(zoo), shape=(1, 3, 300, 300))
        detectors[name] = gc.count(graph).figures()
    for name in CLASSIFIERS:
        graph = gc.trace(gc.get_model(name), shape=(1, 3, 224, 224))
        classifiers[name] = gc.count(graph).figures()
    return {
        "detectors": detectors,
        "classifiers": classifiers,
        "measured": {name: _of_20_classes(zoo, name) for name in with_plans(zoo)},
        "plans": {path.as_posix(): sha256(zoo / path) for path in plans(zoo)},
    }


def plans(zoo: Path) -> list[Path]:
    """Return the plans of the compact nets of the tables, in the zoo."""
    names = [net.plan for net in NETS.values() if net.plan]
    return [Path(name, PLAN) for name in (*names, *with_plans(zoo))]


def with_plans(zoo: Path) -> list[str]:
    """Return the compact nets whose accuracy is shown, ``SET/NAME`` in the zoo."""
    files = [f for name in SETS for f in (zoo / name).glob(f"*_distilled*/{PLAN}")]
    return sorted(file.parent.relative_to(zoo).as_posix() for file in files)


def _of_20_classes(zoo: Path, name: str) -> dict[str, Any]:
    """Return what a net that was pruned by its own weights costs with 20 classes."""
    import gluon_compress as gc
    from gluon_compress.models import VOC_CLASSES, with_classes

    folder = zoo / name
    recipe = read_set(folder.parent)[folder.name].recipe
    net = gc.build(recipe["model"]["name"], recipe["data"]["classes"])
    small = gc.slim(net, gc.Plan.load(folder / PLAN))
    net = with_classes(small, VOC_CLASSES)
    return gc.count(gc.trace(net, shape=(1, 3, 300, 300))).figures()


def check_plans(zoo: Path, costs: Mapping[str, Any]) -> None:
    """Compare the plans of a zoo with those that were counted.

    Raises
    ------
    ValueError
        Naming the one that is missing, altered, or was not counted.
    """
    for name, checksum in costs["plans"].items():
        if not (zoo / name).is_file():
            raise ValueError(f"{zoo / name}: this plan is missing")
        if sha256(zoo / name) != checksum:
            raise ValueError(f"{zoo / name}: is not the plan that was counted")
    for name in with_plans(zoo):
        if name not in costs["measured"]:
            raise ValueError(f"{zoo / name / PLAN}: its net was not counted")
