"""The kinds of nets, one row each, and which of them a net is."""

from __future__ import annotations

from typing import Any

from gluon_compress.graph import register_adapter
from gluon_compress.models.base import Family
from gluon_compress.models.centernet.family import CenterNetFamily
from gluon_compress.models.classifier import ClassifierFamily
from gluon_compress.models.rcnn.family import MaskRCNNFamily, RCNNFamily
from gluon_compress.models.refinedet.family import RefineDetFamily
from gluon_compress.models.ssd.family import SSDFamily
from gluon_compress.validation import shown

__all__ = [
    "FAMILIES",
    "Family",
    "family_named",
    "family_of",
    "family_that_builds",
    "models_for",
]

FAMILIES: dict[str, Family] = {
    family.kind: family
    for family in (
        SSDFamily(),
        RefineDetFamily(),
        RCNNFamily(),
        MaskRCNNFamily(),
        CenterNetFamily(),
        ClassifierFamily(),
    )
}

# GluonCV's own nets of these classes are traced like ours.
for _family in FAMILIES.values():
    for _type in _family.net_types:
        register_adapter(_type, _family.net_adapter())


def family_of(net: Any) -> Family:
    """Return the family of a net.

    Raises
    ------
    ValueError
        If it has none: it was not built or loaded here.
    """
    for family in FAMILIES.values():
        if family.owns(net):
            return family
    raise ValueError(
        f"a {type(net).__name__} of no known kind; allowed: nets that build, load or "
        f"get_model of this package returned, of kind {', '.join(FAMILIES)}"
    )


def family_named(kind: Any) -> Family:
    """Return a family by its kind, as manifests state it.

    Raises
    ------
    ValueError
        If there is no such kind.
    """
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ValueError(f"kind is {shown(kind)}; allowed: {', '.join(FAMILIES)}")
    return FAMILIES[kind]


def family_that_builds(name: str) -> Family | None:
    """Return the family that has a model of this name, or None."""
    return next((f for f in FAMILIES.values() if name in f.models()), None)


def models_for(task: str) -> list[str]:
    """Return the names of all models that recipes of a task may name."""
    families = [family for family in FAMILIES.values() if family.task == task]
    return [name for family in families for name in family.models()]
