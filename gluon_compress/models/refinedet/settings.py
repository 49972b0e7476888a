"""What a recipe may state of a RefineDetLite: its anchors, width and extra stages."""

from __future__ import annotations

from typing import Optional, Tuple

from pydantic import Field
from typing_extensions import Annotated

from gluon_compress.models.settings import DetectorSettings
from gluon_compress.validation import NonEmptyStr, Positive, ShareOrZero

_SOME = Field(min_length=1)
_Width = Annotated[int, Field(ge=2)]


class RefineDetSettings(DetectorSettings):
    """Which RefineDetLite to build or to load.

    Parameters
    ----------
    name : str
        As ``refinedetlite_320``.
    sizes : tuple of float or None
        Side of the square anchors of each feature map, pixels; None: the model's own.
    ratios : tuple of tuple of float or None
        Aspect ratios of the anchors of each feature map; None: the model's own.
    extras : tuple of int or None
        Channels of the stages that follow the trunk; None: the model's own.
    channels : int or None
        Of transfer connections and heads; None: the model's own.
    least_objectness : float or None
        Anchors whose probability to hold an object is up to this are not looked at by
        the second step; None: the model's own.
    trunk : str or None
        Folder of an exported classifier, pruned or not, to take the trunk from; None:
        the trunk of ``name``, with initial values.
    """

    sizes: Optional[Annotated[Tuple[Positive, ...], _SOME]] = None
    ratios: Optional[
        Annotated[Tuple[Annotated[Tuple[Positive, ...], _SOME], ...], _SOME]
    ] = None
    extras: Optional[Tuple[_Width, ...]] = None
    channels: Optional[_Width] = None
    least_objectness: Optional[ShareOrZero] = None
    trunk: Optional[NonEmptyStr] = None

    def check(self) -> None:
        """Check that anchors are for one number of maps."""
        super().check()
        sizes, ratios = self.sizes, self.ratios
        if sizes is not None and ratios is not None and len(sizes) != len(ratios):
            allowed = f"{len(ratios)} numbers, one for each map as in ratios"
            raise self.error("sizes", allowed)
