"""Recipes: what to build, on which data, how to compress and train it, as JSON."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, Mapping

from gluon_compress import checks as c
from gluon_compress.checks import key, section
from gluon_compress.files import read_json, write_json

FORMAT = 1
DATA_FOLDER = "GLUON_COMPRESS_DATA"

_THIN, _WIDE = (1, 2, 0.5), (1, 2, 0.5, 3, 1 / 3)
_positive = c.number(0, above=True)


@section
class Schedule:
    """How long and how fast to train.

    Parameters
    ----------
    epochs, batch_size : int
    learning_rate : float
        Of stochastic gradient descent, after the warm-up.
    mode : str
        ``cosine``, or ``step``: times ``decay`` at each of the ``milestones`` (epochs).
    warmup_epochs : float
        The rate rises linearly for so long; parts of an epoch count.
    momentum, weight_decay : float
        The decay is not applied to BatchNorm and biases.
    clip_norm : float or None
        Limit of the norm of all gradients together.
    validate_every : int
        Epochs between validations; 0: only after the last one.
    """

    epochs: int = key(c.whole(1))
    batch_size: int = key(c.whole(1), 8)
    learning_rate: float = key(_positive, 0.005)
    mode: str = key(c.one_of("cosine", "step"), "cosine")
    milestones: tuple[int, ...] = key(c.list_of(c.whole(1)), ())
    decay: float = key(c.number(0, 1, above=True), 0.1)
    warmup_epochs: float = key(c.number(0), 1.0)
    momentum: float = key(c.number(0, 1), 0.9)
    weight_decay: float = key(c.number(0), 5e-4)
    clip_norm: float | None = key(c.optional(_positive), None)
    validate_every: int = key(c.whole(0), 1)

    def disagreement(self) -> tuple[str, Any, str] | None:
        """Check that milestones rise, and are there for ``step``."""
        marks = self.milestones
        rising = all(a < b for a, b in zip(marks, (*marks[1:], self.epochs)))
        if not rising or (self.mode == "step") != bool(marks):
            allowed = f"rising epochs below {self.epochs} with mode 'step', else none"
            return "milestones", list(marks), allowed
        return None


@section
class Model:
    """Which net to build.

    Parameters
    ----------
    name : str
        A name of ``gluon_compress.models``.
    width : float
        Factor of all channels of the trunk.
    sizes, ratios, steps
        Anchors: sizes in pixels, one more than there are maps; aspect ratios and
        distance of centres in pixels for each map.
    extras : tuple of int
        Channels of the stages that follow the trunk.
    trunk : str or None
        Folder of a classifier's export to take the trunk from, pruned or not; None:
        the trunk of ``name``, from random values.
    weights : str or None
        Folder of a detector's export to load instead of building and training one.
    """

    name: str = key(c.text)
    width: float = key(_positive, 1.0)
    sizes: tuple[float, ...] = key(
        c.list_of(_positive, least=2), (30, 60, 111, 162, 213, 264, 315)
    )
    ratios: tuple[tuple[float, ...], ...] = key(
        c.list_of(c.list_of(_positive, least=1), least=1),
        (_THIN, _WIDE, _WIDE, _WIDE, _THIN, _THIN),
    )
    steps: tuple[float, ...] = key(
        c.list_of(_positive, least=1), (8, 16, 32, 64, 100, 300)
    )
    extras: tuple[int, ...] = key(c.list_of(c.whole(2)), (512, 256, 256))
    trunk: str | None = key(c.optional(c.text), None)
    weights: str | None = key(c.optional(c.text), None)

    def disagreement(self) -> tuple[str, Any, str] | None:
        """Check that the anchors are for as many maps as there are."""
        maps = len(self.ratios)
        if len(self.steps) != maps:
            return "steps", list(self.steps), f"{maps} numbers, one for each map"
        rising = all(a < b for a, b in zip(self.sizes, self.sizes[1:]))
        if len(self.sizes) != maps + 1 or not rising:
            allowed = f"{maps + 1} rising numbers, one more than maps"
            return "sizes", list(self.sizes), allowed
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
        Names, the file that lists them, or None: as found in the data.
    size : int
        Height and width of the net's input, pixels.
    difficult : bool
        Whether objects marked difficult are trained on.
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

    def folder(self) -> Path:
        """Return the root, relative to ``$GLUON_COMPRESS_DATA`` or to where we are."""
        return Path(os.environ.get(DATA_FOLDER, "")) / self.root


_NAMES = ("macs", "params", "bytes")
_BUDGET = (*_NAMES, *(f"{name}_ratio" for name in _NAMES))


def _budget(value: Any, place: str) -> dict:
    limits = c.map_of(_positive, *_BUDGET)(value, place)
    for name in _NAMES:
        ratio = limits.get(f"{name}_ratio")
        if ratio is not None and (ratio > 1 or name in limits):
            allowed = f"a share up to 1, and then no {name}"
            raise c.wrong(f"{place}.{name}_ratio", ratio, allowed)
    if not limits:
        raise c.wrong(place, value, f"at least one of {', '.join(_BUDGET)}")
    return limits


@section
class Prune:
    """A compression row: choose channels under a budget, train with masks, slim.

    Parameters
    ----------
    algorithm : str
        ``prune``.
    criterion, selection : str
        Names of ``gluon_compress.plan``: what a channel is worth (or ``taylor``: to
        the loss, on data), and how the channels to keep are chosen by it.
    budget : dict
        ``macs``, ``params``, ``bytes``, or ``macs_ratio``, ... of the net before.
    batches : int
        How many of the training's batches the criterion ``taylor`` sees.
    multiple : int
        Widths become multiples of it.
    groups : tuple of str
        Patterns of group names; the others stay whole.
    train : Schedule or None
        Training with the masks on; None: none.
    """

    algorithm: str = key(c.one_of("prune"))
    budget: Mapping[str, float] = key(_budget)
    criterion: str = key(c.text, "l1")
    selection: str = key(c.text, "greedy")
    batches: int = key(c.whole(1), 16)
    multiple: int = key(c.whole(1), 16)
    groups: tuple[str, ...] = key(c.list_of(c.text, least=1), ("*",))
    train: Schedule | None = key(c.optional(c.part(Schedule)), None)


@section
class Delete:
    """A compression row: delete a fixed share of the channels of some groups.

    Parameters
    ----------
    algorithm : str
        ``delete``.
    keep : dict
        Share of the channels that stay, above 0 to 1, by pattern of group names; the
        first pattern that fits counts, groups that none fits stay whole.
    criterion : str
        What a channel is worth: the least worthy go.
    batches : int
        As for ``Prune``.
    multiple : int
        Widths become multiples of it.
    train : Schedule or None
        Training with the masks on; None: none.
    """

    algorithm: str = key(c.one_of("delete"))
    keep: Mapping[str, float] = key(c.map_of(c.number(0, 1, above=True)))
    criterion: str = key(c.text, "l1")
    batches: int = key(c.whole(1), 16)
    multiple: int = key(c.whole(1), 16)
    train: Schedule | None = key(c.optional(c.part(Schedule)), None)


ALGORITHMS = {"prune": Prune, "delete": Delete}


@section
class Distillation:
    """What the student learns from the full net.

    Parameters
    ----------
    losses : dict
        Weight of ``scores``, ``boxes`` and ``features``.
        ``features`` are the maps that the predictors read.
    temperature : float
        Divides the logits of both nets.
    """

    losses: Mapping[str, float] = key(
        c.map_of(c.number(0), "scores", "boxes", "features"),
        {"scores": 1.0, "boxes": 1.0},
    )
    temperature: float = key(_positive, 2.0)


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
        How long that takes on two cores.
    expected : dict
        Figures to expect, for the reader.
    model, data, evaluate
        The full detector, its images, its measure.
    student : Model or None
        None: compress the trained detector. A model, on a trunk that was pruned as a
        classifier for instance: build it and apply the compression to it.
    train, finetune : Schedule
        Of the full net, and of the compact one at the end.
    compression : tuple of rows
        One of ``ALGORITHMS`` each, in the order they are applied.
    distillation : Distillation or None
        Used while fine-tuning; None: labels alone.
    seed : int
    """

    paper: str = key(c.text)
    command: str = key(c.text)
    hours: float = key(c.number(0))
    expected: Mapping[str, Any] = key(c.map_of(c.anything))
    model: Model = key(c.part(Model))
    data: Data = key(c.part(Data))
    train: Schedule = key(c.part(Schedule))
    finetune: Schedule = key(c.part(Schedule))
    compression: tuple[Any, ...] = key(
        c.list_of(c.one_part("algorithm", ALGORITHMS)), ()
    )
    student: Model | None = key(c.optional(c.part(Model)), None)
    distillation: Distillation | None = key(c.optional(c.part(Distillation)), None)
    evaluate: Evaluate = key(c.part(Evaluate), Evaluate())
    seed: int = key(c.whole(0), 0)
    format: int = key(c.whole(1), FORMAT)

    def disagreement(self) -> tuple[str, Any, str] | None:
        """Check the format."""
        if self.format != FORMAT:
            return "format", self.format, f"{FORMAT}; a newer version reads others"
        return None

    @staticmethod
    def load(path: str | os.PathLike) -> Recipe:
        """Read a recipe.

        Raises
        ------
        ValueError
            Naming the file, the key, its value and what is allowed.
        """
        content = read_json(path)
        try:
            return c.part(Recipe)(content, "")
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def save(self, path: str | os.PathLike) -> None:
        """Write it as JSON with every key, also those left at their defaults."""
        write_json(path, asdict(self))
