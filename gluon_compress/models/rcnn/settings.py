"""What a recipe may state of a two-stage detector."""

from __future__ import annotations

from typing import Optional, Tuple

from pydantic import Field
from typing_extensions import Annotated

from gluon_compress.models.settings import DetectorSettings, NmsEvaluation
from gluon_compress.postprocess.base import Rows
from gluon_compress.postprocess.rcnn import LEVELS
from gluon_compress.validation import (
    Allowed,
    Count,
    NonEmptyStr,
    Positive,
    Share,
    ShareOrZero,
)

_Width = Annotated[int, Field(ge=2), Allowed("a whole number from 2")]


class RCNNSettings(DetectorSettings):
    """Which two-stage detector to build or to load; None is the model's own.

    Parameters
    ----------
    name : str
        As ``faster_rcnn_fpn_resnet18_v1b``.
    short : int or None
        Pixels that the shorter side of an image is scaled to, if the image then fits
        into ``data.size``; None: as large as fits.
    sizes : tuple of float or None
        Side of the square anchor of each of the five maps, pixels.
    ratios : tuple of float or None
        Height over width of the anchors of a cell.
    fpn_channels, rpn_channels, head_channels : int or None
        Of the pyramid's maps, of the layer before proposals, and of both dense layers
        of the second stage.
    roi_size : int or None
        Cells a side that a region is read in.
    rpn_pre_nms, rpn_post_nms : int or None
        Boxes of an image before and after the NMS of the first stage.
    rpn_samples, roi_samples : int or None
        Anchors and proposals of an image that the losses look at.
    trunk : str or None
        Folder of an exported classifier, pruned or not, to take the trunk from; None:
        the trunk of ``name``, with initial values.
    fixed_norms : bool
        Whether BatchNorm uses its running statistics in training too, as in GluonCV,
        where the trunk has trained weights. With initial values it must not.
    """

    short: Optional[Count] = None
    sizes: Optional[
        Annotated[
            Tuple[Positive, ...],
            Field(min_length=LEVELS, max_length=LEVELS),
            Allowed(f"{LEVELS} numbers above 0, or null"),
        ]
    ] = None
    ratios: Optional[Annotated[Tuple[Positive, ...], Field(min_length=1)]] = None
    fpn_channels: Optional[_Width] = None
    rpn_channels: Optional[_Width] = None
    head_channels: Optional[_Width] = None
    roi_size: Optional[Count] = None
    rpn_pre_nms: Optional[Rows] = None
    rpn_post_nms: Optional[Rows] = None
    rpn_samples: Optional[Rows] = None
    roi_samples: Optional[Rows] = None
    trunk: Optional[NonEmptyStr] = None
    fixed_norms: bool = False


class RCNNEvaluation(NmsEvaluation):
    """How detections are suppressed by better ones, and measured.

    Parameters
    ----------
    nms_thresh : float
        Overlap from which a box is suppressed by a better one of its class.
    least_score : float
        Boxes up to this score are dropped.
    """

    nms_thresh: Share = 0.5
    least_score: ShareOrZero = 0.01


class MaskRCNNSettings(RCNNSettings):
    """Which Mask R-CNN to load: it is not trained here.

    Parameters
    ----------
    name : str
        As ``mask_rcnn_fpn_resnet18_v1b``.
    weights : str
        Folder of an exported model.
    """

    def check(self) -> None:
        """Check that there are weights, for masks are not trained here."""
        super().check()
        if self.weights is None:
            raise self.error(
                "weights", "a folder of a trained model: masks are not trained here"
            )
