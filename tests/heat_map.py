"""A detector without anchors, as someone outside the package would add it.

A heat map says where centres of objects are, two more maps how large the objects are
and where in its cell each centre lies (Zhou et al. 2019). ``register`` adds its two
rows, and one of a distillation loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Mapping, Optional

import mxnet as mx
import numpy as np
from mxnet import gluon, nd
from typing_extensions import Literal

from gluon_compress.data import Preprocess
from gluon_compress.distill import LOSSES, DistillationLoss
from gluon_compress.graph import pair_of
from gluon_compress.graph.symbols import put_together, take_apart
from gluon_compress.models import FAMILIES, Family
from gluon_compress.models.initialize import with_missing_initialized
from gluon_compress.models.settings import DetectionEvaluation, DetectorSettings
from gluon_compress.postprocess import POSTPROCESS, boxes_in_images
from gluon_compress.sizes import size_pair
from gluon_compress.validation import Count, Settings, ShareOrZero, wrong

STRIDE = 4
OUTPUTS = ("heat", "sizes", "offsets")
FEATURES = "heat_features_fwd_output"


@dataclass(frozen=True)
class HeatMapConfig:
    classes: tuple
    size: tuple = (32, 48)
    peaks: int = 10

    def __post_init__(self):
        object.__setattr__(self, "size", size_pair(self.size))


class HeatMapNet(gluon.nn.HybridBlock):
    """Scores ``(B, C, h, w)``, sizes ``(B, 2, h, w)`` and offsets ``(B, 2, h, w)``."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__(prefix="heat_")
        with self.name_scope():
            self.body = gluon.nn.HybridSequential(prefix="")
            for width, relu in ((8, "relu_"), (channels, "features_")):
                self.body.add(gluon.nn.Conv2D(width, 3, strides=2, padding=1))
                self.body.add(gluon.nn.BatchNorm())
                self.body.add(gluon.nn.Activation("relu", prefix=relu))
            self.heat = gluon.nn.Conv2D(classes, 1, prefix="centers_")
            self.sizes = gluon.nn.Conv2D(2, 1)
            self.offsets = gluon.nn.Conv2D(2, 1)

    def hybrid_forward(self, F, x):
        x = self.body(x)
        return self.heat(x), self.sizes(x), self.offsets(x)


class HeatMapSettings(DetectorSettings):
    """Which net to build.

    Parameters
    ----------
    channels : int or None
        Of the feature map; None: 16.
    """

    channels: Optional[Count] = None


class HeatMapEvaluation(DetectionEvaluation):
    """How detections are chosen and measured.

    Parameters
    ----------
    peaks : int
        Boxes of an image that are returned.
    """

    peaks: Count = 10


class PeakSettings(Settings):
    """How maps become boxes.

    Parameters
    ----------
    kind : str
        ``peaks``.
    peaks : int
        Boxes of an image that are returned.
    least_score : float
        Peaks up to this score are dropped.
    """

    kind: Literal["peaks"] = "peaks"
    peaks: Count = 10
    least_score: ShareOrZero = 0.01


@dataclass(frozen=True)
class PeakPostprocess:
    """The highest local maxima of the heat map are boxes."""

    settings: PeakSettings = PeakSettings()

    kind: ClassVar[str] = "peaks"
    Settings: ClassVar[type] = PeakSettings
    finds_boxes: ClassVar[bool] = True
    arrays: ClassVar[tuple] = ()
    in_images = staticmethod(boxes_in_images)

    @classmethod
    def from_state(cls, settings, arrays):
        return cls(settings)

    def state(self):
        return self.settings.to_json(), {}

    def check(self, shapes, classes):
        if set(shapes) != set(OUTPUTS):
            raise wrong("outputs", list(shapes), ", ".join(OUTPUTS))
        if shapes["heat"][1] != len(classes):
            raise wrong("classes", list(classes), f"{shapes['heat'][1]} names")

    def decode(self, outputs):
        heat = 1 / (1 + np.exp(-outputs["heat"]))
        images, classes, height, width = heat.shape
        padded = np.pad(heat, ((0, 0), (0, 0), (1, 1), (1, 1)))
        around = [
            padded[:, :, y : y + height, x : x + width]
            for y in range(3)
            for x in range(3)
        ]
        scores = np.where(heat == np.max(around, axis=0), heat, 0)
        rows = np.full((images, self.settings.peaks, 6), -1, np.float32)
        for row, score, size, offset in zip(
            rows, scores, outputs["sizes"], outputs["offsets"]
        ):
            best = np.argsort(-score.ravel(), kind="stable")[: len(row)]
            best = best[score.ravel()[best] > self.settings.least_score]
            ids, ys, xs = np.unravel_index(best, score.shape)
            center = np.stack([xs, ys], axis=1) * STRIDE + offset[:, ys, xs].T
            half = size[:, ys, xs].T / 2
            parts = [ids[:, None], score[ids, ys, xs][:, None]]
            row[: len(best)] = np.hstack([*parts, center - half, center + half])
        return rows[..., :1], rows[..., 1:2], rows[..., 2:]

    def compare(self, outputs, results, expected, *, tolerance, side):
        """Each box has to be there, but for those that rounding puts last."""
        rows, others = (np.concatenate(parts, axis=2) for parts in (results, expected))
        near, worst = max(tolerance, 1e-4), 0.0
        for i, (found, right) in enumerate(zip(rows, others)):
            last = right[:, 1].min() + near
            for one in right[right[:, 1] > last]:
                same = found[found[:, 0] == one[0]]
                apart = abs(same[:, 1:] - one[1:]) / [1, *[side] * 4]
                off = apart.max(axis=1).min(initial=np.inf)
                worst = max(worst, off)
                if off > near:
                    return worst, f"finds no {one} in image {i}"
        return worst, ""


