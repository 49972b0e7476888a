"""What the manifest of a deployed folder states, checked before its use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Tuple, Union

import numpy as np
from pydantic import ConfigDict
from typing_extensions import Annotated, Literal

from gluon_compress.data import Preprocess
from gluon_compress.deployment.formats import BATCH, CALIBRATIONS, FORMATS
from gluon_compress.postprocess import POSTPROCESS, Postprocess
from gluon_compress.postprocess.earlier import with_sections
from gluon_compress.storage.artifacts import MANIFEST, verified
from gluon_compress.validation import (
    Allowed,
    ClassNames,
    Count,
    NonEmptyStr,
    NonNegative,
    OneOf,
    Settings,
    Tagged,
    not_allowed,
    parse,
    wrong,
)

DEPLOYED = "-deployed"  # what the kind of a family ends in where it is deployed


class Input(Settings):
    """What goes in.

    Parameters
    ----------
    name : str
        Of the graph's input.
    shape : tuple of int
        Of one image, with its batch axis.
    """

    model_config = ConfigDict(extra="ignore")

    name: NonEmptyStr
    shape: Tuple[Count, Count, Count, Count]


class Output(Settings):
    """What comes out.

    Parameters
    ----------
    name : str
        By which the postprocess asks for it.
    shape : tuple of int
        For one image, with its batch axis.
    """

    name: NonEmptyStr
    shape: Tuple[Count, ...]


class FormatEntry(Settings):
    """What was written in a format, and how far it is off.

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
        What it may be, if it is not the format's own tolerance.
    opset : int, optional
        Of ONNX.
    batch : int or str
        1, or ``batch`` for any number of images.
    calibration : str, optional
        Of int8.
    images : int, optional
        How many images int8 was calibrated on.
    whole : tuple of str
        Files of the graph that includes the postprocess, if there is one.
    whole_difference : float, optional
        How far its results are off.
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
    whole: Tuple[NonEmptyStr, ...] = ()
    whole_difference: Optional[NonNegative] = None

    def files_allowed(self, name: str, present: Mapping[str, Any]) -> Optional[str]:
        """Return what the files of a format should be, or None if they are."""
        endings = FORMATS[name].files
        if len(self.files) != len(endings) or not all(
            file.endswith(ending) for file, ending in zip(self.files, endings)
        ):
            return f"names that end in {' and '.join(endings)}"
        if not {*self.files, *self.whole} <= set(present):
            return "files of the folder whose sha256 is in files"
        return None


class DeployedManifest(Settings):
    """All that a predictor takes from a manifest; other keys are for the reader.

    Parameters
    ----------
    input : Input
        Shape and name of the graph's input.
    outputs : tuple of Output
        In the order in which runtimes give them.
    classes : tuple of str
        Names by class id.
    preprocess : Preprocess
        What an image goes through before.
    postprocess : dict
        ``kind``, a row of ``POSTPROCESS``, and its settings.
    formats : dict
        What was written, by format.
    files : dict
        sha256 and bytes of each file.
    """

    model_config = ConfigDict(extra="ignore")

    input: Input
    outputs: Tuple[Output, ...]
    classes: ClassNames
    preprocess: Preprocess
    postprocess: Annotated[
        Any, Tagged("kind", lambda: {k: p.Settings for k, p in POSTPROCESS.items()})
    ]
    formats: Dict[Annotated[str, OneOf(lambda: FORMATS)], FormatEntry]
    files: Dict[str, Dict[str, Any]]

    def check(self) -> None:
        """Refuse what does not fit together."""
        if self.input.shape != self.preprocess.shape:
            allowed = f"{list(self.preprocess.shape)}, as preprocess states it"
            raise self.error("input.shape", allowed)
        for name in self.postprocess_class.arrays:
            if name not in self.files:
                raise self.error("files", f"one of them {name!r}, with its sum")
        for name, entry in self.formats.items():
            expected = entry.files_allowed(name, self.files)
            if expected is not None:
                raise not_allowed(entry.files, expected, f"formats.{name}.files")

    @property
    def postprocess_class(self) -> Any:
        """The row of ``POSTPROCESS`` that decodes the outputs."""
        return POSTPROCESS[self.postprocess.kind]

    @property
    def output_shapes(self) -> Dict[str, Tuple[int, ...]]:
        """Shapes of the outputs for one image, by name."""
        return {output.name: output.shape for output in self.outputs}


def checked(manifest: Mapping[str, Any]) -> DeployedManifest:
    """Return what a predictor takes from a manifest, of an earlier version too.

    Raises
    ------
    ValueError
        Naming a key that is missing or unknown, or its value and what is allowed.
    """
    return parse(DeployedManifest, with_sections(manifest))


def read(folder: str | os.PathLike) -> DeployedManifest:
    """Return the checked manifest of a folder whose files are as they were written.

    Raises
    ------
    ValueError
        If ``deploy`` did not write the folder, a file of it is missing or altered, or
        its manifest states what cannot be; the file and the key are named.
    """
    manifest, path = verified(folder), Path(folder) / MANIFEST
    if not is_deployed(manifest):
        raise wrong(f"{path}: kind", manifest.get("kind"), "that of a deployed folder")
    try:
        return checked(manifest)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def is_deployed(manifest: Mapping[str, Any]) -> bool:
    """Return whether a manifest is that of a deployed folder."""
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
        try:
            arrays[name] = np.load(Path(folder) / name)
        except ValueError as error:
            raise ValueError(f"{folder}: {name}: {error}") from None
    try:
        made = manifest.postprocess_class.from_state(manifest.postprocess, arrays)
        made.check(manifest.output_shapes, manifest.classes)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    return made
