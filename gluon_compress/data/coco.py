"""Detection data sets in COCO's format: one JSON file of images, boxes and categories.

COCO itself, or what any tool exports in this format: categories of one's own, ids that
are texts or have gaps, and annotations with nothing but a box are fine.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from pathlib import Path
from typing import Any, Mapping, Sequence, Tuple

from gluon_compress.data.class_choice import as_name
from gluon_compress.data.detection_dataset import (
    AnnotatedImage,
    Contents,
    DetectionDataset,
)
from gluon_compress.data.images import (
    CACHE_BYTES,
    EXTENSIONS,
    PIXEL_LIMIT,
    read_header,
)
from gluon_compress.data.kept_index import FilesState, KeptIndex, settled
from gluon_compress.data.listed_files import LONGEST_NAME, FileIndex
from gluon_compress.data.packed import Texts
from gluon_compress.data.voc_xml import VOCAnnotation, is_yes
from gluon_compress.storage.reading import read_json
from gluon_compress.validation import shortened, shown, wrong

MOST_JSON = 1 << 31  # bytes; COCO's own training annotations are 450 MB
LISTS = ("images", "annotations", "categories")
# What is read of the file; outlines of objects would take most of the memory.
KEYS = {*LISTS, "id", "name", "file_name", "coco_url", "width", "height"}
KEYS |= {"image_id", "category_id", "bbox", "iscrowd"}
Object = Tuple[str, Tuple[float, ...], bool]  # class, corner box, crowd


class COCOFormat(DetectionDataset):
    """A detection data set in COCO's format.

    Parameters
    ----------
    path : path
        The JSON file.
    folders : sequence of path
        Where the images are: each ``file_name`` is looked for in one after the other.
    classes : sequence of str, optional
        Names of categories; default: all of the file, by their ids.
    absent : bool
        With ``others="ignore"``, whether a class may be no category of the file.
    resized, others, difficult, cache_bytes
        As for ``VOCLayout``. Crowds (``iscrowd``) count as difficult.

    Raises
    ------
    ValueError
        If the file is not of this format, and as ``VOCLayout`` does.

    Notes
    -----
    Boxes are as GluonCV's ``COCODetection`` gives them: from the first to the last
    pixel, so ``xmax`` is ``x + width - 1``.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        folders: Sequence[str | os.PathLike],
        classes: Sequence[str] | None = None,
        *,
        others: str = "error",
        absent: bool = False,
        difficult: bool = True,
        resized: str = "error",
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.place, self._folders = Path(path), [*map(Path, folders)]
        self._files: dict[str, Path | ValueError] = {}
        self._indices: dict[Path, FileIndex] = {}
        index = KeptIndex(
            layout="coco",
            path=path,
            folders=folders,
            classes=None if classes is None else [*classes],
            options=[others, absent, difficult, resized],
            most_pixels=os.environ.get(PIXEL_LIMIT),
        )
        kept = index.read(
            lambda note, arrays: self._state(Texts.from_kept("names", note, arrays)),
            Contents.from_kept,
        )
        before = self._state(())
        content = {} if kept else _read(self.place)
        categories = {} if kept else _categories(content["categories"], path)
        names = list(dict.fromkeys(categories.values()))
        super().__init__(
            self.place,
            kept.classes if kept else names if classes is None else classes,
            others=others,
            difficult=difficult,
            cache_bytes=cache_bytes,
        )
        if kept:
            self.hold(kept)
            return
        entries, first = self._entries(content["images"])
        objects = self._objects(content["annotations"], categories, first)
        del content  # it takes most of the memory
        looked_for = Texts.of([*self._files])
        state = settled(lambda: self._state(looked_for))
        images = [
            self._image(entry, objects.get(key, ([], [])))
            for key, entry in entries.items()
        ]
        self.fill(
            [image for image in images if image is not None],
            resized=resized,
            in_whole_set=None if absent else lambda: names,
        )
        if self._state(()).hexdigest() == before.hexdigest():
            note, arrays = self.contents.kept()
            name_note, name_arrays = looked_for.kept("names")
            index.keep(state, {**note, **name_note}, {**arrays, **name_arrays})
        self._files, self._indices = {}, {}

    def _state(self, names: Sequence[str]) -> FilesState:
        """Return the state of the file, and of those that names stand for."""
        state = FilesState()
        state.add([str(self.place)])
        folders = [str(folder) for folder in self._folders if folder.is_dir()]
        files = [_first_file(folders, name) for name in names]
        state.add(file or name for name, file in zip(names, files))
        if None in files:  # then they are looked for everywhere
            for folder in folders:
                state.add_tree(folder)
        return state

    def _entries(
        self, rows: Sequence[Any]
    ) -> tuple[dict[str, Mapping], dict[str, str]]:
        """Return the entry of each file by its id, and of all ids that of its file.

        Entries that are unusable are skipped. Two of one file are one image.
        """
        entries: dict[str, Mapping] = {}
        first: dict[str, str] = {}
        of_file: dict[str, str] = {}
        files: dict[str, str] = {}
        for i, row in enumerate(rows):
            key, name = _id(row, "id"), _file_name(row)
            if key is None or not name:
                self.skip(self.place, f"images[{i}]: has no id or no file_name")
                continue
            name = self._identity(name)
            if files.setdefault(key, name) != name:
                raise wrong(f"{self.place}: images[{i}].id", row["id"], "each id once")
            same = of_file.setdefault(name, key)
            if same in entries and _size(row) != _size(entries[same]):
                raise wrong(
                    f"{self.place}: images[{i}]: {shown(name)}: width and height",
                    [row.get(side) for side in ("width", "height")],
                    f"as in the entry of id {same}",
                )
            self.repairs["listed twice"] += same in entries
            first[key] = same
            entries.setdefault(same, row)
        return entries, first

    def _objects(
        self,
        rows: Sequence[Any],
        categories: Mapping[str, str],
        first: Mapping[str, str],
    ) -> dict[str, tuple[list[Object], list[str]]]:
        """Return the objects of each image, and why others are left out."""
        result: dict[str, tuple[list[Object], list[str]]]
        result = defaultdict(lambda: ([], []))
        # Entries of one file may repeat its objects.
        owners: dict[tuple, str] = {}
        several = {same for key, same in first.items() if key != same}
        for i, row in enumerate(rows):
            key = _id(row, "image_id")
            if key not in first:
                reason = f"image_id {shown(row.get('image_id'))} is no image's"
                self.leave_out(self.place, f"annotations[{i}] left out: {reason}")
                continue
            objects, left_out = result[first[str(key)]]
            try:
                found = _object(row, categories)
            except ValueError as error:
                left_out.append(f"annotations[{i}] left out: {error}")
                continue
            same = first[str(key)]
            if same not in several or (
                owners.setdefault((same, found), str(key)) == key
            ):
                objects.append(found)
        return result

    def _image(
        self, entry: Mapping[str, Any], objects: tuple[list[Object], list[str]]
    ) -> AnnotatedImage | None:
        """Return an image, or None after reporting why it cannot be used."""
        name = _file_name(entry)
        file = Path(self._folders[0], shortened(name, LONGEST_NAME))
        rows, left_out = objects
        annotation = VOCAnnotation(_size(entry), tuple(rows), tuple(left_out))
        try:
            file = self._file(name)
            return AnnotatedImage(file, self.place, annotation, read_header(file))
        except ValueError as error:
            self.skip(file, str(error))
            return None

    def _file(self, name: str) -> Path:
        """Return the file that a ``file_name`` stands for."""
        if name not in self._files:
            try:
                self._files[name] = self._found(name)
            except ValueError as error:
                self._files[name] = error
        file = self._files[name]
        if isinstance(file, ValueError):
            raise file
        return file

    def _found(self, name: str) -> Path:
        file = _first_file(self._folders, name)
        if file is not None:
            return Path(file)
        reasons = []
        for folder in filter(Path.is_dir, self._folders):
            if folder not in self._indices:
                self._indices[folder] = FileIndex(folder, EXTENSIONS)
            try:
                return self._indices[folder].find(name)[1]
            except ValueError as error:
                reasons.append(str(error))
        missing = Path(self._folders[0], name).parent
        raise ValueError(reasons[0] if reasons else f"{missing}: no such folder")

    def _identity(self, name: str) -> str:
        """Return what is equal for all that a file is called, if it is there."""
        try:
            return str(self._file(name))
        except ValueError:
            return as_name(name)


