"""Reads the results of stages and runs, which a resumed run takes from its folder.

Only what is read again is checked; results hold much more, for readers of the page.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Tuple

from pydantic import ConfigDict
from typing_extensions import Literal

from gluon_compress.storage.reading import read_json
from gluon_compress.validation import (
    Count,
    CountOrZero,
    NonNegative,
    Settings,
    Share,
    ShareOrZero,
    parse,
    wrong,
)


class _Read(Settings):
    model_config = ConfigDict(extra="ignore")


class GroupResult(_Read):
    """What a plan does to a group, as ``plan.explain`` returns it.

    Parameters
    ----------
    name : str
    width, kept : int
    frozen, held : str
    effect : float, optional
    macs_saved, bytes_saved : float
    layers : tuple of str
    """

    name: str
    width: Count
    kept: CountOrZero
    frozen: str
    held: str = ""
    effect: Optional[float] = None
    macs_saved: float
    bytes_saved: float
    layers: Tuple[str, ...]


class StageResult(_Read):
    """What every stage measures.

    Parameters
    ----------
    stage : str
    params, bytes, macs : float
    metric : str, optional
    groups : tuple of GroupResult, optional
        Of a stage that prunes.
    """

    stage: str
    params: NonNegative
    bytes: NonNegative
    macs: NonNegative
    metric: Optional[str] = None
    groups: Optional[Tuple[GroupResult, ...]] = None


class DetectorResult(StageResult):
    """What a stage measures of a detector.

    Parameters
    ----------
    metric : str
    iou : float
    mAP : float, optional
        Null without any object.
    classes : dict
        Precision by class; null for one without objects.
    """

    metric: Literal["voc07", "voc10"]
    iou: Share
    mAP: Optional[ShareOrZero]  # noqa: N815  as in all results
    classes: Dict[str, Optional[ShareOrZero]]


class LatencyResult(_Read):
    """Milliseconds of one image; of runs of earlier versions, in plain MXNet."""

    median_ms: NonNegative
    p10_ms: NonNegative
    p90_ms: NonNegative
    runtime: Literal["mxnet", "onnxruntime"] = "mxnet"


class SplitResult(_Read):
    """Counts of the images of a split."""

    images: CountOrZero
    skipped: Optional[CountOrZero] = None


class DataResult(_Read):
    """What was measured on."""

    root: str
    test: SplitResult


class RunResult(_Read):
    """What is read again of a run's result, besides its stages."""

    stages: Dict[str, Any]
    latency: Dict[str, LatencyResult]
    data: DataResult


def read_stage(path: Path, name: str, metric: str) -> Dict[str, Any]:
    """Return the result of a stage.

    Parameters
    ----------
    path : Path
    name : str
        Of the stage.
    metric : str
        The key of its accuracy.

    Raises
    ------
    ValueError
        If the file is the result of another command or stage, or lacks what a report
        needs; the message names file and key.
    """
    result = read_json(path)
    stage = result.get("stage") if isinstance(result, dict) else None
    if stage != name:
        raise wrong(f"{path}: stage", stage, f"{name!r}; move it away")
    kind = DetectorResult if {"mAP", "classes"} & set(result) else StageResult
    parse(kind, result, path)
    accuracy: Any = Optional[ShareOrZero]
    parse(accuracy, result.get(metric, ""), f"{path}: {metric}")
    return result


def read_run(path: Path, stages: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the result of a run, which must have the results of these stages.

    Raises
    ------
    ValueError
        If it has others, or lacks what a report needs; the message names file and key.
    """
    result = read_json(path)
    parse(RunResult, result, path)
    if result["stages"] != stages:
        raise ValueError(
            f"{path}: stages are not those in the folder; move the file away, and it "
            "is written anew"
        )
    return result
