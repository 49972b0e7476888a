"""Initial values of parameters, the same for one seed."""

from __future__ import annotations

from typing import Callable, Mapping, Sequence

import mxnet as mx

from gluon_compress.graph import give_value
from gluon_compress.graph.symbols import infer_shapes, shapes_of
from gluon_compress.sizes import Size, size_pair


def initialize(
    block: mx.gluon.HybridBlock,
    symbol: mx.sym.Symbol,
    size: Size,
    *,
    seed: int = 0,
    ctx: mx.Context | None = None,
    start_of: Callable[[str], mx.init.Initializer | None] = lambda name: None,
) -> None:
    """Give every parameter that has no value yet its initial value.

    Convolutions start as in He et al. 2015 (equation 10, fan-out), dense layers as
    small normal numbers; what a layer asks for itself (zero for the last BatchNorm
    scale of a residual block, Xavier for predictors) is respected.

    Parameters
    ----------
    block : HybridBlock
        Changed in place.
    symbol : Symbol
        What it computes from ``data``.
    size : int or (int, int)
        Height and width of the input, pixels.
    seed : int
    ctx : Context, optional
    start_of : callable
        How a parameter starts, by its name, if not as above.
    """
    missing = {n: p for n, p in block.collect_params().items() if p._data is None}
    if not missing:  # a shared parameter may have its value already
        return
    mx.random.seed(seed)
    stated = shapes_of({p.name: p for p in block.collect_params().values()})
    shape_of, _ = infer_shapes(symbol, {**stated, "data": (1, 3, *size_pair(size))})
    for name, parameter in missing.items():
        parameter.shape = shape_of[name]
        # As a default: what a layer asks for itself comes first.
        start = start_of(name) or initializer(name, shape_of[name])
        parameter.initialize(ctx=ctx or mx.cpu(), default_init=start)


def with_missing_initialized(
    symbol: mx.sym.Symbol,
    values: Mapping[str, mx.nd.NDArray],
    size: Size,
    *,
    seed: int = 0,
    start_of: Callable[[str], mx.init.Initializer | None] = lambda name: None,
) -> dict[str, mx.nd.NDArray]:
    """Return values for all parameters of a symbol of ``data``.

    Parameters
    ----------
    symbol : Symbol
    values : mapping
        By name; parameters that are missing get their initial values.
    size : int or (int, int)
        Height and width of the input, pixels.
    seed : int
    start_of : callable
        As ``initialize`` takes it.
    """
    block = mx.gluon.SymbolBlock(symbol, mx.sym.var("data", dtype="float32"))
    parameters = block.collect_params()
    for name, value in values.items():
        give_value(parameters[name], value, value.ctx)
    initialize(block, symbol, size, seed=seed, start_of=start_of)
    return {name: parameter.data() for name, parameter in parameters.items()}


def initializer(name: str, shape: Sequence[int]) -> mx.init.Initializer:
    """Return how a parameter starts, by its name and shape."""
    # By kind: MXNet's own patterns do not know every name that a symbol may use.
    if name.endswith(("gamma", "var")):
        return mx.init.One()
    if name.endswith(("beta", "mean", "bias")):
        return mx.init.Zero()
    if len(shape) == 2:
        return mx.init.Normal(0.01)
    # A depthwise filter meets one channel, whatever its first axis says.
    fan = "in" if shape[1] == 1 else "out"
    return mx.init.Xavier(rnd_type="gaussian", factor_type=fan, magnitude=2)
