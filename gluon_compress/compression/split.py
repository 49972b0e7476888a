"""Compression that puts a bottleneck into a net and trains it on feature maps."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock
from pydantic import Field
from typing_extensions import Annotated, Literal

from gluon_compress.compression.algorithm import (
    Algorithm,
    DryRunContext,
    StageContext,
    StageOutput,
)
from gluon_compress.models import family_of
from gluon_compress.splitting.bottleneck import (
    ENCODER_END,
    MOST_CHANNELS,
    Bottleneck,
    Form,
    places,
    with_bottleneck,
)
from gluon_compress.splitting.cuts import CutPoint, CutPoints, jpeg_bytes, split
from gluon_compress.splitting.distilling import Method, stage_names, trunk_lesson
from gluon_compress.splitting.filtering import (
    FilterSettings,
    check_filter,
    fit_filter,
)
from gluon_compress.splitting.packing import CODINGS, Bits, encode, quantised
from gluon_compress.train.schedule import Schedule
from gluon_compress.validation import Allowed, NonEmptyStr, Settings

FILTER = "filter.npz"
MEASURED = 64  # images that sizes are measured on
Channels = Annotated[
    int,
    Field(ge=1, le=MOST_CHANNELS),
    Allowed(f"a whole number from 1 to {MOST_CHANNELS}"),
]


class SplitSettings(Settings):
    """Put a bottleneck into the net, to be cut there, and train it on feature maps.

    Parameters
    ----------
    algorithm : str
        ``split``.
    after, at : str
        Cut points, as ``gluon-compress split MODEL`` lists them: the part between them
        is replaced, the map ``at`` included.
    channels : int
        Of the tensor that is sent, 1 to 15.
    form : str
        Widths of the decoder: ``large`` or ``small``.
    bits : int or None
        Of the tensor's integers, 16, 8 or 4: it is trained with them. None: floats.
    method : str
        ``ghnd`` compares the map that is replaced and those at the end of later stages
        of the trunk with the teacher's; ``hnd`` the first alone.
    stages : tuple of str or None
        Names of the later maps; None: the last one of each size.
    train : Schedule or None
        Training of the bottleneck; None: only later trainings.
    filter : FilterSettings or None
        A neural filter, for detectors: images without a target are not sent. It is
        trained on labels, and lies beside the stage's model as ``filter.npz``.
    """

    algorithm: Literal["split"]
    after: NonEmptyStr
    at: NonEmptyStr
    channels: Channels = 3
    form: Form = "large"
    bits: Optional[Bits] = 8
    method: Method = "ghnd"
    stages: Optional[Tuple[NonEmptyStr, ...]] = None
    train: Optional[Schedule] = None
    filter: Optional[FilterSettings] = None

    def check(self) -> None:
        """Check that stages are only named where there are some."""
        if self.method == "hnd" and self.stages is not None:
            raise self.error("stages", "null with the method hnd")

    @property
    def bottleneck(self) -> Bottleneck:
        """What is put in, and where."""
        names = ("after", "at", "channels", "form", "bits")
        return Bottleneck(**{name: getattr(self, name) for name in names})


class Split(Algorithm):
    """Replaces a part of a net by an encoder and a decoder; see ``splitting``."""

    Settings = SplitSettings
    not_before = ("split",)

    def dry_run(
        self, net: HybridBlock, settings: SplitSettings, context: DryRunContext
    ) -> StageOutput:
        """Put in a bottleneck of initial values."""
        where = places(net, settings.bottleneck)
        stage_names(net, where, settings.method, settings.stages)
        if settings.filter is not None:
            check_filter(net, settings.filter, settings.after)
        result = with_bottleneck(net, settings.bottleneck, seed=context.seed)
        return StageOutput(result, self._notes(net, result, settings))

    def apply(
        self, net: HybridBlock, settings: SplitSettings, context: StageContext
    ) -> StageOutput:
        """Put in a bottleneck, train it on the net's own maps, and measure sizes."""
        output = self.dry_run(net, settings, context)
        result, notes = output.net, dict(output.notes)
        if settings.train is not None:
            where = places(net, settings.bottleneck)
            stages = stage_names(net, where, settings.method, settings.stages)
            lesson = trunk_lesson(
                result, net, settings.bottleneck, where, stages, ctx=context.devices()
            )
            notes.update(context.fit(result, settings.train, lesson=lesson))
        images = context.images(MEASURED)
        if settings.bits is not None and images:
            notes["sent"] = sent_bytes(result, images, settings.bits)
        if settings.filter is None:
            return StageOutput(result, notes)
        folder, options = context.options("filter")
        neural_filter = fit_filter(
            net,
            *context.datasets(),
            settings.filter,
            folder,
            after=settings.after,
            options=options,
        )
        notes["filter"] = neural_filter.facts()
        return StageOutput(result, notes, {FILTER: neural_filter})

    @staticmethod
    def _notes(
        net: HybridBlock, result: HybridBlock, settings: SplitSettings
    ) -> Dict[str, Any]:
        where = places(net, settings.bottleneck)
        stages = stage_names(net, where, settings.method, settings.stages)
        point = _sent(result)
        return {
            "tensor": {"name": point.name, "shape": list(point.shape)},
            "stages": list(stages),
            "head_macs": point.head_macs,
            "tail_macs": point.tail_macs,
        }


def _sent(net: HybridBlock) -> CutPoint:
    points = split(net)
    assert isinstance(points, CutPoints)
    return points.at(ENCODER_END)


def sent_bytes(
    net: HybridBlock, images: Sequence[np.ndarray], bits: int
) -> Mapping[str, Any]:
    """Measure the mean bytes of an image as a message, and as a JPEG.

    Parameters
    ----------
    net : HybridBlock
        With a bottleneck.
    images : sequence of ndarray
        ``(H, W, 3)``, uint8, RGB.
    bits : int

    Returns
    -------
    dict
        ``images``, their number; the mean bytes of the payload in each coding; those of
        JPEG files of quality 95: of the image, and as the net's input shows it.
    """
    preprocess = family_of(net).preprocess(net)
    views = [preprocess.view(image)[0] for image in images]
    head = split(net, ENCODER_END).head  # type: ignore[union-attr]
    totals = dict.fromkeys(CODINGS, 0)
    for view in views:
        tensor = head(mx.nd.array(preprocess.inputs([view]))).asnumpy()[0]
        integers, _, _ = quantised(tensor, bits)
        for coding in CODINGS:
            totals[coding] += len(encode(integers, bits, coding))
    means = {coding: total / len(views) for coding, total in totals.items()}
    jpeg = {"jpeg": jpeg_bytes(images), "jpeg_of_input": jpeg_bytes(views)}
    return {"images": len(views), **means, **jpeg}
