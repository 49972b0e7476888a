"""Weighs the parts of a loss against each other while a net trains.

Both ways see a loss as its parts alone, so any family's loss will do. Neither has state
but parameters: ``Uncertainty`` trains one for each part, ``equal_gradients`` none.
"""

from __future__ import annotations

from typing import Any, Callable, Iterable, Mapping, Sequence

import mxnet as mx
import numpy as np
from mxnet import autograd, nd
from mxnet.gluon import HybridBlock
from mxnet.ndarray import NDArray as Array

from gluon_compress.models.base import Family
from gluon_compress.models.named import NamedBlock

PARAMETER = "balance_log_variances"
MOST = 10.0  # of weights by gradients; the least is its reciprocal


def balanced(
    kind: str, family: Family, net: HybridBlock, block: NamedBlock, loss: Callable
) -> tuple[NamedBlock, Callable]:
    """Return what to train and its loss, the parts of which are weighed.

    Parameters
    ----------
    kind : str
        ``uncertainty`` or ``gradient_norm``.
    family : Family
    net : HybridBlock
    block : NamedBlock
        Of ``family.training_net``.
    loss : callable
        ``loss(outputs, batch) -> (loss, {part: value})``.

    Raises
    ------
    ValueError
        If the loss has fewer than two parts, or is no function of the outputs, whose
        gradients ``gradient_norm`` needs.
    """
    if kind == "gradient_norm" and not family.loss_of_outputs:
        raise ValueError(
            f"loss.balance is {kind!r}; allowed for nets of kind {family.kind!r}: "
            "'uncertainty' or null, for their loss runs a part of the net"
        )
    names = _parts(family, net, block, loss)
    if len(names) < 2:
        raise ValueError(
            f"loss.balance is {kind!r}, but the loss of {family.kind!r} has "
            f"{len(names)} parts; allowed: null, or a net whose loss has two or more"
        )
    if kind == "gradient_norm":
        return block, equal_gradients(loss)
    weighed = Uncertainty(names, loss)
    return weighed.on(block), weighed


class Uncertainty:
    """A loss whose parts are weighed by the uncertainty of what they compare.

    ``L = sum_i exp(-s_i) L_i + s_i`` (Kendall, Gal and Cipolla 2018, equation 10, with
    ``s_i`` the logarithm of the variance of part i, and one form for parts of any kind:
    without the paper's factors of a half). ``s`` starts at 0, where all parts weigh 1,
    and is trained with the net. Where it is best, a part weighs ``1 / L_i``.

    Parameters
    ----------
    names : sequence of str
        Of the parts.
    loss : callable
        ``loss(outputs, batch) -> (loss, {part: value})``.

    Attributes
    ----------
    log_variances : Parameter
        ``s``, one for each part; of the block that is trained, never of the net.
    """

    def __init__(self, names: Sequence[str], loss: Callable) -> None:
        self.names, self.base = tuple(names), loss
        self.log_variances = mx.gluon.Parameter(
            PARAMETER, shape=(len(names),), init=mx.init.Zero()
        )
        self.log_variances.initialize()

    def on(self, block: NamedBlock) -> NamedBlock:
        """Return the block that is trained, with the parameter among its own."""
        block.params.update({PARAMETER: self.log_variances})
        return block

    def __call__(self, outputs: Any, batch: Sequence) -> tuple[Array, Mapping]:
        """Return the weighed loss and the parts as they were."""
        _, parts = self.base(outputs, batch)
        values = [parts[name].reshape(1) for name in self.names]
        device = values[0].context
        s = self.log_variances.data(device)
        total = nd.exp(-s) * nd.concat(*values, dim=0) + s
        return total.sum(), parts


def equal_gradients(loss: Callable) -> Callable:
    """Return a loss whose parts pull at the net's outputs with equal force.

    ``L = sum_i w_i L_i`` with ``w_i = clip(m / g_i, 1 / 10, 10)``, ``g_i`` the norm of
    part i's gradient with respect to all outputs of the net and ``m`` the geometric
    mean of those that are above 0. Chen et al. 2018 (GradNorm) compare norms at shared
    weights, and train the weights of the parts; at the outputs they cost no pass
    through the net, and need no state.

    Parameters
    ----------
    loss : callable
        ``loss(outputs, batch) -> (loss, {part: value})``, a function of the outputs.
    """

    def weighed(outputs: Mapping[str, Array], batch: Sequence) -> tuple:
        with autograd.pause():
            parts, gradients = _taken_apart(loss, outputs, batch)
            weights = gradient_weights([_norm(each.values()) for each in gradients])
            value = sum(w * part for w, part in zip(weights, parts.values()))
            slopes = {
                name: sum(w * each[name] for w, each in zip(weights, gradients))
                for name in outputs
            }
        # The loss's gradient is known: it need not be computed again.
        linear = sum((slopes[n] * array).sum() for n, array in outputs.items())
        return linear - linear.detach() + value.reshape(1), parts

    return weighed


def _taken_apart(loss: Callable, outputs: Mapping, batch: Sequence) -> tuple:
    """Return the parts of a loss, and the gradient of each by output."""
    copies = {name: array.detach() for name, array in outputs.items()}
    for copy in copies.values():
        copy.attach_grad()
    with autograd.record():
        _, parts = loss(copies, batch)
    gradients = []
    for part in parts.values():
        for copy in copies.values():
            copy.grad[:] = 0  # a part leaves those alone that it does not depend on
        part.backward(retain_graph=True)
        gradients.append({name: copy.grad.copy() for name, copy in copies.items()})
    return {name: part.detach() for name, part in parts.items()}, gradients


def gradient_weights(norms: Sequence[float]) -> list[float]:
    """Return the weights of parts by the norms of their gradients."""
    above = [norm for norm in norms if norm > 0]
    mean = float(np.exp(np.mean(np.log(above)))) if above else 1.0
    return [
        float(np.clip(mean / norm, 1 / MOST, MOST)) if norm > 0 else 1.0
        for norm in norms
    ]


def _norm(gradients: Iterable[Array]) -> float:
    squares = [nd.square(gradient).sum().reshape(1) for gradient in gradients]
    return float(nd.concat(*squares, dim=0).sum().sqrt().asscalar())


def _parts(family: Family, net: HybridBlock, block: Callable, loss: Callable) -> list:
    """Return the names of the parts, from the loss of an empty image."""
    size = family.input_size(net)
    targets = family.targets(net)([np.zeros((0, 6), np.float32)])
    device = next(iter(net.collect_params().values())).list_ctx()[0]
    images = nd.zeros((1, 3, *size), ctx=device)
    batch = [images, *(nd.array(target, ctx=device) for target in targets)]
    return list(loss(block(images), batch)[1])
