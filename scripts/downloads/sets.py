"""The sets that can be downloaded: where they go, and what is in them then."""

from __future__ import annotations

from typing import Sequence

from downloads import archives
from downloads.dataset import DataSet

FLICKR = "Flickr's images, under its terms"

SETS = {
    "voc2007": DataSet(
        "VOCdevkit/VOC2007",
        FLICKR,
        archives.VOC2007,
        {
            "JPEGImages": 9963,
            "Annotations": 9963,
            "ImageSets/Main/trainval.txt": 1,
            "ImageSets/Main/test.txt": 1,
        },
    ),
    "voc2012": DataSet(
        "VOCdevkit/VOC2012",
        FLICKR,
        archives.VOC2012,
        {"JPEGImages": 17125, "Annotations": 17125, "ImageSets/Main/trainval.txt": 1},
    ),
    "coco": DataSet(
        "coco",
        f"{FLICKR}; annotations CC BY 4.0",
        archives.COCO2017,
        {
            "train2017": 118287,
            "val2017": 5000,
            "annotations/instances_train2017.json": 1,
            "annotations/instances_val2017.json": 1,
        },
    ),
    "bccd": DataSet(
        "bccd",
        "MIT",
        archives.BCCD,
        {
            "JPEGImages": 364,
            "Annotations": 364,
            "ImageSets/Main/trainval.txt": 1,
            "ImageSets/Main/test.txt": 1,
        },
    ),
    "imagenette": DataSet(
        "imagenette",
        "ImageNet's images, for research only",
        archives.IMAGENETTE,
        {"train": 9469, "val": 3925},
    ),
}
FOD = """fod is not among them: its authors (github.com/FOD-UNOmaha/FOD-data, MIT)
offer it through Google Drive and state no checksum. Lay it out as DIR/fod in VOC's
layout, as README shows; so too bccd, should GitHub ever pack it in another way."""


def chosen(names: Sequence[str]) -> dict[str, DataSet]:
    """Return the sets of these names, each once; ValueError if there is no such set."""
    for name in names:
        if name not in SETS:
            hint = f"; {FOD}" if name == "fod" else ""
            raise ValueError(f"set {name!r}; allowed: {', '.join(SETS)}{hint}")
    return {name: SETS[name] for name in names}


def table() -> str:
    """Return a line on each set: its size, where it goes and its terms."""
    return "\n".join(
        f"  {name:<11}{one.size / 1e9:>6.2f} GB   DIR/{one.place:<18} {one.terms}"
        for name, one in SETS.items()
    )
