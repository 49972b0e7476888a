"""Writes the files of runtimes for nets that belong to no family."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Dict, Sequence

import mxnet as mx
import numpy as np

from gluon_compress.deployment.checking import run_files, write_files
from gluon_compress.deployment.deployable import output_names
from gluon_compress.deployment.folding import fold
from gluon_compress.deployment.formats import FORMATS, InferenceGraph
from gluon_compress.deployment.quantised import steps_between
from gluon_compress.deployment.reference_outputs import ReferenceOutputs, noise
from gluon_compress.graph import pair_of
from gluon_compress.graph.symbols import put_together, take_apart
from gluon_compress.model_folder import check_name, check_values
from gluon_compress.storage.artifacts import MANIFEST, atomic_directory, checksums
from gluon_compress.storage.atomic import write_json
from gluon_compress.validation import listed, wrong

KIND = "runtime-files"


def export_formats(
    net: Any,
    folder: str | os.PathLike,
    name: str,
    formats: Sequence[str],
    *,
    shape: Sequence[int],
    images: np.ndarray | None = None,
) -> Dict[str, Any]:
    """Write a net in some formats, and run every file in its runtime.

    Parameters
    ----------
    net : HybridBlock or (symbol, params)
        With one input; it may have quantisers.
    folder : path
        Created, or replaced if this function wrote it.
    name : str
        Beginning of the file names.
    formats : sequence of str
        Rows of ``FORMATS``.
    shape : sequence of int
        Of the input for one sample.
    images : ndarray, optional
        Inputs to compare on, and to calibrate formats on that need it. Default: noise.

    Returns
    -------
    dict
        For each format its files, the ``difference`` from the net, and the same in
        ``steps`` of outputs, see ``quantised.steps_between``.

    Raises
    ------
    ValueError
        For an unknown format, or a file whose runtime differs from the net by more
        than the format allows.
    """
    check_name(name)
    for form in formats:
        if form not in FORMATS:
            raise wrong("formats", form, listed(FORMATS))
    symbol, params = _with_data(*pair_of(net))
    check_values(params)
    shape = (1, *shape[1:])
    compared = noise((2, *shape[1:]))
    if images is not None:
        compared = _images(images, shape)
    graph = InferenceGraph(name, *fold(symbol, params, shape), shape, compared)
    reference = ReferenceOutputs(symbol, params, compared[:8])
    with atomic_directory(folder, KIND) as draft:
        entries = write_checked(graph, reference, formats, Path(draft))
        shapes = [[1, *output.shape[1:]] for output in reference.float32]
        names = output_names(symbol)
        content = {
            "format": 1,
            "kind": KIND,
            "name": name,
            "input": {"name": "data", "shape": list(shape)},
            "outputs": [{"name": n, "shape": s} for n, s in zip(names, shapes)],
            "formats": entries,
            "files": checksums(Path(draft)),
        }
        write_json(Path(draft) / MANIFEST, content)
    return entries


def _images(images: Any, shape: Sequence[int]) -> np.ndarray:
    """Return inputs as float32; refuse anything but finite ones ``(N, *shape[1:])``."""
    array = np.asarray(images, np.float32)
    if array.shape[1:] != shape[1:] or not len(array):
        allowed = f"an array (N, {', '.join(map(str, shape[1:]))})"
        raise wrong("the shape of images", array.shape, allowed)
    if not np.isfinite(array).all():
        raise ValueError("images hold NaN or infinity; allowed: finite numbers")
    return array


def write_checked(
    graph: InferenceGraph,
    reference: ReferenceOutputs,
    formats: Sequence[str],
    folder: Path,
) -> Dict[str, Any]:
    """Write a graph in some formats, and compare each with the net in its runtime.

    Returns
    -------
    dict
        For each format the entry of a manifest.

    Raises
    ------
    ValueError
        If a format cannot be written, or its runtime departs from the net.
    """
    entries: Dict[str, Any] = {}
    for form in formats:
        row = FORMATS[form]
        entry = write_files(row, graph, folder)
        files = [folder / file for file in entry["files"]]
        outputs = run_files(row, files, reference.images)
        off, allowed = reference.departure(outputs, row)
        if not off <= allowed:
            raise ValueError(
                f"{files[0].name}: {row.runtime} differs from the net by "
                f"{off:.2g}; allowed: {allowed:.2g}"
            )
        steps = steps_between(outputs, reference.float32)
        entries[form] = {**entry, "difference": off, "steps": steps}
    return entries


def _with_data(symbol: mx.sym.Symbol, params: Any) -> tuple[mx.sym.Symbol, Any]:
    """Return a pair whose only input is called ``data``, as formats expect it."""
    nodes, heads = take_apart(symbol)
    inputs = [n for n in nodes if n["op"] == "null" and n["name"] not in params]
    if len({node["name"] for node in inputs}) != 1:
        names = sorted({node["name"] for node in inputs})
        raise ValueError(f"the net has the inputs {names}; allowed: one")
    for node in inputs:
        node["name"] = "data"
    return put_together(nodes, heads), params
