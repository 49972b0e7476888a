"""What nets cost, counted on nets of the same classes and image size."""

from __future__ import annotations

from pathlib import Path

DETECTORS = {  # of 20 classes at 300 x 300: what is built, and the plan it is cut by
    "full": ("ssd_300_resnet50_v1d", None),
    "compact": ("ssd_300_resnet50_v1d", "ssd_300_resnet50_v1d_compact"),
    "compact_s": ("ssd_300_resnet50_v1d", "ssd_300_resnet50_v1d_compact_s"),
    "mobilenet": ("ssd_300_mobilenet1.0", None),
    "lite": ("ssd_300_mobilenet1.0_lite", None),
}
CLASSIFIERS = ("resnet50_v1d", *(f"resnet50_v1d_0.{n}" for n in (86, 48, 37, 11)))


def counted(zoo: Path) -> dict:
    """Return MACs, FLOPs, parameters and bytes of all nets of the tables."""
    import gluon_compress as gc

    detectors, classifiers = {}, {}
    for name, (model, plan) in DETECTORS.items():
        net = gc.build(model)
        if plan is not None:
            net = gc.slim(net, gc.Plan.load(zoo / plan / "plan.json"))
        detectors[name] = gc.count(gc.trace(net, shape=(1, 3, 300, 300))).figures()
    for name in CLASSIFIERS:
        net = gc.get_model(name)
        graph = gc.trace(net, shape=(1, 3, 224, 224))
        classifiers[name] = gc.count(graph).figures()
    return {"detectors": detectors, "classifiers": classifiers}
