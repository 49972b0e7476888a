"""What recipes of all tasks share: how they are read, checked and written."""

from __future__ import annotations

import os
from typing import Any, ClassVar, Dict, Optional, Tuple

from typing_extensions import Annotated, Literal

from gluon_compress.compression import ALGORITHMS
from gluon_compress.storage.atomic import write_json
from gluon_compress.train.schedule import Schedule
from gluon_compress.validation import (
    CountOrZero,
    NonEmptyStr,
    NonNegative,
    Settings,
    Tagged,
)

FORMAT: Literal[1] = 1


def _row_settings() -> Dict[str, type]:
    return {name: algorithm.Settings for name, algorithm in ALGORITHMS.items()}


class ModelSettings(Settings):
    """Which net to build or to load.

    Parameters
    ----------
    name : str
        A name in the package's registry of nets.
    plan : str or None
        File of a plan; the net gets its structure before it is trained.
    masks : bool
        Whether the net trains with the plan as masks and is slimmed afterwards.
    weights : str or None
        Folder of an exported model to load instead of training one.
    """

    name: NonEmptyStr
    plan: Optional[NonEmptyStr] = None
    masks: bool = False
    weights: Optional[NonEmptyStr] = None


class Recipe(Settings):
    """An experiment: two runs of a recipe differ in nothing that can be chosen.

    Parameters
    ----------
    paper : str
        What it reproduces.
    command : str
        The command that runs it.
    hours : float
        About how long that takes on two idle cores.
    expected : dict
        Figures to expect, for the reader.
    task : str
        ``detection`` or ``classification``.
    model : ModelSettings
        The full net.
    data : DetectionData or ClassificationData
        Its images.
    train : Schedule
        Training of the full net.
    compression : tuple of rows
        Each names one of ``ALGORITHMS``; they are applied in this order.
    finetune : Schedule or None
        Training of the compact net at the end; None: the full net is trained, and
        that is all.
    distillation : settings or None
        What the last training learns from a teacher; None: it uses labels only.
    seed : int
        Decides initial values, the order of images and everything else that is random.
    format : int
        Version of this file format.

    Attributes
    ----------
    metric : str
        Name of the accuracy in results. It is the task's, not a key of the file.
    """

    metric: ClassVar[str]

    paper: NonEmptyStr
    command: NonEmptyStr
    hours: NonNegative
    expected: Dict[str, Any]
    task: str
    model: Any
    data: Any
    train: Schedule
    compression: Tuple[Annotated[Any, Tagged("algorithm", _row_settings)], ...] = ()
    finetune: Optional[Schedule] = None
    distillation: Any = None
    seed: CountOrZero = 0
    format: Literal[1] = FORMAT

    def check(self) -> None:
        """Check that there is a last training where one is needed."""
        if self.finetune is not None:
            return
        if self.compression:
            raise self.error("finetune", "a schedule, since there is compression")
        if self.distillation is not None and self.distillation.teacher is None:
            raise self.error("distillation.teacher", "a model folder without finetune")

    def save(self, path: str | os.PathLike) -> None:
        """Write the recipe as JSON with every key, also those with default values."""
        write_json(path, self.to_json())
