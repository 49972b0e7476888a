"""The plans of the tables' nets: those that were counted, and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Mapping

from reproducing.costs import PLAN, with_plans


def check(zoo: Path, costs: Mapping) -> None:
    """Hold the plans of a zoo against those that were counted.

    Raises
    ------
    ValueError
        Naming the one that is missing, altered, or was not counted.
    """
    from gluon_compress.storage.atomic import sha256

    for name, total in costs["plans"].items():
        if not (zoo / name).is_file():
            raise ValueError(f"{zoo / name}: this plan is missing")
        if sha256(zoo / name) != total:
            raise ValueError(f"{zoo / name}: is not the plan that was counted")
    for name in with_plans(zoo):
        if name not in costs["measured"]:
            raise ValueError(f"{zoo / name / PLAN}: its net was not counted")
