"""Edge runtimes: each opens the files of a format and runs batches.

A new runtime is one class here and its row in ``RUNTIMES``; if it reads a format of its
own, this is one row in ``formats.FORMATS``.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Mapping, Sequence, Tuple

import numpy as np

from gluon_compress.deployment.file_checks import Shapes, check_files, onnx_outputs
from gluon_compress.validation import first_line

# ONNX Runtime reads this when it is imported. It would note what it runs in the user's
# home, and send it to its makers.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def import_optional(module: str, extra: str) -> ModuleType:
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
    """MXNet on ``OMP_NUM_THREADS`` threads, layers fused and channels padded."""

    def __init__(self, files: Sequence[Path], threads: int | None = None) -> None:
        if threads is not None:
            raise ValueError(
                f"threads is {threads} for MXNet, which takes them from "
                "OMP_NUM_THREADS when it starts; allowed: None"
            )
        import mxnet as mx

        from gluon_compress.deployment import int8, quantised_packed
        from gluon_compress.deployment.fusing import fuse
        from gluon_compress.deployment.pad_channels import pad_channels
        from gluon_compress.graph import block_of
        from gluon_compress.graph.symbol_files import read_symbol, read_values

        stem = Path(str(files[0])[: -len("-symbol.json")])
        if stem.name.endswith("-int8"):
            symbol, params = int8.load(stem)
        elif stem.name.endswith("-packed"):
            symbol, params = quantised_packed.load(*files)
        else:
            symbol, params = read_symbol(files[0]), read_values(files[1])
            symbol, params = pad_channels(symbol, params)
            symbol = fuse(symbol)
        self.inputs = [n for n in symbol.list_inputs() if n not in params]
        self._net, self._array = block_of(symbol, params), mx.nd.array
        self._net.hybridize(static_alloc=True, static_shape=True)

    def __call__(self, *batch: np.ndarray) -> list[np.ndarray]:
        """Return the outputs for a batch of each of ``inputs``, float32."""
        outputs = self._net(*map(self._array, batch))
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        return [output.asnumpy() for output in outputs]


class ONNXRuntime:
    """ONNX Runtime on the CPU."""

    def __init__(self, files: Sequence[Path], threads: int | None = None) -> None:
        runtime = import_optional("onnxruntime", "onnx")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        # Threads that wait for the next run would take the cores of everything else.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        # Where a CPU has no int8 dot products, its fast int8 kernels saturate sums.
        options.add_session_config_entry("session.x64quantprecision", "1")
        self._session = runtime.InferenceSession(
            str(files[0]), options, providers=["CPUExecutionProvider"]
        )
        self.inputs = [value.name for value in self._session.get_inputs()]

    def __call__(self, *batch: np.ndarray) -> list[np.ndarray]:
        """Return the outputs for a batch of each of ``inputs``, float32."""
        return self._session.run(None, dict(zip(self.inputs, batch)))


class OpenVINO:
    """OpenVINO on the CPU, in float32 unless the file or the precision says otherwise.

    With the precision ``bfloat16`` it rounds float32 weights and maps to that, on a CPU
    that can; on another it computes in float32.
    """

    def __init__(
        self,
        files: Sequence[Path],
        threads: int | None = None,
        precision: str = "float32",
    ) -> None:
        openvino = import_optional("openvino", "openvino")
        hint = {"float32": "f32", "bfloat16": "bf16"}[precision]
        settings = {"INFERENCE_PRECISION_HINT": hint, "NUM_STREAMS": "1"}
        if threads:
            settings["INFERENCE_NUM_THREADS"] = str(threads)
        net = openvino.Core().compile_model(str(files[0]), "CPU", settings)
        self._request, self._outputs = net.create_infer_request(), list(net.outputs)

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        """Return the outputs for a batch, float32."""
        results = self._request.infer({0: batch})
        return [results[output] for output in self._outputs]


class Ncnn:
    """ncnn on the CPU, in float32; images of a batch run one by one."""

    def __init__(self, files: Sequence[Path], threads: int | None = None) -> None:
        self._ncnn = import_optional("ncnn", "ncnn")
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
        results = [extractor.extract(name) for name in self._outputs]
        if any(status != 0 for status, _ in results):
            raise ValueError(f"ncnn does not run an input of shape {image.shape}")
        return [np.array(value) for _, value in results]


class OpenCV:
    """OpenCV's DNN module on the CPU; its threads are those of ``cv2``."""

    def __init__(self, files: Sequence[Path], threads: int | None = None) -> None:
        import cv2

        if threads:
            cv2.setNumThreads(threads)
        self._net = cv2.dnn.readNetFromONNX(str(files[0]))
        self._outputs = onnx_outputs(files[0])  # OpenCV sorts them

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        """Return the outputs for a batch, float32."""
        rows = []
        for image in batch:  # the file that it reads is one of a batch of one
            self._net.setInput(image[None])
            rows.append(self._net.forward(self._outputs))
        return [np.concatenate(parts) for parts in zip(*rows)]


