"""Classification sets: images in folders that are named after their classes."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Sequence

import numpy as np
from mxnet.gluon.data.vision import ImageFolderDataset

from gluon_compress.data.images import CACHE_BYTES, EXTENSIONS, Pictures


class ImageFolder:
    """A classification set in ImageNet's layout, ``root/<class>/<image>``.

    Parameters
    ----------
    root : path
    classes : sequence of str, optional
        Names of the folders in the order of their ids; None: sorted. Give those of
        the training set to the validation set.
    cache_bytes : int
        As for ``VOCLayout``; a broken image is replaced by the next one here too.

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
            found = ImageFolderDataset(str(root))
        if not found.items:
            kinds = ", ".join(EXTENSIONS)
            raise ValueError(f"{root}: no folder of images in it ({kinds})")
        self.classes = tuple(classes or found.synsets)
        strange = sorted(set(found.synsets) - set(self.classes))
        if strange:
            known = ", ".join(self.classes)
            raise ValueError(f"{root}: class folder {strange[0]!r}; allowed: {known}")
        self.labels = [self.classes.index(found.synsets[i]) for _, i in found.items]
        files = [file for file, _ in found.items]
        self._pictures = Pictures(files, cache_bytes=cache_bytes)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        used, image = self._pictures.read(index)
        return image, self.labels[used]

    @property
    def problems(self) -> list[tuple[str, str]]:
        """Files that could not be decoded, each with a reason."""
        return self._pictures.problems
