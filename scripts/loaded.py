"""A detector by its folder: a model folder in Gluon, or a deployed one in a runtime."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Callable, Sequence

from inputs import above_0, contexts, refuse


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


def add_runtime(parser) -> None:
    """Add the options that choose a runtime."""
    known = "mxnet, onnxruntime, openvino, ncnn or opencv; default: Gluon"
    parser.add_argument("--runtime", help=f"of a deployed folder: {known}")
    kinds = ("float32", "int8")
    parser.add_argument("--precision", choices=kinds, help="with --runtime")
    parser.add_argument("--threads", type=above_0, metavar="N", help="with --runtime")


def load_detector(args) -> Detector:
    """Return the detector of ``args.model``.

    Raises
    ------
    ValueError
        If it cannot be loaded, or an option was given that would do nothing.
    """
    if args.runtime is None:
        refuse(args, ("precision", "threads"), "only with --runtime")
        return _gluon(args)
    if args.ctx != ("cpu",):
        raise ValueError(f"--ctx {args.ctx[0]}: with --runtime only cpu")
    from gluon_compress import report
    from gluon_compress.edge import Predictor

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

    net = models.load(args.model)
    net.collect_params().reset_ctx(context)
    net.hybridize(static_alloc=True, static_shape=True)
    return Detector(
        lambda batch: net(batch.as_in_context(context)),
        data.normalize,
        partial(summary.detect, net),
        net.classes,
        models.image_size(net),
    )
