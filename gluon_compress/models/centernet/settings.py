"""What a recipe may state of a detector without anchors."""

from __future__ import annotations

from typing import Optional

from typing_extensions import Annotated

from gluon_compress.graph.deformable import RUNGS
from gluon_compress.models.settings import DetectionEvaluation, DetectorSettings
from gluon_compress.validation import Count, NonEmptyStr, OneOf, ShareOrZero

DETECTIONS = 100  # of an image, as in the papers


class CenterNetSettings(DetectorSettings):
    """Which detector without anchors to build or to load.

    Parameters
    ----------
    name : str
        As ``center_net_resnet18_v1b``.
    trunk : str or None
        Folder of an exported classifier, pruned or not, to take the trunk from; None:
        the trunk of ``name``, with initial values.
    rung : str or None
        Of the CoDeNets, which deformable convolutions their necks have: ``none``,
        ``full``, ``bounded``, ``square``, ``integer`` or ``depthwise``, from free
        offsets to what is cheap to compute; None: ``depthwise``.
    bound : int or None
        Of the CoDeNets, how many cells offsets may reach; None: 4.
    """

    trunk: Optional[NonEmptyStr] = None
    rung: Optional[Annotated[str, OneOf(lambda: RUNGS)]] = None
    bound: Optional[Count] = None


class CenterNetEvaluation(DetectionEvaluation):
    """How detections are filtered and measured.

    Parameters
    ----------
    peaks : int or None
        Boxes of an image that are returned; None: twice the largest number of objects
        in an image of the data, but at least 100.
    least_score : float
        Peaks up to this score are dropped.
    flip_test : bool
        Whether the net also runs on the mirrored image, and both are averaged.
    """

    peaks: Optional[Count] = None
    least_score: ShareOrZero = 0.01
    flip_test: bool = False

    def for_objects(self, most: int) -> CenterNetEvaluation:
        """Return the settings for images of at most this many objects."""
        return self.replace(peaks=self.peaks or max(DETECTIONS, 2 * most))

    def build_options(self) -> dict:
        """Return decoding as ``build`` takes it."""
        if self.peaks is None:
            return self.for_objects(0).build_options()
        return super().build_options()
