"""Runtimes by name: each opens its files and runs a batch."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Sequence

import mxnet as mx
import numpy as np
from mxnet.gluon import SymbolBlock

from gluon_compress.deployment import int8
from gluon_compress.deployment.fold import fold
from gluon_compress.deployment.pad_channels import widen
from gluon_compress.graph import block_of, pair_of

FUSED = "MKLDNN"  # MXNet's back end that joins convolutions with what follows them


def fused(net: Any, ctx: Sequence[mx.Context] | None = None) -> SymbolBlock:
    """Return a net for inference alone: BatchNorm folded, and joined layers on CPUs.

    Parameters
    ----------
    net : HybridBlock or (symbol, params)
        Left as it is; the values are copies.
    ctx : sequence of Context, optional
        Default: the CPU.
    """
    devices = list(ctx or [mx.cpu()])
    symbol, params = fold(*pair_of(net))
    if all(device.device_type == "cpu" for device in devices):
        symbol = symbol.get_backend_symbol(FUSED)
    block = block_of(symbol, params)
    block.collect_params().reset_ctx(devices)
    block.hybridize(static_alloc=True, static_shape=True)
    return block


def needed(module: str, extra: str) -> ModuleType:
    """Import an optional module.

    Raises
    ------
    ValueError
        Naming the extra that brings it, if it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"{module} cannot be imported ({error}); it comes with "
            f"pip install 'gluon_compress[{extra}]'"
        ) from None


class MXNet:
    """MXNet, fused and with wide predictors, on ``OMP_NUM_THREADS`` threads."""

    def __init__(self, files: Sequence[Path], threads: int | None = None) -> None:
        if threads is not None:
            raise ValueError(
                f"threads is {threads} for MXNet, which takes them from "
                "OMP_NUM_THREADS when it starts; allowed: None"
            )
        place = Path(str(files[0])[: -len("-symbol.json")])
        if place.name.endswith("-int8"):
            symbol, params = int8.load(place)
        else:
            stored = mx.nd.load(str(files[1]))
            params = {key.split(":", 1)[1]: value for key, value in stored.items()}
            symbol, params = widen(mx.sym.load(str(files[0])), params)
            symbol = symbol.get_backend_symbol(FUSED)
        self._net = block_of(symbol, params)
        self._net.hybridize(static_alloc=True, static_shape=True)

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        """Return the outputs for a batch, float32."""
        outputs = self._net(mx.nd.array(batch))
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        return [output.asnumpy() for output in outputs]


class ONNXRuntime:
    """ONNX Runtime on the CPU."""

    def __init__(self, files: Sequence[Path], threads: int | None = None) -> None:
        runtime = needed("onnxruntime", "onnx")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        # Threads that wait for the next run would take the cores of everything else.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._session = runtime.InferenceSession(
            str(files[0]), options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        """Return the outputs for a batch, float32."""
        return self._session.run(None, {self._input: batch})


class OpenVINO:
    """OpenVINO on the CPU, in float32 unless the file says otherwise."""

    def __init__(self, files: Sequence[Path], threads: int | None = None) -> None:
        openvino = needed("openvino", "openvino")
        settings = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": "1"}
        if threads:
            settings["INFERENCE_NUM_THREADS"] = str(threads)
        net = openvino.Core().compile_model(str(files[0]), "CPU", settings)
        self._request, self._outputs = net.create_infer_request(), list(net.outputs)

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        """Return the outputs for a batch, float32."""
        found = self._request.infer({0: batch})
        return [found[output] for output in self._outputs]


class Ncnn:
    """ncnn on the CPU, in float32; it knows no batches and runs images one by one."""

    def __init__(self, files: Sequence[Path], threads: int | None = None) -> None:
        self._ncnn = needed("ncnn", "ncnn")
        self._net = self._ncnn.Net()
        options = self._net.opt
        options.use_fp16_packed = options.use_fp16_storage = False
        options.use_fp16_arithmetic = options.use_bf16_storage = False
        if threads:
            options.num_threads = threads
        for load, file in zip((self._net.load_param, self._net.load_model), files):
            if load(str(file)) != 0:
                raise ValueError(f"{file}: ncnn cannot load it")
        self._input = self._net.input_names()[0]
        self._outputs = list(self._net.output_names())

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        """Return the outputs for a batch, float32."""
        rows = [self._one(np.ascontiguousarray(image)) for image in batch]
        return [np.stack(parts) for parts in zip(*rows)]

    def _one(self, image: np.ndarray) -> list[np.ndarray]:
        extractor = self._net.create_extractor()
        extractor.input(self._input, self._ncnn.Mat(image))
        found = [extractor.extract(name) for name in self._outputs]
        if any(status != 0 for status, _ in found):
            raise ValueError(f"ncnn does not run an input of shape {image.shape}")
        return [np.array(value) for _, value in found]


class OpenCV:
    """OpenCV's DNN module on the CPU; its threads are those of ``cv2``."""

    def __init__(self, files: Sequence[Path], threads: int | None = None) -> None:
        import cv2

        if threads:
            cv2.setNumThreads(threads)
        self._net = cv2.dnn.readNetFromONNX(str(files[0]))
        self._outputs = self._net.getUnconnectedOutLayersNames()

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        """Return the outputs for a batch, float32."""
        rows = []
        for image in batch:  # the file that it reads is one of a batch of one
            self._net.setInput(image[None])
            rows.append(self._net.forward(self._outputs))
        return [np.concatenate(parts) for parts in zip(*rows)]


RUNTIMES: dict[str, Callable] = {
    "mxnet": MXNet,
    "onnxruntime": ONNXRuntime,
    "openvino": OpenVINO,
    "ncnn": Ncnn,
    "opencv": OpenCV,
}
