"""Checks the data of a detector's recipe before any training."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from gluon_compress import models
from gluon_compress.data import Objects, VOCLayout, count_images, describe_counts
from gluon_compress.data.duplicates import duplicates
from gluon_compress.data.inspection import ImageRecord, Inspection, inspect, misspelt
from gluon_compress.data.voc_xml import annotated_classes, read_class_names
from gluon_compress.models.anchor_fit import MATCHED, AnchorLayout
from gluon_compress.validation import few

ERROR, WARNING, NOTE = LEVELS = "error", "warning", "note"
FEW = 20  # training objects below which a class can hardly be learnt
MANY_LOST = 0.05  # share of objects without an anchor that is worth a warning
SMALL, LARGE = 32**2, 96**2  # areas in pixels, as COCO has them
NAMED = 3  # files that a finding names
IN_VOC_LAYOUT = ("voc", "toy")
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Finding:
    """Something that the user should know before training.

    Parameters
    ----------
    level : str
        ``error``: training is refused, or its result would mislead; ``warning``; or
        ``note``.
    text : str
        One sentence.
    """

    level: str
    text: str


@dataclass(frozen=True)
class ClassCounts:
    """The objects of one class in a split, as the net sees them.

    Parameters
    ----------
    objects, small, medium, large : int
        All, and by area in the net's input: below 32 x 32, from 96 x 96 pixels, and
        between.
    below_anchors : int
        Smaller than the smallest anchor.
    without_anchor : int
        With an IoU below 0.5 with every anchor.
    """

    objects: int
    small: int
    medium: int
    large: int
    below_anchors: int = 0
    without_anchor: int = 0


@dataclass
class DataCheck:
    """What a check of the data found.

    Parameters
    ----------
    classes : tuple of str
    size : (int, int)
        Height and width of the net's input.
    layout : AnchorLayout or None
        The anchors of the model; None if it has none.
    inspections : dict
        By name of the split, in the order train, val, test.
    counts : dict
        By name of the split, what ``data.count_images`` says.
    objects : dict
        By name of the split and of the class.
    duplicates : list
        Of pairs of (split, record), and whether they are equal.
    findings : list of Finding
    """

    classes: Tuple[str, ...]
    size: Tuple[int, int]
    layout: Optional[AnchorLayout] = None
    inspections: Dict[str, Inspection] = field(default_factory=dict)
    counts: Dict[str, Any] = field(default_factory=dict)
    objects: Dict[str, Dict[str, ClassCounts]] = field(default_factory=dict)
    duplicates: List[Tuple[Tuple[str, ImageRecord], Tuple[str, ImageRecord], bool]] = (
        field(default_factory=list)
    )
    findings: List[Finding] = field(default_factory=list)

    @property
    def errors(self) -> List[str]:
        """The findings that have to be mended."""
        return [f.text for f in self.findings if f.level == ERROR]

    def add(self, level: str, text: str) -> None:
        """Add a finding."""
        self.findings.append(Finding(level, text))


def check_data(recipe: Any) -> DataCheck:
    """Read every image and annotation of a detector's recipe, and say what is amiss.

    Parameters
    ----------
    recipe : DetectionRecipe

    Returns
    -------
    DataCheck

    Raises
    ------
    ValueError
        If no split can be read at all.
    """
    data, family = recipe.data, models.family_that_builds(recipe.model.name)
    assert family is not None, "the recipe has checked the name"
    check = DataCheck(_class_names(data), data.input_size)
    refusals = []
    for split in _splits(data):
        dataset, refusal = _opened(data, split, check.classes)
        if refusal is not None:
            check.add(ERROR, f"{split}: {refusal}")
            refusals.append(refusal)
        if dataset is not None:
            check.classes = check.classes or tuple(dataset.classes)
            check.inspections[split] = inspect(dataset, split)
            check.counts[split] = count_images(dataset)
    if not check.inspections:
        raise refusals[0]
    check.layout = _layout(check, family, recipe)
    _check_files(check)
    _check_objects(check, data.train)
    _check_names(check, data)
    _check_duplicates(check)
    check.findings.sort(key=lambda finding: LEVELS.index(finding.level))
    return check


def _layout(check: DataCheck, family: Any, recipe: Any) -> Optional[AnchorLayout]:
    """Return the anchors of a recipe's model; ``auto`` ones are fitted."""
    # Anchors of a net that is loaded are not in its settings.
    settings = recipe.model.replace(weights=None, start=None)
    train = check.inspections.get(recipe.data.train)
    if settings.undecided and train is not None:
        boxes, ids = train.boxes(check.size)
        images = len(train.records)
        objects = Objects(boxes, ids, check.classes, check.size, images)
        try:
            settings = family.settled(settings, objects)
        except ValueError as error:
            check.add(ERROR, f"{train.split}: {error}")
    return family.anchor_layout(settings, check.size)


