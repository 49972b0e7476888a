"""A plan applied to a net: as masks, which can be taken back, or by cutting.

``slimming`` cuts; ``masks`` multiplies by zero instead; ``zeros`` finds where that must
be done for both to be the same; ``importance`` takes the gradient of masks.
"""

from gluon_compress.prune.importance import taylor
from gluon_compress.prune.masks import mask, set_mask
from gluon_compress.prune.sensitivity import sensitivity
from gluon_compress.prune.slimming import slim

__all__ = ["mask", "sensitivity", "set_mask", "slim", "taylor"]
