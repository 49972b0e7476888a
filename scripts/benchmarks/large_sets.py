"""Writes large synthetic data sets of tiny images, in every layout that is read.

Objects are filled rectangles, one colour for each class, on a plain ground. Image i of
a set depends on i alone, so a smaller set is the beginning of a larger one.
"""

from __future__ import annotations

import json
import struct
from itertools import chain, islice
from pathlib import Path
from typing import Any, Iterator

import cv2
import numpy as np

WIDTH, HEIGHT = 64, 48  # pixels of an image
CLASSES = tuple(f"class_{number:02}" for number in range(80))
FOLDERS = 1000  # classes of classification sets
MEAN_OBJECTS = 7.3  # of an image of a detection set; COCO's 860,001 of 117,266
SPLIT = "train"
QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 80]
_MAGIC = 0xCED7230A  # a record of RecordIO starts with it


def write_voc(root: Path, images: int) -> Path:
    """Write a detection set in VOC layout, one split that lists all images."""
    pictures, notes = root / "JPEGImages", root / "Annotations"
    lists = root / "ImageSets" / "Main"
    for folder in (pictures, notes, lists):
        folder.mkdir(parents=True)
    for i, (ids, boxes) in enumerate(_objects(images)):
        (pictures / f"{i:06}.jpg").write_bytes(_picture(i, ids, boxes))
        (notes / f"{i:06}.xml").write_text(_xml(i, ids, boxes), encoding="utf-8")
    names = "".join(f"{i:06}\n" for i in range(images))
    (lists / f"{SPLIT}.txt").write_text(names, encoding="utf-8")
    return root


def write_coco(root: Path, images: int) -> Path:
    """Write a detection set in COCO's format, with images in a folder of the split."""
    (root / SPLIT).mkdir(parents=True)
    (root / "annotations").mkdir()
    entries: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for i, (ids, boxes) in enumerate(_objects(images)):
        name = f"{i:012}.jpg"
        (root / SPLIT / name).write_bytes(_picture(i, ids, boxes))
        size = {"height": HEIGHT, "width": WIDTH}
        entries.append({"id": i, "file_name": name, **size})
        for number, (x0, y0, x1, y1) in zip(ids.tolist(), boxes.tolist()):
            width, height = x1 - x0, y1 - y0
            box = {"bbox": [x0, y0, width, height], "area": width * height}
            key = {"id": len(rows), "image_id": i, "category_id": number + 1}
            corners = [x0, y0, x1, y0, x1, y1, x0, y1]
            rows.append({**key, **box, "segmentation": [corners], "iscrowd": 0})
    names = [{"id": i, "name": name} for i, name in enumerate(CLASSES, 1)]
    content = {"images": entries, "annotations": rows, "categories": names}
    path = root / "annotations" / f"instances_{SPLIT}.json"
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file)
    return root


def write_folders(root: Path, images: int) -> Path:
    """Write a classification set, one folder of images for each class."""
    for number in range(min(FOLDERS, images)):
        folder = root / SPLIT / f"class_{number:04}"
        folder.mkdir(parents=True)
        for i in range(number, images, FOLDERS):
            (folder / f"{i:07}.jpg").write_bytes(_labelled(number))
    return root


def write_records(root: Path, images: int) -> Path:
    """Write the same as ``NAME.rec``, ``NAME.idx`` and ``NAME.lst``."""
    root.mkdir(parents=True)
    pictures = [_labelled(number) for number in range(min(FOLDERS, images))]
    with open(root / f"{SPLIT}.rec", "wb") as records, open(
        root / f"{SPLIT}.idx", "w", encoding="ascii"
    ) as index, open(root / f"{SPLIT}.lst", "w", encoding="ascii") as rows:
        for i in range(images):
            number = i % FOLDERS
            content = struct.pack("<IfQQ", 0, number, i, 0) + pictures[number]
            index.write(f"{i}\t{records.tell()}\n")
            rows.write(f"{i}\t{number:.6f}\tclass_{number:04}/{i:07}.jpg\n")
            records.write(struct.pack("<II", _MAGIC, len(content)))
            records.write(content + bytes(-len(content) % 4))
    return root


# Writers by layout, and how many images a set is measured with.
WRITERS = {
    "voc": (write_voc, 100_000),
    "coco": (write_coco, 118_000),
    "folder": (write_folders, 100_000),
    "record": (write_records, 1_000_000),
}


def _objects(images: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the class numbers and corner boxes of each image, in whole pixels."""
    blocks = (_block(start) for start in range(0, images, 1000))
    return islice(chain.from_iterable(blocks), images)


def _block(start: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(start)
    for _ in range(1000):
        count = 1 + rng.poisson(MEAN_OBJECTS - 1)
        low = rng.integers(0, [WIDTH - 16, HEIGHT - 16], (count, 2))
        high = low + rng.integers(6, 17, (count, 2))
        yield rng.integers(0, len(CLASSES), count), np.concatenate([low, high], axis=1)


def _picture(i: int, ids: np.ndarray, boxes: np.ndarray) -> bytes:
    image = np.full((HEIGHT, WIDTH, 3), 96 + i % 64, np.uint8)
    for number, (x0, y0, x1, y1) in zip(ids, boxes):
        image[y0:y1, x0:x1] = _colour(number)
    return _encoded(image)


def _labelled(number: int) -> bytes:
    image = np.full((16, 16, 3), _colour(number), np.uint8)
    image[4:12, 4:12] = _colour(number // 80 + 7)
    return _encoded(image)


def _colour(number: int) -> tuple[int, int, int]:
    return 37 * number % 256, 91 * number % 256, 53 * number % 256


def _encoded(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", image, QUALITY)[1].tobytes()


def _xml(i: int, ids: np.ndarray, boxes: np.ndarray) -> str:
    objects = "".join(
        f"<object><name>{CLASSES[number]}</name><difficult>0</difficult><bndbox>"
        f"<xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
        "</bndbox></object>\n"
        for number, (x0, y0, x1, y1) in zip(ids.tolist(), boxes.tolist())
    )
    return (
        f"<annotation><filename>{i:06}.jpg</filename><size><width>{WIDTH}</width>"
        f"<height>{HEIGHT}</height><depth>3</depth></size>\n{objects}</annotation>\n"
    )
