"""A checkpoint is one zip file: parameters in the net's own order, position, optimiser.

Names are not keys: they hold counters of the process that built the net, while the
order of a net's parameters does not depend on it.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from typing import Sequence

import mxnet as mx
import numpy as np

from gluon_compress.files import write_atomically

FORMAT = 1


def write_checkpoint(
    path: str | os.PathLike, parameters: Sequence, meta: dict, states: bytes = b""
) -> None:
    """Write parameters, a JSON-able ``meta`` and optimiser states, atomically.

    Parameters
    ----------
    path : path
    parameters : sequence of gluon.Parameter
        All of the net's, in the order of ``net.collect_params()``.
    meta : dict
    states : bytes
        What ``gluon.Trainer.save_states`` wrote.
    """
    arrays = {f"p{i:04d}": p.data().asnumpy() for i, p in enumerate(parameters)}
    text = json.dumps({"format": FORMAT, "meta": meta})
    arrays["meta"] = np.frombuffer(text.encode(), np.uint8)
    arrays["states"] = np.frombuffer(states, np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


def read_checkpoint(path: str | os.PathLike, parameters: Sequence) -> tuple:
    """Set the parameters from a file; return its ``meta`` and optimiser states.

    Parameters
    ----------
    path : path
    parameters : sequence of gluon.Parameter
        In the order they were written in; unchanged if the file does not fit.

    Returns
    -------
    meta : dict
    states : bytes

    Raises
    ------
    ValueError
        If the file is missing, cut short, no checkpoint, or of another net.
    """
    arrays = _read(path)
    header = json.loads(arrays.pop("meta").tobytes())
    if header["format"] != FORMAT:
        raise ValueError(f"{path}: format {header['format']!r}, this reads {FORMAT}")
    states = arrays.pop("states").tobytes()
    _check_fit(path, arrays, parameters)
    for i, parameter in enumerate(parameters):
        parameter.set_data(mx.nd.array(arrays[f"p{i:04d}"]))
    return header["meta"], states


def _read(path) -> dict:
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        arrays["meta"], arrays["states"]
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such checkpoint") from None
    except (zipfile.BadZipFile, OSError, EOFError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: not a whole checkpoint ({error})") from None
    return arrays


def _check_fit(path, arrays: dict, parameters: Sequence) -> None:
    if len(arrays) != len(parameters):
        raise ValueError(
            f"{path}: holds {len(arrays)} parameters, the net has {len(parameters)}"
        )
    for i, parameter in enumerate(parameters):
        shape = arrays[f"p{i:04d}"].shape
        if shape != tuple(parameter.shape):
            raise ValueError(
                f"{path}: parameter {i} has shape {shape}, the net's "
                f"{parameter.name!r} has {tuple(parameter.shape)}"
            )
