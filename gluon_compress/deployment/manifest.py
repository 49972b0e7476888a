"""What the manifest of a deployed folder states, each key checked before its use."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Any, Mapping

from gluon_compress.checks import (
    key,
    list_of,
    map_of,
    number,
    one_of,
    optional,
    part,
    section,
    text,
    whole,
    wrong,
)
from gluon_compress.data import RESIZE
from gluon_compress.deployment.formats import BATCH, FORMATS
from gluon_compress.deployment.int8 import CALIBRATIONS
from gluon_compress.models.manifest import POSITIVE, Anchors, Decode, stated_classes
from gluon_compress.storage.artifacts import MANIFEST, valid_checksums, verified

KIND = "ssd-deployed"
ANCHORS = "anchors.npy"


def _resize(value: Any, place: str) -> dict:
    if value != RESIZE:
        raise wrong(place, value, f"{RESIZE}, which is all that is done here")
    return value


def _batch(value: Any, place: str) -> int | str:
    if value not in (1, BATCH) or value is True:
        raise wrong(place, value, f"1 or {BATCH!r}")
    return value


@section
class Input:
    """What goes in."""

    name: str = key(text)
    shape: tuple = key(list_of(whole(1), exactly=4))
    resize: dict = key(_resize, RESIZE)


@section
class Output:
    """What comes out."""

    name: str = key(text)
    shape: tuple = key(list_of(whole(1), exactly=3))


@section
class Nms:
    """Which boxes stay, as ``Decoding`` has it."""

    nms_thresh: float = key(number(0, 1, above=True))
    nms_topk: int = key(whole(1))
    post_nms: int = key(whole(1))
    least_score: float = key(number(0, 1))


@section
class Written:
    """What was written in a format, how, and how far off it was."""

    files: tuple = key(list_of(text))
    precision: str = key(one_of("float32", "int8"))
    difference: float = key(number(0))
    allowed: float | None = key(optional(number(0)), None)
    opset: int | None = key(optional(whole(1)), None)
    batch: int | str = key(_batch, BATCH)
    calibration: str | None = key(optional(one_of(*CALIBRATIONS)), None)
    images: int | None = key(optional(whole(1)), None)
    whole: tuple = key(list_of(text), ())
    whole_difference: float | None = key(optional(number(0)), None)


@section
class Deployed:
    """All that a predictor takes from a manifest."""

    input: Input = key(part(Input))
    outputs: tuple = key(list_of(part(Output), exactly=1))
    classes: tuple = key(stated_classes)
    mean: tuple = key(list_of(number(0, 1), exactly=3))
    std: tuple = key(list_of(POSITIVE, exactly=3))
    anchors: Anchors = key(part(Anchors))
    decode: Decode = key(part(Decode))
    nms: Nms = key(part(Nms))
    formats: dict = key(map_of(part(Written), *FORMATS))
    files: dict = key(valid_checksums)

    def disagreement(self) -> tuple | None:
        """Name what fits neither the anchors, nor the classes, nor the files."""
        size, width = self.anchors.size, self.outputs[0].shape[2]
        if self.input.shape != (1, 3, size, size):
            allowed = f"{[1, 3, size, size]}, for anchors.size is {size}"
            return "input.shape", list(self.input.shape), allowed
        if len(self.classes) + 5 != width:
            allowed = f"{width - 5} names, for outputs[0].shape ends in {width}"
            return "classes", list(self.classes), allowed
        if ANCHORS not in self.files:
            return "files", list(self.files), f"one of them {ANCHORS!r}, with its sum"
        for name, written in self.formats.items():
            problem = self._unfit(name, written)
            if problem:
                return f"formats.{name}.files", list(written.files), problem
        return None

    def _unfit(self, name: str, written: Written) -> str | None:
        """Return what the files of a format should be, if they are not."""
        endings = FORMATS[name].files
        if len(written.files) != len(endings) or not all(
            file.endswith(ending) for file, ending in zip(written.files, endings)
        ):
            return f"names that end in {' and '.join(endings)}"
        if not {*written.files, *written.whole} <= set(self.files):
            return "files of the folder whose sha256 is in files"
        return None


def checked(manifest: Mapping[str, Any]) -> Deployed:
    """Return what a predictor takes from a manifest; the rest is for the reader.

    Raises
    ------
    ValueError
        Naming a key that is missing or unknown, or its value and what is allowed.
    """
    used = {f.name for f in fields(Deployed)}
    return part(Deployed)({k: v for k, v in manifest.items() if k in used}, "")


def read(folder: str | os.PathLike) -> Deployed:
    """Return the checked manifest of a folder whose files are as they were written.

    Raises
    ------
    ValueError
        If ``deploy`` did not write the folder, a file of it is missing or altered, or
        its manifest states what cannot be; the file and the key are named.
    """
    manifest, place = verified(folder), Path(folder) / MANIFEST
    if manifest.get("kind") != KIND:
        raise ValueError(
            f"{place}: kind is {manifest.get('kind')!r}; allowed: {KIND!r}, which "
            "scripts/export.py --formats writes"
        )
    try:
        return checked(manifest)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
