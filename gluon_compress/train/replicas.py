"""The copies of a net that train together: one on each device of each rank.

All copies have the same values after every step. Gradients are added, so updates are
alike. Running statistics, which each copy moves by its own part of the batch, are
averaged. What hooks move is a function of values that are alike, or of numbers that
they combine themselves (``MovingRanges``).
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, Mapping, Sequence

import mxnet as mx
import numpy as np

from gluon_compress.distributed import digest
from gluon_compress.train.averages import RUNNING


class Replicas:
    """The copies of a net, of which this process has one on each of its devices.

    Parameters
    ----------
    parameters, trainable : sequence of gluon.Parameter
    trainer : gluon.Trainer
        Adds the gradients of several devices of a process that is alone.
    options : Options
    """

    def __init__(
        self, parameters: Sequence, trainable: Sequence, trainer: Any, options: Any
    ) -> None:
        self.ranks, self._trainer = options.ranks, trainer
        self.count = len(options.ctx) * self.ranks.size
        self._parameters, self._trainable = parameters, trainable
        self._running = [p for p in parameters if p.name.endswith(RUNNING)]
        self._sums: Any = None
        if self.ranks.is_launched:
            from gluon_compress.distributed.sums import gradient_sums

            self._sums = gradient_sums(
                options.kvstore,
                threshold=options.gradient_threshold,
                exact=options.exact_sums,
            )

    def facts(self) -> Dict[str, Any]:
        """Return what all ranks have to have in common before they train."""
        shapes = [(tuple(p.shape), str(p.dtype), p.grad_req) for p in self._parameters]
        return {
            "number of parameters": len(shapes),
            "structure": digest(repr(shapes).encode()),
        }

    def start(self) -> None:
        """Give all ranks the values of rank 0, if theirs are others."""
        share_values(self._parameters, self.ranks)

    def add_gradients(self) -> None:
        """Begin to add the gradients over all copies."""
        if self._sums is None:
            self._trainer.allreduce_grads()
        else:
            self._sums.add([parameter.list_grad() for parameter in self._trainable])

    def settle(self, figures: np.ndarray, asked: int | None) -> tuple[Any, int | None]:
        """Average running statistics and some figures over all copies.

        Parameters
        ----------
        figures : array
            ``(F,)``, float32: the mean over the devices of this rank.
        asked : int or None
            The signal that asks this rank to stop.

        Returns
        -------
        (array, int or None)
            Figures of all copies, and the signal that asks any rank to stop.
        """
        if self.count == 1:
            return figures, asked
        mx.nd.waitall()  # for running statistics, see ``graph.tracing``
        devices = [_packed(arrays) for arrays in self._by_device()]
        own = np.concatenate([figures, _mean(devices)])
        if self.ranks.size > 1:
            payload = np.ascontiguousarray(own, np.float32).tobytes()
            every, payload = self.ranks.exchange("step", asked, payload, "mean")
            own = np.frombuffer(payload, np.float32)
            asked = next((number for number in every if number is not None), None)
        self._set_running(own[len(figures) :])
        return own[: len(figures)], asked

    def any_asked(self, asked: int | None) -> int | None:
        """Return the signal that asks any rank to stop."""
        every, _ = self.ranks.exchange("stop", asked)
        return next((number for number in every if number is not None), None)

    def _by_device(self) -> Iterator[Sequence]:
        return zip(*(parameter.list_data() for parameter in self._running))

    def _set_running(self, packed: np.ndarray) -> None:
        for arrays in self._by_device():
            values, place = mx.nd.array(packed, ctx=arrays[0].context), 0
            for array in arrays:
                end = place + array.size
                array[:] = values[place:end].reshape(array.shape)
                place = end


def _packed(arrays: Sequence) -> np.ndarray:
    return np.concatenate([array.asnumpy().ravel() for array in arrays])


def _mean(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean of float32 arrays, added in their order; of none, none."""
    if not arrays:
        return np.empty(0, np.float32)
    total = arrays[0].copy()
    for array in arrays[1:]:
        total += array
    return total / np.float32(len(arrays))


def share_values(parameters: Sequence, ranks: Any) -> None:
    """Give all ranks the parameters of rank 0, if any of them has others.

    They go as NumPy's arrays: weights that a forward pass has used may lie in memory in
    an order of oneDNN's own, which MXNet's stores refuse.
    """
    if ranks.size == 1:
        return
    mx.nd.waitall()
    values = [parameter.list_data()[0].asnumpy() for parameter in parameters]
    every, _ = ranks.exchange("start values", digest(*values))
    if len(set(every)) == 1:
        return
    packed = b"".join(value.tobytes() for value in values) if ranks.leads else b""
    _, packed = ranks.exchange("values of rank 0", None, packed, "first")
    place = 0
    for value, parameter in zip(values, parameters):
        end = place + value.nbytes
        array = np.frombuffer(packed[place:end], value.dtype).reshape(value.shape)
        parameter.set_data(mx.nd.array(array, dtype=value.dtype))
        place = end


class Part:
    """The part of each batch that one rank computes, of batches that come whole.

    Parameters
    ----------
    batches
        As ``fit`` takes them.
    rank, ranks : int
    """

    def __init__(self, batches: Any, rank: int, ranks: int) -> None:
        self._batches, self._rank, self._ranks = batches, rank, ranks

    def __len__(self) -> int:
        return len(self._batches)

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple]:
        """Yield the parts of the batches of an epoch.

        Raises
        ------
        ValueError
            For a batch that cannot be divided evenly.
        """
        for batch in self._batches.epoch(number, start):
            size = len(batch[0])
            if size % self._ranks:
                raise ValueError(
                    f"a batch has {size} images; allowed with {self._ranks} workers: "
                    f"multiples of {self._ranks}"
                )
            count = size // self._ranks
            first = self._rank * count
            yield tuple(array[first : first + count] for array in batch)


def part_of(batches: Any, ranks: Any) -> Any:
    """Return what one rank trains on: its part of each batch.

    Batches with a method ``part(rank, ranks)`` prepare only what is asked for.
    """
    if ranks.size == 1:
        return batches
    if hasattr(batches, "part"):
        return batches.part(ranks.rank, ranks.size)
    return Part(batches, ranks.rank, ranks.size)


def told(names: Mapping[str, Any]) -> Dict[str, Any]:
    """Return settings as facts that ranks can agree on: short texts."""
    return {name: digest_of(value) for name, value in names.items()}


def digest_of(value: Any) -> Any:
    """Return a value itself if it is short, else its digest."""
    text = repr(value)
    return value if len(text) <= 60 else digest(text.encode())
