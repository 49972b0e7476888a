"""A detector by its folder: a model folder in Gluon, or a deployed one in a runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Sequence

from inputs import contexts
from runtime import refuse_idle


@dataclass(frozen=True)
class Detector:
    """What the scripts need to know of any detector.

    ``detect`` takes images ``(B, 3, size, size)``, at most ``batch`` of them, as
    ``normalized`` makes them of pixels, and returns ids, scores and corner boxes.
    ``find`` takes pixels of any size and the least score, and returns boxes in these
    pixels.
    """

    detect: Callable
    normalized: Callable
    find: Callable
    classes: Sequence[str]
    size: int
    batch: int = 8


def load_detector(args) -> Detector:
    """Return the detector of ``args.model``.

    Raises
    ------
    ValueError
        If it cannot be loaded, or an option was given that would do nothing.
    """
    refuse_idle(args)
    from gluon_compress import detector, report

    options = {name: getattr(args, name) for name in ("precision", "threads")}
    context = contexts(args.ctx)[0] if args.runtime is None else None
    net = detector.load_detector(
        args.model, runtime=args.runtime, ctx=context, **options
    )

    def find(image, threshold: float):
        ids, scores, corner_boxes = net.find(image, threshold)
        return report.Boxes(corner_boxes, ids, scores)

    return Detector(
        net.detect,
        net.preprocess.normalized,
        find,
        net.classes,
        net.height,
        net.max_batch or 8,
    )
