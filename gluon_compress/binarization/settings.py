"""How a net is binarised, and when."""

from __future__ import annotations

from typing import Optional, Tuple

from pydantic import Field
from typing_extensions import Annotated, Literal

from gluon_compress.validation import Count, CountOrZero, NonEmptyStr, Settings


class BinarizationSettings(Settings):
    """How a net is binarised, and when.

    Parameters
    ----------
    weights : str
        ``xnor``: the sign times the mean absolute weight of the filter (Rastegari et
        al. 2016, equation 6); ``dorefa``: times that of the layer (Zhou et al. 2016,
        equation 8).
    activations : bool
        Whether the inputs of these layers become 0 or a scale, by a threshold; both are
        trained.
    target, ignored : tuple of str
        Patterns of the layers that are binarised, and of those that are not.
    first, last : bool
        Whether first and last layers are, too.
    batches : int
        Training batches on which scales of inputs are measured.
    activations_from : int
        Epoch of the training from which on inputs are binary; before, they pass.
    weights_from : int or None
        The same for weights; None: after a third of the training.
    """

    weights: Literal["xnor", "dorefa"] = "xnor"
    activations: bool = True
    target: Annotated[Tuple[NonEmptyStr, ...], Field(min_length=1)] = ("*",)
    ignored: Tuple[NonEmptyStr, ...] = ()
    first: bool = False
    last: bool = False
    batches: Count = 8
    activations_from: CountOrZero = 0
    weights_from: Optional[CountOrZero] = None

    def binary_weights_from(self, epochs: int) -> int:
        """Return the epoch of a training from which on weights are binary."""
        return epochs // 3 if self.weights_from is None else self.weights_from
