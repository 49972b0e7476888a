"""Writes and reads checkpoints: parameters, progress and optimiser in one zip file.

Parameters are stored by their order in the net, not by name: names contain counters
of the process that built the net.
"""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
import zlib
from typing import Any, Callable, Sequence

import mxnet as mx
import numpy as np

from gluon_compress.storage.atomic import write_atomically

FORMAT = 1

# What zipfile and numpy raise for damaged files.
_DAMAGE = (
    zipfile.BadZipFile,
    OSError,
    EOFError,
    KeyError,
    ValueError,
    RuntimeError,
    struct.error,
    zlib.error,
)


def write_checkpoint(
    path: str | os.PathLike, parameters: Sequence, meta: dict, states: bytes = b""
) -> None:
    """Write parameters, a JSON-able ``meta`` and optimiser states, atomically.

    Parameters
    ----------
    path : path
    parameters : sequence of gluon.Parameter
        All parameters of the net, in the order of ``net.collect_params()``.
    meta : dict
    states : bytes
        What ``gluon.Trainer.save_states`` writes.

    Notes
    -----
    If parameters are on several devices, the values of the first are stored; only
    BatchNorm's running statistics differ between devices.
    """
    mx.nd.waitall()  # for running statistics, see ``graph.tracing``
    arrays = {f"p{i:04d}": p.list_data()[0].asnumpy() for i, p in enumerate(parameters)}
    text = json.dumps({"format": FORMAT, "meta": meta})
    arrays["meta"] = np.frombuffer(text.encode(), np.uint8)
    arrays["states"] = np.frombuffer(states, np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


def read_checkpoint(
    path: str | os.PathLike,
    parameters: Sequence,
    *,
    accept: Callable[[dict], Any] | None = None,
) -> tuple[dict, bytes]:
    """Set the parameters from a file; return its ``meta`` and optimiser states.

    Parameters
    ----------
    path : path
    parameters : sequence of gluon.Parameter
        In the order in which they were written; unchanged if the file does not fit.
    accept : callable, optional
        Called with ``meta`` before anything is set; may raise to refuse the file.

    Returns
    -------
    meta : dict
    states : bytes
        A pickle, as MXNet writes it: only load files that you trust.

    Raises
    ------
    ValueError
        If the file is missing, incomplete, not a checkpoint, or of another net.
    """
    meta, states, values = _read(path)
    _check_fit(path, values, parameters)
    if accept is not None:
        accept(meta)
    for value, parameter in zip(values, parameters):
        parameter.set_data(mx.nd.array(value, dtype=value.dtype))
    return meta, states


def _read(path) -> tuple[dict, bytes, list]:
    try:
        with zipfile.ZipFile(path) as stored:
            damaged = stored.testzip()
        if damaged:
            raise ValueError(f"{damaged} is damaged")
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        header = json.loads(arrays.pop("meta").tobytes())
        states = arrays.pop("states").tobytes()
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such checkpoint") from None
    except _DAMAGE as error:
        raise ValueError(f"{path}: not a complete checkpoint ({error})") from None
    if header["format"] != FORMAT:
        raise ValueError(f"{path}: format is {header['format']!r}; allowed: {FORMAT}")
    return header["meta"], states, [arrays[name] for name in sorted(arrays)]


def _check_fit(path, values: Sequence, parameters: Sequence) -> None:
    if len(values) != len(parameters):
        raise ValueError(
            f"{path}: holds {len(values)} parameters, the net has {len(parameters)}"
        )
    for i, (value, parameter) in enumerate(zip(values, parameters)):
        if value.shape != tuple(parameter.shape):
            raise ValueError(
                f"{path}: parameter {i} has shape {value.shape}, the net's "
                f"{parameter.name!r} has {tuple(parameter.shape)}"
            )
