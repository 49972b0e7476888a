"""Runs of recipes: train, compress, fine-tune, evaluate, export and report.

``run`` goes through the stages, ``decide`` only plans, ``structure`` builds what was
decided, ``judge`` measures any net on a recipe's images. ``task`` is the interface of
detection and classification; ``stages`` says what each stage does.
"""

from gluon_compress.pipeline.run import (
    TASKS,
    decide,
    judge,
    run,
    run_stages,
    structure,
    task_of,
)
from gluon_compress.pipeline.stages import COMPACT, FULL

__all__ = [
    "COMPACT",
    "FULL",
    "TASKS",
    "decide",
    "judge",
    "run",
    "run_stages",
    "structure",
    "task_of",
]
