"""Deploys nets: writes the files of edge runtimes and checks each in its runtime."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Sequence

import numpy as np

from gluon_compress.deployment.checking import FormatCheck, write_files
from gluon_compress.deployment.deployable import Deployable
from gluon_compress.deployment.formats import FORMATS, Format, InferenceGraph
from gluon_compress.deployment.fusing import fusible
from gluon_compress.deployment.manifest import DEPLOYED, checked, stage_rows
from gluon_compress.deployment.quantised import has_quantisers
from gluon_compress.deployment.reference_outputs import ReferenceOutputs, noise
from gluon_compress.graph import pair_of
from gluon_compress.model_folder import check_name, save_pair, versions
from gluon_compress.models.family import family_of
from gluon_compress.quantization.cpu import dot_product_feature
from gluon_compress.storage.artifacts import MANIFEST, atomic_directory, checksums
from gluon_compress.storage.atomic import write_json

CONVERTERS = ("onnx", "onnxruntime", "openvino", "ncnn", "pnnx")  # recorded versions
WHOLE = "-whole"  # suffix of the graph that includes the postprocess
CHECKED = 2  # images that every format is checked on


def deploy(
    net: Any,
    folder: str | os.PathLike,
    name: str = "detector",
    *,
    formats: Sequence[str] = ("mxnet",),
    images: np.ndarray | None = None,
    calibration: str = "naive",
) -> dict:
    """Write a net for edge runtimes, and check every file by running it.

    Parameters
    ----------
    net : HybridBlock
        A trained detector or classifier of any family; not changed.
    folder : path
        Created. If it contains an earlier deployment, it is replaced completely: no
        formats are added to it.
    name : str
        Beginning of the file names.
    formats : sequence of str
        Any of ``FORMATS``. For detectors, ``mxnet`` also includes a graph with the
        postprocess.
    images : ndarray, optional
        Inputs ``(N, 3, H, W)`` as ``Preprocess`` returns them. Formats are compared on
        the first ``CHECKED``; int8 is calibrated on all. Without images, or with images
        of one colour each, formats are compared on noise, and int8 is refused, unless
        the net has quantisers: then int8 is what they are.
    calibration : str
        Calibration of int8, one of ``formats.CALIBRATIONS``.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    ValueError
        For an unknown format, a missing module (the message names the extra that
        installs it), a net that cannot be deployed, a folder that contains anything
        else, or a file whose runtime differs from the net (the message names the first
        such layer). Nothing is changed then.
    """
    check_name(name)
    for format_name in formats:
        if format_name not in FORMATS:
            raise ValueError(f"format {format_name!r}; allowed: {', '.join(FORMATS)}")
    deployable = Deployable.of(net)
    _check_staged(formats, deployable)
    shape = deployable.preprocess.shape
    calibration_images = np.zeros((0, *shape[1:]), np.float32)
    if images is not None:
        calibration_images = as_inputs(images, shape)
    quantised = any(FORMATS[name].precision == "int8" for name in formats)
    own_ranges = has_quantisers(deployable.graph[0])
    if not _varied(calibration_images):
        if quantised and not own_ranges and len(calibration_images):
            raise ValueError(
                f"the {len(calibration_images)} images are of one colour each; int8 "
                "needs photos to calibrate on"
            )
        images = noise((CHECKED, *shape[1:]))
    else:
        images = calibration_images
    graph = InferenceGraph(
        name, *deployable.graph, shape, calibration_images, calibration
    )
    reference = _reference(net, deployable, images[:CHECKED])
    check = FormatCheck(deployable, graph, reference, family_of(net).later_stages(net))
    with atomic_directory(folder, deployable.kind + DEPLOYED) as draft:
        entries = {}
        for format_name in formats:
            entries[format_name] = _write(FORMATS[format_name], check, draft)
            if own_ranges:
                entries[format_name]["cpu_feature"] = dot_product_feature()
        if "mxnet" in formats and deployable.results_graph is not None:
            symbol, params = deployable.results_graph
            save_pair(fusible(symbol), params, draft, name + WHOLE)
            endings = FORMATS["mxnet"].files
            files = [draft / f"{name}{WHOLE}{ending}" for ending in endings]
            heads = [draft / file for file in entries["mxnet"]["files"]]
            entries["mxnet"].update(check.results(net, files, heads))
        postprocess, arrays = deployable.postprocess.state()
        for file, array in arrays.items():
            np.save(draft / file, array)
        manifest = {
            "format": 1,
            "name": name,
            "kind": deployable.kind + DEPLOYED,
            "classes": list(deployable.classes),
            "input": {"name": "data", "shape": list(shape)},
            "preprocess": deployable.preprocess.to_json(),
            "outputs": [
                {"name": output, "shape": list(output_shape)}
                for output, output_shape in deployable.output_shapes.items()
            ],
            **stage_rows(deployable.stages, deployable.stage_shapes),
            "postprocess": postprocess,
            "cost": deployable.cost,
            "formats": entries,
            "versions": versions(*CONVERTERS),
            "files": checksums(draft),
        }
        checked(manifest)
        write_json(draft / MANIFEST, manifest)
    return manifest


def _check_staged(formats: Sequence[str], deployable: Deployable) -> None:
    """Refuse formats of one graph for a net of several stages."""
    for name in formats:
        if deployable.stages and not FORMATS[name].staged:
            allowed = ", ".join(n for n, row in FORMATS.items() if row.staged)
            raise ValueError(
                f"format {name!r} is of one graph, and nets of kind "
                f"{deployable.kind!r} have {1 + len(deployable.stages)}; allowed: "
                f"{allowed}"
            )


def _write(file_format: Format, check: FormatCheck, folder: Path) -> dict:
    """Write the files of a format, check them, and return the manifest's entry."""
    graph, deployable = check.graph, check.deployable
    entry = write_files(file_format, graph, folder)
    entry.update(check.outputs(file_format, [folder / f for f in entry["files"]]))
    if not deployable.stages:
        return entry
    files = {}
    for name, stage in deployable.stages.items():
        part = replace(
            graph,
            name=f"{graph.name}-{name}",
            symbol=stage.symbol,
            params=stage.params,
            inputs=stage.inputs,
        )
        files[name] = write_files(file_format, part, folder)["files"]
    paths = {name: [folder / f for f in own] for name, own in files.items()}
    differences = check.stages(file_format, paths)
    return {**entry, "stages": files, "stage_differences": differences}


def _varied(images: np.ndarray) -> bool:
    """Return whether any image has pixels that differ."""
    return bool((images != images[..., :1, :1]).any())


def as_inputs(images: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return inputs as float32; refuse anything but finite ones ``(N, *shape[1:])``."""
    if not isinstance(images, np.ndarray):
        kind = type(images).__name__
        raise ValueError(f"images is of type {kind}; allowed: a NumPy array")
    if images.ndim != 4 or images.shape[1:] != tuple(shape[1:]) or not len(images):
        raise ValueError(f"images are {images.shape}; allowed: (N, {shape[1:]})")
    if not np.isfinite(images).all():
        raise ValueError("images hold NaN or infinity; allowed: finite numbers")
    return np.ascontiguousarray(images, np.float32)


def _reference(
    net: Any, deployable: Deployable, images: np.ndarray
) -> ReferenceOutputs:
    """Return the net's outputs before folding and concatenation."""
    if deployable.stages:
        return ReferenceOutputs(*family_of(net).inference_graph(net), images)
    symbol, params = pair_of(net)
    joined = len(symbol.list_outputs()) != len(deployable.output_shapes)
    return ReferenceOutputs(symbol, params, images, joined)
