"""The page and the text of a check of the data."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator, List

import numpy as np

from gluon_compress import report
from gluon_compress.data.inspection import ImageRecord
from gluon_compress.markdown import markdown_table
from gluon_compress.models.anchor_fit import MATCHED
from gluon_compress.pipeline.data_check import (
    ERROR,
    LARGE,
    LEVELS,
    SMALL,
    WARNING,
    DataCheck,
    object_cells,
)

PAIRS, IMAGES = 12, 12  # that are drawn
EXAMPLES, CLASSES = 8, 20  # objects of each class, and classes, that are drawn
MARGIN = 0.25  # around an object that is cut out, as a share of its longer side
_NOTHING = report.Boxes(np.zeros((0, 4)), np.zeros(0, int))


def check_text(check: DataCheck) -> str:
    """Return the findings and the objects of each split, for the terminal."""
    parts = []
    for split, (head, *body) in object_cells(check):
        images = check.counts[split]["images"]
        table = markdown_table(head, body)
        parts.append(f"{split}: {images} images\n\n{table}\n")
    parts += [f"{finding.level}: {finding.text}" for finding in check.findings]
    if not check.findings:
        parts.append("nothing amiss")
    return "\n".join(parts)


def write_check_page(check: DataCheck, title: str, folder: str | Path) -> Path:
    """Write ``index.html`` and its pictures into a folder; return the page.

    Parameters
    ----------
    check : DataCheck
    title : str
        What the data is called.
    folder : path
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    sentences = {
        f"{level.capitalize()}s": [f.text for f in check.findings if f.level == level]
        for level in LEVELS
    }
    page = report.Page(
        title=f"Data check of {title}",
        summary=_summary(check),
        findings={heading: texts for heading, texts in sentences.items() if texts},
        tables=list(_tables(check)),
        pictures=list(_pictures(check, folder)),
    )
    report.html(folder / "index.html", page)
    return folder / "index.html"


def _summary(check: DataCheck) -> str:
    images = ", ".join(
        f"{check.counts[split]['images']} images in {split}" for split in check.counts
    )
    levels = [finding.level for finding in check.findings]
    errors, warnings = levels.count(ERROR), levels.count(WARNING)
    return (
        f"{images}; {len(check.classes)} classes. Errors: {errors}, warnings: "
        f"{warnings}. Errors stop a training, or make its figures wrong."
    )


def _tables(check: DataCheck) -> Iterator[report.Table]:
    sides = [round(area**0.5) for area in (SMALL, LARGE)]
    caption = (
        "Objects as the net sees them, in images resized to "
        f"{check.size[0]} x {check.size[1]} pixels: small ones have an area of less "
        f"than {sides[0]} x {sides[0]} pixels, large ones at least {sides[1]} x "
        f"{sides[1]}."
    )
    if check.layout is not None:
        caption += (
            " Objects that overlap no anchor by an IoU of "
            f"{MATCHED} are hardly learnt; gluon-compress anchors fits anchors to them."
        )
    for split, cells in object_cells(check):
        yield report.Table(f"Objects of {split}", cells, caption, total=True)


def _pictures(check: DataCheck, folder: Path) -> Iterator[report.Picture]:
    yield from _anchors(check, folder)
    yield from _classes(check, folder)
    yield from _lost(check, folder)
    yield from _duplicates(check, folder)


def _anchors(check: DataCheck, folder: Path) -> Iterator[report.Picture]:
    inspections = check.inspections.values()
    objects = np.concatenate([i.boxes(check.size)[0] for i in inspections])
    if check.layout is None or not len(objects):
        return
    column = report.AnchorColumn.of(check.layout, objects)
    report.anchor_chart(
        {"objects of all splits": column}, objects, folder / "anchors.png"
    )
    yield report.Picture(
        "anchors.png",
        "Objects and anchors",
        "Each dot is an object, each square the shape of an anchor, in pixels of the "
        f"net's input. No anchor overlaps an orange object by an IoU of {MATCHED}.",
        "Width and height of objects and of anchors",
    )


