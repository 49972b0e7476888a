"""A folder of everything that edge runtimes need, each file checked where it runs."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Sequence

import mxnet as mx
import numpy as np
from gluoncv.model_zoo.ssd import SSD

from gluon_compress import models
from gluon_compress.checks import part
from gluon_compress.data import RESIZE
from gluon_compress.deployment.detection_check import Expected
from gluon_compress.deployment.formats import FORMATS, Format, Graph
from gluon_compress.deployment.graph import OUTPUT, head_graph, whole_graph
from gluon_compress.deployment.manifest import ANCHORS, KIND, Nms, checked
from gluon_compress.deployment.postprocess import Decoding
from gluon_compress.deployment.reference import Right
from gluon_compress.deployment.runtimes import RUNTIMES
from gluon_compress.graph import pair_of
from gluon_compress.graph.operators import operator_of
from gluon_compress.graph.symbols import take_apart
from gluon_compress.model_folder import check_name, save_pair, versions
from gluon_compress.models.lean import LEAST_SCORE
from gluon_compress.models.ssd import anchors_of, image_size
from gluon_compress.storage.artifacts import MANIFEST, atomic_directory, checksums
from gluon_compress.storage.atomic import write_json

CONVERTERS = ("onnx", "onnxruntime", "openvino", "ncnn", "pnnx")  # what made files
WHOLE = "-whole"  # behind the name of the graph with NMS
CHECKED = 2  # images that every format is checked on


def deploy(
    net: SSD,
    folder: str | os.PathLike,
    name: str = "detector",
    *,
    formats: Sequence[str] = ("mxnet",),
    images: np.ndarray | None = None,
    calibration: str = "naive",
) -> dict:
    """Write a detector for edge runtimes; every file is run before it is kept.

    Parameters
    ----------
    net : gluoncv.model_zoo.SSD
        Trained; left as it is.
    folder : path
        Made, or replaced whole if it holds what ``deploy`` wrote: formats are not
        added to those that are there.
    name : str
        Of the files.
    formats : sequence of str
        Any of ``FORMATS``. ``mxnet`` also brings the whole detector, NMS included.
    images : ndarray, optional
        Inputs ``(N, 3, size, size)`` as ``data.normalize`` makes them: the first
        ``CHECKED`` are what formats are compared on, all of them calibrate int8.
        Default: noise, which int8 refuses.
    calibration : str
        Of int8, one of ``quantize.CALIBRATIONS``.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    ValueError
        For an unknown format, a missing module (with the extra that brings it),
        constants of NMS that a predictor does not have (GluonCV's -1 for no limit), a
        folder that holds anything else, or a file whose runtime gives anything else
        than the net does: the first layer that departs is named. Nothing has been
        changed then.
    """
    check_name(name)
    for one in formats:
        if one not in FORMATS:
            raise ValueError(f"format {one!r}; allowed: {', '.join(FORMATS)}")
    limits = _limits(net)
    size = image_size(net)
    shape = (1, 3, size, size)
    shown = _inputs(images, shape)
    calibrating = np.zeros((0, *shape[1:]), np.float32) if images is None else shown
    graph = Graph(name, *head_graph(net), shape, calibrating, calibration)
    right = Right(*pair_of(net), shown[:CHECKED])
    with atomic_directory(folder, KIND) as draft:
        made = {}
        for one in formats:
            made[one] = _write(FORMATS[one], graph, draft)
            files = [draft / file for file in made[one]["files"]]
            made[one].update(_check(FORMATS[one], files, graph, right))
        if "mxnet" in formats:
            made["mxnet"].update(_whole(net, draft, name, right))
        np.save(draft / ANCHORS, anchors_of(net).asnumpy()[0])
        manifest = _manifest(net, graph, right.outputs.shape, made)
        manifest.update(nms=limits, files=checksums(draft))
        checked(manifest)
        write_json(draft / MANIFEST, manifest)
    return manifest


def _limits(net: SSD) -> dict:
    """Return the constants of NMS, if they are any that a predictor has, too."""
    limits = {**models.manifest_info(net)["nms"], "least_score": LEAST_SCORE}
    part(Nms)(limits, "nms")
    return limits


def _inputs(images: np.ndarray | None, shape: Sequence[int]) -> np.ndarray:
    if images is None:
        random = np.random.RandomState(0)
        return random.standard_normal((CHECKED, *shape[1:])).astype(np.float32)
    if images.ndim != 4 or images.shape[1:] != tuple(shape[1:]) or not len(images):
        raise ValueError(f"images are {images.shape}, not (N, {shape[1:]})")
    return np.ascontiguousarray(images, np.float32)


def _write(how: Format, graph: Graph, folder: Path) -> dict:
    facts = how.write(graph, folder)
    files = [f"{graph.name}{ending}" for ending in how.files]
    return {"files": files, "precision": how.precision, **facts}


def _check(how: Format, files: Sequence[Path], graph: Graph, right: Right) -> dict:
    """Return by how much a format's runtime departs, or say where it begins to."""
    run = RUNTIMES[how.runtime](files)
    found = [run(image[None])[0] for image in right.images]
    worst, allowed = right.departure(np.concatenate(found), how)
    if not worst <= allowed:
        raise ValueError(
            f"{files[0].name}: {how.runtime} differs from the net by {worst:.2g}; "
            f"allowed: {allowed:.2g}; {_first_departure(how, graph, right.images[:1])}"
        )
    facts = {"difference": worst}
    return facts if allowed == how.tolerance else {**facts, "allowed": allowed}


def _first_departure(how: Format, graph: Graph, image: np.ndarray) -> str:
    """Say at which layer a format begins to depart from the folded graph in MXNet.

    Graphs that end at one of the layers with weights are written and run, by bisection
    between the input, which agrees, and the whole graph, which does not. (With all
    layers as outputs of one graph, runtimes would not join them as they do.)
    """
    nodes, _ = take_apart(graph.symbol)
    names = [n["name"] for n in nodes if operator_of(n["op"]).weight_input is not None]
    inside = graph.symbol.get_internals()

    def departs(name: str) -> bool:
        part = replace(graph, symbol=inside[f"{name}_output"])
        used = set(part.symbol.list_inputs())
        params = {n: v for n, v in graph.params.items() if n in used}
        return _is_off(how, replace(part, params=params), image)

    agrees, off = -1, len(names)
    while off - agrees > 1:
        middle = (agrees + off) // 2
        agrees, off = (agrees, middle) if departs(names[middle]) else (middle, off)
    if off == len(names):
        return (
            f"every layer up to the last, {names[-1]!r}, gives what it does in the "
            "folded graph: it is the folding of BatchNorm that departs"
        )
    return f"the first layer that departs is {names[off]!r}"


def _is_off(how: Format, graph: Graph, image: np.ndarray) -> bool:
    """Tell whether a graph of one output gives anything else in a format's runtime."""
    right = Right(graph.symbol, graph.params, image)
    with tempfile.TemporaryDirectory() as place:
        try:
            facts = _write(how, graph, Path(place))
            files = [Path(place) / file for file in facts["files"]]
            found = RUNTIMES[how.runtime](files)(image)[0]
        except Exception:  # it does not even run, for reasons of the runtime's own
            return True
    off, allowed = right.departure(found, how)
    return not off <= allowed


def _whole(net: SSD, folder: Path, name: str, right: Right) -> dict:
    """Write the detector with NMS, and check it against the Gluon net's detections."""
    name = name + WHOLE
    save_pair(*whole_graph(net), folder, name)
    how = FORMATS["mxnet"]
    files = [folder / f"{name}{ending}" for ending in how.files]
    run = RUNTIMES["mxnet"](files)
    found = [_rows(run(image[None])) for image in right.images]
    wanted = [
        _rows([part.asnumpy() for part in net(mx.nd.array(image[None]))])
        for image in right.images
    ]
    worst, problem = _judged(net, right.outputs, how.tolerance, found, wanted)
    if problem and right.allowed(how) > how.tolerance:
        held = right.exact.astype(np.float32), right.allowed(how)
        worst, problem = _judged(net, *held, found, wanted)
    if problem:
        raise ValueError(f"{files[0].name}: {problem}")
    return {"whole": [file.name for file in files], "whole_difference": worst}


def _rows(outputs: Sequence[np.ndarray]) -> np.ndarray:
    """Return ids, scores and corner boxes of one image side by side."""
    return np.concatenate(outputs, axis=2)[0]


def _judged(net: SSD, raws, relative: float, found, wanted) -> tuple[float, str]:
    """Return how far detections are off, and what is wrong with them, if anything."""
    stds = models.manifest_info(net)["decode"]["stds"]
    how = Decoding(anchors_of(net).asnumpy()[0], stds, **_limits(net))
    worst = 0.0
    for raw, rows, right_rows in zip(raws, found, wanted):
        right = Expected(raw, how, image_size(net), relative)
        worst = max(worst, right.departure(rows))
        lost = right.lost(right_rows, rows)
        extra = right.lost(rows, right_rows) + right.doubled(rows)
        if not worst <= right.tolerance or lost or extra:
            return worst, (
                f"differs from the net's boxes by {worst:.2g}, allowed: "
                f"{right.tolerance:.2g}, has lost {lost} and found {extra} more, "
                "allowed: none; its layers, its decoding or its NMS depart"
            )
    return worst, ""


def _manifest(net: SSD, graph: Graph, shape: Sequence[int], made: dict) -> dict:
    info = models.manifest_info(net)
    outputs = [{"name": OUTPUT, "shape": [1, *shape[1:]]}]
    data = {"name": "data", "shape": list(graph.shape), "resize": RESIZE}
    return {
        "format": 1,
        "name": graph.name,
        "input": data,
        **info,
        "kind": KIND,
        "outputs": outputs,
        "cost": models.size_of(net),
        "formats": made,
        "versions": versions(*CONVERTERS),
    }
