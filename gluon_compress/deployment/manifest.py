"""Reads and checks the manifests of deployed folders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Tuple, Union

from pydantic import ConfigDict, Field
from typing_extensions import Annotated, Literal

from gluon_compress.data import Preprocess
from gluon_compress.deployment.formats import BATCH, CALIBRATIONS, FORMATS
from gluon_compress.postprocess import POSTPROCESS, Postprocess
from gluon_compress.postprocess.earlier import with_sections
from gluon_compress.storage.artifacts import (
    MANIFEST,
    CommonManifest,
    ManifestInput,
    ManifestOutput,
    verified,
)
from gluon_compress.storage.reading import finite, read_array
from gluon_compress.validation import (
    Allowed,
    ClassNames,
    Count,
    CountOrZero,
    NonEmptyStr,
    NonNegative,
    OneOf,
    Settings,
    Tagged,
    not_allowed,
    parse,
    wrong,
)

DEPLOYED = "-deployed"  # suffix of a family's kind in the manifest of a deployed folder


class FormatEntry(Settings):
    """The files of a format, and their difference from the net.

    Parameters
    ----------
    files : tuple of str
        In the order of the format's endings.
    precision : str
        As the format's row has it, for instance ``float32``.
    difference : float
        Largest difference from the net in this format's runtime, relative to the
        output's scale; for int8 the root mean square.
    allowed : float, optional
        The difference allowed, if it is not the format's own tolerance.
    opset : int, optional
        ONNX opset.
    batch : int or str
        1, or ``batch`` for any number of images.
    calibration : str, optional
        Calibration of int8.
    images : int, optional
        Number of images int8 was calibrated on.
    own_ranges : bool
        Whether the net's own quantisers gave the ranges, not a calibration.
    steps : float, optional
        Of a quantised net, its largest difference from the Gluon net in any output, in
        255ths of the output's range.
    cpu_feature : str, optional
        Of a quantised net, what the CPU that wrote it sums products of 8 bits with.
    integer_layers : int, optional
        Of ncnn, how many layers compute in int8.
    deformable : str, optional
        The form of deformable convolutions, if there are any: the operator, dilated
        convolutions, or samplings.
    whole : tuple of str
        Files of the graph that includes the postprocess, if there is one.
    whole_difference : float, optional
        Difference of its results.
    page : tuple of str
        Files of the page that runs the graph in a browser, if there is one.
    stages : dict
        Of a net of several stages, the files of the later ones, as ``files``.
    stage_differences : dict
        Their largest differences from the net.
    """

    files: Tuple[NonEmptyStr, ...]
    precision: Annotated[str, OneOf(lambda: {f.precision for f in FORMATS.values()})]
    difference: NonNegative
    allowed: Optional[NonNegative] = None
    opset: Optional[Count] = None
    batch: Annotated[
        Union[Literal[1], Literal["batch"]], Allowed(f"1 or {BATCH!r}")
    ] = BATCH  # type: ignore[assignment]
    calibration: Optional[Annotated[str, OneOf(lambda: CALIBRATIONS)]] = None
    images: Optional[Count] = None
    own_ranges: bool = False
    steps: Optional[NonNegative] = None
    cpu_feature: Optional[str] = None
    integer_layers: Optional[CountOrZero] = None
    deformable: Optional[Literal["deformable", "dilated", "sampled"]] = None
    whole: Tuple[NonEmptyStr, ...] = ()
    whole_difference: Optional[NonNegative] = None
    page: Tuple[NonEmptyStr, ...] = ()
    stages: Dict[str, Tuple[NonEmptyStr, ...]] = {}
    stage_differences: Dict[str, NonNegative] = {}

    def files_allowed(self, name: str, present: Mapping[str, Any]) -> Optional[str]:
        """Return what is allowed if the files are wrong, else None."""
        endings = FORMATS[name].files
        graphs = [self.files, *self.stages.values()]
        for files in graphs:
            if len(files) != len(endings) or not all(
                file.endswith(ending) for file, ending in zip(files, endings)
            ):
                return f"names that end in {' and '.join(endings)}"
        named = {*self.whole, *self.page, *(file for files in graphs for file in files)}
        if not named <= set(present):
            return "files of the folder whose sha256 is in files"
        return None


class StageEntry(Settings):
    """The inputs and outputs of a later stage, for one image.

    Parameters
    ----------
    inputs : tuple of ManifestInput
    outputs : tuple of ManifestOutput
    """

    inputs: Annotated[Tuple[ManifestInput, ...], Field(min_length=1)]
    outputs: Annotated[Tuple[ManifestOutput, ...], Field(min_length=1)]

    @property
    def input_shapes(self) -> Dict[str, Tuple[int, ...]]:
        """Shapes of the inputs, by name."""
        return {entry.name: entry.shape for entry in self.inputs}

    @property
    def output_shapes(self) -> Dict[str, Tuple[int, ...]]:
        """Shapes of the outputs, by name."""
        return {entry.name: entry.shape for entry in self.outputs}


class DeployedManifest(CommonManifest):
    """The manifest of a deployed folder.

    Parameters
    ----------
    kind : str
        The family's, with the suffix ``DEPLOYED``.
    input : ManifestInput
        Shape and name of the graph's input, for one image.
    outputs : tuple of ManifestOutput
        In the order in which runtimes return them, for one image.
    cost : dict
        MACs, parameters and bytes of the net, for humans.
    classes : tuple of str
        Names by class id.
    preprocess : Preprocess
        How an image becomes an input.
    postprocess : dict
        ``kind``, a row of ``POSTPROCESS``, and its settings.
    stages : dict
        Of a net of several stages, the later ones by name.
    formats : dict
        The files of each format.
    files : dict
        sha256 and bytes of each file.
    """

    model_config = ConfigDict(extra="forbid")

    classes: ClassNames
    preprocess: Preprocess
    postprocess: Annotated[
        Any, Tagged("kind", lambda: {k: p.Settings for k, p in POSTPROCESS.items()})
    ]
    stages: Dict[str, StageEntry] = {}
    formats: Dict[Annotated[str, OneOf(lambda: FORMATS)], FormatEntry]
    cost: Dict[str, NonNegative] = {}

    def check(self) -> None:
        """Refuse keys that contradict each other."""
        if self.input.shape != self.preprocess.shape:
            allowed = f"{list(self.preprocess.shape)}, as preprocess states it"
            raise self.error("input.shape", allowed)
        for name in self.postprocess_class.arrays:
            if name not in self.files:
                raise self.error("files", f"{name!r} among them, with its checksum")
        for name, entry in self.formats.items():
            expected = entry.files_allowed(name, self.files)
            if expected is not None:
                raise not_allowed(entry.files, expected, f"formats.{name}.files")
        check_stages(self)

    @property
    def postprocess_class(self) -> Any:
        """The row of ``POSTPROCESS`` that decodes the outputs."""
        return POSTPROCESS[self.postprocess.kind]

    @property
    def output_shapes(self) -> Dict[str, Tuple[int, ...]]:
        """Shapes of the outputs of the first graph for one image, by name."""
        return {output.name: output.shape for output in self.outputs}

    @property
    def all_shapes(self) -> Dict[str, Tuple[int, ...]]:
        """Shapes of the outputs of all graphs for one image, by name."""
        shapes = self.output_shapes
        for stage in self.stages.values():
            shapes.update(stage.output_shapes)
        return shapes


def check_stages(manifest: Any) -> None:
    """Refuse stages that a manifest's postprocess does not run, or without files."""
    later = tuple(getattr(manifest.postprocess_class, "later_stages", ()))
    stages = manifest.stages
    if any(name not in later for name in stages) or (later and later[0] not in stages):
        allowed = f"{', '.join(later)}, as postprocess.kind runs them"
        raise not_allowed(list(stages), allowed if later else "none", "stages")
    for name, entry in manifest.formats.items():
        if {*entry.stages} != {*stages}:
            allowed = f"files of {', '.join(stages) or 'none'}"
            raise not_allowed(list(entry.stages), allowed, f"formats.{name}.stages")


