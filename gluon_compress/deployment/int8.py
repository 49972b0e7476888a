"""int8 by MXNet's oneDNN passes, in files that are as small as int8 is."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Mapping

import mxnet as mx
import numpy as np
from mxnet.contrib.quantization import quantize_model

from gluon_compress.deployment.formats import CALIBRATIONS

BACKEND = "MKLDNN_QUANTIZE"
LEVELS = 127  # of a weight, on either side of zero
SCALE = "scale:"  # before the name of a weight, of what its rows are multiplied by


def quantize(
    symbol: mx.sym.Symbol,
    params: Mapping[str, mx.nd.NDArray],
    images: np.ndarray,
    *,
    calibration: str = "naive",
) -> tuple[mx.sym.Symbol, dict[str, mx.nd.NDArray]]:
    """Return a net whose convolutions compute in int8, by MXNet's own quantisation.

    Parameters
    ----------
    symbol : Symbol
        With the input ``data``, BatchNorm folded.
    params : mapping
        Float32 values.
    images : ndarray
        Inputs ``(N, ...)`` whose activations set the ranges.
    calibration : str
        ``naive`` (smallest and largest value) or ``entropy`` (the range that loses the
        least information, by Kullback-Leibler divergence). A detector's few large
        activations are its objects: ranges that cut them off cost it more.

    Returns
    -------
    tuple
        Symbol and parameters. Weights are float32 still: MXNet rounds them when the
        net runs first.

    Raises
    ------
    ValueError
        For another calibration, or without images.
    """
    if calibration not in CALIBRATIONS:
        allowed = ", ".join(CALIBRATIONS)
        raise ValueError(f"calibration {calibration!r}; allowed: {allowed}")
    if len(images) == 0:
        raise ValueError("int8 needs images to calibrate on, and there are none")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of labels, which there are none of
        whole, values, _ = quantize_model(
            symbol.get_backend_symbol(BACKEND),
            dict(params),
            {},
            calib_mode=calibration,
            calib_data=mx.io.NDArrayIter(images, batch_size=1),
            num_calib_examples=len(images),
            quantized_dtype="auto",
            quantize_mode="smart",
            logger=None,
        )
    return whole.get_backend_symbol(BACKEND), values


def save(
    symbol: mx.sym.Symbol, params: Mapping[str, mx.nd.NDArray], place: Path
) -> None:
    """Write ``PLACE-symbol.json`` and ``PLACE-0000.params``, weights as int8.

    A row of a weight is ``scale * int8``, symmetric about zero. MXNet rounds what it
    reads by the same rule, which is little of a second loss: see ``Format.tolerance``.
    """
    stored = {}
    for name, value in params.items():
        if value.ndim < 2 or value.dtype == np.int8:  # of dense layers already
            stored[f"arg:{name}"] = value
            continue
        rows = value.asnumpy().reshape(len(value), -1)
        scale = np.maximum(np.abs(rows).max(axis=1), 1e-30) / LEVELS
        whole = np.rint(rows / scale[:, None]).astype(np.int8).reshape(value.shape)
        stored[f"arg:{name}"] = mx.nd.array(whole, dtype=np.int8)
        stored[SCALE + name] = mx.nd.array(scale)
    mx.nd.save(f"{place}-0000.params", stored)
    _write_plain(symbol, Path(f"{place}-symbol.json"))


def _write_plain(symbol: mx.sym.Symbol, path: Path) -> None:
    """Write a symbol without the blanks that its JSON is padded with."""
    text = json.dumps(json.loads(symbol.tojson()), separators=(",", ":"))
    path.write_text(text, encoding="utf-8")


def load(place: Path) -> tuple[mx.sym.Symbol, dict[str, mx.nd.NDArray]]:
    """Return what ``save`` wrote, with float32 weights as MXNet takes them."""
    symbol = mx.sym.load(f"{place}-symbol.json")
    stored = mx.nd.load(f"{place}-0000.params")
    params = {}
    for key, value in stored.items():
        kind, name = key.split(":", 1)
        if kind == "arg":
            scale = stored.get(SCALE + name)
            params[name] = value if scale is None else _rows(value, scale)
    return symbol, params


def _rows(value: mx.nd.NDArray, scale: mx.nd.NDArray) -> mx.nd.NDArray:
    shape = (-1, *[1] * (value.ndim - 1))
    return value.astype(np.float32) * scale.reshape(shape)