def _splits(data: Any) -> List[str]:
    stated = [getattr(data, name) for name in SPLITS]
    return [split for split in dict.fromkeys(stated) if split is not None]


def _class_names(data: Any) -> Tuple[str, ...]:
    """Return the names that a recipe states, or none if its data set has its own."""
    if data.classes is None and data.kind not in IN_VOC_LAYOUT:
        return ()
    if data.kind == "toy" and not data.folder().exists():
        return ()
    return read_class_names(data.folder(), data.classes)


def _opened(
    data: Any, split: str, classes: Sequence[str]
) -> Tuple[Any, Optional[ValueError]]:
    """Return a split, and why training would refuse it; None where there is neither.

    What training refuses is opened all the same where that is possible, so that one
    look finds everything that is amiss.
    """
    try:
        return data.open(split), None
    except ValueError as error:
        refusal = error
    if data.kind not in IN_VOC_LAYOUT:
        return None, refusal
    try:
        dataset = VOCLayout(
            data.folder(),
            split,
            classes,
            others="ignore",
            absent=True,
            resized="keep",
        )
        return dataset, refusal
    except ValueError:
        return None, refusal


def _check_files(check: DataCheck) -> None:
    for split, inspection in check.inspections.items():
        doubts = getattr(inspection.dataset, "doubts", ())
        for level, what, rows in (
            (ERROR, "left out", inspection.dataset.problems),
            (ERROR, "too small", inspection.tiny),
            (WARNING, "in doubt", doubts),
        ):
            if rows:
                texts = [_reason(file, why) for file, why in rows]
                check.add(level, f"{split}: {len(rows)} {what}: {_some(texts)}")
        counts = {k: v for k, v in check.counts[split].items() if k != "absent"}
        for line in describe_counts(counts):
            check.add(NOTE, f"{split}: {line}")


def _reason(file: str, why: str) -> str:
    return why if why.startswith(file) else f"{file}: {why}"


def _some(texts: Sequence[str]) -> str:
    more = f"; and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return "; ".join(texts[:NAMED]) + more


def _check_objects(check: DataCheck, train: str) -> None:
    for split, inspection in check.inspections.items():
        boxes, ids = inspection.boxes(check.size)
        rows = count_objects(boxes, ids, len(check.classes), check.layout)
        check.objects[split] = dict(zip(check.classes, rows))
        absent = [name for name, row in check.objects[split].items() if not row.objects]
        if absent:
            check.add(ERROR, f"{split}: no object of {few(absent, 8)}")
        rare = [
            f"{name} ({row.objects})"
            for name, row in check.objects[split].items()
            if 0 < row.objects < FEW
        ]
        if rare and split == train:
            check.add(WARNING, f"{split}: fewer than {FEW} objects of {few(rare, 8)}")
        _check_anchors(check, split, rows)


def _check_anchors(check: DataCheck, split: str, rows: Sequence[ClassCounts]) -> None:
    objects = sum(row.objects for row in rows)
    lost = sum(row.without_anchor for row in rows)
    if objects and lost > MANY_LOST * objects:
        check.add(
            WARNING,
            f"{split}: {lost} of {objects} objects overlap no anchor by half; "
            'fit them: gluon-compress anchors, or "sizes": "auto"',
        )


