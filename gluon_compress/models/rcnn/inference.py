"""A two-stage detector in Gluon: the stages of its symbol as blocks."""

from __future__ import annotations

from typing import Any, Callable, Dict, Mapping

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock, SymbolBlock

from gluon_compress.graph.symbols import take_apart
from gluon_compress.models.rcnn import net as parts
from gluon_compress.postprocess.rcnn import (
    BOXES,
    CLASSES,
    MAPS,
    MASKS,
    REGIONS,
    RPN_DELTAS,
    RPN_SCORES,
    Stage,
)

OUTPUTS = {
    parts.FEATURES: (RPN_SCORES, RPN_DELTAS, *MAPS),
    parts.HEADS: (CLASSES, BOXES),
    parts.MASK: (MASKS,),
}
INPUTS = {
    parts.FEATURES: ("data",),
    parts.HEADS: (*MAPS, REGIONS),
    parts.MASK: (*MAPS, REGIONS),
}
HELD = "rcnn_stages"  # attribute of a net, so that its stages are built once


class Stages:
    """The stages of a net as blocks that share its parameters.

    Parameters
    ----------
    net : HybridBlock
        Of one of the families of this package.
    """

    def __init__(self, net: HybridBlock) -> None:
        symbols = parts.stages(net.family.to_symbol(net))
        params = net.collect_params()
        self.blocks = {name: block_on(s, params) for name, s in symbols.items()}

    def run(self, name: str, inputs: Mapping[str, np.ndarray], ctx: Any) -> dict:
        """Return what a stage gives, arrays by name."""
        block = self.blocks[name]
        arrays = [mx.nd.array(inputs[i], ctx=ctx) for i in block.inputs]
        outputs = block.block(*arrays)
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        return {n: o.asnumpy() for n, o in zip(OUTPUTS[name], outputs)}


class _Part:
    """A block, and the names of its inputs."""

    def __init__(self, block: SymbolBlock, inputs: tuple) -> None:
        self.block, self.inputs = block, inputs


def block_on(symbol: mx.sym.Symbol, params: Any) -> _Part:
    """Return a symbol as a block on parameters that others have, too."""
    used = {n["name"] for n in take_apart(symbol)[0] if n["op"] == "null"}
    inputs = tuple(name for name in ("data", *MAPS, REGIONS) if name in used)
    variables = [mx.sym.var(name, dtype="float32") for name in inputs]
    return _Part(SymbolBlock(symbol, variables, params=params), inputs)


def stages_of(net: HybridBlock) -> Dict[str, Stage]:
    """Return the stages of a net as ``run_stages`` takes them.

    They are never hybridized with ``static_alloc``: maps of images of different sizes
    follow each other.
    """
    held = getattr(net, HELD, None)
    if held is None:
        held = Stages(net)
        setattr(net, HELD, held)
    ctx = next(iter(net.collect_params().values())).list_ctx()[0]

    def stage(name: str) -> Callable:
        return lambda inputs: held.run(name, inputs, ctx)

    return {name: stage(name) for name in held.blocks}
