"""A plan applied to a net: as masks, which can be taken back, or by removing channels.

``slimming`` removes channels; ``masks`` multiplies them by zero instead, and
``mask_placement`` finds where that must be done for both to be the same. Importance is
measured on data by ``taylor_importance`` (the gradient of masks), ``perturbation`` (the
change of the outputs) and ``sensitivity`` (the change of accuracy). ``iterative`` sets
masks while a net trains, ``bn_l1`` prepares the net for them, and ``recalibration``
measures BatchNorm statistics anew.
"""

from gluon_compress.prune.bn_l1 import BatchNormL1Settings, bn_l1_step
from gluon_compress.prune.iterative import SCHEDULES, Rounds, mask_in_rounds, plan_of
from gluon_compress.prune.masks import mask, set_mask
from gluon_compress.prune.perturbation import output_sensitivity
from gluon_compress.prune.recalibration import recalibrate
from gluon_compress.prune.sensitivity import SensitivitySettings, sensitivity
from gluon_compress.prune.slimming import slim
from gluon_compress.prune.taylor_importance import taylor

effects = output_sensitivity  # the name that recipes and plans have for its result

__all__ = [
    "SCHEDULES",
    "BatchNormL1Settings",
    "Rounds",
    "SensitivitySettings",
    "bn_l1_step",
    "effects",
    "mask",
    "mask_in_rounds",
    "output_sensitivity",
    "plan_of",
    "recalibrate",
    "sensitivity",
    "set_mask",
    "slim",
    "taylor",
]
