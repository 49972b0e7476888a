"""Draws a toy detection data set: shapes on textured backgrounds, in VOC layout.

A shape's class depends on its outline alone: colour, size, rotation and position have
the same distributions for every class.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from gluon_compress.data.listed_files import FileIndex, files_in, folders_in
from gluon_compress.storage.atomic import (
    disk_errors,
    draft_folder,
    read_json,
    write_json,
)

CLASSES = ("circle", "cross", "ring", "square", "triangle")
NOTE = "toy.json"
VERSION = 1
LEAST_IMAGES, LEAST_SIZE = 5, 64

SIDES = (0.15, 0.55)  # of an object, as a share of the image's shorter side
MOST_OBJECTS = 6
TURN = 20.0  # degrees to either side
CONTRAST = 130.0  # least distance of an object's colour from the ground's, RGB
MOST_COVERED = 0.35  # share of an object that a later one may hide
DIFFICULT = 0.2  # share hidden from which an object is marked difficult

_ROUND = np.linspace(0, 2 * np.pi, 48, endpoint=False)
_CIRCLE = np.stack([np.cos(_ROUND), np.sin(_ROUND)], axis=1)
_ARM = 0.34
_CROSS = [(_ARM, 1), (_ARM, _ARM), (1, _ARM), (1, -_ARM), (_ARM, -_ARM), (_ARM, -1)]
OUTLINES = {
    "circle": [_CIRCLE],
    "cross": [np.array([*_CROSS, *(-np.array(_CROSS))])],
    "ring": [_CIRCLE, 0.55 * _CIRCLE],
    "square": [np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * 0.9],
    "triangle": [np.array([(0, -1), (1, 0.85), (-1, 0.85)])],
}


@dataclass(frozen=True)
class Shape:
    """An object in an image: its class, its mask, and how much of it is hidden."""

    name: str
    mask: np.ndarray  # (H, W), uint8, 255 inside
    hidden: float = 0.0

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Corners in VOC's convention: first and last pixel, counted from 1."""
        left, top, width, height = cv2.boundingRect(self.mask)
        return left + 1, top + 1, left + width, top + height


def make_toy(
    root: str | os.PathLike, *, images: int = 400, size: int = 300, seed: int = 0
) -> Path:
    """Write the data set into a folder unless it is there already.

    A quarter of the images are the test split, a sixth of the others the validation
    split. Takes a few seconds.

    Parameters
    ----------
    root : path
        Written atomically; missing parent folders are created.
    images : int
        At least 5.
    size : int
        Longer side of the images, pixels, at least 64.
    seed : int
        The same seed gives the same files.

    Returns
    -------
    Path
        ``root``.

    Raises
    ------
    ValueError
        If the folder holds anything else (it is left alone), or a value is out of
        range.
    """
    root = Path(root)
    for name, value, least in (
        ("images", images, LEAST_IMAGES),
        ("size", size, LEAST_SIZE),
        ("seed", seed, 0),
    ):
        if value < least:
            raise ValueError(f"{name} is {value}; allowed: from {least}")
    note = {"version": VERSION, "images": images, "size": size, "seed": seed}
    if _is_there(root, note):
        return root
    with draft_folder(root) as draft:
        with disk_errors(root, draft):
            _write(draft, note)
        _put(draft, root, note)
    return root


def _contents(folder: Path) -> list[Path]:
    return files_in(folder) + folders_in(folder)


def _is_there(root: Path, note: dict) -> bool:
    if not root.exists() or (root.is_dir() and not _contents(root)):
        return False
    if not (root / NOTE).is_file():
        raise ValueError(f"{root}: holds something other than the toy set")
    existing = read_json(root / NOTE)
    if existing != note:
        raise ValueError(
            f"{root / NOTE}: the toy set is {json.dumps(existing)}, not "
            f"{json.dumps(note)}; choose another folder"
        )
    images = FileIndex(root / "JPEGImages", (".jpg",))
    if len(list(images)) != note["images"]:
        raise ValueError(
            f"{root}: images of the toy set are missing; delete the folder"
        )
    return True


def _put(draft: Path, root: Path, note: dict) -> None:
    try:
        if root.is_dir():
            root.rmdir()  # succeeds only if it is empty
        draft.rename(root)
    except OSError:
        # Another process may have been faster.
        if not _is_there(root, note):
            raise


def _write(folder: Path, note: dict) -> None:
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    names = [f"{number:06d}" for number in range(note["images"])]
    for number, name in enumerate(names):
        rng = np.random.default_rng([note["seed"], number])
        image, shapes = _draw(note["size"], rng)
        _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])
        (folder / "JPEGImages" / f"{name}.jpg").write_bytes(data.tobytes())
        xml = _annotation(name, image.shape, shapes)
        (folder / "Annotations" / f"{name}.xml").write_text(xml, encoding="utf-8")
    for split, members in _splits(names).items():
        text = "".join(f"{name}\n" for name in members)
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text(text)
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    write_json(folder / NOTE, note)


