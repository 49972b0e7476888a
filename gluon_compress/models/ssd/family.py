"""SSDs as a family of nets."""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from typing import Any, Callable, ClassVar, Mapping, Sequence

import mxnet as mx
import numpy as np
from gluoncv.model_zoo.ssd import SSD

from gluon_compress.data import Objects, Preprocess
from gluon_compress.models.anchor_fit import AnchorLayout, fit_anchors
from gluon_compress.models.backbones import (
    BACKBONES,
    MOBILENETS,
    RESNETS,
    stored_backbone,
)
from gluon_compress.models.base import Family, Params
from gluon_compress.models.settings import NmsEvaluation, check_options
from gluon_compress.models.ssd import config, inference, raw_head, training
from gluon_compress.models.ssd.anchors import anchor_grid, anchors_of, layout_of
from gluon_compress.models.ssd.build import build_ssd, config_of
from gluon_compress.models.ssd.config import SSDConfig
from gluon_compress.models.ssd.manifest import SSDManifest
from gluon_compress.models.ssd.settings import SSDSettings
from gluon_compress.postprocess import SSDPostprocess
from gluon_compress.postprocess.base import finite_detections
from gluon_compress.validation import class_names

ANCHOR_KEYS = ("sizes", "ratios", "steps", "extras")  # settings that anchors depend on
# A backbone by name, and the fields of SSDConfig that differ from the defaults.
MODELS: dict[str, tuple[str, dict]] = {
    **{f"ssd_300_{name}": (name, {}) for name in RESNETS},
    **{f"ssd_300_{name}": (name, config.NARROW) for name in MOBILENETS},
    **{f"ssd_300_{name}_lite": (name, config.LITE) for name in MOBILENETS},
}