def _classes(check: DataCheck, folder: Path) -> Iterator[report.Picture]:
    """Draw some objects of each class: a wrong label stands out among right ones."""
    tiles: List[report.Tile] = []
    for number, name in enumerate(check.classes[:CLASSES]):
        found = [
            (split, record, row)
            for split, inspection in check.inspections.items()
            for record in inspection.records
            for row in np.flatnonzero(record.label[:, 4] == number)
        ]
        chosen = np.linspace(0, len(found) - 1, min(EXAMPLES, len(found))).astype(int)
        for i in chosen:
            split, record, row = found[i]
            image, box = _cut(_image(check, split, record), record.label[row, :4])
            boxes = report.Boxes(box[None], np.array([number]))
            tiles.append(report.Tile(image, boxes, name))
        missing = -len(chosen) % EXAMPLES if len(chosen) else 0
        blank = np.full((8, 8, 3), 255, np.uint8)
        tiles += [report.Tile(blank, _NOTHING)] * missing
    if tiles:
        file = folder / "classes.png"
        report.gallery(tiles, check.classes, file, columns=EXAMPLES, panel=110)
        yield report.Picture(
            file.name,
            "Objects of each class",
            f"Up to {EXAMPLES} objects of each class, from all over the data. A wrong "
            "label or a shifted box stands out among right ones.",
            "Objects cut out of their images, a row for each class",
        )


def _cut(image: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return an object with what is around it, and its box there."""
    height, width = image.shape[:2]
    margin = MARGIN * float(max(box[2:] - box[:2])) + 1
    x0, y0 = np.floor(np.maximum(box[:2] - margin, 0)).astype(int)
    x1, y1 = np.ceil(np.minimum(box[2:] + margin, [width, height])).astype(int)
    return image[y0:y1, x0:x1], box - np.array([x0, y0, x0, y0])


def _lost(check: DataCheck, folder: Path) -> Iterator[report.Picture]:
    if check.layout is None:
        return
    rows = []
    for split, inspection in check.inspections.items():
        for record in inspection.records:
            if not len(record.label):
                continue
            scale = np.tile(
                [check.size[1] / record.width, check.size[0] / record.height], 2
            )
            overlaps = check.layout.best_overlaps(record.label[:, :4] * scale)
            if (overlaps < MATCHED).any():
                label = record.label[overlaps < MATCHED]
                rows.append((float(overlaps.min()), split, record, label))
    rows.sort(key=lambda row: row[0])
    tiles = [
        report.Tile(
            _image(check, split, record),
            report.Boxes.of_label(label),
            f"{split}: {_name(record)}",
        )
        for _, split, record, label in rows[:IMAGES]
    ]
    if tiles:
        report.gallery(tiles, check.classes, folder / "without_anchor.png")
        yield report.Picture(
            "without_anchor.png",
            "Objects without an anchor",
            f"The {len(tiles)} images whose objects fit anchors worst, of {len(rows)} "
            f"with an object that no anchor overlaps by an IoU of {MATCHED}. Only "
            "these objects are drawn.",
            "Images with boxes around objects that no anchor fits",
        )


def _duplicates(check: DataCheck, folder: Path) -> Iterator[report.Picture]:
    # Leaks first: they make test figures too good.
    pairs = sorted(check.duplicates, key=lambda p: (p[0][0] == p[1][0], not p[2]))
    tiles = [
        report.Tile(
            _image(check, split, record),
            report.Boxes.of_label(record.label),
            f"{split}: {_name(record)}",
        )
        for first, second, _ in pairs[:PAIRS]
        for split, record in (first, second)
    ]
    if tiles:
        report.gallery(tiles, check.classes, folder / "duplicates.png")
        yield report.Picture(
            "duplicates.png",
            "Images that show the same",
            f"The first {len(tiles) // 2} of {len(pairs)} pairs, two to a row, with "
            "those in different splits first. Images of training that come again in a "
            "test make its figures too good.",
            "Pairs of images that are equal or nearly so",
        )


def _image(check: DataCheck, split: str, record: ImageRecord) -> np.ndarray:
    return check.inspections[split].dataset[record.index][0]


def _name(record: ImageRecord) -> str:
    return Path(record.name).name
