"""Compact object detectors from Gluon nets: prune, slim, distil, evaluate, export."""

# 1. Trace a net, find its channel groups, count what it costs.
from gluon_compress.cost import Cost, count, measure_latency
from gluon_compress.graph import ChannelGroup, Graph, trace
from gluon_compress.latency import LatencyTable, measure_units, predict_latency

# 2. Decide what each group keeps.
from gluon_compress.plan import Budget, Plan, delete, explain, select

# 3. Apply the decision.
from gluon_compress.prune import (
    effects,
    mask,
    recalibrate,
    sensitivity,
    set_mask,
    slim,
    taylor,
)

# 4. Train, judge and ship any net.
from gluon_compress.distill import distil_step
from gluon_compress.evaluate import top1, voc_map
from gluon_compress.model_folder import check, export
from gluon_compress.train import Options, Schedule, fit

# 5. The nets and the experiments of this package.
from gluon_compress.models import build
from gluon_compress.recipe import Recipe, load_recipe
from gluon_compress.zoo import get_model, list_models

# 6. Detectors in edge runtimes.
from gluon_compress.deployment import Predictor, deploy

__all__ = [
    "Budget",
    "ChannelGroup",
    "Cost",
    "Graph",
    "LatencyTable",
    "Options",
    "Plan",
    "Predictor",
    "Recipe",
    "Schedule",
    "build",
    "check",
    "count",
    "delete",
    "deploy",
    "distil_step",
    "effects",
    "explain",
    "export",
    "fit",
    "get_model",
    "list_models",
    "load_recipe",
    "mask",
    "measure_latency",
    "measure_units",
    "predict_latency",
    "recalibrate",
    "select",
    "sensitivity",
    "set_mask",
    "slim",
    "taylor",
    "top1",
    "trace",
    "voc_map",
]
