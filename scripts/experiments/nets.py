"""The detectors that tables and benchmarks compare, under all their names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.sets import PLAN, ZOO


@dataclass(frozen=True)
class Net:
    """A detector for 300 × 300 pixels.

    Parameters
    ----------
    model : str
        What ``gluon_compress.build`` builds.
    words : str
        What tables call it.
    experiment : str
        What the sets of experiments call it, without a seed.
    longer : str
        The experiment of the same net, trained as long as a compact one is in all; ""
        without one.
    plan : str
        The folder of the zoo with its plan; "" for a net that is not pruned.
    """

    model: str
    words: str
    experiment: str = ""
    longer: str = ""
    plan: str = ""

    def build(self, zoo: Path = ZOO) -> Any:
        """Return the net with 20 classes and starting values."""
        import gluon_compress as gc

        net = gc.build(self.model)
        if not self.plan:
            return net
        return gc.slim(net, gc.Plan.load(zoo / self.plan / PLAN))


FULL = "ssd_300_resnet50_v1d"
NETS = {  # of the tables
    "full": Net(FULL, "SSD-300 ResNet50-v1d", "full", "full_again"),
    "compact": Net(
        FULL,
        "compact, 2.31 GMACs",
        "compact_distilled",
        plan="ssd_300_resnet50_v1d_compact",
    ),
    "compact_s": Net(
        FULL,
        "compact_s, 2 × 1.155 GFLOPs",
        "compact_s_distilled",
        plan="ssd_300_resnet50_v1d_compact_s",
    ),
    "mobilenet": Net(
        "ssd_300_mobilenet1.0",
        "SSD-300 MobileNet1.0, the same maps",
        "mobilenet",
        "mobilenet_again",
    ),
    "lite": Net(
        "ssd_300_mobilenet1.0_lite",
        "SSD-300 MobileNet1.0, classic",
        "lite",
        "lite_again",
    ),
}
TIMED = {  # of the benchmarks: also what is not trained, and GluonCV's pruned trunks
    **NETS,
    "compact_ms": Net(
        FULL,
        "compact_ms, 0.75 GMACs",
        "compact_ms_distilled",
        plan="ssd_300_resnet50_v1d_compact_ms",
    ),
    "resnet50_v1d_0.48": Net("ssd_300_resnet50_v1d_0.48", "ResNet50-v1d 0.48"),
    "resnet50_v1d_0.37": Net("ssd_300_resnet50_v1d_0.37", "ResNet50-v1d 0.37"),
}
SETS = ("bccd", "fod")  # whose detectors have columns of accuracy
CLASSIFIERS = ("resnet50_v1d", *(f"resnet50_v1d_0.{n}" for n in (86, 48, 37, 11)))
