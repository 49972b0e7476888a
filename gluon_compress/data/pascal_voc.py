"""Pascal VOC 2007 and 2012, as GluonCV's ``VOCDetection`` finds them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Sequence

from gluoncv.data import VOCDetection

from gluon_compress.data.detection_dataset import DetectionDataset
from gluon_compress.data.voc import VOCReader, list_of
from gluon_compress.data.voc_xml import annotated_classes

YEARS = (2007, 2012)


def voc_gluoncv(
    root: str | os.PathLike,
    splits: str | Sequence[tuple[int, str]],
    classes: Sequence[str] | None = None,
    *,
    absent: bool = False,
    resized: str = "error",
    **options: Any,
) -> DetectionDataset:
    """Return Pascal VOC 2007 and 2012 as one data set.

    Parameters
    ----------
    root : path
        Holds ``VOC2007``, ``VOC2012`` or both, each as ``VOCLayout`` reads it.
    splits : sequence of (year, name), or str
        A name alone stands for every year that has it: ``trainval`` is the usual
        07+12.
    classes : sequence of str, optional
        Default: Pascal VOC's 20 classes.
    absent, resized, **options
        As for ``VOCLayout``.

    Raises
    ------
    ValueError
        If a list is missing, and as ``VOCLayout`` does.
    """
    pairs: list[tuple[int, str]]
    if isinstance(splits, str):
        lists = {(year, splits): list_of(_folder(root, year), splits) for year in YEARS}
        pairs = [split for split, path in lists.items() if path.exists()]
        if not pairs:
            paths = " and ".join(map(str, lists.values()))
            raise ValueError(f"{paths}: there is no such file")
    else:
        pairs = list(splits)
    names = VOCDetection.CLASSES if classes is None else classes
    folders = [_folder(root, year) for year, _ in pairs]
    dataset = VOCReader(list_of(folders[0], pairs[0][1]), names, **options)
    dataset.fill_from(
        [(folder, name) for folder, (_, name) in zip(folders, pairs)],
        resized=resized,
        in_whole_set=None if absent else lambda: _classes_in(folders),
    )
    return dataset


def _folder(root: str | os.PathLike, year: int) -> Path:
    return Path(root) / f"VOC{year}"


def _classes_in(folders: Sequence[Path]) -> set[str]:
    return {name for folder in set(folders) for name in annotated_classes(folder)}
