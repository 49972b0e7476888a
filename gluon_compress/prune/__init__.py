"""A plan applied to a net: as masks, which can be taken back, or by cutting.

``slimming`` cuts; ``masks`` multiplies by zero instead; ``zeros`` finds where that must
be done for both to be the same; ``importance`` takes the gradient of masks, ``effects``
and ``sensitivity`` ask what a net does with part of a group. ``rounds`` sets masks
while a net trains, ``sparsity`` prepares it for them, ``recalibration`` repairs what
they leave wrong.
"""

from gluon_compress.prune.bn_l1 import BatchNormL1Settings, sparse_step
from gluon_compress.prune.iterative import CURVES, Rounds, mask_in_rounds, plan_of
from gluon_compress.prune.masks import mask, set_mask
from gluon_compress.prune.perturbation import effects
from gluon_compress.prune.recalibration import recalibrate
from gluon_compress.prune.sensitivity import SensitivitySettings, sensitivity
from gluon_compress.prune.slimming import slim
from gluon_compress.prune.taylor_importance import taylor

__all__ = [
    "CURVES",
    "BatchNormL1Settings",
    "Rounds",
    "SensitivitySettings",
    "effects",
    "mask",
    "mask_in_rounds",
    "plan_of",
    "recalibrate",
    "sensitivity",
    "set_mask",
    "slim",
    "sparse_step",
    "taylor",
]
