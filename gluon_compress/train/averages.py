"""Moving averages of a net's parameters, which are evaluated in place of the last ones.

The mean of the values along the way of stochastic gradient descent is often better than
the last of them (Polyak and Juditsky 1992). Here recent values weigh more.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Dict, Iterator, Mapping, Sequence

import mxnet as mx
import numpy as np

from gluon_compress.storage.reading import finite

# BatchNorm's state, by the ends of names, which Gluon and exports have in common.
RUNNING = ("running_mean", "running_var", "moving_mean", "moving_var")


class Averages:
    """Exponential moving averages of what is learnt, and of running statistics.

    After update n, counted from 1, ``average = d * average + (1 - d) * value`` with
    ``d = min(decay, n / (9 + n))``, so that the first values, which are far from the
    last ones, soon weigh nothing. Other parameters, such as masks, are not averaged.

    Parameters
    ----------
    parameters : sequence of gluon.Parameter
        All of the net, initialised.
    decay : float
        From 0 to 1, both excluded.
    """

    def __init__(self, parameters: Sequence, decay: float) -> None:
        self.decay = decay
        self._averaged = {
            index: parameter
            for index, parameter in enumerate(parameters)
            if parameter.grad_req != "null" or parameter.name.endswith(RUNNING)
        }
        self._values: Dict[int, mx.nd.NDArray] = {}
        self.start()

    def start(self) -> None:
        """Take the parameters' present values as the averages."""
        mx.nd.waitall()  # for running statistics, see ``graph.tracing``
        self._values = {
            index: parameter.list_data()[0].copy()
            for index, parameter in self._averaged.items()
        }

    def update(self, updates: int) -> None:
        """Add the present values after so many updates, at least 1."""
        decay = min(self.decay, updates / (9 + updates))
        mx.nd.waitall()
        for index, parameter in self._averaged.items():
            average = self._values[index]
            average *= decay
            average += (1 - decay) * parameter.list_data()[0]

    def apply(self) -> None:
        """Set the parameters to their averages."""
        for index, parameter in self._averaged.items():
            parameter.set_data(self._values[index])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Set the parameters to their averages until the block ends."""
        mx.nd.waitall()
        before = {i: [a.copy() for a in p.list_data()] for i, p in self._items()}
        self.apply()
        try:
            yield
        finally:
            for index, parameter in self._items():
                for array, value in zip(parameter.list_data(), before[index]):
                    array[:] = value

    def _items(self) -> Any:
        return self._averaged.items()

    def stored(self) -> Dict[str, np.ndarray]:
        """Return the averages by the number of the parameter, for a checkpoint."""
        return {str(index): value.asnumpy() for index, value in self._values.items()}

    def check(self, arrays: Mapping[str, np.ndarray], source: Any) -> None:
        """Refuse arrays that are not averages of these parameters.

        Raises
        ------
        ValueError
            One line that starts with ``source``.
        """
        expected = {str(index): value for index, value in self._values.items()}
        fits = set(arrays) == set(expected) and all(
            arrays[name].shape == value.shape and arrays[name].dtype == value.dtype
            for name, value in expected.items()
        )
        if not fits:
            raise ValueError(
                f"{source}: holds averages of {len(arrays)} parameters, or of other "
                f"shapes; allowed: those of the {len(expected)} that are averaged"
            )
        finite(arrays, source)

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take over averages that ``check`` has accepted."""
        for index, value in self._values.items():
            array = arrays[str(index)]
            value[:] = mx.nd.array(array, dtype=array.dtype)
