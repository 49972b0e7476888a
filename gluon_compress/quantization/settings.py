"""How a net is quantised: bits, levels, ranges, and which layers."""

from __future__ import annotations

from typing import Dict, Optional, Tuple

from pydantic import Field
from typing_extensions import Annotated, Literal

from gluon_compress.validation import (
    Allowed,
    Count,
    NonEmptyStr,
    Positive,
    Settings,
    Share,
    ShareOrZero,
)

Bits = Literal[2, 4, 8]  # those that an export stores
Levels = Literal["auto", "full", "narrow"]
Percentile = Annotated[
    float, Field(gt=50, le=100), Allowed("a number above 50 up to 100")
]
NARROW = 63  # of weights in 8 bits, where sums of two products must fit 16 bits


class WeightSettings(Settings):
    """How weights are quantised: symmetric, one scale for each output channel.

    Parameters
    ----------
    bits : int
        2, 4 or 8: -1 to 1, -7 to 7 or -127 to 127.
    levels : str
        Of 8 bits: ``full`` is -127 to 127, ``narrow`` -63 to 63, which is exact on CPUs
        without dot products of 8 bits (VNNI); ``auto``: as this machine's CPU needs.
    ranges : str
        ``max``: the largest weight of a channel sets its scale, at every step;
        ``learned``: scales are trained (Esser et al. 2020, LSQ).
    """

    bits: Bits = 8
    levels: Levels = "auto"
    ranges: Literal["max", "learned"] = "max"


class ActivationSettings(Settings):
    """How maps are quantised: one scale for a tensor.

    Parameters
    ----------
    bits : int
        2, 4 or 8.
    scheme : str
        ``asymmetric``: from the smallest to the largest value, zero is a level;
        ``symmetric``: from 0 if there are no negative values, else about zero;
        ``signed``: about zero in any case, -127 to 127 in 8 bits, as ncnn has it.
    init : str
        The range before training: ``min-max`` over all batches, ``mean`` of the minima
        and maxima of the samples, ``percentile``, or ``entropy``: the range with the
        least Kullback-Leibler divergence.
    percentile : float
        Share of the values within the range, in percent, with ``percentile``.
    ranges : str
        In training: ``fixed``, the cheapest; ``moving``: an average follows the
        extremes; ``learned``: scales are trained (LSQ).
    momentum : float
        Of the moving average, for one update of it.
    every : int
        Steps from one update of the moving average to the next.
    """

    bits: Bits = 8
    scheme: Literal["asymmetric", "symmetric", "signed"] = "asymmetric"
    init: Literal["min-max", "mean", "percentile", "entropy"] = "min-max"
    percentile: Percentile = 99.99
    ranges: Literal["fixed", "moving", "learned"] = "fixed"
    momentum: ShareOrZero = 0.9
    every: Count = 10


class LayerBits(Settings):
    """Bits of some layers.

    Parameters
    ----------
    weights, activations : int or None
        Of the weight, and of the layer's input; None: as other layers.
    """

    weights: Optional[Bits] = None
    activations: Optional[Bits] = None


class BitBudget(Settings):
    """A budget under which the bits of weights are chosen (HAWQ).

    Parameters
    ----------
    bytes : float or None
        Of all quantised weights, with their scales.
    bit_operations : float or None
        The sum over layers of MACs times bits of the weight times bits of the input.
    bit_operations_ratio : float or None
        The same as a share of what weights of 8 bits need.
    bits : tuple of int
        To choose from.
    probes : int
        Random vectors for the trace of the Hessian, for each batch.
    batches : int
        Training batches on which the Hessian is measured.
    """

    bytes: Optional[Positive] = None
    bit_operations: Optional[Positive] = None
    bit_operations_ratio: Optional[Share] = None
    bits: Annotated[Tuple[Bits, ...], Field(min_length=1)] = (2, 4, 8)
    probes: Count = 4
    batches: Count = 2

    def check(self) -> None:
        """Check that there is a limit."""
        if self.bit_operations is not None and self.bit_operations_ratio is not None:
            raise self.error("bit_operations_ratio", "null with bit_operations")
        limits = (self.bytes, self.bit_operations, self.bit_operations_ratio)
        if all(limit is None for limit in limits):
            raise self.error("bytes", "a number above 0, or bit_operations")


class QuantizationSettings(Settings):
    """How a net is quantised.

    Parameters
    ----------
    weights : WeightSettings
        How weights are quantised.
    activations : ActivationSettings
        How the inputs of layers and of sums are.
    target, ignored : tuple of str
        Patterns of the layers that are quantised, and of those that are not.
    mixed : dict
        Other bits, by pattern of layers; the first pattern that fits counts.
    first, last : int or None
        Bits of weight and input of first and last layers; null: they stay float32.
    outputs : bool
        Whether the outputs of last layers are quantised too. ONNX Runtime computes
        these layers in integers only then.
    sums : str
        ``both`` inputs of a sum are quantised, as ONNX Runtime and MXNet compute it;
        ``one``: not the one that a layer makes right before, as OpenVINO computes it.
    equalize : bool
        Scale channels between layers to like ranges before (Nagel et al. 2019).
    correct_bias : bool
        Correct biases by the mean error that rounding weights makes (likewise).
    batches : int
        Training batches on which ranges are measured.
    budget : BitBudget or None
        Choose the bits of weights under a budget; None: they are those stated.
    """

    weights: WeightSettings = WeightSettings()
    activations: ActivationSettings = ActivationSettings()
    target: Annotated[Tuple[NonEmptyStr, ...], Field(min_length=1)] = ("*",)
    ignored: Tuple[NonEmptyStr, ...] = ()
    mixed: Dict[str, LayerBits] = {}
    first: Optional[Bits] = 8
    last: Optional[Bits] = 8
    outputs: bool = False
    sums: Literal["both", "one"] = "both"
    equalize: bool = False
    correct_bias: bool = False
    batches: Count = 8
    budget: Optional[BitBudget] = None

    def check(self) -> None:
        """Check that a budget has bits to choose."""
        if self.budget is not None and self.mixed:
            raise self.error("mixed", "an empty object with a budget")
