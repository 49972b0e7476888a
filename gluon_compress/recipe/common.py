"""What recipes of all nets share: schedules, compression rows, and their files."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, Mapping

from gluon_compress import checks as c
from gluon_compress.checks import key, section
from gluon_compress.storage.atomic import read_json

FORMAT = 1
DATA_FOLDER = "GLUON_COMPRESS_DATA"

_positive = c.number(0, above=True)


def folder_of(root: str) -> Path:
    """Return a root, relative to ``$GLUON_COMPRESS_DATA`` or to where we are.

    A folder of data need not be laid out as that of the recipe's author: what is not at
    ``root`` there is looked for by the last part of its name.
    """
    base = os.environ.get(DATA_FOLDER)
    if not base or Path(root).is_absolute() or Path(base, root).exists():
        return Path(base or "", root)
    return Path(base, Path(root).name)


def format_problem(number: int) -> tuple[str, Any, str] | None:
    """Return what is wrong with the format of a recipe, if anything."""
    if number == FORMAT:
        return None
    return "format", number, f"{FORMAT}; a newer version reads others"


def read_recipe(kind: type, path: str | os.PathLike) -> Any:
    """Read a recipe of one kind.

    Raises
    ------
    ValueError
        Naming the file, the key, its value and what is allowed.
    """
    content = read_json(path)
    try:
        return c.part(kind)(content, "")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


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


def _number_or_map(value: Any, place: str) -> Any:
    check = c.number(0)
    return (c.map_of(check) if isinstance(value, dict) else check)(value, place)


_NAMES = ("macs", "params", "bytes", "latency_ms")
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
class Rounds:
    """How masks are decided anew while the net trains with them.

    Parameters
    ----------
    count : int
        Rounds of mask and train; 1: all at once.
    curve : str
        ``cubic`` or ``linear``: the way to the budget.
    soft : bool
        Masked channels train on and may come back, until the last round.
    epochs : int or None
        Epochs that the rounds are spread over; None: all of the row's ``train``.
    """

    count: int = key(c.whole(1), 1)
    curve: str = key(c.one_of("cubic", "linear"), "cubic")
    soft: bool = key(c.truth, False)
    epochs: int | None = key(c.optional(c.whole(1)), None)


@section
class Sparsity:
    """Training that pulls BatchNorm scales towards zero before channels are chosen.

    Parameters
    ----------
    weight : float
        Of the sum of absolute scales in the loss.
    train : Schedule
    """

    weight: float = key(_positive)
    train: Schedule = key(c.part(Schedule))


@section
class Sensitivity:
    """How the accuracy that the selection ``sensitivity`` follows is measured.

    Parameters
    ----------
    images : int
        Of the training set, drawn by the seed and not changed at random.
    ratios : tuple of float
        Shares of its channels that each group is measured with.
    """

    images: int = key(c.whole(1), 512)
    ratios: tuple[float, ...] = key(
        c.list_of(c.number(0, 1, above=True), least=1), (0.75, 0.5, 0.25)
    )


_bound = c.optional(_number_or_map)


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
        ``macs``, ``params``, ``bytes``, ``latency_ms``, or ``macs_ratio``, ... of the
        net before.
    classes : int or None
        The budget is that of the same detector with so many classes; None: with those
        that it has. So nets of different data sets have one structure.
    latency_table : str or None
        File of ``measure_latency.py``, for a budget of latency.
    batches : int
        How many of the training's batches the criterion ``taylor`` sees.
    multiple : int
        Widths become multiples of it.
    minimum, maximum : int, float, dict or None
        Of each group, as for ``select``: channels, a share, or either by pattern.
    groups, leave : tuple of str
        Patterns of group names that may lose channels, and that may not.
    ends : bool
        Whether first and last layers may lose channels too.
    effects : int
        Training batches on which the selection ``greedy`` measures what each group
        does to the net's outputs; 0: groups count as often as they have layers.
    sensitivity : Sensitivity or None
        For the selection of that name.
    sparsity : Sparsity or None
        Training before the choice; None: none.
    train : Schedule or None
        Training with the masks on; None: none.
    rounds : Rounds or None
        When masks are decided during ``train``; None: once, before it.
    recalibrate : int
        Training batches by which BatchNorm is measured anew after the cut; 0: not.
    """

    algorithm: str = key(c.one_of("prune"))
    budget: Mapping[str, float] = key(_budget)
    classes: int | None = key(c.optional(c.whole(1)), None)
    latency_table: str | None = key(c.optional(c.text), None)
    criterion: str = key(c.text, "l1")
    selection: str = key(c.text, "greedy")
    batches: int = key(c.whole(1), 16)
    multiple: int = key(c.whole(1), 16)
    minimum: Any = key(_bound, None)
    maximum: Any = key(_bound, None)
    groups: tuple[str, ...] = key(c.list_of(c.text, least=1), ("*",))
    leave: tuple[str, ...] = key(c.list_of(c.text), ())
    ends: bool = key(c.truth, False)
    effects: int = key(c.whole(0), 4)
    sensitivity: Sensitivity | None = key(c.optional(c.part(Sensitivity)), None)
    sparsity: Sparsity | None = key(c.optional(c.part(Sparsity)), None)
    train: Schedule | None = key(c.optional(c.part(Schedule)), None)
    rounds: Rounds | None = key(c.optional(c.part(Rounds)), None)
    recalibrate: int = key(c.whole(0), 16)

    def disagreement(self) -> tuple[str, Any, str] | None:
        """Check that parts are there that others need."""
        limited = any(name.startswith("latency") for name in self.budget)
        if limited != (self.latency_table is not None):
            allowed = "a table if the budget limits latency, else null"
            return "latency_table", self.latency_table, allowed
        if (self.selection == "sensitivity") != (self.sensitivity is not None):
            allowed = "images and ratios with selection 'sensitivity', else null"
            return "sensitivity", self.sensitivity, allowed
        if self.rounds is None:
            return None
        if self.classes is not None:
            return "classes", self.classes, "null with rounds"
        if self.sensitivity is not None:
            return "rounds", asdict(self.rounds), "null with a sensitivity"
        if self.train is None:
            return "train", None, "a schedule, since there are rounds"
        epochs = self.rounds.epochs or self.train.epochs
        if not self.rounds.count <= epochs <= self.train.epochs:
            allowed = f"rounds of an epoch or more within {self.train.epochs} epochs"
            return "rounds", asdict(self.rounds), allowed
        return None


