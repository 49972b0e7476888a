"""A plan applied to a net: as masks, which can be taken back, or by cutting.

``slimming`` cuts; ``masks`` multiplies by zero instead; ``zeros`` finds where that must
be done for both to be the same; ``importance`` takes the gradient of masks.
``recalibration`` repairs what channels that are gone leave wrong.
"""

from gluon_compress.prune.importance import taylor
from gluon_compress.prune.masks import mask, set_mask
from gluon_compress.prune.recalibration import recalibrate
from gluon_compress.prune.slimming import slim

__all__ = [
    "mask",
    "recalibrate",
    "set_mask",
    "slim",
    "taylor",
]
