"""Puts an encoder and a decoder in place of a part of a net.

They are Bottleneck4LargeResNet and Bottleneck4SmallResNet (Matsubara and Levorato 2020,
"Neural Compression and Filtering for Edge-assisted Real-time Object Detection in
Challenged Networks"). The encoder's last layer has few channels: what it computes is
sent. Its convolutions of 2x2 with padding 1 each add a row and a column, which those of
the decoder, without padding, take away again, so that the decoder's map has the size of
the map that it stands for.

What the paper does not say, and is decided here: the decoder ends in as many channels
as the map that it replaces, with a ReLU if that has one. Where that map is smaller than
the one the encoder reads, by a power of 2, the first convolutions of the encoder have a
stride of 2, and such kernels and padding that each halves the map, rounded up, and adds
its row and column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

import mxnet as mx
from mxnet.gluon import HybridBlock
from typing_extensions import Literal

from gluon_compress.graph import Graph, pair_of, rebuild, trace
from gluon_compress.graph.symbols import infer_shapes
from gluon_compress.models.initialize import initializer
from gluon_compress.quantization.image_range import quantised_by_range, range_quantisers
from gluon_compress.splitting.cuts import (
    INPUT,
    CutPoint,
    CutPoints,
    cut,
    one_variable_each,
    split,
)
from gluon_compress.validation import wrong

NAME = "bottleneck"
ENCODER_END = f"{NAME}_encoder_conv3"
DECODER_END = f"{NAME}_decoder_end"
MOST_CHANNELS = 15
Form = Literal["large", "small"]
# Output channels of the convolutions; the last ones are the bottleneck's and the map's.
ENCODER = (64, 256, 64)
DECODERS: Dict[str, Tuple[int, ...]] = {"large": (64, 128, 256), "small": (64, 128, 64)}


@dataclass(frozen=True)
class Bottleneck:
    """What is put in, and where.

    Parameters
    ----------
    after, at : str
        Names of cut points: the part between them is replaced, ``at`` included.
    channels : int
        Of the tensor that is sent, 1 to 15.
    form : str
        ``large``, for wide maps, or ``small``.
    bits : int, optional
        Of the tensor's integers: 16, 8 or 4. None: it is not quantised in the net.
    """

    after: str
    at: str
    channels: int = 3
    form: Form = "large"
    bits: Optional[int] = 8


@dataclass(frozen=True)
class Places:
    """Where a bottleneck goes in a net.

    Parameters
    ----------
    after, at : CutPoint
    activated : bool
        Whether the map at ``at`` is the output of a ReLU.
    """

    after: CutPoint
    at: CutPoint
    activated: bool

    @property
    def halvings(self) -> int:
        """How often the map between the two is halved."""
        return halvings(self.after.shape, self.at.shape)


def places(net: Any, settings: Bottleneck, *, shape: Any = None) -> Places:
    """Return where a bottleneck goes.

    Raises
    ------
    ValueError
        One line, if a name is no cut point, ``at`` is not behind ``after``, one of the
        maps has no height and width, or their sizes do not fit.
    """
    graph = trace(net, shape)
    if has_bottleneck(graph.nodes):
        raise ValueError("the net has a bottleneck already; allowed: one")
    points = split(net, shape=shape)
    assert isinstance(points, CutPoints)
    after, at = _named(points, settings, "after"), _named(points, settings, "at")
    order = [p.node for p in points]
    if order.index(after.node) >= order.index(at.node):
        raise wrong("at", settings.at, f"a cut point behind {settings.after!r}")
    for key, point in (("after", after), ("at", at)):
        if len(point.shape) != 3:
            raise wrong(key, point.name, "a map (channels, height, width)")
    halvings(after.shape, at.shape)
    return Places(after, at, _is_activated(graph, at.node))


def _named(points: CutPoints, settings: Bottleneck, key: str) -> CutPoint:
    try:
        return points.at(getattr(settings, key))
    except ValueError as error:
        raise ValueError(str(error).replace("at is", f"{key} is", 1)) from None


def halvings(before: Sequence[int], behind: Sequence[int]) -> int:
    """Return how often the sides of a map are halved, rounded up.

    Raises
    ------
    ValueError
        If that does not lead from one to the other in at most four steps.
    """
    sides = tuple(before[1:])
    for count in range(5):
        if sides == tuple(behind[1:]):
            return count
        sides = tuple(-(-side // 2) for side in sides)
    raise wrong(
        "at",
        f"of {behind[1]} x {behind[2]} cells",
        f"{before[1]} x {before[2]} cells as at 'after', or halved up to 4 times",
    )


def _is_activated(graph: Graph, name: str) -> bool:
    node = next(n for n in graph.nodes if n["name"] == name)
    return node["op"] == "relu" or node["attrs"].get("act_type") == "relu"


def has_bottleneck(nodes: Sequence[Mapping]) -> bool:
    """Return whether a net has a bottleneck."""
    return any(node["name"] == ENCODER_END for node in nodes)


def bottleneck_bits(nodes: Sequence[Mapping]) -> int | None:
    """Return the bits of the tensor that a net's bottleneck sends, if it says so."""
    for quantiser in range_quantisers(nodes):
        if nodes[quantiser.source[0]]["name"] == ENCODER_END:
            return quantiser.bits
    return None


