"""Writes the file formats of edge runtimes, all from one graph.

Each row of ``FORMATS`` writes the files of a format into a folder, and returns what the
manifest states about them besides their names.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Mapping, Sequence

import numpy as np

from gluon_compress.deployment.runtimes import RUNTIMES, import_optional
from gluon_compress.storage.atomic import scratch_folder

if TYPE_CHECKING:
    import mxnet as mx

CALIBRATIONS = ("entropy", "naive")  # of int8
OPSET = 13  # of the operators that mx.onnx writes
OPSETS = {"GridSample": 16, "DeformConv": 19}  # of those that need a later one
PAGE = Path(__file__).parent / "web"  # the files of the page for browsers
BATCH = "batch"  # the name of an axis of any length


@dataclass(frozen=True)
class InferenceGraph:
    """A graph to write.

    Parameters
    ----------
    name : str
        Beginning of the file names.
    symbol : Symbol
    params : mapping
        Values of all its parameters.
    shape : tuple of int
        Shape of its input ``data``, for a batch of one.
    images : ndarray
        Inputs ``(N, ...)`` to calibrate int8 on.
    calibration : str
        One of ``CALIBRATIONS``.
    inputs : dict
        Of a graph with other inputs than ``data``, their shapes by name.
    """

    name: str
    symbol: mx.sym.Symbol
    params: Mapping[str, mx.nd.NDArray]
    shape: tuple[int, ...]
    images: np.ndarray
    calibration: str = "naive"
    inputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def input_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the inputs for one image, in the symbol's order."""
        names = [n for n in self.symbol.list_arguments() if n not in self.params]
        shapes = self.inputs or dict.fromkeys(names, self.shape)
        return [shapes[name] for name in names]

    @property
    def quantised(self) -> bool:
        """Whether it has fake quantisers, so that integers need no calibration."""
        from gluon_compress.deployment.quantised import has_quantisers

        return has_quantisers(self.symbol)

    @property
    def jumps(self) -> bool:
        """Whether maps are rounded or binary, so that differences are in steps."""
        from gluon_compress.deployment.quantised import has_jumps

        return has_jumps(self.symbol)


@dataclass(frozen=True)
class Format:
    """How the files of a format are written, and which runtime checks them.

    Parameters
    ----------
    write : callable
        ``write(graph, folder) -> entries`` for the manifest.
    runtime : str
        One of ``RUNTIMES``.
    files : tuple of str
        Endings of the file names.
    tolerance : float
        Largest accepted difference from the Gluon net, see ``difference``.
    precision : str
        ``float32``, ``int8``, ``int4`` or ``packed``.
    needs_quantisers : bool
        Whether only nets with quantisers can be written, or, as ``packed``, others
        whose weights are sparse or binary.
    exact : bool
        Whether the runtime computes quantised nets as they are, not by a scheme of its
        own.
    staged : bool
        Whether nets of several stages can be written, a graph each.
    """

    write: Callable[[InferenceGraph, Path], dict]
    runtime: str
    files: tuple[str, ...]
    tolerance: float = 1e-4
    precision: str = "float32"
    needs_quantisers: bool = False
    exact: bool = True
    staged: bool = False


def _mxnet(graph: InferenceGraph, folder: Path) -> dict:
    graph, entry = _formed(graph, "mxnet")
    save_mxnet(graph, folder)
    return entry


def save_mxnet(graph: InferenceGraph, folder: Path) -> None:
    """Write a graph as it is, for MXNet."""
    from gluon_compress.deployment.fusing import fusible
    from gluon_compress.model_folder import save_pair

    save_pair(
        fusible(graph.symbol),
        graph.params,
        folder,
        graph.name,
        inputs=len(graph.input_shapes),
    )


def _formed(graph: InferenceGraph, runtime: str) -> tuple[InferenceGraph, dict]:
    """Return a graph as a runtime computes it, and what the manifest states of that."""
    from gluon_compress.deployment.deformable import form_for, in_form

    form = form_for(graph, runtime)
    return in_form(graph, form), {} if form is None else {"deformable": form}


def _onnx(graph: InferenceGraph, folder: Path) -> dict:
    graph, entry = _formed(graph, "onnxruntime")
    path = folder / f"{graph.name}.onnx"
    return {**write_onnx(graph, path, batch=1), **entry}


def _onnx_dynamic(graph: InferenceGraph, folder: Path) -> dict:
    graph, entry = _formed(graph, "onnxruntime")
    path = folder / f"{graph.name}-dynamic.onnx"
    return {**write_onnx(graph, path, batch=BATCH), **entry}


