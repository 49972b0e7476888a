"""Classification data sets with one folder of images for each class."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Sequence

import numpy as np

from gluon_compress.data.class_choice import ClassChoice, as_name
from gluon_compress.data.images import CACHE_BYTES, EXTENSIONS, ImageStore, StoredImages
from gluon_compress.data.listed_files import files_in, folders_in
from gluon_compress.data.packed import Texts
from gluon_compress.validation import few

LOG = logging.getLogger(__name__)


class ImageFolder(StoredImages):
    """A classification data set in ImageNet's layout, ``root/<class>/<image>``.

    Hidden folders, those that systems leave behind, and folders without images are no
    classes.

    Parameters
    ----------
    root : path
    classes : sequence of str, optional
        Names of the folders in the order of their ids; None: sorted. Give those of
        the training set to the validation set.
    others : str
        What to do with the folders of other classes: ``error``, or ``ignore`` them.
    absent : bool
        With ``ignore``, whether a class may have no folder.
    cache_bytes : int
        As for ``VOCLayout``.

    Attributes
    ----------
    labels : list of int
    class_counts : dict
        As for ``VOCLayout``; the objects are images.

    Raises
    ------
    ValueError
        If there is no image, or a folder that ``classes`` does not name.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        classes: Sequence[str] | None = None,
        *,
        others: str = "error",
        absent: bool = False,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        if not Path(root).is_dir():
            raise ValueError(f"{root}: there is no such folder")
        images = _images_by_folder(Path(root))
        self._choice = ClassChoice(classes or list(images), others)
        self.classes = self._choice.names
        files: list[str] = []
        self.labels: list[int] = []
        for name, inside in images.items():
            number = self._choice.id_of(name, Path(root, name), len(inside))
            if number is None:
                self._choice.images += len(inside)
            else:
                files += map(str, inside)
                self.labels += [number] * len(inside)
        self._choice.check(
            self.labels, len(files), root, None if absent else lambda: list(images)
        )
        self._images = ImageStore(Texts.of(files), cache_bytes=cache_bytes)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """Return an image and its class id; raises ``BrokenImage``."""
        return self._images.read(index), self.labels[index]

    @property
    def class_counts(self) -> dict:
        """What the choice of classes left out (``ClassChoice.counts``)."""
        return self._choice.counts


def _images_by_folder(root: Path) -> dict[str, list[Path]]:
    """Return the image files of each folder that has some, by its name."""
    images: dict[str, list[Path]] = {}
    for folder in folders_in(root):
        files = [f for f in files_in(folder) if f.suffix.lower() in EXTENSIONS]
        images.setdefault(as_name(folder.name), []).extend(files)
    empty = [name for name, files in images.items() if not files]
    images = {name: files for name, files in images.items() if files}
    if not images:
        kinds = ", ".join(EXTENSIONS)
        raise ValueError(f"{root}: no folder of images in it ({kinds})")
    if empty:
        LOG.warning("%s: no class, as there is no image: %s", root, few(empty, 10))
    return images
