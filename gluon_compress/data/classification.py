"""The data settings of a classification recipe, and the data sets they open."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, Optional, Sequence, Tuple, Union

from pydantic import Field
from typing_extensions import Annotated, Literal

from gluon_compress.data.broken import MOST_BROKEN
from gluon_compress.data.folders import (
    ImageSize,
    existing_folder,
    folder_of,
    height_and_width,
)
from gluon_compress.data.image_folder import ImageFolder
from gluon_compress.data.recordio import Records
from gluon_compress.data.voc_xml import read_class_names
from gluon_compress.validation import (
    Allowed,
    CountOrZero,
    NonEmptyStr,
    OneOf,
    Settings,
    Share,
    ShareOrZero,
)


class ClassificationData(Settings):
    """Labelled images to train and test on, and their augmentation.

    Parameters
    ----------
    kind : str
        A name in ``CLASSIFICATION_SETS``: ``folder`` (``root/<split>/<class>/<image>``,
        as ImageNet is unpacked) or ``record`` (``root/<split>.rec`` and ``.idx``, as
        MXNet's ``im2rec`` packs it).
    root : str
        Folder: a path, or a name in the folder that ``--data`` or
        ``GLUON_COMPRESS_DATA`` gives.
    train : str
        Name of the split to train on.
    val : str
        Name of the split for the results.
    classes : tuple of str, str or None
        Names in the order of the ids, the file in ``root`` that lists them, or None:
        the names of the folders. Records hold ids only, so they need names.
    others : str
        What to do with folders of other classes: ``error``, or ``ignore`` them. Records
        have no names, so theirs are always ``error``.
    size : int or (int, int)
        Height and width of the net's input, pixels; one number if they are equal.
    early_size : int
        Height and width in the first epochs of ``train``, pixels. Smaller images train
        faster and nearly as well (Tan and Le 2021, section 4).
    early_epochs : int
        How many epochs use ``early_size``.
    least_area : float
        Smallest share of an image that random crops take.
    jitter : float
        Largest change of brightness, contrast and saturation.
    lighting : float
        Standard deviation of the colour noise.
    most_broken : float
        Share of a split's images that may be broken when it is measured on; they are
        left out and counted. Training replaces them by others.
    """

    kind: Annotated[str, OneOf(lambda: CLASSIFICATION_SETS)]
    root: NonEmptyStr
    train: NonEmptyStr = "train"
    val: NonEmptyStr = "val"
    classes: Annotated[
        Union[
            NonEmptyStr, Annotated[Tuple[NonEmptyStr, ...], Field(min_length=2)], None
        ],
        Allowed("a list of two names or more, the file that lists them, or null"),
    ] = None
    others: Literal["error", "ignore"] = "error"
    size: ImageSize = 224
    early_size: Annotated[int, Field(ge=32), Allowed("a whole number from 32")] = 224
    early_epochs: CountOrZero = 0
    least_area: Share = 0.08
    jitter: ShareOrZero = 0.4
    lighting: ShareOrZero = 0.1
    most_broken: ShareOrZero = MOST_BROKEN

    def check(self) -> None:
        """Check that records have class names."""
        if self.kind == "record" and self.classes is None:
            raise self.error("classes", "names in the order of the ids of the records")
        if self.kind == "record" and self.others != "error":
            raise self.error("others", "error with kind 'record'")

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
            If it cannot be opened.
        """
        folder = existing_folder(self.root)
        names = self.classes if classes is None else classes
        if isinstance(names, str):
            names = read_class_names(folder, folder / names)
        options = {"others": self.others, "absent": classes is not None}
        return CLASSIFICATION_SETS[self.kind](folder, split, names, **options)


def _folder(
    root: Path, split: str, classes: Optional[Sequence[str]], **options: Any
) -> ImageFolder:
    return ImageFolder(root / split, classes, **options)


def _record(
    root: Path, split: str, classes: Optional[Sequence[str]], **options: Any
) -> Records:
    return Records(root / f"{split}.rec", classes or ())


# How the data set of a split is opened, by the kind of data.
CLASSIFICATION_SETS: Dict[str, Callable[..., Any]] = {
    "folder": _folder,
    "record": _record,
}
