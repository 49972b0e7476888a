"""Writes and reads checkpoints: parameters, progress and optimiser in one zip file.

Parameters are stored by their order in the net, not by name: names contain counters
of the process that built the net. All is arrays and JSON, so that reading a file runs
nothing.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Callable, Sequence

import mxnet as mx
import numpy as np

from gluon_compress.storage.atomic import write_atomically
from gluon_compress.storage.reading import (
    finite,
    parse_json,
    read_arrays,
    write_arrays,
)
from gluon_compress.train.optimizer_state import OptimizerState
from gluon_compress.validation import LONGEST_VALUE, shortened, shown

FORMAT = 2
# Had the same parameters; its optimiser states were a pickle, which is never read.
EARLIER = 1
_HEADER, _PARAMETER, _STATE, _AVERAGE = "meta", "p", "s", "a"


def write_checkpoint(
    path: str | os.PathLike,
    parameters: Sequence,
    meta: dict,
    state: OptimizerState | None = None,
) -> None:
    """Write parameters, a JSON-able ``meta`` and the optimiser's state, atomically.

    Parameters
    ----------
    path : path
    parameters : sequence of gluon.Parameter
        All parameters of the net, in the order of ``net.collect_params()``.
    meta : dict
    state : OptimizerState, optional

    Notes
    -----
    If parameters are on several devices, the values of the first are stored; only
    BatchNorm's running statistics differ between devices.
    """
    mx.nd.waitall()  # for running statistics, see ``graph.tracing``
    state = state or OptimizerState()
    header = {"format": FORMAT, "meta": meta, "optimizer": dict(state.numbers)}
    arrays = {
        f"{_PARAMETER}{i:04d}": p.list_data()[0].asnumpy()
        for i, p in enumerate(parameters)
    }
    arrays.update({f"{_STATE}{key}": value for key, value in state.arrays.items()})
    arrays.update({f"{_AVERAGE}{key}": v for key, v in state.averages.items()})
    arrays[_HEADER] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    write_atomically(path, write_arrays(arrays))


def read_checkpoint(
    path: str | os.PathLike,
    parameters: Sequence,
    *,
    accept: Callable[[dict, OptimizerState], Any] | None = None,
    averages: bool = False,
) -> tuple[dict, OptimizerState]:
    """Set the parameters from a file; return its ``meta`` and the optimiser's state.

    Parameters
    ----------
    path : path
    parameters : sequence of gluon.Parameter
        In the order in which they were written; unchanged if the file does not fit.
    accept : callable, optional
        Called with both results before anything is set; may raise to refuse the file.
    averages : bool
        Set parameters to their moving averages where the file has some.

    Returns
    -------
    meta : dict
    state : OptimizerState
        Empty for a file of an earlier version, whose state is not read.

    Raises
    ------
    ValueError
        If the file is missing, incomplete, not a checkpoint, of another net, or a
        parameter is not finite.
    """
    meta, state, values = _read(path)
    if averages:
        stored = state.averages
        values = [stored.get(str(i), value) for i, value in enumerate(values)]
        finite({f"average {i}": value for i, value in enumerate(values)}, path)
    _check_fit(path, values, parameters)
    if accept is not None:
        accept(meta, state)
    for value, parameter in zip(values, parameters):
        parameter.set_data(mx.nd.array(value, dtype=value.dtype))
    return meta, state


def _read(path: str | os.PathLike) -> tuple[dict, OptimizerState, list]:
    if not os.path.exists(path):
        raise ValueError(f"{path}: there is no such checkpoint")
    if os.path.isdir(path):
        raise ValueError(f"{path}: not a complete checkpoint (a folder)")
    try:
        arrays = read_arrays(path)
        content = arrays.pop(_HEADER, np.empty(0, np.uint8))
        header = parse_json(content.tobytes(), _HEADER)
        if not isinstance(header, dict) or not isinstance(header.get("meta"), dict):
            raise ValueError("its header is no object {...}")
    except ValueError as error:
        reason = str(error).replace(f"{path}: not a complete file of arrays ", "")
        raise ValueError(
            f"{path}: not a complete checkpoint ({reason.strip('()')})"
        ) from None
    number = header.get("format")
    if type(number) is not int or number not in (FORMAT, EARLIER):
        raise ValueError(f"{path}: format is {shown(number)}; allowed: {FORMAT}")
    numbers, states = {}, {}
    if number == FORMAT:
        numbers = header.get("optimizer", {})
        states = _named(arrays, _STATE)
    values = _named(arrays, _PARAMETER)
    finite({f"parameter {name}": value for name, value in values.items()}, path)
    ordered = [values[name] for name in sorted(values)]
    state = OptimizerState(numbers, states, _named(arrays, _AVERAGE))
    return header["meta"], state, ordered


def _named(arrays: dict, prefix: str) -> dict:
    """Return the arrays whose names start with a prefix and go on with a digit."""
    return {
        name[1:]: value
        for name, value in arrays.items()
        if name[:1] == prefix and name[1:2].isdecimal()
    }


def check_resumable(path: Path, state: OptimizerState) -> None:
    """Refuse a checkpoint without the optimiser's state, as earlier versions wrote.

    Raises
    ------
    ValueError
        Naming what can still be done with it.
    """
    if not state.numbers:
        raise ValueError(
            f"{path}: has no optimiser state that this version reads: earlier ones "
            "stored a pickle, which can run programs; train anew in another folder, or "
            "take its parameters with export --checkpoint"
        )


def _check_fit(path, values: Sequence, parameters: Sequence) -> None:
    if len(values) != len(parameters):
        raise ValueError(
            f"{path}: holds {len(values)} parameters, the net has {len(parameters)}"
        )
    for i, (value, parameter) in enumerate(zip(values, parameters)):
        if value.shape != tuple(parameter.shape):
            shape = shortened(str(value.shape), LONGEST_VALUE)
            raise ValueError(
                f"{path}: parameter {i} has shape {shape}, the net's "
                f"{parameter.name!r} has {tuple(parameter.shape)}"
            )
        if value.dtype != np.dtype(parameter.dtype):
            raise ValueError(
                f"{path}: parameter {i} is {value.dtype}, the net's "
                f"{parameter.name!r} is {np.dtype(parameter.dtype)}"
            )