def write_onnx(graph: InferenceGraph, path: Path, *, batch: int | str) -> dict:
    """Write a graph with MXNet's own exporter, and correct five of its faults.

    It states the newest opset of the installed onnx for operators of an earlier one,
    lists all weights as inputs, so that no runtime can fold or pack them, leaves nodes
    without names, which tools need, sorts the outputs by the order of its nodes, and
    lets the slopes of a PReLU lie along the last axis of a map, not its channels.
    """
    import mxnet as mx

    from gluon_compress.deployment.deformable import register_converters

    onnx = import_optional("onnx", "onnx")
    register_converters()
    dynamic = {}
    if batch == BATCH:
        shape = (BATCH, *graph.shape[1:])
        dynamic = {"dynamic": True, "dynamic_input_shapes": [shape]}
    pair = graph.symbol, dict(graph.params)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MXNet uses names that onnx moved
        mx.onnx.export_model(
            *pair, graph.input_shapes, np.float32, str(path), **dynamic
        )
    model = onnx.load(str(path))
    weights = {value.name for value in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    order = graph.symbol.list_outputs()
    outputs = sorted(model.graph.output, key=lambda value: _place(order, value.name))
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    for i, node in enumerate(model.graph.node):
        node.name = node.name or f"node{i}"
    kinds = {node.op_type for node in model.graph.node}
    opset = max([OPSET, *(OPSETS[kind] for kind in kinds & OPSETS.keys())])
    for domain in model.opset_import:
        domain.version = opset
    if "PRelu" in kinds:
        _lay_slopes(onnx, model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    return {"opset": opset, "batch": batch}


def _lay_slopes(onnx: Any, model: Any) -> None:
    """Give the slopes of PReLUs the shape ``(C, 1, 1)`` for maps ``(B, C, H, W)``."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.input, *graph.value_info, *graph.output]
    axes = {value.name: len(value.type.tensor_type.shape.dim) for value in values}
    constants = {value.name: value for value in model.graph.initializer}
    for node in model.graph.node:
        slopes = constants.get(node.input[1]) if node.op_type == "PRelu" else None
        if slopes is not None and len(slopes.dims) == 1:
            slopes.dims.extend([1] * (axes[node.input[0]] - 2))


def _place(order: Sequence[str], name: str) -> int:
    """Return the place of an output of ONNX among those of a symbol, else the last."""
    for i, output in enumerate(order):
        if name in (output, output[: -len("_output")]):
            return i
    return len(order)


def _web(graph: InferenceGraph, folder: Path) -> dict:
    """Write the ONNX file, and beside it the page that runs it in a browser.

    The page also offers the other ONNX files of the folder, whatever their precision.
    """
    page = sorted(path for path in PAGE.iterdir() if path.is_file())
    for path in page:
        (folder / path.name).write_bytes(path.read_bytes())
    return {**_onnx(graph, folder), "page": [path.name for path in page]}


def _openvino(graph: InferenceGraph, folder: Path) -> dict:
    """Convert the ONNX file with a dynamic batch, as OpenVINO reads it.

    ``openvino.convert_model`` reads it too, and tells its makers so over the network.
    """
    openvino = import_optional("openvino", "openvino")
    graph, entry = _formed(graph, "openvino")
    with scratch_folder() as scratch:
        path = scratch / "dynamic.onnx"
        write_onnx(graph, path, batch=BATCH)
        model = openvino.Core().read_model(path)
    openvino.save_model(model, folder / f"{graph.name}.xml", compress_to_fp16=False)
    return {"batch": BATCH, **entry}


def _ncnn(graph: InferenceGraph, folder: Path) -> dict:
    """Convert the ONNX file with pnnx, ncnn's own converter."""
    converter = _pnnx()
    graph, entry = _formed(graph, "ncnn")
    shape = ",".join(map(str, graph.shape))
    with scratch_folder() as scratch:
        write_onnx(graph, scratch / f"{graph.name}.onnx", batch=1)
        _state_sizes_of_splits(scratch / f"{graph.name}.onnx")
        command = [converter, f"{graph.name}.onnx", f"inputshape=[{shape}]", "fp16=0"]
        done = subprocess.run(
            command, cwd=scratch, capture_output=True, text=True, check=False
        )
        for ending in ("param", "bin"):
            file = scratch / f"{graph.name}.ncnn.{ending}"
            if not file.is_file():
                lines = (done.stdout + done.stderr).strip().splitlines()
                reason = lines[-1] if lines else "it gives no reason"
                raise ValueError(f"pnnx cannot convert {graph.name}: {reason}")
            (folder / file.name).write_bytes(file.read_bytes())
    return {"batch": 1, **entry}


def _state_sizes_of_splits(path: Path) -> None:
    """Add the lengths of equal parts, which pnnx and later opsets need."""
    import onnx

    model = onnx.load(str(path))
    splits = [n for n in model.graph.node if n.op_type == "Split" and len(n.input) == 1]
    if not splits:
        return
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.input, *graph.value_info, *graph.output]
    shapes = {value.name: value.type.tensor_type.shape.dim for value in values}
    for node in splits:
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        length = shapes[node.input[0]][axis].dim_value // len(node.output)
        sizes = np.full(len(node.output), length, np.int64)
        name = f"{node.name}_sizes"
        model.graph.initializer.append(onnx.numpy_helper.from_array(sizes, name))
        node.input.append(name)
    onnx.save(model, str(path))


def _pnnx() -> str:
    """Return pnnx's program; unlike its Python module, it does not need PyTorch."""
    spec = importlib.util.find_spec("pnnx")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    program = shutil.which("pnnx", path=":".join(folders)) if folders else None
    if program is None:
        raise ValueError(
            "pnnx, ncnn's converter, is not installed; pip install --no-deps pnnx"
        )
    return program


def _int8(graph: InferenceGraph, folder: Path) -> dict:
    """Quantise with MXNet's oneDNN passes, calibrated on the graph's images.

    A quantised graph brings its own ranges.
    """
    from gluon_compress.deployment import int8

    if graph.quantised:
        from gluon_compress.deployment import quantised_mxnet

        pair = quantised_mxnet.quantize(graph)
        int8.save(*pair, folder / f"{graph.name}-int8")
        return {"own_ranges": True}
    pair = int8.quantize(
        graph.symbol, graph.params, graph.images, calibration=graph.calibration
    )
    int8.save(*pair, folder / f"{graph.name}-int8")
    return {"calibration": graph.calibration, "images": len(graph.images)}


def _onnx_int8(graph: InferenceGraph, folder: Path) -> dict:
    """Quantise the ONNX file with a dynamic batch."""
    from gluon_compress.deployment import onnx_int8

    if graph.quantised:
        return _onnx_integers(graph, folder / f"{graph.name}-int8.onnx", bits=8)
    path = folder / f"{graph.name}-int8.onnx"
    with scratch_folder() as scratch:
        _onnx_dynamic(graph, scratch)
        source = scratch / f"{graph.name}-dynamic.onnx"
        opset = onnx_int8.quantize(
            source, path, graph.images, calibration=graph.calibration
        )
    return {
        "opset": opset,
        "batch": BATCH,
        "calibration": graph.calibration,
        "images": len(graph.images),
    }


def _onnx_int4(graph: InferenceGraph, folder: Path) -> dict:
    """Write a quantised graph; weights of 4 bits and fewer take 4 bits."""
    _need_quantisers(graph, "onnx-int4")
    return _onnx_integers(graph, folder / f"{graph.name}-int4.onnx", bits=4)


def _onnx_integers(graph: InferenceGraph, path: Path, *, bits: int) -> dict:
    """Write the levels of a quantised graph into its ONNX file."""
    from gluon_compress.deployment.quantised import QuantisedGraph
    from gluon_compress.deployment.quantised_onnx import add_integers

    graph, entry = _formed(graph, "onnxruntime")
    plain = QuantisedGraph.of(graph.symbol, graph.params)
    exported = replace(graph, symbol=plain.symbol, params=plain.params)
    with scratch_folder() as scratch:
        source = scratch / "plain.onnx"
        write_onnx(exported, source, batch=BATCH)
        _state_sizes_of_splits(source)
        written = add_integers(source, path, plain, bits=bits)
    return {**written, "batch": BATCH, "own_ranges": True, **entry}


def _ncnn_int8(graph: InferenceGraph, folder: Path) -> dict:
    """Write a quantised graph's levels into the files of ncnn."""
    from gluon_compress.deployment import quantised_ncnn
    from gluon_compress.deployment.quantised import QuantisedGraph

    _need_quantisers(graph, "ncnn-int8")
    graph, entry = _formed(graph, "ncnn")
    plain = QuantisedGraph.of(graph.symbol, graph.params)
    written = replace(graph, name="plain", symbol=plain.symbol, params=plain.params)
    with scratch_folder() as scratch:
        _ncnn(written, scratch)
        for ending in FORMATS["ncnn"].files:
            content = (scratch / f"plain{ending}").read_bytes()
            (folder / f"{graph.name}-int8{ending}").write_bytes(content)
    param, weights = (folder / f"{graph.name}-int8.ncnn.{e}" for e in ("param", "bin"))
    layers = quantised_ncnn.add_integers(param, weights, plain, graph.shape)
    return {"batch": 1, "own_ranges": True, "integer_layers": layers, **entry}


def _packed(graph: InferenceGraph, folder: Path, ending: str = ".bin") -> dict:
    """Write weights in as many bits as they have, and without their zeros."""
    from gluon_compress.deployment import quantised_packed

    prefix = folder / f"{graph.name}-packed"
    quantised_packed.save(graph.symbol, graph.params, prefix, ending)
    return {"own_ranges": True} if graph.quantised else {}


def _packed_gz(graph: InferenceGraph, folder: Path) -> dict:
    """Write the same, compressed."""
    return _packed(graph, folder, ".bin.gz")


def _need_quantisers(graph: InferenceGraph, name: str) -> None:
    if not graph.quantised:
        raise ValueError(
            f"format {name!r} is for nets with quantisers, and this one has none; "
            "allowed: what gc.quantize or the algorithm 'quantize' returned"
        )


# With trained weights, rounding errors are far smaller: int8 beyond this is broken.
INT8_TOLERANCE = 0.2
INT8 = ("-int8-symbol.json", "-int8-0000.params")
PACKED = ("-packed-symbol.json", "-packed.bin")
FORMATS: dict[str, Format] = {
    "mxnet": Format(
        _mxnet, "mxnet", ("-symbol.json", "-0000.params"), 1e-5, staged=True
    ),
    "onnx": Format(_onnx, "onnxruntime", (".onnx",), staged=True),
    "onnx-dynamic": Format(_onnx_dynamic, "onnxruntime", ("-dynamic.onnx",)),
    "web": Format(_web, "onnxruntime", (".onnx",)),
    "openvino": Format(_openvino, "openvino", (".xml", ".bin")),
    "ncnn": Format(_ncnn, "ncnn", (".ncnn.param", ".ncnn.bin")),
    "int8": Format(_int8, "mxnet", INT8, INT8_TOLERANCE, "int8", exact=False),
    "onnx-int8": Format(
        _onnx_int8, "onnxruntime", ("-int8.onnx",), INT8_TOLERANCE, "int8"
    ),
    "onnx-int4": Format(
        _onnx_int4, "onnxruntime", ("-int4.onnx",), INT8_TOLERANCE, "int4", True
    ),
    "ncnn-int8": Format(
        _ncnn_int8,
        "ncnn",
        ("-int8.ncnn.param", "-int8.ncnn.bin"),
        INT8_TOLERANCE,
        "int8",
        needs_quantisers=True,
        exact=False,
    ),
    "packed": Format(_packed, "mxnet", PACKED, 1e-5, "packed", needs_quantisers=True),
    "packed-gz": Format(
        _packed_gz,
        "mxnet",
        ("-packed-symbol.json", "-packed.bin.gz"),
        1e-5,
        "packed",
        needs_quantisers=True,
    ),
}
PRECISIONS = tuple(sorted({row.precision for row in FORMATS.values()}))


def formats_of(runtime: str, precision: str) -> tuple[str, ...]:
    """Return the formats that a runtime reads in a precision, the preferred first.

    Raises
    ------
    ValueError
        If there is no such runtime, or it has no such precision.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime {runtime!r}; allowed: {', '.join(RUNTIMES)}")
    formats = RUNTIMES[runtime].formats
    matching = tuple(f for f in formats if FORMATS[f].precision == precision)
    if not matching:
        allowed = sorted({FORMATS[f].precision for f in formats})
        raise ValueError(
            f"precision {precision!r} of {runtime}; allowed: {', '.join(allowed)}"
        )
    return matching


def runtimes_and_precisions() -> list[tuple[str, str]]:
    """Return every runtime with each of its precisions."""
    pairs = [(r, FORMATS[f].precision) for r in RUNTIMES for f in RUNTIMES[r].formats]
    return list(dict.fromkeys(pairs))
