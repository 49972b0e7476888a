"""Detection data sets in the folder layout of Pascal VOC.

An item is an image ``(H, W, 3)``, uint8, RGB, and a label ``(M, 6)``, float32: corner
box in pixels, class id, difficult. A data set has ``classes``, and ``problems``: files
that are skipped and objects that are left out.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Callable, Collection, Sequence

from gluon_compress.data.detection_dataset import (
    AnnotatedImage,
    Contents,
    DetectionDataset,
)
from gluon_compress.data.images import (
    CACHE_BYTES,
    EXTENSIONS,
    read_header,
)
from gluon_compress.data.kept_index import FilesState, KeptIndex, settled
from gluon_compress.data.listed_files import FileIndex, find_listed, read_lines
from gluon_compress.data.voc_xml import (
    annotated_classes,
    read_annotation,
    read_class_names,
)


def list_of(root: Path, split: str) -> Path:
    """Return the file that lists the images of a split."""
    return root / "ImageSets" / "Main" / f"{split}.txt"


class VOCReader(DetectionDataset):
    """A detection data set that folders in the layout of Pascal VOC fill."""

    def fill_from(
        self,
        splits: Sequence[tuple[Path, str]],
        *,
        resized: str,
        in_whole_set: Callable[[], Collection[str]] | None,
    ) -> None:
        """Fill with the images of splits, each of a folder, or as they were kept.

        Parameters
        ----------
        splits : sequence of (path, str)
        resized, in_whole_set
            As for ``fill``.

        Raises
        ------
        ValueError
            As ``read`` and ``fill``.
        """

        def files() -> FilesState:
            state = FilesState()
            for root, split in splits:
                state.add([str(list_of(root, split))])
            for root in dict.fromkeys(root for root, _ in splits):
                state.add_tree(root / "JPEGImages")
                state.add_tree(root / "Annotations")
            return state

        index = KeptIndex(
            layout="voc",
            splits=splits,
            absent=in_whole_set is None,
            resized=resized,
            **self.settings,
        )
        kept = index.read(lambda note, arrays: files(), Contents.from_kept)
        if kept is not None:
            self.hold(kept)
            return
        state = settled(files)
        images = [image for each in splits for image in self.read(*each)]
        self.fill(images, resized=resized, in_whole_set=in_whole_set)
        index.keep(state, *self.contents.kept())

    def read(self, root: Path, split: str) -> list[AnnotatedImage]:
        """Return the images that a list of a folder names; note what is wrong.

        Raises
        ------
        ValueError
            If a folder or the list is missing, or the list is empty.
        """
        path = list_of(root, split)
        lines = read_lines(path)
        listed = FileIndex(root / "JPEGImages", EXTENSIONS)
        lines = [ln for ln in lines if not ln.startswith("#") or listed.holds(ln)]
        if not lines:  # or only comments
            raise ValueError(f"{path}: the list names no image")
        annotations = FileIndex(root / "Annotations", (".xml",))
        images: dict[Path, AnnotatedImage] = {}
        names: set[Path] = set()
        for line in lines:
            file = path
            try:
                name, file = find_listed(line, listed)
                self.repairs["listed twice"] += file in names
                if file in names:
                    continue
                names.add(file)
                xml = annotations.find(name)[1]
                images[file] = AnnotatedImage(
                    file, xml, read_annotation(xml), read_header(file)
                )
            except ValueError as error:
                self.skip(file, str(error))
        return list(images.values())


class VOCLayout(VOCReader):
    """A detection data set in the folder layout of Pascal VOC.

    Parameters
    ----------
    root : path
        Holds ``JPEGImages``, ``Annotations`` and ``ImageSets/Main/<split>.txt``.
    split : str
        All images that the list names; a second column of 1, 0 or -1 is ignored.
    classes : sequence of str or path, optional
        Names, or a file with one on each line. None: ``classes.txt`` in ``root``; if
        missing, all names in the annotations of all splits, sorted.
    others : str
        What to do with objects of other classes: ``error``; or ``ignore`` them, and
        leave out images that hold no object of ``classes``.
    difficult : bool
        Whether labels include objects marked difficult.
    absent : bool
        With ``ignore``, whether a class may occur nowhere in the set, as when the
        classes are those of a net and not chosen for this set.
    resized : str
        What to do with images of another size than annotated, as ``choose_frames``
        takes it: ``error``, ``scale`` or ``keep``.
    cache_bytes : int
        Decoded images are kept in memory up to this size.

    Raises
    ------
    ValueError
        If a folder or list is missing, an object has another class, or more than half
        of the images cannot be used, or differ in size from their annotations (see
        ``resized``). With ``ignore``: if no image is left, or a class occurs in no
        annotation of any split.

    Notes
    -----
    Boxes are as GluonCV's ``VOCDetection`` gives them: file coordinates minus 1.
    Headers and annotations are read at once, pixels later.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        split: str,
        classes: Sequence[str] | str | os.PathLike | None = None,
        *,
        others: str = "error",
        absent: bool = False,
        difficult: bool = True,
        resized: str = "error",
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.root, self.split = Path(root), split
        super().__init__(
            list_of(self.root, split),
            read_class_names(self.root, classes),
            others=others,
            difficult=difficult,
            cache_bytes=cache_bytes,
        )
        self.fill_from(
            [(self.root, split)],
            resized=resized,
            in_whole_set=None if absent else partial(annotated_classes, self.root),
        )
