"""Detection data sets that GluonCV's loaders read: Pascal VOC and COCO."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Sequence

import numpy as np
from gluoncv.data import COCODetection, VOCDetection

from gluon_compress.data.class_choice import ClassChoice
from gluon_compress.data.images import CACHE_BYTES, ImageStore

YEARS = (2007, 2012)


class DetectionDataset:
    """A detection data set of files and labels that another loader has read.

    Parameters
    ----------
    files : sequence of path
    labels : sequence of array
        ``(M, 5)`` or ``(M, 6)`` for each file; rows of class -1 are padding.
    names : sequence of str
        Of the class ids in ``labels``.
    classes, others, absent, cache_bytes
        As for ``VOCLayout``; default: all of ``names``.
    place : path
        Of the labels, for errors.
    """

    def __init__(
        self,
        files,
        labels,
        names: Sequence[str],
        classes: Sequence[str] | None = None,
        *,
        place: str | os.PathLike = "labels",
        others: str = "error",
        absent: bool = False,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._choice = ClassChoice(names if classes is None else classes, others)
        self.classes = self._choice.names
        kept: list = []
        self._labels: list[np.ndarray] = []
        for file, label in zip(files, labels):
            label = self._chosen(_six_columns(label), names, place)
            if self._choice.ignores and not len(label):
                self._choice.images += 1
            else:
                kept.append(file)
                self._labels.append(label)
        self._images = ImageStore(kept, cache_bytes=cache_bytes)
        ids = [int(i) for label in self._labels for i in label[:, 4]]
        self._choice.check(ids, len(kept), place, None if absent else lambda: names)

    def _chosen(self, label: np.ndarray, names: Sequence[str], place) -> np.ndarray:
        """Return the rows of the chosen classes, with their ids."""
        ids = [self._choice.id_of(names[int(i)], place) for i in label[:, 4]]
        label[:, 4] = [-1 if i is None else i for i in ids]
        return label[label[:, 4] >= 0]

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        used, image = self._images.read(index)
        return image, self.label(used)

    def label(self, index: int) -> np.ndarray:
        """Return the label of an image, ``(M, 6)``, without reading its pixels."""
        return self._labels[index].copy()

    @property
    def class_counts(self) -> dict:
        """What the choice of classes left out (``ClassChoice.counts``)."""
        return self._choice.counts

    @property
    def problems(self) -> list[tuple[str, str]]:
        """Files that could not be decoded, each with a reason."""
        return self._images.problems


def _six_columns(label) -> np.ndarray:
    rows = np.asarray(label, np.float32)
    rows = rows.reshape(len(rows), -1) if rows.size else rows.reshape(0, 6)
    rows = np.hstack([rows, np.zeros((len(rows), 6 - rows.shape[1]), np.float32)])
    return rows[rows[:, 4] >= 0]


def voc_gluoncv(
    root: str | os.PathLike,
    splits: str | Sequence[tuple[int, str]],
    classes: Sequence[str] | None = None,
    *,
    others: str = "error",
) -> DetectionDataset:
    """Return Pascal VOC 2007 and 2012, read by GluonCV's ``VOCDetection``.

    Parameters
    ----------
    root : path
        Holds ``VOC2007``, ``VOC2012`` or both.
    splits : sequence of (year, name), or str
        A name alone stands for every year that has it: ``trainval`` is the usual
        07+12.
    classes, others
        As for ``VOCLayout``; default: Pascal VOC's 20 classes.

    Raises
    ------
    ValueError
        If a folder or list is missing, or an annotation cannot be read.
    """
    root = Path(root)
    pairs: list[tuple[int, str]]
    if isinstance(splits, str):
        lists = {(year, splits): _voc_list(root, year, splits) for year in YEARS}
        pairs = [split for split, path in lists.items() if path.exists()]
        if not pairs:
            paths = " and ".join(map(str, lists.values()))
            raise ValueError(f"{paths}: there is no such file")
    else:
        pairs = list(splits)
    for year, name in pairs:
        if not _voc_list(root, year, name).exists():
            raise ValueError(f"{_voc_list(root, year, name)}: there is no such file")
    try:
        dataset = VOCDetection(str(root), pairs)
    except (OSError, SyntaxError, AttributeError, TypeError) as error:
        raise ValueError(f"{root}: GluonCV cannot read {pairs}: {error}") from None
    files = [dataset._image_path.format(*item) for item in dataset._items]
    return DetectionDataset(
        files,
        dataset._label_cache,
        dataset.classes,
        classes,
        place=_voc_list(root, *pairs[0]),
        others=others,
    )


def _voc_list(root: Path, year: int, name: str) -> Path:
    return root / f"VOC{year}" / "ImageSets" / "Main" / f"{name}.txt"


def coco_gluoncv(
    root: str | os.PathLike,
    split: str,
    classes: Sequence[str] | None = None,
    *,
    others: str = "error",
) -> DetectionDataset:
    """Return COCO, read by GluonCV's ``COCODetection``; needs pycocotools.

    Parameters
    ----------
    root : path
        Holds ``annotations`` and the folders of images.
    split : str
        ``train2017``, ``val2017`` or the name of a file in ``annotations``. Only
        training splits leave out images without objects.
    classes, others
        As for ``VOCLayout``; default: COCO's 80 classes.

    Raises
    ------
    ValueError
        If pycocotools or a file is missing, or the annotations are not COCO's.
    """
    name = split if split.startswith("instances_") else f"instances_{split}"
    path = Path(root) / "annotations" / f"{name}.json"
    if not path.exists():
        raise ValueError(f"{path}: there is no such file")
    if importlib.util.find_spec("pycocotools") is None:
        raise ValueError("COCO needs pycocotools: pip install gluon_compress[coco]")
    try:
        dataset = COCODetection(str(root), [name], skip_empty="train" in name)
    except (OSError, ValueError, KeyError, AssertionError) as error:
        raise ValueError(f"{path}: GluonCV cannot read it: {error}") from None
    return DetectionDataset(
        dataset._items,
        dataset._labels,
        dataset.classes,
        classes,
        place=path,
        others=others,
    )
