"""What the manifest of a detector without anchors states beside its symbol."""

from __future__ import annotations

from gluon_compress.models.stated import InputSize
from gluon_compress.postprocess.base import Rows
from gluon_compress.validation import ClassNames, Settings, ShareOrZero


class PeakSettings(Settings):
    """Which peaks become boxes."""

    peaks: Rows
    least_score: ShareOrZero
    flip_test: bool


class CenterNetManifest(Settings):
    """All that makes a detector of its maps."""

    classes: ClassNames
    size: InputSize
    decode: PeakSettings
