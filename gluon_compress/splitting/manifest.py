"""The manifests of both halves of a net."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Dict, Optional, Tuple, Type, TypeVar

from pydantic import ConfigDict, Field
from typing_extensions import Annotated, Literal

from gluon_compress.data import Preprocess
from gluon_compress.deployment.formats import FORMATS
from gluon_compress.deployment.manifest import (
    FormatEntry,
    StageEntry,
    check_stages,
)
from gluon_compress.postprocess import POSTPROCESS
from gluon_compress.splitting.packing import Bits, Coding
from gluon_compress.storage.artifacts import (
    MANIFEST,
    Axis,
    CommonManifest,
    verified,
)
from gluon_compress.validation import (
    ClassNames,
    NonEmptyStr,
    OneOf,
    Settings,
    Sha256,
    ShareOrZero,
    Tagged,
    not_allowed,
    parse,
    wrong,
)

HEAD, TAIL = "head", "tail"
KINDS = {HEAD: "split-head", TAIL: "split-tail"}
FILTER_OUTPUT = "has_target"  # scores of the neural filter, ``(B, 2)``


class TensorStatement(Settings):
    """The tensor that crosses.

    Parameters
    ----------
    name : str
        Of the node that computes it.
    shape : tuple of int
        For one image, without the batch axis.
    """

    name: NonEmptyStr
    shape: Annotated[Tuple[Axis, ...], Field(min_length=1, max_length=7)]


class SplitStatement(Settings):
    """What a manifest states of the other half, and of messages.

    Parameters
    ----------
    pair : str
        sha256 of the content of both halves; halves of another pair are refused.
    part : str
        ``head``, on the device, or ``tail``, on the server.
    tensor : TensorStatement
    bits : int
        Of an integer: 4, 8 or 16.
    coding : str
        ``none`` or ``deflate``.
    """

    pair: Sha256
    part: Literal["head", "tail"]
    tensor: TensorStatement
    bits: Bits
    coding: Coding


class FilterStatement(Settings):
    """What a manifest states of a neural filter.

    Parameters
    ----------
    threshold : float
        Images whose probability of an object is below it are not sent.
    recall, precision : float, optional
        Measured on the images that the threshold was chosen on.
    """

    threshold: ShareOrZero
    recall: Optional[ShareOrZero] = None
    precision: Optional[ShareOrZero] = None


class HalfManifest(CommonManifest):
    """What the manifests of both halves state."""

    model_config = ConfigDict(extra="forbid")

    classes: ClassNames
    preprocess: Preprocess
    split: SplitStatement
    formats: Dict[Annotated[str, OneOf(lambda: FORMATS)], FormatEntry]

    def check(self) -> None:
        """Refuse keys that contradict each other."""
        for name, entry in self.formats.items():
            expected = entry.files_allowed(name, self.files)
            if expected is not None:
                raise not_allowed(entry.files, expected, f"formats.{name}.files")


class HeadManifest(HalfManifest):
    """The manifest of a first half: images in, the tensor out.

    Parameters
    ----------
    filter : FilterStatement, optional
        If there is one, ``has_target`` is the second output.
    """

    filter: Optional[FilterStatement] = None

    def check(self) -> None:
        """Check what goes in and comes out."""
        super().check()
        if self.input.shape != self.preprocess.shape:
            allowed = f"{list(self.preprocess.shape)}, as preprocess states it"
            raise self.error("input.shape", allowed)
        tensor = self.split.tensor
        stated = [(output.name, output.shape) for output in self.outputs]
        expected = [(tensor.name, (1, *tensor.shape))]
        if self.filter is not None:
            expected.append((FILTER_OUTPUT, (1, 2)))
        if stated != expected:
            raise self.error("outputs", f"{expected}, as split and filter have it")


class TailManifest(HalfManifest):
    """The manifest of a second half: the tensor in, what the postprocess reads out.

    Parameters
    ----------
    postprocess : dict
        ``kind``, a row of ``POSTPROCESS``, and its settings.
    stages : dict
        Of a net of several stages, the later ones by name.
    """

    stages: Dict[str, StageEntry] = {}
    postprocess: Annotated[
        Any, Tagged("kind", lambda: {k: p.Settings for k, p in POSTPROCESS.items()})
    ]

    def check(self) -> None:
        """Check what goes in, and that the arrays of the postprocess are there."""
        super().check()
        if self.input.shape != (1, *self.split.tensor.shape):
            raise self.error("input.shape", "that of split.tensor, behind a 1")
        for name in self.postprocess_class.arrays:
            if name not in self.files:
                raise self.error("files", f"{name!r} among them, with its checksum")
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


Half = TypeVar("Half", bound=HalfManifest)
_CLASSES: Dict[str, Type[HalfManifest]] = {HEAD: HeadManifest, TAIL: TailManifest}


def read(folder: str | os.PathLike, cls: Type[Half]) -> Half:
    """Return the checked manifest of one half, after verifying its files.

    Raises
    ------
    ValueError
        If the folder is not that half, one of its files is missing or altered, or its
        manifest is invalid; the line names the file and the key.
    """
    part = next(part for part, each in _CLASSES.items() if each is cls)
    manifest, path = verified(folder), Path(folder) / MANIFEST
    if manifest.get("kind") != KINDS[part]:
        raise wrong(f"{path}: kind", manifest.get("kind"), repr(KINDS[part]))
    result = parse(cls, manifest, path)
    if result.split.part != part:
        raise wrong(f"{path}: split.part", result.split.part, repr(part))
    return result
