"""Quantises nets to int8 with MXNet's oneDNN passes, and stores weights as int8."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Mapping

import mxnet as mx
import numpy as np
from mxnet.contrib.quantization import quantize_model

from gluon_compress.deployment.formats import CALIBRATIONS
from gluon_compress.deployment.fusing import fuse
from gluon_compress.graph.symbol_files import as_ndarray, read_symbol
from gluon_compress.graph.symbols import text_of
from gluon_compress.storage.params import read_params
from gluon_compress.storage.reading import finite

BACKEND = "MKLDNN_QUANTIZE"
LEVELS = 127  # of a weight, on either side of zero
SCALE = "scale:"  # prefix of a weight's name: the factors of its rows


def quantize(
    symbol: mx.sym.Symbol,
    params: Mapping[str, mx.nd.NDArray],
    images: np.ndarray,
    *,
    calibration: str = "naive",
) -> tuple[mx.sym.Symbol, dict[str, mx.nd.NDArray]]:
    """Return a net whose convolutions compute in int8.

    Parameters
    ----------
    symbol : Symbol
        A net with the input ``data`` and folded BatchNorm.
    params : mapping
        Float32 values.
    images : ndarray
        Inputs ``(N, ...)`` whose activations set the ranges.
    calibration : str
        ``naive`` (smallest and largest value) or ``entropy`` (the range with the least
        Kullback-Leibler divergence). A detector's few large activations are its
        objects, so that ranges that clip them cost it more.

    Returns
    -------
    tuple
        Symbol and parameters. Weights are still float32: MXNet rounds them when the net
        first runs.

    Raises
    ------
    ValueError
        For an unknown calibration, or without images.
    """
    if calibration not in CALIBRATIONS:
        allowed = ", ".join(CALIBRATIONS)
        raise ValueError(f"calibration {calibration!r}; allowed: {allowed}")
    if len(images) == 0:
        raise ValueError("int8 needs images to calibrate on, and there are none")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about missing labels
        quantized, values, _ = quantize_model(
            fuse(symbol, BACKEND),
            dict(params),
            {},
            calib_mode=calibration,
            calib_data=mx.io.NDArrayIter(images, batch_size=1),
            num_calib_examples=len(images),
            quantized_dtype="auto",
            quantize_mode="smart",
            logger=None,
        )
    return fuse(quantized, BACKEND), values


def save(
    symbol: mx.sym.Symbol, params: Mapping[str, mx.nd.NDArray], prefix: Path
) -> None:
    """Write ``PREFIX-symbol.json`` and ``PREFIX-0000.params``, weights as int8.

    A row of a weight is ``scale * int8``, symmetric about zero. MXNet rounds what it
    reads by the same rule, so that little is lost by rounding twice.
    """
    stored = {}
    for name, value in params.items():
        if value.ndim < 2 or value.dtype == np.int8:  # already int8 in dense layers
            stored[f"arg:{name}"] = value
            continue
        rows = value.asnumpy().reshape(len(value), -1)
        scale = np.maximum(np.abs(rows).max(axis=1), 1e-30) / LEVELS
        levels = np.rint(rows / scale[:, None]).astype(np.int8).reshape(value.shape)
        stored[f"arg:{name}"] = mx.nd.array(levels, dtype=np.int8)
        stored[SCALE + name] = mx.nd.array(scale)
    mx.nd.save(f"{prefix}-0000.params", stored)
    _write_plain(symbol, Path(f"{prefix}-symbol.json"))


def _write_plain(symbol: mx.sym.Symbol, path: Path) -> None:
    """Write a symbol without the whitespace in its JSON."""
    content = json.loads(text_of(symbol))
    text = json.dumps(content, separators=(",", ":"))
    path.write_text(text, encoding="utf-8")


def load(prefix: Path) -> tuple[mx.sym.Symbol, dict[str, mx.nd.NDArray]]:
    """Return what ``save`` wrote, with float32 weights, as MXNet needs them."""
    symbol = read_symbol(f"{prefix}-symbol.json")
    arrays = read_params(f"{prefix}-0000.params")
    finite(arrays, f"{prefix}-0000.params")
    stored = {key: as_ndarray(value) for key, value in arrays.items()}
    params = {}
    for key, value in stored.items():
        kind, _, name = key.partition(":")
        if kind == "arg":
            scale = stored.get(SCALE + name)
            params[name] = value if scale is None else _rows(value, scale)
    return symbol, params


def _rows(value: mx.nd.NDArray, scale: mx.nd.NDArray) -> mx.nd.NDArray:
    shape = (-1, *[1] * (value.ndim - 1))
    return value.astype(np.float32) * scale.reshape(shape)
