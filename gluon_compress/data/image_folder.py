"""Classification data sets with one folder of images for each class."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Sequence

import numpy as np
from mxnet.gluon.data.vision import ImageFolderDataset

from gluon_compress.data.images import CACHE_BYTES, EXTENSIONS, ImageStore


class ImageFolder:
    """A classification data set in ImageNet's layout, ``root/<class>/<image>``.

    Parameters
    ----------
    root : path
    classes : sequence of str, optional
        Names of the folders in the order of their ids; None: sorted. Give those of
        the training set to the validation set.
    cache_bytes : int
        As for ``VOCLayout``. A broken image is replaced by the next one, too.

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
        self.classes = tuple(classes or dataset.synsets)
        unknown = sorted(set(dataset.synsets) - set(self.classes))
        if unknown:
            allowed = ", ".join(self.classes)
            raise ValueError(f"{root}: class folder {unknown[0]!r}; allowed: {allowed}")
        self.labels = [self.classes.index(dataset.synsets[i]) for _, i in dataset.items]
        files = [file for file, _ in dataset.items]
        self._images = ImageStore(files, cache_bytes=cache_bytes)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        used, image = self._images.read(index)
        return image, self.labels[used]

    @property
    def problems(self) -> list[tuple[str, str]]:
        """Files that could not be decoded, each with a reason."""
        return self._images.problems
