"""Compact detectors and classifiers from Gluon nets: prune, distil, evaluate, export.

Names load their modules when they are first used (PEP 562), so that importing the
package is cheap and does not load MXNet.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gluon_compress.version import __version__ as __version__

# In the order of use; the imports below are the same names for type checkers.
_NAMES = {
    # 1. Trace a net, find its channel groups, count what it costs.
    "gluon_compress.accelerator": ("Accelerator", "accelerator_cost"),
    "gluon_compress.cost": ("Cost", "count", "measure_latency"),
    "gluon_compress.graph": ("ChannelGroup", "Graph", "trace"),
    "gluon_compress.latency": ("LatencyTable", "measure_blocks", "predict_latency"),
    # 2. Decide what each group keeps.
    "gluon_compress.plan": ("Budget", "Plan", "delete", "explain", "select"),
    # 3. Apply the decision.
    "gluon_compress.prune": (
        *("effects", "mask", "recalibrate", "reconstruct", "sensitivity"),
        *("set_mask", "slim", "taylor"),
    ),
    "gluon_compress.quantization.quantising": ("quantize",),
    "gluon_compress.sparsity.sparsifying": ("sparsify",),
    # 4. Train, evaluate and export any net.
    "gluon_compress.distill": ("distil_step",),
    "gluon_compress.evaluate": ("coco_map", "top1", "voc_map"),
    "gluon_compress.model_folder": ("check", "export"),
    "gluon_compress.train": ("Options", "Schedule", "fit"),
    # 5. The nets and recipes of this package.
    "gluon_compress.building": ("build",),
    "gluon_compress.recipe": ("Recipe", "load_recipe"),
    "gluon_compress.compression": ("compress",),
    "gluon_compress.zoo": ("get_model", "list_models"),
    # 6. Deploy to edge runtimes.
    "gluon_compress.deployment": ("Predictor", "deploy"),
    "gluon_compress.splitting": ("split",),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(("__version__", *_MODULES))

if TYPE_CHECKING:
    from gluon_compress.accelerator import Accelerator as Accelerator
    from gluon_compress.accelerator import accelerator_cost as accelerator_cost
    from gluon_compress.cost import Cost as Cost
    from gluon_compress.cost import count as count
    from gluon_compress.cost import measure_latency as measure_latency
    from gluon_compress.deployment import Predictor as Predictor
    from gluon_compress.deployment import deploy as deploy
    from gluon_compress.distill import distil_step as distil_step
    from gluon_compress.evaluate import coco_map as coco_map
    from gluon_compress.evaluate import top1 as top1
    from gluon_compress.evaluate import voc_map as voc_map
    from gluon_compress.graph import ChannelGroup as ChannelGroup
    from gluon_compress.graph import Graph as Graph
    from gluon_compress.graph import trace as trace
    from gluon_compress.latency import LatencyTable as LatencyTable
    from gluon_compress.latency import measure_blocks as measure_blocks
    from gluon_compress.latency import predict_latency as predict_latency
    from gluon_compress.model_folder import check as check
    from gluon_compress.model_folder import export as export
    from gluon_compress.building import build as build
    from gluon_compress.compression import compress as compress
    from gluon_compress.plan import Budget as Budget
    from gluon_compress.plan import Plan as Plan
    from gluon_compress.plan import delete as delete
    from gluon_compress.plan import explain as explain
    from gluon_compress.plan import select as select
    from gluon_compress.prune import effects as effects
    from gluon_compress.prune import mask as mask
    from gluon_compress.prune import recalibrate as recalibrate
    from gluon_compress.prune import reconstruct as reconstruct
    from gluon_compress.prune import sensitivity as sensitivity
    from gluon_compress.prune import set_mask as set_mask
    from gluon_compress.prune import slim as slim
    from gluon_compress.prune import taylor as taylor
    from gluon_compress.quantization.quantising import quantize as quantize
    from gluon_compress.sparsity.sparsifying import sparsify as sparsify
    from gluon_compress.recipe import Recipe as Recipe
    from gluon_compress.recipe import load_recipe as load_recipe
    from gluon_compress.splitting import split as split
    from gluon_compress.train import Options as Options
    from gluon_compress.train import Schedule as Schedule
    from gluon_compress.train import fit as fit
    from gluon_compress.zoo import get_model as get_model
    from gluon_compress.zoo import list_models as list_models


def __getattr__(name: str) -> Any:
    """Load a public name, or a module of the package, and keep it."""
    if name in _MODULES:
        value = getattr(importlib.import_module(_MODULES[name]), name)
        globals()[name] = value
        return value
    return _submodule(name)


def _submodule(name: str) -> Any:
    """Return a module of the package, which Python binds to its name by itself."""
    path = f"{__name__}.{name}"
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name != path:  # it is there, but cannot import something else
            raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names, whether they are loaded or not."""
    return sorted({*globals(), *__all__})
