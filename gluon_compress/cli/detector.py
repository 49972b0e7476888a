"""A detector by its folder: a model folder in Gluon, or a deployed one in a runtime."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, Sequence

from gluon_compress.cli.options import contexts, refuse_idle_runtime
from gluon_compress.names import RUNTIMES


@dataclass(frozen=True)
class Detector:
    """What commands need to know of any detector.

    Parameters
    ----------
    detect : callable
        Takes images ``(B, 3, size, size)``, at most ``batch`` of them, as
        ``normalized`` makes them of pixels; returns ids, scores and corner boxes.
    normalized : callable
    find : callable
        Takes pixels of any size and the lowest score; returns boxes in these pixels.
    classes : sequence of str
    size, batch : int
    """

    detect: Callable
    normalized: Callable
    find: Callable
    classes: Sequence[str]
    size: int
    batch: int = 8


def load_detector(args: argparse.Namespace) -> Detector:
    """Return the detector of ``args.model``.

    Raises
    ------
    ValueError
        If it cannot be loaded, or an option was given that would do nothing.
    """
    refuse_idle_runtime(args)
    if args.runtime is None:
        return _in_gluon(args.model, args.ctx)
    return in_runtime(args.model, args.runtime, args.precision, args.threads)


def in_runtime(
    folder: str, runtime: str, precision: str | None = None, threads: int | None = None
) -> Detector:
    """Return the detector of a deployed folder, in a runtime."""
    from gluon_compress import report
    from gluon_compress.deployment import Predictor

    predictor = Predictor(
        folder, runtime, precision=precision or "float32", threads=threads
    )

    def find(image: Any, threshold: float) -> report.Boxes:
        return report.Boxes.of_output(*predictor([image])[0], threshold=threshold)

    return Detector(
        lambda batch: predictor.detect(batch.asnumpy()),
        predictor.normalized,
        find,
        predictor.classes,
        predictor.size,
        1 if predictor.one_by_one else 8,
    )


def _in_gluon(folder: str, devices: Sequence[str]) -> Detector:
    context = contexts(devices)[0]
    from gluon_compress import data, models, summary
    from gluon_compress.deployment.manifest import KIND
    from gluon_compress.storage.artifacts import read_manifest

    if read_manifest(folder).get("kind") == KIND:
        runtimes = ", ".join(RUNTIMES)
        raise ValueError(f"{folder}: kind is {KIND!r}; give --runtime: {runtimes}")
    net = models.load(folder)
    net.collect_params().reset_ctx(context)
    net.hybridize(static_alloc=True, static_shape=True)
    return Detector(
        lambda batch: net(batch.as_in_context(context)),
        data.normalize,
        partial(summary.detect, net),
        net.classes,
        models.image_size(net),
    )