@section
class Delete:
    """A compression row: delete a fixed share of the channels of some groups.

    Parameters
    ----------
    algorithm : str
        ``delete``.
    keep : dict
        Share of the channels that stay, above 0 to 1, by pattern of group names; the
        first pattern that fits counts, groups that none fits stay whole. One pattern
        at least, and one channel of every group.
    criterion : str
        What a channel is worth: the least worthy go.
    batches, recalibrate : int
        As for ``Prune``.
    multiple : int
        Widths become multiples of it, the nearest to the share and one at least: at
        16, a share of 0.3 keeps 16 of 64 channels, and of 16 or fewer all.
    train : Schedule or None
        Training with the masks on; None: none.
    """

    algorithm: str = key(c.one_of("delete"))
    keep: Mapping[str, float] = key(c.map_of(c.number(0, 1, above=True)))
    criterion: str = key(c.text, "l1")
    batches: int = key(c.whole(1), 16)
    multiple: int = key(c.whole(1), 16)
    train: Schedule | None = key(c.optional(c.part(Schedule)), None)
    recalibrate: int = key(c.whole(0), 16)

    def disagreement(self) -> tuple[str, Any, str] | None:
        """Check that there is something to delete."""
        if not self.keep:
            return "keep", {}, "a pattern of group names with its share, or several"
        return None


ALGORITHMS = {"prune": Prune, "delete": Delete}
