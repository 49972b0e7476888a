"""What nets cost, counted on nets of the same classes and image size."""

from __future__ import annotations

from pathlib import Path

PLAN = "plan.json"
DETECTORS = {  # of 20 classes at 300 x 300: what is built, and the plan it is cut by
    "full": ("ssd_300_resnet50_v1d", None),
    "compact": ("ssd_300_resnet50_v1d", "ssd_300_resnet50_v1d_compact"),
    "compact_s": ("ssd_300_resnet50_v1d", "ssd_300_resnet50_v1d_compact_s"),
    "mobilenet": ("ssd_300_mobilenet1.0", None),
    "lite": ("ssd_300_mobilenet1.0_lite", None),
}
SETS = ("bccd", "fod")  # whose detectors have columns of accuracy
CLASSIFIERS = ("resnet50_v1d", *(f"resnet50_v1d_0.{n}" for n in (86, 48, 37, 11)))


def counted(zoo: Path) -> dict:
    """Return MACs, FLOPs, parameters and bytes of all nets of the tables."""
    import gluon_compress as gc
    from gluon_compress.storage.atomic import sha256

    detectors, classifiers = {}, {}
    for name, (model, plan) in DETECTORS.items():
        net = gc.build(model)
        if plan is not None:
            net = gc.slim(net, gc.Plan.load(zoo / plan / PLAN))
        detectors[name] = gc.count(gc.trace(net, shape=(1, 3, 300, 300))).figures()
    for name in CLASSIFIERS:
        net = gc.get_model(name)
        graph = gc.trace(net, shape=(1, 3, 224, 224))
        classifiers[name] = gc.count(graph).figures()
    return {
        "detectors": detectors,
        "classifiers": classifiers,
        "measured": {name: _of_20_classes(zoo / name) for name in with_plans(zoo)},
        "plans": {path.as_posix(): sha256(zoo / path) for path in plans(zoo)},
    }


def plans(zoo: Path) -> list[Path]:
    """Return the plans of the compact nets of the tables, in the zoo."""
    names = [plan for _, plan in DETECTORS.values() if plan is not None]
    return [Path(name, PLAN) for name in (*names, *with_plans(zoo))]


def with_plans(zoo: Path) -> list[str]:
    """Return the compact nets whose accuracy is shown, ``SET/NAME`` in the zoo."""
    found = [p.parent for s in SETS for p in (zoo / s).glob(f"*_distilled*/{PLAN}")]
    return sorted(place.relative_to(zoo).as_posix() for place in found)


def _of_20_classes(place: Path) -> dict:
    """Return what a net that was pruned by its own weights costs with 20 classes."""
    import gluon_compress as gc
    from gluon_compress.models import VOC_CLASSES, with_classes
    from gluon_compress.recipe import load_recipe

    recipe = load_recipe(place / "recipe.json")
    net = gc.build(recipe.model.name, recipe.data.classes)
    thin = gc.slim(net, gc.Plan.load(place / PLAN))
    whole = with_classes(thin, VOC_CLASSES)
    return gc.count(gc.trace(whole, shape=(1, 3, 300, 300))).figures()
