"""What a recipe may state of a detector's loss: three strategies, each off by default.

The names are those of RefineDetLite (Chen et al. 2020), which does not publish the
formulas: they are ours.
"""

from __future__ import annotations

from typing import Any, Dict, Optional, Sequence, Tuple

from pydantic import Field
from typing_extensions import Annotated, Literal

from gluon_compress.validation import (
    Allowed,
    CountOrZero,
    NonNegative,
    Positive,
    Settings,
    few,
)


class ClassWeights(Settings):
    """How much more objects of rare and of hard classes count.

    An object of class c counts ``w_c = clip((m / n_c)^r (h_c / h)^d, 1 / b, b)`` times
    in the classification loss: ``n_c`` are the class's objects in the training images
    and ``m`` is their mean over classes; ``h_c`` is the mean of 1 - p over the batch's
    anchors, regions or centres of class c, with p the probability of the right class,
    and ``h`` that mean over those of all classes.

    Parameters
    ----------
    rarity : float
        ``r``; 0: how many objects a class has makes no difference.
    hardness : float
        ``d``; 0: how well a class is recognised makes no difference.
    most : float
        ``b``, the largest weight; the smallest is its reciprocal.
    counts : tuple of int or None
        ``n_c`` of each class; None: counted when a run starts.
    """

    rarity: NonNegative = 0.5
    hardness: NonNegative = 0.5
    most: Annotated[float, Field(ge=1), Allowed("a number from 1")] = 4.0
    counts: Optional[Tuple[CountOrZero, ...]] = None

    def counted(self, classes: Sequence[str], counts: Sequence[int]) -> ClassWeights:
        """Return the settings with the objects of each class, unless they have them.

        Raises
        ------
        ValueError
            If a class has no object, or there is another number of counts.
        """
        counts = tuple(counts if self.counts is None else self.counts)
        if len(counts) != len(classes):
            raise ValueError(
                f"loss.class_weights.counts has {len(counts)} numbers; allowed: "
                f"{len(classes)}, one for each class"
            )
        absent = [name for name, count in zip(classes, counts) if not count]
        if absent:
            raise ValueError(
                f"loss.class_weights: {few(absent, 6)} has no object in the training "
                "images; allowed: classes that occur in them"
            )
        return self.replace(counts=counts)


class LossSettings(Settings):
    """What changes a detector's loss.

    Parameters
    ----------
    iou_guided : float or None
        An anchor, region or centre with an object counts in the classification loss by
        the IoU of the box that it predicts: ``N u_a^g / sum_b u_b^g`` times, with ``u``
        the IoU, at least 0.1, ``N`` those with an object in the batch and this number
        as ``g``. So what is located well decides what objects look like. None: all
        count alike.
    class_weights : ClassWeights or None
        Objects of rare and of hard classes count more; None: all count alike.
    balance : str or None
        How the parts of the loss are weighed: ``uncertainty`` (``Uncertainty``) or
        ``gradient_norm`` (``equal_gradients``); None: as the detector's own loss does.
    """

    iou_guided: Optional[Positive] = None
    class_weights: Optional[ClassWeights] = None
    balance: Optional[Literal["uncertainty", "gradient_norm"]] = None

    @property
    def options(self) -> Dict[str, Any]:
        """What the family's loss has to honour, as ``Family.loss`` takes it."""
        return {
            name: getattr(self, name)
            for name in ("iou_guided", "class_weights")
            if getattr(self, name) is not None
        }
