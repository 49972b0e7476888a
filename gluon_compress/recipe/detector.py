"""The recipe of a detector: what to build, on which data, how to compress it."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, Mapping

from gluon_compress import checks as c
from gluon_compress.checks import key, section
from gluon_compress.recipe.common import (
    ALGORITHMS,
    FORMAT,
    Schedule,
    folder_of,
    format_problem,
    read_recipe,
)
from gluon_compress.storage.atomic import write_json

_positive = c.number(0, above=True)
# What a detector that training starts from brings along, or does without.
BUILT = ("width", "sizes", "ratios", "steps", "extras", "trunk", "weights")
# The names of ``distill.LOSSES``, which a recipe may not import; a test compares them.
TAUGHT = (
    "scores",
    "boxes",
    "features",
    "weighted_scores",
    "bounded_boxes",
    "hints",
    "imitation",
    "channels",
)


@section
class Model:
    """Which net to build.

    Parameters
    ----------
    name : str
        A name of ``gluon_compress.models``.
    width : float
        Factor of all channels of the trunk.
    sizes, ratios, steps : tuple or None
        Anchors: sizes in pixels, one more than there are maps; aspect ratios and
        distance of centres in pixels for each map. None: the model's own.
    extras : tuple of int or None
        Channels of the stages that follow the trunk. None: the model's own.
    trunk : str or None
        Folder of a classifier's export to take the trunk from, pruned or not; None:
        the trunk of ``name``, from random values.
    plan : str or None
        File of a plan whose structure the net gets before it is trained.
    masks : bool
        Whether the net trains with the plan as masks, and is slimmed then.
    weights : str or None
        Folder of a detector's export to load instead of building and training one.
    start : str or None
        Folder of a detector's export to train on from: structure, anchors and values
        are its own, but class predictors start anew where its classes are others.
    """

    name: str = key(c.text)
    width: float = key(_positive, 1.0)
    sizes: tuple[float, ...] | None = key(
        c.optional(c.list_of(_positive, least=2)), None
    )
    ratios: tuple[tuple[float, ...], ...] | None = key(
        c.optional(c.list_of(c.list_of(_positive, least=1), least=1)), None
    )
    steps: tuple[float, ...] | None = key(
        c.optional(c.list_of(_positive, least=1)), None
    )
    extras: tuple[int, ...] | None = key(c.optional(c.list_of(c.whole(2))), None)
    trunk: str | None = key(c.optional(c.text), None)
    plan: str | None = key(c.optional(c.text), None)
    masks: bool = key(c.truth, False)
    weights: str | None = key(c.optional(c.text), None)
    start: str | None = key(c.optional(c.text), None)

    def disagreement(self) -> tuple[str, Any, str] | None:
        """Check that sizes rise and that what is given is for as many maps."""
        if self.start is not None:
            usual = Model(self.name)
            given = [n for n in BUILT if getattr(self, n) != getattr(usual, n)]
            if given:
                return "start", self.start, f"null where {given[0]!r} is given"
        if self.masks and (self.plan is None or self.weights is not None):
            return "masks", True, "true with a plan and without weights, else false"
        if self.sizes is not None and sorted({*self.sizes}) != list(self.sizes):
            return "sizes", list(self.sizes), "rising numbers"
        counts = {
            name: len(given) - extra
            for name, given, extra in (
                ("ratios", self.ratios, 0),
                ("steps", self.steps, 0),
                ("sizes", self.sizes, 1),
            )
            if given is not None
        }
        first = next(iter(counts), None)
        for name, maps in counts.items():
            if maps != counts[first]:
                allowed = f"{counts[first]} numbers, one for each map as in {first}"
                if name == "sizes":
                    allowed = f"{counts[first] + 1} rising numbers, one more than maps"
                return name, list(vars(self)[name]), allowed
        return None


@section
class Data:
    """Which images to train, validate and test on.

    Parameters
    ----------
    kind : str
        ``voc`` (a folder in VOC layout), ``toy`` (made on the spot), ``gluoncv_voc``
        or ``coco`` (GluonCV's loaders).
    root : str
        Folder; see ``folder``.
    train, test : str
        Names of splits.
    val : str or None
        None: the test split is measured while training too.
    classes : tuple of str, str or None
        Names, the file that lists them, or None: as found in the data. GluonCV's
        loaders know only their own, which may be named here too.
    size : int
        Height and width of the net's input, pixels: 257 to 512 for the usual maps, 32
        to 1,024 for those of the lite form.
    difficult : bool
        Whether objects marked difficult are trained on; GluonCV's loaders keep them.
    """

    kind: str = key(c.one_of("voc", "toy", "gluoncv_voc", "coco"))
    root: str = key(c.text)
    train: str = key(c.text, "trainval")
    val: str | None = key(c.optional(c.text), None)
    test: str = key(c.text, "test")
    classes: tuple[str, ...] | str | None = key(
        c.optional(c.text_or(c.list_of(c.text, least=1))), None
    )
    size: int = key(c.whole(32), 300)
    difficult: bool = key(c.truth, True)

    def disagreement(self) -> tuple[str, Any, str] | None:
        """Check that a loader that keeps difficult objects is not told to drop them."""
        if not self.difficult and self.kind in ("gluoncv_voc", "coco"):
            return "difficult", False, f"true with kind {self.kind!r}, which keeps them"
        return None

    def folder(self) -> Path:
        """Return the root, relative to ``$GLUON_COMPRESS_DATA`` or to where we are."""
        return folder_of(self.root)


@section
class Distillation:
    """What the student learns from its teacher, in the recipe's last training.

    Parameters
    ----------
    teacher : str or None
        Folder of a detector's export; None: the recipe's own full net.
    losses : dict
        Weight of any of ``TAUGHT``, one above 0 at least; what each computes is in
        ``distill``. Those on features compare the maps that the predictors read.
    taps : tuple of str or None
        These maps, each once: ``map0``, the largest, ``map1``, ...; None: all.
    stride : int
        Of maps that are larger than 5 cells a side, every so-manyth cell in each
        direction is compared. Neighbours are alike, and adapters cost by the cell.
    temperature : float
        Divides the logits of both nets: ``scores`` and ``weighted_scores``.
    background : float
        Weight of the background class in ``weighted_scores``.
    margin : float
        By how much ``bounded_boxes`` wants the student better than its teacher, in
        squared box deltas.
    near : float
        Share of an object's largest overlap with an anchor from which a cell counts
        as near it, in ``imitation``.
    channel_temperature : float
        Divides the features in ``channels``.
    """

    teacher: str | None = key(c.optional(c.text), None)
    losses: Mapping[str, float] = key(
        c.map_of(c.number(0), *TAUGHT), {"scores": 1.0, "boxes": 1.0}
    )
    taps: tuple[str, ...] | None = key(c.optional(c.list_of(c.text, least=1)), None)
    stride: int = key(c.whole(1), 2)
    temperature: float = key(_positive, 2.0)
    background: float = key(_positive, 1.5)
    margin: float = key(c.number(0), 0.0)
    near: float = key(c.number(0, 1, above=True), 0.5)
    channel_temperature: float = key(_positive, 4.0)

    def disagreement(self) -> tuple[str, Any, str] | None:
        """Check that the teacher teaches something, and no map twice."""
        if not any(self.losses.values()):
            allowed = f"a weight above 0 of any of {', '.join(TAUGHT)}"
            return "losses", dict(self.losses), allowed
        if self.taps is not None and len(set(self.taps)) < len(self.taps):
            return "taps", list(self.taps), "each name once"
        return None


@section
class Evaluate:
    """How detections are made and judged.

    Parameters
    ----------
    metric : str
        ``voc07`` (11 points) or ``voc10`` (area under the curve).
    iou : float
        Overlap from which a detection counts.
    nms_thresh, nms_topk, post_nms
        As in GluonCV's ``SSD.set_nms``.
    """

    metric: str = key(c.one_of("voc07", "voc10"), "voc07")
    iou: float = key(c.number(0, 1, above=True), 0.5)
    nms_thresh: float = key(c.number(0, 1, above=True), 0.45)
    nms_topk: int = key(c.whole(1), 400)
    post_nms: int = key(c.whole(1), 100)


@section
class Recipe:
    """All of an experiment; two runs of one recipe differ in nothing that is chosen.

    Parameters
    ----------
    paper, command : str
        What it reproduces, and the command that runs it.
    hours : float
        About how long that takes on two idle cores.
    expected : dict
        Figures to expect, for the reader.
    model, data, evaluate
        The full detector, its images, its measure.
    student : Model or None
        None: compress the trained detector. A model, on a trunk that was pruned as a
        classifier for instance: build it and apply the compression to it.
    train, finetune : Schedule
        Of the full net, and of the compact one at the end; without ``finetune`` the net
        is trained, and that is all.
    compression : tuple of rows
        One of ``ALGORITHMS`` each, in the order they are applied.
    distillation : Distillation or None
        Used in the last training; None: labels alone.
    seed : int
    """

    paper: str = key(c.text)
    command: str = key(c.text)
    hours: float = key(c.number(0))
    expected: Mapping[str, Any] = key(c.map_of(c.anything))
    model: Model = key(c.part(Model))
    data: Data = key(c.part(Data))
    train: Schedule = key(c.part(Schedule))
    finetune: Schedule | None = key(c.optional(c.part(Schedule)), None)
    compression: tuple[Any, ...] = key(
        c.list_of(c.one_part("algorithm", ALGORITHMS)), ()
    )
    student: Model | None = key(c.optional(c.part(Model)), None)
    distillation: Distillation | None = key(c.optional(c.part(Distillation)), None)
    evaluate: Evaluate = key(c.part(Evaluate), Evaluate())
    seed: int = key(c.whole(0), 0)
    format: int = key(c.whole(1), FORMAT)

    def disagreement(self) -> tuple[str, Any, str] | None:
        """Check the format, and that what is compressed is fine-tuned."""
        if self.finetune is None:
            if self.compression or self.student is not None:
                return "finetune", None, "a schedule, since there is compression"
            if self.distillation is not None and self.distillation.teacher is None:
                return "distillation.teacher", None, "a model folder without finetune"
        if self.student is not None and self.student.masks:
            return "student.masks", True, "false; a student is slimmed before it trains"
        return format_problem(self.format)

    @staticmethod
    def load(path: str | os.PathLike) -> Recipe:
        """Read a recipe.

        Raises
        ------
        ValueError
            Naming the file, the key, its value and what is allowed.
        """
        return read_recipe(Recipe, path)

    def save(self, path: str | os.PathLike) -> None:
        """Write it as JSON with every key, also those left at their defaults."""
        write_json(path, asdict(self))
