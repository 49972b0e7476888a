"""The data settings of a detection recipe, and the data sets they open."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, Optional, Sequence, Tuple, Union

from pydantic import Field
from typing_extensions import Annotated, Literal

from gluon_compress.data.folders import (
    ImageSize,
    existing_folder,
    folder_of,
    height_and_width,
)
from gluon_compress.data.gluoncv_datasets import coco_gluoncv, voc_gluoncv
from gluon_compress.data.toy import make_toy
from gluon_compress.data.voc import VOCLayout
from gluon_compress.data.voc_xml import read_class_names
from gluon_compress.validation import Allowed, NonEmptyStr, OneOf, Settings


class DetectionData(Settings):
    """Images with boxes to train, validate and test on.

    Parameters
    ----------
    kind : str
        A name in ``DETECTION_SETS``: ``voc`` (a folder in VOC layout), ``toy`` (shapes,
        drawn on first use), ``gluoncv_voc`` or ``coco`` (GluonCV's
        loaders).
    root : str
        Folder: a path, or a name in the folder that ``--data`` or
        ``GLUON_COMPRESS_DATA`` gives.
    train : str
        Name of the split to train on.
    val : str or None
        Name of the split evaluated during training; None: the test split.
    test : str
        Name of the split for the final results.
    classes : tuple of str, str or None
        Names, the file that lists them, or None: those of the data.
    others : str
        What to do with objects of other classes: ``error``; or ``ignore`` them, and
        leave out images that hold no object of ``classes``, in every split.
    size : int or (int, int)
        Height and width of the net's input, pixels; one number if they are equal. Which
        sizes it can have depends on the net.
    difficult : bool
        Whether to train on objects marked difficult; GluonCV's loaders keep them.
    """

    kind: Annotated[str, OneOf(lambda: DETECTION_SETS)]
    root: NonEmptyStr
    train: NonEmptyStr = "trainval"
    val: Optional[NonEmptyStr] = None
    test: NonEmptyStr = "test"
    classes: Annotated[
        Union[
            NonEmptyStr, Annotated[Tuple[NonEmptyStr, ...], Field(min_length=1)], None
        ],
        Allowed("a list of names, the file that lists them, or null"),
    ] = None
    others: Literal["error", "ignore"] = "error"
    size: ImageSize = 300
    difficult: bool = True

    def check(self) -> None:
        """Check that difficult objects are only dropped where the loader can."""
        if not self.difficult and self.kind in _KEEP_DIFFICULT:
            allowed = f"true with kind {self.kind!r}, which keeps them"
            raise self.error("difficult", allowed)

    @property
    def input_size(self) -> Tuple[int, int]:
        """Height and width of the net's input, pixels."""
        return height_and_width(self.size)

    def folder(self) -> Path:
        """Return the folder that ``root`` means."""
        return folder_of(self.root)

    def open(self, split: str) -> Any:
        """Return the data set of a split.

        Raises
        ------
        ValueError
            If it cannot be opened, or all of its objects are marked difficult: there is
            nothing to learn or to find.
        """
        dataset = DETECTION_SETS[self.kind](self, split)
        labels = (dataset.label(i) for i in range(len(dataset)))
        if not any((label[:, 5] == 0).any() for label in labels):
            raise ValueError(
                f"{self.folder()}: the {len(dataset)} images of {split!r} have no "
                "object, or only difficult ones"
            )
        return dataset


def _voc(data: DetectionData, split: str) -> Any:
    folder = existing_folder(data.root)
    return VOCLayout(
        folder, split, data.classes, others=data.others, difficult=data.difficult
    )


def _toy(data: DetectionData, split: str) -> Any:
    make_toy(data.folder())
    return _voc(data, split)


def _gluoncv_voc(data: DetectionData, split: str) -> Any:
    folder = existing_folder(data.root)
    return voc_gluoncv(folder, split, _classes(data), others=data.others)


def _coco(data: DetectionData, split: str) -> Any:
    folder = existing_folder(data.root)
    return coco_gluoncv(folder, split, _classes(data), others=data.others)


def _classes(data: DetectionData) -> Optional[Sequence[str]]:
    if data.classes is None:
        return None
    return read_class_names(data.folder(), data.classes)


# How the data set of a split is opened, by the kind of data.
DETECTION_SETS: Dict[str, Callable[[DetectionData, str], Any]] = {
    "voc": _voc,
    "toy": _toy,
    "gluoncv_voc": _gluoncv_voc,
    "coco": _coco,
}
_KEEP_DIFFICULT = ("gluoncv_voc", "coco")
