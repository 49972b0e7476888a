"""Applies a plan to a net: with masks, which are reversible, or by removing channels.

``slimming`` removes channels; ``masks`` multiplies them by zero, and ``mask_placement``
finds where, so that both give the same outputs. ``taylor_importance`` (the gradient of
masks), ``perturbation`` (the change of the outputs) and ``sensitivity`` (the change of
accuracy) measure on data which channels matter, and ``plan_score`` how good a plan is.
``iterative`` sets masks during training, ``bn_l1`` prepares a net for pruning,
``reconstruction`` fits the remaining weights to the full net, and ``recalibration``
measures BatchNorm statistics again.
"""

from gluon_compress.prune.bn_l1 import BatchNormL1Settings, bn_l1_step
from gluon_compress.prune.iterative import SCHEDULES, Rounds, mask_in_rounds, plan_of
from gluon_compress.prune.masks import mask, set_mask
from gluon_compress.prune.perturbation import output_sensitivity
from gluon_compress.prune.plan_score import PlanScore
from gluon_compress.prune.recalibration import recalibrate
from gluon_compress.prune.reconstruction import (
    ReconstructionSettings,
    WeightFitter,
    reconstruct,
)
from gluon_compress.prune.sensitivity import SensitivitySettings, sensitivity
from gluon_compress.prune.slimming import slim
from gluon_compress.prune.taylor_importance import taylor

effects = output_sensitivity  # the name in recipes and plans

__all__ = [
    "SCHEDULES",
    "BatchNormL1Settings",
    "PlanScore",
    "ReconstructionSettings",
    "Rounds",
    "SensitivitySettings",
    "WeightFitter",
    "bn_l1_step",
    "effects",
    "mask",
    "mask_in_rounds",
    "output_sensitivity",
    "plan_of",
    "recalibrate",
    "reconstruct",
    "sensitivity",
    "set_mask",
    "slim",
    "taylor",
]
