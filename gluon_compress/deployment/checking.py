"""Checks that the files of a format give the net's outputs in their runtime."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Mapping, Sequence

import mxnet as mx
import numpy as np

from gluon_compress.deployment.deployable import Deployable
from gluon_compress.deployment.formats import FORMATS, Format, InferenceGraph
from gluon_compress.deployment.quantised import steps_between
from gluon_compress.deployment.reference_outputs import ReferenceOutputs
from gluon_compress.deployment.runtimes import open_files, open_stage
from gluon_compress.graph.operators import operator_of
from gluon_compress.graph.symbols import take_apart
from gluon_compress.models.base import LaterStage
from gluon_compress.models.family import family_of
from gluon_compress.postprocess.base import FIRST, finite_detections


@dataclass(frozen=True)
class FormatCheck:
    """Compares the files of a format with the net they were written from.

    Parameters
    ----------
    deployable : Deployable
    graph : InferenceGraph
        The graph that the files are written from.
    reference : ReferenceOutputs
        Outputs of the net itself, before folding and concatenation.
    plain : dict
        The later stages before folding, by name.
    """

    deployable: Deployable
    graph: InferenceGraph
    reference: ReferenceOutputs
    plain: Mapping[str, LaterStage] = field(default_factory=dict)

    def outputs(self, file_format: Format, files: Sequence[Path]) -> dict:
        """Return the manifest's entry on the error of a format's outputs.

        Raises
        ------
        ValueError
            If the error is too large (the message names the first layer that differs),
            or the results differ from the net's.
        """
        outputs = run_files(file_format, files, self.reference.images)
        worst, allowed = self.reference.departure(outputs, file_format)
        if not worst <= allowed:
            image = self.reference.images[:1]
            raise ValueError(
                f"{files[0].name}: {file_format.runtime} differs from the net by "
                f"{worst:.2g}; allowed: {allowed:.2g}; "
                f"{first_departure(file_format, self.graph, image)}"
            )
        if self.deployable.stages:
            return {"difference": worst}
        if self.graph.jumps:
            steps = steps_between(outputs, self.reference.float32)
            return {"difference": worst, "allowed": allowed, "steps": steps}
        if file_format.precision == "float32":  # int8 may change single results
            decode = self.deployable.postprocess.decode
            self._compare(
                file_format,
                files,
                decode(self._named(self._shaped(outputs))),
                lambda reference_outputs: decode(self._named(reference_outputs)),
            )
        if allowed == file_format.tolerance:
            return {"difference": worst}
        return {"difference": worst, "allowed": allowed}

    def stages(
        self, file_format: Format, files: Mapping[str, Sequence[Path]]
    ) -> dict[str, float]:
        """Return the error of the later stages' outputs, by name.

        Each is compared on what the net's own first stage, and the postprocess, make
        of the images. What is found in the end is compared, too.

        Parameters
        ----------
        file_format : Format
        files : mapping
            Of each stage.

        Raises
        ------
        ValueError
            If an error is too large, or the results differ from the net's.
        """
        postprocess: Any = self.deployable.postprocess
        opened = {
            name: open_stage(
                file_format.runtime, files[name], stage.inputs, stage.outputs
            )
            for name, stage in self.deployable.stages.items()
        }
        worst = dict.fromkeys(opened, 0.0)

        def compared(name: str, arrays: Mapping[str, np.ndarray]) -> Mapping:
            """Return what the net's own stage gives, after comparing a file's."""
            stage = self.plain[name]
            own = ReferenceOutputs(stage.symbol, stage.params, arrays)
            found = [opened[name](arrays)[output] for output in stage.outputs]
            off, allowed = own.departure(found, file_format)
            if not off <= allowed:
                raise ValueError(
                    f"{files[name][0].name}: {file_format.runtime} differs from the "
                    f"net by {off:.2g}; allowed: {allowed:.2g}"
                )
            worst[name] = max(worst[name], off)
            return dict(zip(stage.outputs, own.float32))

        first = self._named(self.reference.float32)
        for i, image in enumerate(self.reference.images):
            one = {name: array[i : i + 1] for name, array in first.items()}
            start = {FIRST: partial(_same, one)}
            own = {**start, **{name: partial(compared, name) for name in opened}}
            expected = postprocess.run(own, image[None], together=False)
            outputs = postprocess.run({**start, **opened}, image[None], together=False)
            _, problem = postprocess.compare(
                expected,
                postprocess.decode(outputs),
                postprocess.decode(expected),
                tolerance=file_format.tolerance,
                side=max(self.deployable.preprocess.shape[2:]),
            )
            if problem:
                raise ValueError(f"{files[next(iter(files))][0].name}: {problem}")
        return worst

    def results(self, net: Any, files: Sequence[Path], heads: Sequence[Path]) -> dict:
        """Return the manifest's entry on the error of the graph with postprocess.

        Where rounding can move a value by a step of a quantiser, results are compared
        with those of the graph without postprocess, ``heads``, whose steps are known.

        Raises
        ------
        ValueError
            If its results differ from the net's.
        """
        file_format = FORMATS["mxnet"]
        results: Sequence = run_files(file_format, files, self.reference.images)
        if self.deployable.postprocess.finds_boxes:
            results = finite_detections(results)  # as the net gives them
        if self.graph.jumps:
            found = run_files(file_format, heads, self.reference.images)
            outputs = self._named(self._shaped(found))
            postprocess = self.deployable.postprocess
            worst, problem = postprocess.compare(
                outputs,
                results,
                postprocess.decode(outputs),
                tolerance=file_format.tolerance,
                side=max(self.deployable.preprocess.shape[2:]),
            )
            if problem:
                raise ValueError(f"{files[0].name}: {problem}")
        else:
            rows = [
                family_of(net).results(net, mx.nd.array(image[None]))
                for image in self.reference.images
            ]
            expected = [np.concatenate(parts) for parts in zip(*rows)]
            worst = self._compare(file_format, files, results, lambda _: expected)
        return {"whole": [file.name for file in files], "whole_difference": worst}

    def _shaped(self, outputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [
            np.asarray(output, np.float32).reshape(expected.shape)
            for output, expected in zip(outputs, self.reference.float32)
        ]

    def _named(self, outputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(self.deployable.output_shapes, outputs))

    def _compare(self, file_format, files, results, expected) -> float:
        """Return the difference between results and ``expected(outputs)``."""

        def compare(outputs: Sequence[np.ndarray], tolerance: float):
            return self.deployable.postprocess.compare(
                self._named(outputs),
                results,
                expected(outputs),
                tolerance=tolerance,
                side=max(self.deployable.preprocess.shape[2:]),
            )

        tolerance = file_format.tolerance
        worst, problem = compare(self.reference.float32, tolerance)
        allowed = self.reference.allowed(file_format) if problem else tolerance
        if allowed > tolerance:
            exact = [output.astype(np.float32) for output in self.reference.float64]
            worst, problem = compare(exact, allowed)
        if problem:
            raise ValueError(f"{files[0].name}: {problem}")
        return worst


def _same(outputs: Mapping, inputs: Mapping) -> Mapping:
    """Return outputs that are known, whatever the inputs."""
    return outputs


def run_files(
    file_format: Format, files: Sequence[Path], images: np.ndarray
) -> list[np.ndarray]:
    """Return outputs ``(N, ...)`` of a format's runtime, run image by image.

    Files that a predictor would refuse are refused here too.
    """
    run = open_files(file_format.runtime, files, (1, *images.shape[1:]))
    rows = [run(image[None]) for image in images]
    return [np.concatenate(parts) for parts in zip(*rows)]


def write_files(file_format: Format, graph: InferenceGraph, folder: Path) -> dict:
    """Write the files of a format; return what the manifest states of them."""
    entries = file_format.write(graph, folder)
    files = [f"{graph.name}{ending}" for ending in file_format.files]
    return {"files": files, "precision": file_format.precision, **entries}


def first_departure(
    file_format: Format, graph: InferenceGraph, image: np.ndarray
) -> str:
    """Return words on the first layer where a format differs from MXNet.

    A bisection over the layers with weights: graphs that end at a layer are written and
    run. (With all layers as outputs of one graph, runtimes would fuse less.)
    """
    nodes, _ = take_apart(graph.symbol)
    names = [n["name"] for n in nodes if operator_of(n["op"]).weight_input is not None]
    internals = graph.symbol.get_internals()

    def departs(name: str) -> bool:
        part = replace(graph, symbol=internals[f"{name}_output"])
        used = set(part.symbol.list_inputs())
        params = {n: v for n, v in graph.params.items() if n in used}
        return _is_off(file_format, replace(part, params=params), image)

    agrees, off = -1, len(names)
    while off - agrees > 1:
        middle = (agrees + off) // 2
        agrees, off = (agrees, middle) if departs(names[middle]) else (middle, off)
    if off == len(names):
        return (
            f"all layers up to the last, {names[-1]!r}, agree with the folded graph: "
            "the folding of BatchNorm differs"
        )
    return f"the first layer that differs is {names[off]!r}"


def _is_off(file_format: Format, graph: InferenceGraph, image: np.ndarray) -> bool:
    """Return whether a graph of one output differs in a format's runtime."""
    reference = ReferenceOutputs(graph.symbol, graph.params, image)
    with tempfile.TemporaryDirectory() as folder:
        try:
            entry = write_files(file_format, graph, Path(folder))
            files = [Path(folder) / file for file in entry["files"]]
            outputs = run_files(file_format, files, image)
        except Exception:  # it does not even run
            return True
    off, allowed = reference.departure(outputs, file_format)
    return not off <= allowed
