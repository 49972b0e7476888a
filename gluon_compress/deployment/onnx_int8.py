"""Quantises ONNX files to int8 with ONNX Runtime, as QDQ nodes."""

from __future__ import annotations

import logging
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Iterator

import numpy as np

from gluon_compress.deployment.runtimes import import_optional


def quantize(
    source: Path, target: Path, images: np.ndarray, *, calibration: str
) -> int:
    """Write an ONNX file whose convolutions compute in int8.

    Parameters
    ----------
    source : Path
        A float32 file whose input is called ``data``.
    target : Path
        Written. OpenVINO reads it too.
    images : ndarray
        Inputs ``(N, ...)`` to calibrate on.
    calibration : str
        One of ``formats.CALIBRATIONS``.

    Returns
    -------
    int
        The opset of the file.

    Raises
    ------
    ValueError
        If there are no images, or ONNX Runtime is not installed.
    """
    onnx = import_optional("onnx", "onnx")
    tool = import_optional("onnxruntime.quantization", "onnx")
    if len(images) == 0:
        raise ValueError("int8 needs images to calibrate on, and there are none")
    inputs = iter([{"data": image[None]} for image in images])

    class Reader(tool.CalibrationDataReader):  # type: ignore[name-defined]
        def get_next(self):
            return next(inputs, None)

    methods = {
        "entropy": tool.CalibrationMethod.Entropy,
        "naive": tool.CalibrationMethod.MinMax,
    }
    with _quiet():
        tool.quantize_static(
            str(source),
            str(target),
            Reader(),
            quant_format=tool.QuantFormat.QDQ,
            per_channel=True,
            activation_type=tool.QuantType.QUInt8,
            weight_type=tool.QuantType.QInt8,
            calibrate_method=methods[calibration],
        )
    model = onnx.load(str(target))
    onnx.checker.check_model(model, full_check=True)
    (opset,) = [entry.version for entry in model.opset_import if not entry.domain]
    return opset


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep a tool from printing its progress and logging advice."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        logging.disable(before)
