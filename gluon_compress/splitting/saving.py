"""Writes both halves of a net, each checked in the runtimes that it is for."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Sequence, Tuple

import mxnet as mx
import numpy as np

from gluon_compress.data import Preprocess
from gluon_compress.deployment.checking import write_files
from gluon_compress.deployment.deployable import (
    folded_stage,
    output_names,
    stage_shapes,
)
from gluon_compress.deployment.deploying import as_inputs
from gluon_compress.deployment.folding import fold
from gluon_compress.deployment.formats import FORMATS, InferenceGraph
from gluon_compress.deployment.manifest import stage_rows
from gluon_compress.deployment.plain_nets import write_checked
from gluon_compress.deployment.reference_outputs import ReferenceOutputs, noise
from gluon_compress.deployment.runtimes import open_stage
from gluon_compress.graph.symbols import (
    infer_shapes,
    put_together,
    shapes_of,
    take_apart,
    text_of,
)
from gluon_compress.model_folder import check_name, check_values, versions
from gluon_compress.models.base import LaterStage
from gluon_compress.models.family import family_of
from gluon_compress.postprocess.base import FIRST
from gluon_compress.quantization.image_range import without_range_quantisers
from gluon_compress.splitting import packing
from gluon_compress.splitting.bottleneck import (
    ENCODER_END,
    bottleneck_bits,
    has_bottleneck,
)
from gluon_compress.splitting.cuts import (
    INPUT,
    CutPoint,
    CutPoints,
    Pair,
    cut,
    outputs_at,
    split,
)
from gluon_compress.splitting.filtering import NeuralFilter, filter_symbol
from gluon_compress.splitting.manifest import (
    FILTER_OUTPUT,
    HEAD,
    KINDS,
    TAIL,
    HeadManifest,
    TailManifest,
)
from gluon_compress.storage.artifacts import MANIFEST, atomic_directory, checksums
from gluon_compress.storage.atomic import write_json
from gluon_compress.validation import listed, parse, wrong

HEAD_FORMATS = ("mxnet", "onnx-dynamic", "onnx", "openvino", "ncnn")
TAIL_FORMATS, STAGED_FORMATS = ("mxnet", "onnx-dynamic"), ("mxnet", "onnx")
CONVERTERS = ("onnx", "onnxruntime", "openvino", "ncnn", "pnnx")  # recorded versions
CHECKED = 2  # images that every format is checked on


@dataclass(frozen=True)
class _Half:
    """What is written of one half."""

    part: str
    graph: InferenceGraph
    reference: ReferenceOutputs
    outputs: tuple[str, ...]
    stages: Mapping[str, LaterStage] = field(default_factory=dict)
    postprocess: Any = None


def save_halves(
    net: Any,
    folder: str | os.PathLike,
    *,
    at: str | int | None = None,
    bits: int | None = None,
    coding: str = "none",
    name: str = "detector",
    head_formats: Sequence[str] = HEAD_FORMATS,
    tail_formats: Sequence[str] | None = None,
    images: np.ndarray | None = None,
    neural_filter: NeuralFilter | None = None,
) -> Dict[str, dict]:
    """Write ``folder/head`` and ``folder/tail``, for ``open_head`` and ``open_tail``.

    Parameters
    ----------
    net : HybridBlock
        Of any family; not changed.
    folder : path
        Created. Halves that are there are replaced, the head first: while one is old
        and one new, their ``pair`` differs, and they are refused together.
    at : str or int, optional
        Name or number of a cut point, as ``split`` lists them. Default: the end of the
        encoder, in a net with a bottleneck.
    bits : int, optional
        Of an integer that is sent: 4, 8 or 16. Default: those that a bottleneck was
        trained with, else 8.
    coding : str
        ``none`` or ``deflate``.
    name : str
        Beginning of the file names.
    head_formats, tail_formats : sequence of str
        Rows of ``deployment.FORMATS`` of float32. Default: for the head, those of every
        runtime; for the tail, those of MXNet and ONNX Runtime.
    images : ndarray, optional
        Inputs ``(N, 3, H, W)`` as ``Preprocess`` returns them, to check on. Default:
        noise.
    neural_filter : NeuralFilter, optional
        Goes into the head: what it drops is not sent. Its map lies before the cut.

    Returns
    -------
    dict
        The manifests of ``head`` and ``tail``.

    Raises
    ------
    ValueError
        For a net of no family, a tensor that the net cannot be cut at, a setting that
        is not allowed, or a file whose runtime departs from the net. No folder is
        changed then.
    """
    check_name(name)
    family = family_of(net)
    if tail_formats is None:
        tail_formats = STAGED_FORMATS if family.later_stages(net) else TAIL_FORMATS
    _check_formats(head_formats)
    _check_formats(tail_formats, staged=bool(family.later_stages(net)))
    if coding not in packing.CODINGS:
        raise wrong("coding", coding, listed(packing.CODINGS))
    # Graphs are for inputs of one size.
    preprocess, postprocess = family.preprocess(net).fixed, family.postprocess(net)
    symbol, params = family.inference_graph(net)
    check_values(params)
    points = split(net)
    assert isinstance(points, CutPoints)
    point, symbol, bits = _place(points, symbol, at, bits)
    head, tail = cut(symbol, params, point.node, preprocess.shape)
    outputs: Tuple[str, ...] = (point.name,)
    facts = None
    if neural_filter is not None:
        head = _with_filter(head, point, points, neural_filter)
        outputs = (point.name, FILTER_OUTPUT)
        facts = neural_filter.statement()
    inputs = noise((CHECKED, *preprocess.shape[1:]))
    if images is not None:
        inputs = as_inputs(images, preprocess.shape)[:CHECKED]
    halves = [_half(HEAD, name, head, inputs, outputs)]
    tensors = halves[0].reference.float32[0]
    sent = np.stack([_received(tensor, bits) for tensor in tensors])
    last = _half(TAIL, name, tail, sent, tuple(output_names(tail[0])))
    stages = family.later_stages(net)
    halves.append(replace(last, stages=stages, postprocess=postprocess))
    section, arrays = postprocess.state()
    common = {
        "format": 1,
        "name": name,
        "classes": list(family.classes_of(net)),
        "preprocess": preprocess.to_json(),
        "versions": versions(*CONVERTERS),
    }
    stated = {
        "tensor": {"name": point.name, "shape": list(point.shape)},
        "bits": bits,
        "coding": coding,
    }
    content = {**common, "postprocess": section, "filter": facts, **stated}
    pair = pair_hash(
        halves, arrays, {k: content[k] for k in content if k != "versions"}
    )
    manifests = {}
    for half, formats in zip(halves, (head_formats, tail_formats)):
        extra: Dict[str, Any] = {"split": {"pair": pair, "part": half.part, **stated}}
        if half.part == TAIL:
            extra["postprocess"] = section
        elif facts is not None:
            extra["filter"] = facts
        files = arrays if half.part == TAIL else {}
        manifests[half.part] = _write(
            Path(folder) / half.part, half, formats, files, {**common, **extra}
        )
    return manifests


def _place(
    points: CutPoints, symbol: mx.sym.Symbol, at: str | int | None, bits: int | None
) -> tuple[CutPoint, mx.sym.Symbol, int]:
    """Return where to cut, the symbol to cut there, and the bits of an integer."""
    nodes, heads = take_apart(symbol)
    if at is None:
        if not has_bottleneck(nodes):
            raise wrong("at", at, "the name or the number of a cut point")
        at = ENCODER_END
    point = points.at(at)
    if bits is None:
        bits = bottleneck_bits(nodes) or 8
    if type(bits) is not int or bits not in packing.BITS:
        raise wrong("bits", bits, listed(packing.BITS))
    if point.node == ENCODER_END:  # what rounds between the halves is the message
        symbol = put_together(*without_range_quantisers(nodes, heads))
    return point, symbol, bits


def _with_filter(
    head: Pair, point: CutPoint, points: CutPoints, neural_filter: NeuralFilter
) -> Pair:
    """Return the first half with the scores of a filter as its second output."""
    symbol, params = head
    on = points.at(neural_filter.on)
    names = {node["name"] for node in take_apart(symbol)[0]}
    if on.node not in names or tuple(on.shape) != tuple(neural_filter.shape):
        allowed = f"a map of shape {list(neural_filter.shape)} before {point.name}"
        raise wrong("the filter's map", f"{on.name} {list(on.shape)}", allowed)
    both = outputs_at(symbol, [point.node, on.node])
    joined = mx.sym.Group([both[0], filter_symbol(both[1])])
    return joined, {**params, **neural_filter.params}


def _check_formats(formats: Sequence[str], *, staged: bool = False) -> None:
    rows = {n: row for n, row in FORMATS.items() if row.precision == "float32"}
    allowed = [name for name, row in rows.items() if row.staged or not staged]
    for name in formats:
        if name not in allowed:
            words = ", for a net of several stages" if staged else ""
            key = "tail_formats" if staged else "formats"
            raise wrong(key, name, f"{listed(allowed)}{words}")
    if not formats:
        raise wrong("formats", list(formats), "at least one")


def _received(tensor: np.ndarray, bits: int) -> np.ndarray:
    """Return a tensor as the second half gets it."""
    return packing.values(*packing.quantised(tensor, bits))


def _half(
    part: str, name: str, pair: Pair, inputs: np.ndarray, outputs: Sequence[str]
) -> _Half:
    shape = (1, *inputs.shape[1:])
    graph = InferenceGraph(name, *fold(*pair, shape), shape, inputs)
    return _Half(part, graph, ReferenceOutputs(*pair, inputs), tuple(outputs))


def pair_hash(
    halves: Sequence[_Half], arrays: Mapping[str, np.ndarray], stated: Mapping
) -> str:
    """Return the sha256 of what both halves compute and state.

    Parameters
    ----------
    halves : sequence of _Half
    arrays : mapping
        Of the postprocess.
    stated : mapping
        What both manifests state, JSON-able.
    """
    digest = hashlib.sha256(json.dumps(stated, sort_keys=True).encode())
    for half in halves:
        stages = [(stage.symbol, stage.params) for stage in half.stages.values()]
        for symbol, params in ((half.graph.symbol, half.graph.params), *stages):
            digest.update(text_of(symbol).encode())
            for key, value in sorted(params.items()):
                _add_array(digest, key, value.asnumpy())
    for key, array in sorted(arrays.items()):
        _add_array(digest, key, array)
    return digest.hexdigest()


def _add_array(digest: Any, name: str, array: np.ndarray) -> None:
    digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).tobytes())


def _write(
    folder: Path,
    half: _Half,
    formats: Sequence[str],
    arrays: Mapping[str, np.ndarray],
    stated: Mapping[str, Any],
) -> dict:
    with atomic_directory(folder, KINDS[half.part]) as draft:
        entries = write_checked(half.graph, half.reference, formats, Path(draft))
        folded = {name: folded_stage(stage) for name, stage in half.stages.items()}
        for form in formats if folded else ():
            entries[form].update(_write_stages(half, folded, form, stated, Path(draft)))
        for file, array in arrays.items():
            np.save(Path(draft) / file, array)
        shapes = _output_shapes(half.graph)
        manifest = {
            **stated,
            "kind": KINDS[half.part],
            "input": {"name": INPUT, "shape": list(half.graph.shape)},
            "outputs": [
                {"name": output, "shape": list(shape)}
                for output, shape in zip(half.outputs, shapes)
            ],
            **stage_rows(folded, lambda name: stage_shapes(folded[name])),
            "formats": entries,
            "files": checksums(Path(draft)),
        }
        parse(HeadManifest if half.part == HEAD else TailManifest, manifest)
        write_json(Path(draft) / MANIFEST, manifest)
    return manifest


def _write_stages(
    half: _Half,
    folded: Mapping[str, LaterStage],
    form: str,
    stated: Mapping,
    folder: Path,
) -> Dict[str, Any]:
    """Write the later stages in a format, and compare each with the net's own."""
    row = FORMATS[form]
    files: Dict[str, Any] = {}
    for name, stage in folded.items():
        part = replace(
            half.graph,
            name=f"{half.graph.name}-{name}",
            symbol=stage.symbol,
            params=stage.params,
            inputs=stage.inputs,
        )
        files[name] = write_files(row, part, folder)["files"]
    worst = dict.fromkeys(folded, 0.0)

    def compared(name: str, run: Callable, arrays: Mapping[str, np.ndarray]) -> Mapping:
        stage = half.stages[name]
        own = ReferenceOutputs(stage.symbol, stage.params, arrays)
        off, allowed = own.departure([run(arrays)[n] for n in stage.outputs], row)
        if not off <= allowed:
            raise ValueError(
                f"{files[name][0]}: {row.runtime} differs from the net by {off:.2g}; "
                f"allowed: {allowed:.2g}"
            )
        worst[name] = max(worst[name], off)
        return dict(zip(stage.outputs, own.float32))

    runs = {}
    for name, stage in folded.items():
        paths = [folder / file for file in files[name]]
        opened = open_stage(row.runtime, paths, stage.inputs, stage.outputs)
        runs[name] = partial(compared, name, opened)
    first = dict(zip(half.outputs, half.reference.float32))
    size = Preprocess(**stated["preprocess"]).shape[1:]
    images = np.zeros((len(half.reference.images), *size), np.float32)
    half.postprocess.run({FIRST: lambda _: first, **runs}, images, together=False)
    return {"stages": files, "stage_differences": worst}


def _output_shapes(graph: InferenceGraph) -> list[tuple[int, ...]]:
    shapes = {**shapes_of(graph.params), INPUT: graph.shape}
    return infer_shapes(graph.symbol, shapes)[1]
