"""A detector by its folder: a model folder in Gluon, or a deployed one in a runtime."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Callable, Sequence

from inputs import contexts
from runtime import RUNTIMES, refuse_idle


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
    if args.runtime is None:
        return _gluon(args)
    from gluon_compress import report
    from gluon_compress.deployment import Predictor

    how = {"precision": args.precision or "float32", "threads": args.threads}
    predictor = Predictor(args.model, args.runtime, **how)

    def find(image, threshold: float):
        return report.Boxes.of_output(*predictor([image])[0], threshold=threshold)

    return Detector(
        lambda batch: predictor.detect(batch.asnumpy()),
        predictor.normalized,
        find,
        predictor.classes,
        predictor.size,
        1 if predictor.one_by_one else 8,
    )


def _gluon(args) -> Detector:
    context = contexts(args.ctx)[0]
    from gluon_compress import data, models, summary
    from gluon_compress.deployment.manifest import KIND
    from gluon_compress.storage.artifacts import read_manifest

    if read_manifest(args.model).get("kind") == KIND:
        raise ValueError(f"{args.model}: kind is {KIND!r}; give --runtime {RUNTIMES}")
    net = models.load(args.model, "ssd")
    net.collect_params().reset_ctx(context)
    net.hybridize(static_alloc=True, static_shape=True)
    return Detector(
        lambda batch: net(batch.as_in_context(context)),
        data.normalize,
        partial(summary.detect, net),
        net.classes,
        models.input_size(net),
    )
