"""Tiny sets: images whose colour tells their class, and a few of the toy set."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from mxnet import recordio

from gluon_compress.data import make_toy

NAMES = ("blue", "green", "red")
SIDES = (40, 52)


def picture(number: int, seed: int) -> np.ndarray:
    """Return an image of a class, ``(40, 52, 3)``, RGB, with noise on it."""
    rng = np.random.default_rng([number, seed])
    image = rng.integers(0, 90, (*SIDES, 3))
    image[..., 2 - number] += 120
    return image.astype(np.uint8)


def write_folder(root: Path, **counts: int) -> Path:
    """Write ``root/<split>/<class>/<image>`` with so many images of each class."""
    for s, (split, count) in enumerate(counts.items()):
        for number, name in enumerate(NAMES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = picture(number, 1000 * s + i)[..., ::-1]
                cv2.imwrite(str(folder / f"{i}.png"), pixels)
    return root


def write_records(root: Path, **counts: int) -> Path:
    """Write the same images as ``root/<split>.rec`` and ``.idx``."""
    root.mkdir(parents=True, exist_ok=True)
    for s, (split, count) in enumerate(counts.items()):
        names = (str(root / f"{split}.{kind}") for kind in ("idx", "rec"))
        writer = recordio.MXIndexedRecordIO(*names, "w")
        for k in range(count * len(NAMES)):
            number, i = divmod(k, count)
            pixels = picture(number, 1000 * s + i)[..., ::-1]
            header = recordio.IRHeader(0, float(number), k, 0)
            _, content = cv2.imencode(".png", pixels)
            writer.write_idx(k, recordio.pack(header, content.tobytes()))
        writer.close()
    return root


def few_toys(root: Path, images: int, **counts: int) -> Path:
    """Make a small toy set of detectors; leave so many images in each split named."""
    shutil.copytree(_toys(images), root, dirs_exist_ok=True)
    for name, count in counts.items():
        path = root / "ImageSets" / "Main" / f"{name}.txt"
        lines = path.read_text(encoding="utf-8").split()
        path.write_text("\n".join(lines[:count]) + "\n", encoding="utf-8")
    return root


@lru_cache(maxsize=None)
def _toys(images: int) -> Path:
    """Draw a toy set, of which tests get copies, once in this process."""
    folder = Path(tempfile.mkdtemp(prefix="toys"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return make_toy(folder, images=images, size=96)
