"""Adds gradients over the ranks, through MXNet's parameter server.

The server adds what it gets in the order of its arrival. Of two numbers the sum is the
same either way; of more, it may differ in the last digit from run to run. Sums that are
``exact`` do not: gradients are sent as 64-bit numbers, all multiples of ``GRID``, whose
sums need no rounding.
"""

from __future__ import annotations

import ctypes
from typing import Any, Dict, Sequence

import mxnet as mx

GRID = 2.0**-42  # 2e-13; sums up to 2**10 have 53 bits then, as many as float64
_ROUNDING = 1.5 * 2**52 * GRID  # adding it leaves multiples of GRID


class GradientSums:
    """Adds arrays over all ranks, in place.

    One process has one, for all its trainings: MXNet's servers end with the first
    store that is closed.

    Parameters
    ----------
    kvstore : str
        ``dist_sync`` or ``dist_device_sync``.
    threshold : float, optional
        Send 2 bits for a number: whether it has come to plus or minus this threshold,
        or to neither. What is not sent is kept, and added to the next gradient.
    exact : bool
        Whether sums do not depend on the order of arrival; not with a threshold.
    """

    def __init__(
        self, kvstore: str, *, threshold: float | None = None, exact: bool = True
    ) -> None:
        self._store = mx.kv.create(kvstore)
        # The launcher ends the servers; a rank that fails must not wait for others.
        mx.base.check_call(
            mx.base._LIB.MXKVStoreSetBarrierBeforeExit(
                self._store.handle, ctypes.c_int(0)
            )
        )
        if threshold is not None:
            settings = {"type": "2bit", "threshold": threshold}
            self._store.set_gradient_compression(settings)
        self.is_exact = exact and threshold is None and self._store.num_workers > 2
        self._keys: Dict[tuple, int] = {}

    def add(self, gradients: Sequence[Sequence[mx.nd.NDArray]]) -> None:
        """Add arrays over all devices and ranks; each becomes the sum.

        Parameters
        ----------
        gradients : sequence of sequences of NDArray
            Of each parameter, one for each device of this rank.
        """
        for number, key in enumerate(self._keys_of(gradients)):
            arrays = list(gradients[number])
            if not self.is_exact:
                self._store.push(key, arrays, priority=-number)
                self._store.pull(key, out=arrays, priority=-number)
                continue
            total = on_grid(arrays)
            self._store.push(key, total, priority=-number)
            self._store.pull(key, out=total, priority=-number)
            sums = total.astype("float32")
            for array in arrays:
                sums.copyto(array)

    def _keys_of(self, gradients: Sequence[Sequence[mx.nd.NDArray]]) -> list[int]:
        """Return a key for each array; trainings share those of equal shape."""
        seen: Dict[tuple, int] = {}
        keys, new = [], {}
        for arrays in gradients:
            shape = arrays[0].shape
            seen[shape] = seen.get(shape, 0) + 1
            name = (shape, seen[shape])
            if name not in self._keys:
                self._keys[name] = len(self._keys)
                new[self._keys[name]] = mx.nd.zeros(shape, dtype=self._dtype)
            keys.append(self._keys[name])
        if new:
            self._store.init(list(new), list(new.values()))
        return keys

    @property
    def _dtype(self) -> str:
        return "float64" if self.is_exact else "float32"


def on_grid(arrays: Sequence[mx.nd.NDArray]) -> mx.nd.NDArray:
    """Return the sum of float32 arrays over devices, as multiples of ``GRID``."""
    first = arrays[0].context
    total = arrays[0].astype("float64")
    for array in arrays[1:]:
        total = total + array.as_in_context(first).astype("float64")
    return (total + _ROUNDING) - _ROUNDING


_STORES: Dict[tuple, GradientSums] = {}


def gradient_sums(
    kvstore: str, *, threshold: float | None = None, exact: bool = True
) -> Any:
    """Return the sums of this process; its trainings share them.

    Raises
    ------
    ValueError
        If the process has begun with other settings.
    """
    key = (kvstore, threshold, exact)
    if not _STORES:
        _STORES[key] = GradientSums(kvstore, threshold=threshold, exact=exact)
    if key not in _STORES:
        raise ValueError(
            f"kvstore, threshold and exact are {key}; allowed in this process: "
            f"{next(iter(_STORES))}, as it began"
        )
    return _STORES[key]