class HeatMapFamily(Family):
    kind = "heatmap"
    Config = HeatMapConfig
    output_names = OUTPUTS
    Settings = HeatMapSettings
    Evaluation = HeatMapEvaluation
    default_losses: ClassVar[Mapping[str, float]] = {"hints": 1.0}

    def models(self):
        return ("heat_tiny",)

    def build(self, name, classes, *, seed=0, size=(32, 48), channels=16, peaks=10):
        config = HeatMapConfig(tuple(classes), size, peaks)
        net = HeatMapNet(len(classes), channels)
        mx.random.seed(seed)
        net.initialize(mx.init.Xavier())
        net(nd.zeros((1, 3, *config.size)))
        return self.describe(net, config)

    def manifest(self, net):
        config = self.config_of(net)
        return {
            "kind": self.kind,
            "outputs": list(self.output_names),
            "classes": list(config.classes),
            "size": list(config.size),
            "peaks": config.peaks,
        }

    def config_from_manifest(self, manifest):
        values = (manifest[key] for key in ("classes", "size", "peaks"))
        classes, size, peaks = values
        return HeatMapConfig(tuple(classes), tuple(size), peaks)

    def trunk_parameters(self, symbol):
        inside = symbol.get_internals()[FEATURES]
        return {*inside.list_arguments(), *inside.list_auxiliary_states()} - {"data"}

    def with_classes(self, net, classes, *, seed=0):
        (symbol, values), config = pair_of(net), self.config_of(net)
        nodes, heads = take_apart(symbol)
        layer = nodes[heads[0][0]]
        layer["attrs"] = {**layer["attrs"], "num_filter": str(len(classes))}
        new = [nodes[entry[0]] for entry in layer["inputs"][1:]]
        for variable in new:
            variable["attrs"] = {}
            values.pop(variable["name"])
        symbol = put_together(nodes, heads)
        values = with_missing_initialized(symbol, values, config.size, seed=seed)
        config = HeatMapConfig(tuple(classes), config.size, config.peaks)
        return self.from_symbol(symbol, values, config)

    def map_symbols(self, symbol):
        return {"features": symbol.get_internals()[FEATURES]}

    def targets(self, net):
        height, width = (side // STRIDE for side in self.input_size(net))
        classes = len(self.classes_of(net))

        def targets(labels):
            heat = np.zeros((len(labels), classes, height, width), np.float32)
            boxes = np.zeros((len(labels), 4, height, width), np.float32)
            for i, label in enumerate(labels):
                for x0, y0, x1, y1, name, *_ in label:
                    center = np.array([x0 + x1, y0 + y1]) / 2
                    x, y = np.clip(center // STRIDE, 0, (width - 1, height - 1))
                    cell = int(y), int(x)
                    heat[(i, int(name), *cell)] = 1
                    offset = center - STRIDE * np.array([x, y])
                    boxes[(i, slice(None), *cell)] = x1 - x0, y1 - y0, *offset
            return heat, boxes

        return targets

    def loss(self, net):
        def loss(outputs, batch):
            _, heat, boxes = batch
            score = nd.sigmoid(outputs["heat"])
            right = heat * score + (1 - heat) * (1 - score)
            seen = heat.max(axis=1, keepdims=True)
            count = nd.maximum(seen.sum(), 1)
            center = -((1 - right) ** 2 * nd.log(right + 1e-6)).sum() / count
            boxed = nd.concat(outputs["sizes"], outputs["offsets"], dim=1)
            apart = nd.broadcast_mul(nd.abs(boxed - boxes), seen)
            size = apart.sum() / count
            return center + 0.1 * size, {"center": center, "size": size}

        return loss

    def preprocess(self, net):
        height, width = self.input_size(net)
        return Preprocess(height=height, width=width, mean=(0.5,) * 3, std=(0.25,) * 3)

    def postprocess(self, net):
        return PeakPostprocess(PeakSettings(peaks=self.config_of(net).peaks))


def _heat_loss(pair, settings):
    """Squared difference of the nets' heat."""
    own, target = (nd.sigmoid(net["heat"]) for net in (pair.student, pair.teacher))
    return nd.square(own - target).mean()


def register(monkeypatch: Any) -> HeatMapFamily:
    """Add its rows, and return the family."""
    family = HeatMapFamily()
    monkeypatch.setitem(FAMILIES, family.kind, family)
    monkeypatch.setitem(POSTPROCESS, PeakPostprocess.kind, PeakPostprocess)
    loss = DistillationLoss(_heat_loss, ("heat",), kind=family.kind)
    monkeypatch.setitem(LOSSES, "heat", loss)
    return family
