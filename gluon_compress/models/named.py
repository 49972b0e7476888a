"""A block whose outputs have names, so that losses can say which they need."""

from __future__ import annotations

from typing import Any, Callable, Mapping, Sequence

import mxnet as mx
from mxnet.gluon import HybridBlock


class NamedBlock(HybridBlock):
    """Gives the outputs of another block by name.

    Parameters
    ----------
    block : HybridBlock
        Its parameters are the named block's own, in the same order.
    names : sequence of str
        One for each output.
    shape : sequence of int, optional
        Shape of the input, with its batch axis, if it is known: ``input_shape``.

    Examples
    --------
    >>> NamedBlock(net, ("class_scores",))(images)["class_scores"]
    """

    def __init__(
        self,
        block: HybridBlock,
        names: Sequence[str],
        shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__(prefix="")
        self.names = tuple(names)
        self.input_shape = shape
        self.block = block

    def forward(self, *inputs: Any) -> Any:
        """Return the outputs by name; of a symbol, as a list."""
        outputs = self.block(*inputs)
        if isinstance(inputs[0], mx.sym.Symbol):
            return outputs
        return named(outputs, self.names)


def named(
    outputs: Any, names: Sequence[str], *, source: str = "net"
) -> Mapping[str, mx.nd.NDArray]:
    """Return outputs by name; a mapping is returned as it is.

    ``source`` is what messages call the net.

    Raises
    ------
    ValueError
        If there is another number of outputs than of names.
    """
    if isinstance(outputs, Mapping):
        return outputs
    arrays = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
    if len(arrays) != len(names):
        raise ValueError(
            f"outputs {list(names)} are expected; the {source} gives {len(arrays)}"
        )
    return dict(zip(names, arrays))


def supervised_step(loss: Callable) -> Callable:
    """Return the step loss for ``fit`` that applies a loss to a net's outputs alone.

    Parameters
    ----------
    loss : callable
        ``loss(outputs, batch) -> (loss, {part: value})``.
    """

    def step(net: Callable, batch: Sequence) -> tuple:
        return loss(net(batch[0]), batch)

    return step