@dataclass(frozen=True)
class Runtime:
    """How a runtime is opened, and what it reads.

    Parameters
    ----------
    open : callable
        ``open(files, threads=None) -> run``; ``run(batch)`` takes ``(B, 3, H, W)`` and
        returns the list of outputs, float32.
    formats : tuple of str
        Rows of ``formats.FORMATS``, the preferred first.
    staged : bool
        Whether it runs nets of several stages: graphs with several inputs, which
        ``run.inputs`` names, and regions of maps.
    """

    open: Callable
    formats: Tuple[str, ...]
    staged: bool = False


ONNX_FORMATS = ("onnx-dynamic", "onnx", "web", "onnx-int8")  # as all read them
RUNTIMES: dict[str, Runtime] = {
    "mxnet": Runtime(MXNet, ("mxnet", "int8", "packed", "packed-gz"), staged=True),
    "onnxruntime": Runtime(ONNXRuntime, (*ONNX_FORMATS, "onnx-int4"), staged=True),
    "openvino": Runtime(OpenVINO, ("openvino", *ONNX_FORMATS)),
    "ncnn": Runtime(Ncnn, ("ncnn", "ncnn-int8")),
    "opencv": Runtime(OpenCV, ("onnx", "web")),
}


# Which runtimes compute which form of deformable convolutions.
_MOST = ("mxnet", "onnxruntime", "openvino", "ncnn")
FORM_RUNTIMES = {
    "deformable": ("mxnet", "onnxruntime"),
    "dilated": _MOST,
    "sampled": _MOST,
}


def check_form(runtime: str, form: str | None) -> None:
    """Refuse a runtime that does not compute a form of deformable convolutions.

    Raises
    ------
    ValueError
        Naming those that do.
    """
    if form is not None and runtime not in FORM_RUNTIMES[form]:
        raise ValueError(
            f"{runtime} has no {form} form of deformable convolutions; allowed: "
            f"{', '.join(FORM_RUNTIMES[form])}"
        )


def open_files(
    runtime: str,
    files: Sequence[Path],
    shape: Shapes,
    threads: int | None = None,
) -> Callable:
    """Check the files of a format, and open them in a runtime.

    Parameters
    ----------
    runtime : str
        One of ``RUNTIMES``.
    files : sequence of path
        In the format's order.
    shape : sequence of int, or mapping
        Of the input for one image; by name if there are several.
    threads : int, optional

    Returns
    -------
    callable
        ``run(batch)`` as in ``Runtime``.

    Raises
    ------
    ValueError
        If the runtime should not open the files, or cannot.
    """
    check_files(files, shape)
    try:
        return RUNTIMES[runtime].open(files, threads)
    except ValueError:  # says what is wrong: a missing module, threads
        raise
    except Exception as error:  # each runtime has its own
        reason = first_line(error)
        raise ValueError(f"{files[0]}: {runtime} cannot load it: {reason}") from None


def check_staged(runtime: str) -> None:
    """Refuse a runtime for nets of several stages.

    Raises
    ------
    ValueError
        Naming those that run them.
    """
    if not RUNTIMES[runtime].staged:
        allowed = ", ".join(name for name, row in RUNTIMES.items() if row.staged)
        raise ValueError(
            f"{runtime} does not run nets of several stages; allowed: {allowed}"
        )


def open_stage(
    runtime: str,
    files: Sequence[Path],
    inputs: Mapping[str, Sequence[int]],
    outputs: Sequence[str],
    threads: int | None = None,
) -> Callable:
    """Check the files of a stage, and open them in a runtime.

    Parameters
    ----------
    runtime, files, threads
        As ``open_files`` takes them.
    inputs : mapping
        Shapes for one image, by name.
    outputs : sequence of str
        Names.

    Returns
    -------
    callable
        From arrays by name to arrays by name.

    Raises
    ------
    ValueError
        As ``open_files`` does, and for a runtime that does not run stages.
    """
    check_staged(runtime)
    run: Any = open_files(runtime, files, inputs, threads)
    if sorted(run.inputs) != sorted(inputs):
        raise ValueError(
            f"{files[0]}: inputs are {run.inputs}; allowed: {', '.join(inputs)}"
        )

    def stage(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        results = run(*(arrays[name] for name in run.inputs))
        return {n: np.asarray(r) for n, r in zip(outputs, results)}

    return stage