def _splits(names: list[str]) -> dict[str, list[str]]:
    # Images are drawn independently, so any division is random.
    trainval = names[: len(names) - max(1, len(names) // 4)]
    train = trainval[: len(trainval) - max(1, len(trainval) // 6)]
    return {
        "train": train,
        "val": trainval[len(train) :],
        "trainval": trainval,
        "test": names[len(trainval) :],
    }


def _draw(size: int, rng: np.random.Generator) -> tuple[np.ndarray, list[Shape]]:
    """Return an image, BGR, and its objects from back to front."""
    width, height = size, int(size * rng.choice([0.75, 1.0]))
    ground = rng.uniform(30, 225, 3)
    image = _texture(ground, width, height, rng)
    shapes: list[Shape] = []
    count = rng.integers(1, MOST_OBJECTS + 1)
    for _ in range(12 * count):
        shape = _shape(width, height, rng)
        covered = [_cover(below, shape) for below in shapes]
        if all(below.hidden <= MOST_COVERED for below in covered):
            shapes = [*covered, shape]
            image = _paint(image, shape.mask, _colour(ground, rng), rng)
        if len(shapes) == count:
            break
    return image, shapes


def _texture(ground, width: int, height: int, rng) -> np.ndarray:
    """Return a background of one mean colour with coarse patches and fine grain."""
    image = np.full((height, width, 3), ground, np.float32)
    for cells, strength in ((4, 14.0), (12, 10.0), (40, 7.0)):
        patches = strength * rng.standard_normal((cells, cells, 3), np.float32)
        image += cv2.resize(patches, (width, height), interpolation=cv2.INTER_CUBIC)
    image += 4 * rng.standard_normal((height, width, 1), np.float32)
    return np.clip(image, 0, 255).astype(np.uint8)


def _shape(width: int, height: int, rng) -> Shape:
    name = CLASSES[rng.integers(len(CLASSES))]
    side = min(width, height) * rng.uniform(*SIDES)
    stretch = np.exp(rng.uniform(-0.15, 0.15))
    half = 0.5 * side * np.array([stretch, 1 / stretch])
    turn = np.deg2rad(rng.uniform(-TURN, TURN))
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    outlines = [outline * half @ rotation for outline in OUTLINES[name]]
    reach = np.abs(outlines[0]).max(axis=0) + 2
    centre = rng.uniform(reach, np.array([width, height]) - reach)
    points = [np.rint(outline + centre).astype(np.int32) for outline in outlines]
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, points, (255,))  # an outline inside another one is a hole
    return Shape(name, mask)


def _cover(below: Shape, above: Shape) -> Shape:
    """Return the lower shape with its hidden share updated for the upper one."""
    common = cv2.countNonZero(cv2.bitwise_and(below.mask, above.mask))
    share = common / cv2.countNonZero(below.mask)
    return Shape(below.name, below.mask, below.hidden + share)


def _colour(ground: np.ndarray, rng) -> np.ndarray:
    while True:
        colour = rng.uniform(0, 255, 3)
        if np.linalg.norm(colour - ground) >= CONTRAST:
            return colour


def _paint(image: np.ndarray, mask: np.ndarray, colour, rng) -> np.ndarray:
    left, top, width, height = cv2.boundingRect(mask)
    window = np.s_[top : top + height, left : left + width]
    # A soft edge and some grain, as in a photo.
    alpha = cv2.GaussianBlur(mask[window], (3, 3), 0)[..., None] / np.float32(255)
    grain = 5 * rng.standard_normal((height, width, 1), np.float32)
    painted = image.copy()
    part = image[window] * (1 - alpha) + (colour.astype(np.float32) + grain) * alpha
    painted[window] = np.clip(part, 0, 255).astype(np.uint8)
    return painted


def _annotation(name: str, shape: tuple, shapes: list[Shape]) -> str:
    height, width, depth = shape
    lines = [
        "<annotation>",
        f"  <filename>{name}.jpg</filename>",
        f"  <size><width>{width}</width><height>{height}</height>"
        f"<depth>{depth}</depth></size>",
    ]
    for item in shapes:
        corners = zip(("xmin", "ymin", "xmax", "ymax"), item.box)
        box = "".join(f"<{corner}>{value}</{corner}>" for corner, value in corners)
        lines += [
            f"  <object><name>{item.name}</name>",
            f"    <difficult>{int(item.hidden >= DIFFICULT)}</difficult>",
            f"    <bndbox>{box}</bndbox></object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])