def coco_gluoncv(
    root: str | os.PathLike,
    split: str,
    classes: Sequence[str] | None = None,
    *,
    images: str | os.PathLike | None = None,
    **options: Any,
) -> COCOFormat:
    """Return a split of a folder that holds annotations in COCO's format, and images.

    Parameters
    ----------
    root : path
    split : str
        ``train2017``, ``val2017`` or another ``NAME`` for which there is a file
        ``annotations/instances_NAME.json``; or the path of a JSON file in ``root``.
    classes : sequence of str, optional
        Names of categories; default: all of the file, by their ids.
    images : path, optional
        Folder of the images in ``root``. Default: each is looked for in
        ``root/<split>``, ``root/images``, ``root/images/<split>``, the folder of the
        file, and ``root``.
    **options
        As for ``COCOFormat``.

    Raises
    ------
    ValueError
        As ``COCOFormat`` does.
    """
    root = Path(root)
    if split.endswith(".json"):
        path, name = root / split, Path(split).stem
    else:
        name = split[len("instances_") :] if split.startswith("instances_") else split
        path = root / "annotations" / f"instances_{name}.json"
    folders = [root / name, root / "images", root / "images" / name, path.parent, root]
    if images is not None:
        folders = [root / images]
        if not folders[0].is_dir():
            raise ValueError(f"{folders[0]}: there is no such folder of images")
    return COCOFormat(path, folders, classes, **options)


