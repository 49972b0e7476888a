"""What a recipe may state of an SSD: its anchors, extra stages and NMS."""

from __future__ import annotations

from typing import Optional, Tuple, Union

from pydantic import Field
from typing_extensions import Annotated, Literal

from gluon_compress.models.settings import AUTO, DetectorSettings
from gluon_compress.validation import Allowed, NonEmptyStr, Positive

_SOME = Field(min_length=1)
_Sizes = Annotated[Tuple[Positive, ...], Field(min_length=2)]
_Ratios = Annotated[Tuple[Annotated[Tuple[Positive, ...], _SOME], ...], _SOME]


class SSDSettings(DetectorSettings):
    """Which SSD to build or to load.

    Parameters
    ----------
    name : str
        As ``ssd_300_resnet50_v1d``.
    sizes : tuple of float, str or None
        Sizes of anchors in pixels, one more than there are feature maps; None: the
        model's own; ``auto``: fitted to the training images when a run starts.
    ratios : tuple of tuple of float, str or None
        Aspect ratios of the anchors of each feature map; None: the model's own;
        ``auto``: fitted to the training images when a run starts.
    steps : tuple of float or None
        Distance between the centres of the anchors of each feature map, pixels; None:
        the model's own.
    extras : tuple of int or None
        Channels of the stages that follow the trunk; None: the model's own.
    trunk : str or None
        Folder of an exported classifier, pruned or not, to take the trunk from; None:
        the trunk of ``name``, with initial values.
    """

    sizes: Annotated[
        Union[Literal["auto"], _Sizes, None],
        Allowed("a list of 2 or more numbers above 0, 'auto' or null"),
    ] = None
    ratios: Annotated[
        Union[Literal["auto"], _Ratios, None],
        Allowed("a list of numbers above 0 for each map, 'auto' or null"),
    ] = None
    steps: Optional[Annotated[Tuple[Positive, ...], _SOME]] = None
    extras: Optional[Tuple[Annotated[int, Field(ge=2)], ...]] = None
    trunk: Optional[NonEmptyStr] = None

    @property
    def undecided(self) -> Tuple[str, ...]:
        """Names of the settings that the training images are to decide."""
        return tuple(n for n in ("sizes", "ratios") if getattr(self, n) == AUTO)

    def check(self) -> None:
        """Check that sizes rise and that anchors are for one number of maps."""
        super().check()
        if self.weights is not None and self.undecided:
            raise self.error(self.undecided[0], "other than 'auto' with weights")
        lists = {
            name: rows
            for name in ("ratios", "steps", "sizes")
            for rows in [getattr(self, name)]
            if rows is not None and rows != AUTO
        }
        if sorted({*lists.get("sizes", ())}) != list(lists.get("sizes", ())):
            raise self.error("sizes", "rising numbers")
        counts = {name: len(rows) for name, rows in lists.items()}
        if "sizes" in counts:
            counts["sizes"] -= 1
        for name, count in counts.items():
            first, maps = next(iter(counts.items()))
            if count != maps:
                allowed = f"{maps} numbers, one for each map as in {first}"
                if name == "sizes":
                    allowed = f"{maps + 1} rising numbers, one more than maps"
                raise self.error(name, allowed)
