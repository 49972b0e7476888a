"""Scores plans on the workers of a sweep, each of which opens data and net once."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import uuid
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, Mapping, Sequence

from mxnet.gluon import HybridBlock

from gluon_compress.compression.algorithm import score_here
from gluon_compress.data import DATA_FOLDER
from gluon_compress.plan import Plan
from gluon_compress.prune import ReconstructionSettings
from gluon_compress.storage.atomic import read_json, write_json
from gluon_compress.sweeps import Announced, Sweep, announcing

FOLDER, WHAT, MODEL = "scoring", "scoring.json", "model"

_OWN_DATA = os.environ.get(DATA_FOLDER)  # of a worker, on whose machine it may differ
_SCORES: Dict[str, Callable[[Plan], float]] = {}  # of a worker, the last one only
_LOCK = threading.Lock()


@contextmanager
def score_swept(
    job: Any,
    folder: Path,
    net: HybridBlock,
    images: int,
    fit: ReconstructionSettings | None,
    sweep: Sweep,
) -> Iterator[SweptScore]:
    """Yield a score of plans that the workers of a sweep compute.

    They find the net in the folder of the stage; it is removed at the end.
    """
    place = (folder / FOLDER).resolve()
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        job.task.save(net, place / MODEL, FOLDER)
        content = {
            "recipe": job.recipe.to_json(),
            "images": images,
            "fit": None if fit is None else fit.to_json(),
            "data": os.path.abspath(os.environ.get(DATA_FOLDER) or "."),
        }
        write_json(place / WHAT, content)
        score = partial(score_one, str(place), uuid.uuid4().hex)
        with announcing(score, sweep) as announced:
            yield SweptScore(announced)
    finally:
        shutil.rmtree(place, ignore_errors=True)


class SweptScore:
    """``score(plan) -> float``, computed ahead for plans that are expected.

    Parameters
    ----------
    announced : Announced
    """

    def __init__(self, announced: Announced) -> None:
        self._announced = announced

    def __call__(self, plan: Plan) -> float:
        """Return the accuracy with a plan's masks."""
        return float(self._announced(_indices(plan)))

    def expect(self, plans: Iterable[Plan]) -> None:
        """Begin with these plans."""
        self._announced.expect(map(_indices, plans))


def _indices(plan: Plan) -> Dict[str, list[int]]:
    return {name: [int(i) for i in kept] for name, kept in plan.keep.items()}


# ---------------------------------------------------------------- on a worker


def score_one(place: str, token: str, keep: Mapping[str, Sequence[int]]) -> float:
    """Return the accuracy of a net with the masks of a plan.

    Parameters
    ----------
    place : str
        The folder that ``score_swept`` has made.
    token : str
        Stands for its content.
    keep : mapping
        Of the plan.
    """
    with _LOCK:
        if token not in _SCORES:
            _SCORES.clear()
            _SCORES[token] = _opened(Path(place))
        return _SCORES[token](Plan(keep))


def _opened(place: Path) -> Callable[[Plan], float]:
    from gluon_compress.pipeline.run import task_of
    from gluon_compress.pipeline.stages import Stage, open_job
    from gluon_compress.recipe import parse_recipe
    from gluon_compress.train import Options

    logging.getLogger("gluon_compress").setLevel(logging.ERROR)  # the client says it
    content = read_json(place / WHAT)
    os.environ[DATA_FOLDER] = _OWN_DATA or content["data"]
    recipe = parse_recipe(content["recipe"], place / WHAT)
    job = open_job(task_of(recipe), place, Options(progress=False), {})
    fit = content["fit"]
    return score_here(
        Stage(job, place),
        job.task.load(place / MODEL),
        content["images"],
        fit and ReconstructionSettings(**fit),
    )