def _first_file(folders: Sequence[str | os.PathLike], name: str) -> str | None:
    """Return the file of a name in the first folder that has it."""
    files = (os.path.join(folder, name) for folder in folders)
    return next(filter(os.path.isfile, files), None)


def _read(path: Path) -> dict[str, list[dict]]:
    # Python's ``json`` writes NaN and infinity, which an entry is then checked for.
    content = read_json(path, most=MOST_JSON, only_finite=False, keys=KEYS)
    if not isinstance(content, dict):
        raise wrong(f"{path}: the content", content, "an object {...} as COCO has it")
    for name in LISTS:
        rows = content.get(name)
        if not isinstance(rows, list):
            allowed = f"a list; COCO's format has {', '.join(LISTS)}"
            raise wrong(f"{path}: {name}", rows, allowed)
        for i, row in enumerate(rows):
            if not isinstance(row, dict):
                raise wrong(f"{path}: {name}[{i}]", row, "an object {...}")
    return content


def _categories(rows: Sequence[Any], path: Any) -> dict[str, str]:
    """Return the names of categories by id, in the order of their ids."""
    names: dict[str, str] = {}
    for i, row in enumerate(rows):
        key, name = _id(row, "id"), row.get("name")
        place = f"{path}: categories[{i}]"
        if key is None:
            raise wrong(f"{place}.id", row.get("id"), "a number or a text")
        if not isinstance(name, str) or not name.strip():
            raise wrong(f"{place}.name", name, "a text that is not empty")
        if key in names:
            raise wrong(f"{place}.id", row["id"], "each id once")
        names[key] = as_name(name)
    if not names:
        raise ValueError(f"{path}: categories: there is none")
    return dict(sorted(names.items(), key=lambda item: _order(item[0])))


def _order(key: str) -> tuple[float, str]:
    try:
        return int(key), ""
    except ValueError:  # a text, or of thousands of digits
        return math.inf, key


def _id(row: Mapping[str, Any], name: str) -> str | None:
    """Return an id as text, so that ``1`` and ``"1"`` are the same; None: no id."""
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else None
    return str(value).strip() or None


def _object(row: Mapping[str, Any], categories: Mapping[str, str]) -> Object:
    """Return class, corner box as in VOC (the first pixel is 1), and crowd."""
    category, box = _id(row, "category_id"), row.get("bbox")
    if category not in categories:
        raise ValueError(f"category_id {shown(row.get('category_id'))} has no category")
    numbers = [_number(v) for v in box] if isinstance(box, (list, tuple)) else []
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        raise ValueError(f"bbox is {shown(box)}, not four numbers")
    x, y, width, height = numbers
    if width <= 0 or height <= 0:
        raise ValueError(f"bbox is {shown(box)}, without an area")
    # One of less than a pixel ends where it starts.
    far = x + max(width, 1), y + max(height, 1)
    return categories[str(category)], (x + 1, y + 1, *far), is_yes(row.get("iscrowd"))


def _file_name(entry: Mapping[str, Any]) -> str:
    """Return the name of an image's file, which its address ends with too."""
    name = entry.get("file_name") or str(entry.get("coco_url") or "").split("/")[-1]
    return name.strip().replace("\\", "/") if isinstance(name, str) else ""


def _size(entry: Mapping[str, Any]) -> tuple[int, int] | None:
    sides = [_number(entry.get(name)) for name in ("width", "height")]
    if not all(math.isfinite(side) and side >= 1 for side in sides):
        return None
    return round(sides[0]), round(sides[1])


def _number(value: Any) -> float:
    """Return a number, also one that is written as text; NaN for anything else."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