def stage_rows(stages: Mapping[str, Any], shapes: Any) -> Dict[str, Any]:
    """Return what a manifest states of later stages; nothing if there are none.

    Parameters
    ----------
    stages : mapping
        Each with ``inputs``.
    shapes : callable
        From a stage's name to the shapes of its outputs, by name.
    """

    def rows(stated: Mapping[str, Any]) -> list[dict]:
        return [{"name": n, "shape": list(shape)} for n, shape in stated.items()]

    entries = {
        name: {"inputs": rows(stage.inputs), "outputs": rows(shapes(name))}
        for name, stage in stages.items()
    }
    return {"stages": entries} if entries else {}


def checked(manifest: Mapping[str, Any]) -> DeployedManifest:
    """Return the checked manifest; those of earlier versions are converted.

    Raises
    ------
    ValueError
        If a key is missing, unknown or has a value that is not allowed; the message
        names it.
    """
    return parse(DeployedManifest, with_sections(manifest))


def read(folder: str | os.PathLike) -> DeployedManifest:
    """Return the checked manifest of a folder, after verifying its files.

    Raises
    ------
    ValueError
        If ``deploy`` did not write the folder, one of its files is missing or altered,
        or its manifest is invalid; the message names the file and the key.
    """
    manifest, path = verified(folder), Path(folder) / MANIFEST
    if not is_deployed(manifest):
        raise wrong(
            f"{path}: kind", manifest.get("kind"), "the kind of a deployed folder"
        )
    try:
        return checked(manifest)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def is_deployed(manifest: Mapping[str, Any]) -> bool:
    """Return whether a manifest belongs to a deployed folder."""
    return str(manifest.get("kind")).endswith(DEPLOYED)


def read_postprocess(
    folder: str | os.PathLike, manifest: DeployedManifest
) -> Postprocess:
    """Return the postprocess of a deployed folder.

    Raises
    ------
    ValueError
        If one of its arrays cannot be read, or does not fit the outputs or classes.
    """
    arrays = {}
    for name in manifest.postprocess_class.arrays:
        arrays[name] = read_array(Path(folder) / name)
        finite({"it": arrays[name]}, Path(folder) / name)
    try:
        postprocess = manifest.postprocess_class.from_state(
            manifest.postprocess, arrays
        )
        postprocess.check(manifest.all_shapes, manifest.classes)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    return postprocess