class SSDFamily(Family):
    """SSD (Liu et al. 2016): what is traced and exported is the raw head."""

    kind = "ssd"
    Config = SSDConfig
    Manifest = SSDManifest
    in_symbol: ClassVar[Mapping[str, Any]] = {"extras": ()}
    Settings = SSDSettings
    output_names = raw_head.OUTPUTS
    net_types = (SSD,)
    Evaluation = NmsEvaluation
    default_losses = {"scores": 1.0, "boxes": 1.0}
    loss_options = ("iou_guided", "class_weights")

    def models(self) -> Sequence[str]:
        """Return the names of SSDs on all backbones."""
        return tuple(MODELS)

    def backbone_of(self, name: str) -> str:
        """Return GluonCV's name of the classifier that a model stands on."""
        return MODELS[name][0]

    def build(
        self,
        name: str,
        classes: Sequence[str] = config.VOC_CLASSES,
        *,
        seed: int = 0,
        trunk: Any = None,
        **settings: Any,
    ) -> SSD:
        """Return an untrained SSD by name.

        Parameters
        ----------
        name : str
            One of ``models``.
        classes : sequence of str
            Foreground classes.
        seed : int
            Decides the initial values.
        trunk : path, optional
            Folder of a classifier's export to take the backbone from, with its
            weights; pruned or not.
        **settings
            Fields of ``SSDConfig`` that differ from the model's own.

        Raises
        ------
        ValueError
            For an unknown setting, or a value that is not allowed.
        """
        allowed = {f.name for f in fields(SSDConfig)} - {"classes"}
        check_options(settings, allowed)
        backbone, usual = MODELS[name]
        classes = class_names(classes)
        parts = BACKBONES[backbone]() if trunk is None else stored_backbone(trunk)
        net = build_ssd(parts, SSDConfig(classes, **{**usual, **settings}))
        raw_head.initialize_head(net, seed=seed)
        return net

    def settled(self, settings: SSDSettings, objects: Objects) -> SSDSettings:
        """Return settings whose anchors are fitted where they are ``auto``."""
        keys = settings.undecided
        if not keys:
            return settings
        fitted = fit_anchors(
            self.anchor_layout(settings, objects.size),
            objects.corner_boxes,
            objects.ids,
            size=objects.size,
            keys=keys,
        )
        return settings.replace(**{key: getattr(fitted, key) for key in keys})

    def anchor_layout(self, settings: SSDSettings, size: tuple) -> AnchorLayout:
        """Return the anchors of a model; ``auto`` ones are the model's own."""
        backbone, usual = MODELS[settings.name]
        stated = settings.build_options()
        changes = {key: stated[key] for key in ANCHOR_KEYS if key in stated}
        # A stored trunk, pruned or not, has maps of the same sizes.
        parts = BACKBONES[backbone]()
        net = build_ssd(parts, SSDConfig(size=size, **{**usual, **changes}))
        return layout_of(net)

    def config_of(self, net: SSD) -> SSDConfig:
        """Read the configuration back from any GluonCV SSD."""
        return config_of(net)

    def to_symbol(self, net: SSD) -> mx.sym.Symbol:
        """Return the raw head: class scores and box deltas."""
        return raw_head.raw_head(net)

    def from_symbol(
        self, symbol: mx.sym.Symbol, params: Params, config: SSDConfig
    ) -> SSD:
        """Return the SSD of a raw head."""
        return raw_head.from_raw_head(symbol, params, config)

    def trunk_parameters(self, symbol: mx.sym.Symbol) -> set[str]:
        """Return the names of the backbone's parameters in a raw head."""
        return raw_head.backbone_parameters(symbol)

    def with_classes(self, net: SSD, classes: Sequence[str], *, seed: int = 0) -> SSD:
        """Return an SSD whose class predictors alone are new."""
        return raw_head.with_classes(net, classes, seed=seed)

    def training_net(self, net: SSD, taps: Sequence[str] = (), **settings: Any) -> Any:
        """Return the raw head as a block; see ``models.ssd.training.training_net``."""
        made = partial(self.trainable, net)
        return training.training_net(net, taps, made=made, **settings)

    def targets(self, net: SSD, *, assignment: str = "iou", **settings: Any) -> Any:
        """Return ``SSDTargets`` for the anchors of a net.

        ``assignment`` is ``iou``, or ``atss`` for ``match_adaptively``.
        """
        if assignment == "atss":
            settings = {"maps": anchor_grid(net).maps, **settings}
        stds = config_of(net).stds
        return training.SSDTargets(anchors_of(net), stds=stds, **settings)

    def loss(self, net: SSD, **options: Any) -> Callable:
        """Return the multi-box loss."""
        return training.ssd_loss(stds=config_of(net).stds, **options)

    def map_names(self, net: SSD) -> tuple[str, ...]:
        """Return the names of the maps that predictors read, largest first."""
        return raw_head.map_names(net)

    def map_widths(self, net: SSD) -> tuple[int, ...]:
        """Return the channels of each map."""
        return raw_head.map_widths(net)

    def check_teacher(self, student: SSD, teacher: SSD) -> None:
        """Refuse a teacher of other classes, another size or other anchors."""
        training.check_teacher(student, teacher)

    def loss_context(
        self, net: SSD, taps: Sequence[str], *, stride: int = 1
    ) -> dict[str, Any]:
        """Return the anchors, by which ``imitation`` chooses cells."""
        return {"anchors": anchor_grid(net, taps, stride=stride)}

    def preprocess(self, net: SSD) -> Preprocess:
        """Return how images are resized, whole, and normalized."""
        return inference.preprocess(net)

    def most_detections(self, net: SSD) -> int | None:
        """Return how many boxes of an image can be left after NMS."""
        limits = [n for n in (net.post_nms, net.nms_topk) if n > 0]
        return min(limits, default=None)

    def postprocess(self, net: SSD) -> SSDPostprocess:
        """Return decoding and NMS."""
        return inference.postprocess(net)

    def inference_graph(self, net: SSD) -> tuple[mx.sym.Symbol, dict]:
        """Return the raw head with one output for all anchors, and its parameters."""
        return inference.inference_graph(net)

    def results_graph(self, net: SSD) -> tuple[mx.sym.Symbol, dict]:
        """Return the graph up to ids, scores and corner boxes, NMS included."""
        return inference.results_graph(net)

    def results(self, net: SSD, batch: mx.nd.NDArray) -> tuple[np.ndarray, ...]:
        """Return ids, scores and corner boxes, as GluonCV's SSD gives them."""
        return finite_detections([part.asnumpy() for part in net(batch)])
