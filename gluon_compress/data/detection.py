"""The data settings of a detection recipe, and the data sets they open."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, Optional, Sequence, Tuple, Union

from pydantic import Field
from typing_extensions import Annotated, Literal

from gluon_compress.data.broken import MOST_BROKEN
from gluon_compress.data.coco import coco_gluoncv
from gluon_compress.data.folders import (
    ImageSize,
    existing_folder,
    folder_of,
    height_and_width,
)
from gluon_compress.data.frames import Resized
from gluon_compress.data.pascal_voc import voc_gluoncv
from gluon_compress.data.toy import make_toy
from gluon_compress.data.voc import VOCLayout
from gluon_compress.data.voc_xml import read_class_names
from gluon_compress.validation import Allowed, NonEmptyStr, OneOf, Settings, ShareOrZero


class DetectionData(Settings):
    """Images with boxes to train, validate and test on.

    Parameters
    ----------
    kind : str
        A name in ``DETECTION_SETS``: ``voc`` (a folder in VOC layout), ``gluoncv_voc``
        (Pascal VOC 2007 and 2012), ``coco`` (a file in COCO's format) or ``toy``
        (shapes, drawn on first use).
    root : str
        Folder: a path, or a name in the folder that ``--data`` or
        ``GLUON_COMPRESS_DATA`` gives.
    train : str
        Name of the split to train on. Of ``coco``: ``NAME`` of
        ``annotations/instances_NAME.json``, or the path of a JSON file in ``root``.
    val : str or None
        Name of the split evaluated during training; None: the test split.
    test : str
        Name of the split for the final results.
    classes : tuple of str, str or None
        Names, the file that lists them, or None: those of the data. Of ``gluoncv_voc``
        these are VOC's 20, of ``coco`` the categories of the training split.
    images : str or None
        Of ``coco``: the folder of the images in ``root``; None: the one named as the
        split, ``images``, or ``root``.
    others : str
        What to do with objects of other classes: ``error``; or ``ignore`` them, and
        leave out images that hold no object of ``classes``, in every split.
    size : int or (int, int)
        Height and width of the net's input, pixels; one number if they are equal. Which
        sizes it can have depends on the net.
    resized : str
        For images of another size than annotated: ``scale`` their boxes, ``keep`` them
        as they are, or ``error``: keep them, but refuse a set of mostly such images.
    difficult : bool
        Whether labels include objects marked difficult, and COCO's crowds.
    most_broken : float
        Share of a split's images that may be broken when it is measured on; they are
        left out and counted. Training replaces them by others.
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
    images: Optional[NonEmptyStr] = None
    resized: Resized = "error"
    difficult: bool = True
    most_broken: ShareOrZero = MOST_BROKEN

    def check(self) -> None:
        """Check that a folder of images is only stated where it is looked for."""
        if self.images is not None and self.kind != "coco":
            raise self.error("images", f"null with kind {self.kind!r}")

    @property
    def input_size(self) -> Tuple[int, int]:
        """Height and width of the net's input, pixels."""
        return height_and_width(self.size)

    def folder(self) -> Path:
        """Return the folder that ``root`` means."""
        return folder_of(self.root)

    def open(self, split: str, classes: Optional[Sequence[str]] = None) -> Any:
        """Return the data set of a split.

        Parameters
        ----------
        split : str
        classes : sequence of str, optional
            Classes of the training set; None: as the settings say.

        Raises
        ------
        ValueError
            If it cannot be opened, or all of its objects are marked difficult: there is
            nothing to learn or to find.
        """
        settings = self if classes is None else self.replace(classes=tuple(classes))
        dataset = DETECTION_SETS[self.kind](settings, split)
        labels = (dataset.label(i) for i in range(len(dataset)))
        if not any((label[:, 5] == 0).any() for label in labels):
            raise ValueError(
                f"{self.folder()}: the {len(dataset)} images of {split!r} have no "
                "object, or only difficult ones"
            )
        return dataset


def _voc(data: DetectionData, split: str) -> Any:
    folder = existing_folder(data.root)
    return VOCLayout(folder, split, data.classes, **_options(data))


def _toy(data: DetectionData, split: str) -> Any:
    make_toy(data.folder())
    return _voc(data, split)


def _gluoncv_voc(data: DetectionData, split: str) -> Any:
    folder = existing_folder(data.root)
    return voc_gluoncv(folder, split, _classes(data), **_options(data))


def _coco(data: DetectionData, split: str) -> Any:
    folder = existing_folder(data.root)
    return coco_gluoncv(
        folder, split, _classes(data), images=data.images, **_options(data)
    )


def _options(data: DetectionData) -> Dict[str, Any]:
    names = ("others", "difficult", "resized")
    return {name: getattr(data, name) for name in names}


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
