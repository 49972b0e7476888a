"""Classification data sets with one folder of images for each class."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from pathlib import Path
from typing import Sequence

import numpy as np
from mxnet.gluon.data.vision import ImageFolderDataset

from gluon_compress.data.class_choice import ClassChoice
from gluon_compress.data.images import CACHE_BYTES, EXTENSIONS, ImageStore


class ImageFolder:
    """A classification data set in ImageNet's layout, ``root/<class>/<image>``.

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
        As for ``VOCLayout``. A broken image is replaced by the next one, too.

    Attributes
    ----------
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a file beside the folders
            dataset = ImageFolderDataset(str(root))
        if not dataset.items:
            kinds = ", ".join(EXTENSIONS)
            raise ValueError(f"{root}: no folder of images in it ({kinds})")
        self._choice = ClassChoice(classes or dataset.synsets, others)
        self.classes = self._choice.names
        counts = Counter(i for _, i in dataset.items)
        ids = [
            self._choice.id_of(name, Path(root, name), counts[i])
            for i, name in enumerate(dataset.synsets)
        ]
        items = [(file, ids[i]) for file, i in dataset.items if ids[i] is not None]
        self._choice.images = len(dataset.items) - len(items)
        files, self.labels = [f for f, _ in items], [i for _, i in items]
        in_whole_set = None if absent else lambda: dataset.synsets
        self._choice.check(self.labels, len(items), root, in_whole_set)
        self._images = ImageStore(files, cache_bytes=cache_bytes)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        used, image = self._images.read(index)
        return image, self.labels[used]

    @property
    def class_counts(self) -> dict:
        """What the choice of classes left out (``ClassChoice.counts``)."""
        return self._choice.counts

    @property
    def problems(self) -> list[tuple[str, str]]:
        """Files that could not be decoded, each with a reason."""
        return self._images.problems