def is_bottleneck_parameter(name: str) -> bool:
    """Return whether a parameter belongs to the encoder or the decoder."""
    return name.startswith(f"{NAME}_")


def with_bottleneck(
    net: Any, settings: Bottleneck, *, shape: Any = None, seed: int = 0
) -> HybridBlock:
    """Return a net with an encoder and a decoder in place of one of its parts.

    Parameters
    ----------
    net : HybridBlock or (symbol, params)
        Any net that traces; not changed.
    settings : Bottleneck
    shape : tuple, optional
        Of the input, unless the net states it.
    seed : int
        Decides the new values.

    Raises
    ------
    ValueError
        As ``places``.
    """
    where = places(net, settings, shape=shape)
    graph = trace(net, shape)
    symbol, params = pair_of(net)
    full = next(iter(graph.inputs.values()))
    (head, _), (tail, _) = (
        cut(symbol, params, where.after.node, full)[0],
        cut(symbol, params, where.at.node, full)[1],
    )
    between = bottleneck_symbol(mx.sym.var(INPUT), where, settings)
    joined = one_variable_each(tail(data=between(data=head)))
    values = {n: v for n, v in params.items() if n in set(joined.list_inputs())}
    values.update(_initial(between, where.after.shape, seed))
    result = rebuild(net, graph, joined, values)
    for parameter in result.collect_params().values():
        if is_bottleneck_parameter(parameter.name):
            parameter.grad_req = "null" if _is_running(parameter.name) else "write"
    return result


def _is_running(name: str) -> bool:
    return name.endswith(("moving_mean", "moving_var"))


def _initial(
    between: mx.sym.Symbol, shape: Sequence[int], seed: int
) -> dict[str, mx.nd.NDArray]:
    """Return initial values for the parameters of a bottleneck."""
    shapes, _ = infer_shapes(between, {INPUT: (1, *shape)})
    block = mx.gluon.SymbolBlock(between, mx.sym.var(INPUT, dtype="float32"))
    del shapes[INPUT]
    mx.random.seed(seed)
    values = {}
    for name, parameter in block.collect_params().items():
        parameter.shape = shapes[name]
        parameter.initialize(default_init=initializer(name, shapes[name]))
        values[name] = parameter.data()
    return values


# The layers.


def bottleneck_symbol(
    x: mx.sym.Symbol, where: Places, settings: Bottleneck
) -> mx.sym.Symbol:
    """Return what stands for a map, from the map that it is computed of.

    Parameters
    ----------
    x : Symbol
        The map at ``after``.
    where : Places
    settings : Bottleneck
    """
    x = encoder(x, settings.channels, where.halvings)
    if settings.bits is not None:
        x = quantised_by_range(x, settings.bits, f"{NAME}_quantiser")
    channels = where.at.shape[0]
    return decoder(x, settings.form, channels, activated=where.activated)


def encoder(x: mx.sym.Symbol, channels: int, halvings: int = 0) -> mx.sym.Symbol:
    """Return the encoder's last layer, whose output is sent."""
    name = f"{NAME}_encoder"
    for i, width in enumerate((*ENCODER, channels)):
        how = _halving(i) if i < halvings else {"kernel": (2, 2), "pad": (1, 1)}
        x = mx.sym.Convolution(
            x, num_filter=width, no_bias=True, name=f"{name}_conv{i}", **how
        )
        if i < len(ENCODER):
            x = _norm(x, f"{name}_bn{i}")
        if i == 1:
            x = mx.sym.Activation(x, act_type="relu", name=f"{name}_relu{i}")
    return x


def _halving(grown: int) -> dict[str, tuple[int, int]]:
    """Return a convolution from ``n + grown`` cells to ``ceil(n / 2) + grown + 1``."""
    kernel, pad = 3 - grown % 2, 2 + grown // 2
    return {"kernel": (kernel, kernel), "pad": (pad, pad), "stride": (2, 2)}


def decoder(
    x: mx.sym.Symbol, form: str, channels: int, *, activated: bool
) -> mx.sym.Symbol:
    """Return the map that a decoder makes of what was sent."""
    name = f"{NAME}_decoder"
    x = _norm(x, f"{name}_bn_in")
    x = mx.sym.Activation(x, act_type="relu", name=f"{name}_relu_in")
    widths = (*DECODERS[form], channels)
    for i, width in enumerate(widths):
        x = mx.sym.Convolution(
            x, num_filter=width, kernel=(2, 2), no_bias=True, name=f"{name}_conv{i}"
        )
        last = i == len(widths) - 1
        end = DECODER_END if last and not activated else f"{name}_bn{i}"
        x = _norm(x, end)
        if i == 1 or (last and activated):
            end = DECODER_END if last else f"{name}_relu{i}"
            x = mx.sym.Activation(x, act_type="relu", name=end)
    return x


def _norm(x: mx.sym.Symbol, name: str) -> mx.sym.Symbol:
    return mx.sym.BatchNorm(x, fix_gamma=False, eps=1e-5, momentum=0.9, name=name)