def count_objects(
    corner_boxes: np.ndarray,
    ids: np.ndarray,
    classes: int,
    layout: Optional[AnchorLayout],
) -> List[ClassCounts]:
    """Return the counts of each class.

    Parameters
    ----------
    corner_boxes : numpy.ndarray
        ``(N, 4)``, pixels of the net's input.
    ids : numpy.ndarray
        ``(N,)``.
    classes : int
        Number of classes.
    layout : AnchorLayout or None
    """
    areas = np.prod(corner_boxes[:, 2:] - corner_boxes[:, :2], axis=1)
    below = lost = np.zeros(len(areas), bool)
    if layout is not None and len(areas):
        maps = range(len(layout.cells))
        smallest = min(layout.shapes(number).prod(axis=1).min() for number in maps)
        below = areas < smallest - 1e-6  # the area of its anchor has been rounded
        lost = layout.best_overlaps(corner_boxes) < MATCHED
    rows = []
    for number in range(classes):
        is_class = ids == number
        small, large = areas[is_class] < SMALL, areas[is_class] >= LARGE
        rows.append(
            ClassCounts(
                int(is_class.sum()),
                int(small.sum()),
                int((~small & ~large).sum()),
                int(large.sum()),
                int(below[is_class].sum()),
                int(lost[is_class].sum()),
            )
        )
    return rows


def _check_names(check: DataCheck, data: Any) -> None:
    """Find class names that are probably misspelt, among all that are annotated."""
    annotated: Counter = Counter()
    for split, rows in check.objects.items():
        annotated.update({name: row.objects for name, row in rows.items()})
        ignored = check.counts[split].get("ignored", {})
        annotated.update(ignored.get("objects", {}))
    if data.kind in IN_VOC_LAYOUT:
        annotated.update(dict.fromkeys(annotated_classes(data.folder()), 0))
    # Of ignored names, only rare ones are suspect.
    strict = data.classes is not None and data.others == "error"
    stated = check.classes if strict else ()
    for name, right in misspelt(annotated, stated):
        count = annotated[name]
        check.add(
            ERROR,
            f"class {name!r} ({count} object{'s' * (count != 1)}) is probably a "
            f"misspelling of {right!r} ({annotated[right]})",
        )


def _check_duplicates(check: DataCheck) -> None:
    records = [
        (split, record)
        for split, inspection in check.inspections.items()
        for record in inspection.records
    ]
    pairs = duplicates([record.fingerprint for _, record in records])
    check.duplicates = [(records[p.first], records[p.second], p.equal) for p in pairs]
    kinds: Dict[Tuple[str, str, bool], List[str]] = {}
    for (split, first), (other, second), equal in check.duplicates:
        names = f"{_file_name(first.name)} and {_file_name(second.name)}"
        kinds.setdefault((split, other, equal), []).append(names)
    for (split, other, equal), pair_names in kinds.items():
        which = "the same images" if equal else "nearly the same images"
        place = f"in {split} and {other}" if split != other else f"twice in {split}"
        leaks = equal and split != other
        check.add(
            ERROR if leaks else WARNING,
            f"{which} {place}, pairs: {len(pair_names)}: {_some(pair_names)}",
        )


def _file_name(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def summary(check: DataCheck) -> Mapping[str, Any]:
    """Return what a result file says of a check."""
    return {
        "classes": list(check.classes),
        "size": list(check.size),
        "splits": {
            split: {
                **check.counts[split],
                "objects": {n: vars(row) for n, row in check.objects[split].items()},
            }
            for split in check.inspections
        },
        "findings": [vars(finding) for finding in check.findings],
    }


def object_cells(check: DataCheck) -> Iterator[Tuple[str, List[List[str]]]]:
    """Yield each split and its table of objects as rows of text, the head first."""
    head = ["class", "objects", "small", "medium", "large"]
    if check.layout is not None:
        head += ["smaller than all anchors", "no anchor by half"]
    for split, rows in check.objects.items():
        body = [[name, *map(str, vars(row).values())] for name, row in rows.items()]
        total = np.sum([list(vars(row).values()) for row in rows.values()], axis=0)
        body.append(["all", *map(str, total)])
        yield split, [head, *(row[: len(head)] for row in body)]
