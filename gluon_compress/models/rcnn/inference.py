"""A two-stage detector in Gluon: the stages of its symbol as blocks."""

from __future__ import annotations

from typing import Any, Dict, Mapping

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock, SymbolBlock

from gluon_compress.models.rcnn import net as parts
from gluon_compress.postprocess.rcnn import (
    BOXES,
    CLASSES,
    FEATURES,
    HEADS,
    MAPS,
    MASK,
    MASKS,
    REGIONS,
    RPN_DELTAS,
    RPN_SCORES,
    Stage,
)

IMAGE = "data"
INPUTS = {
    FEATURES: (IMAGE,),
    HEADS: (*MAPS, REGIONS),
    MASK: (*MAPS, REGIONS),
}
OUTPUTS = {
    FEATURES: (RPN_SCORES, RPN_DELTAS, *MAPS),
    HEADS: (CLASSES, BOXES),
    MASK: (MASKS,),
}
HELD = "rcnn_stages"  # attribute of a net, so that its stages are built once


def block_on(stage: str, symbol: mx.sym.Symbol, params: Any) -> SymbolBlock:
    """Return a stage as a block on parameters that a net has, too."""
    variables = [mx.sym.var(name, dtype="float32") for name in INPUTS[stage]]
    return SymbolBlock(symbol, variables, params=params)


class GluonStage:
    """A stage of a net, as ``postprocess.run`` takes it.

    Its block is never hybridized with ``static_alloc``, for images of different sizes
    follow each other.

    Parameters
    ----------
    net : HybridBlock
    name : str
    symbol : Symbol
    """

    def __init__(self, net: HybridBlock, name: str, symbol: mx.sym.Symbol) -> None:
        self.parameters, self.name = net.collect_params(), name
        self.block = block_on(name, symbol, self.parameters)

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Return outputs by name, computed on the first of the net's devices."""
        ctx = next(iter(self.parameters.values())).list_ctx()[0]
        arrays = [mx.nd.array(inputs[name], ctx=ctx) for name in INPUTS[self.name]]
        outputs = self.block(*arrays)
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        return {n: o.asnumpy() for n, o in zip(OUTPUTS[self.name], outputs)}


def stages_of(net: HybridBlock, symbol: mx.sym.Symbol) -> Mapping[str, Stage]:
    """Return the stages of a net.

    Parameters
    ----------
    net : HybridBlock
    symbol : Symbol
        The net's own.
    """
    held = getattr(net, HELD, None)
    if held is None:
        stages = parts.stages(symbol)
        held = {name: GluonStage(net, name, part) for name, part in stages.items()}
        setattr(net, HELD, held)
    return held
