"""RefineDetLite as a family of nets."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, ClassVar, Mapping, Sequence

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock, SymbolBlock

from gluon_compress.data import Preprocess
from gluon_compress.graph import pair_of
from gluon_compress.graph.annotations import bake_weights
from gluon_compress.graph.symbols import put_together, shapes_of, take_apart
from gluon_compress.models.anchor_grid import AnchorGrid
from gluon_compress.models.backbones import BACKBONES, stored_backbone
from gluon_compress.models.base import Family
from gluon_compress.models.initialize import initialize
from gluon_compress.models.refinedet import net as parts
from gluon_compress.models.refinedet.config import RefineDetConfig
from gluon_compress.models.refinedet.manifest import RefineDetManifest
from gluon_compress.models.refinedet.results import with_results
from gluon_compress.models.refinedet.settings import RefineDetSettings
from gluon_compress.models.refinedet.training import RefineDetLoss, RefineDetTargets
from gluon_compress.models.res2netlite import VARIANTS
from gluon_compress.models.settings import NmsEvaluation, check_options
from gluon_compress.postprocess.refinedet import (
    RefineDetPostprocess,
    RefineDetPostprocessSettings,
)
from gluon_compress.validation import class_names

OWN_TRUNK = "res2netlite72"
NAME = "refinedetlite_320"
# By the backbone that each stands on.
MODELS: dict[str, str] = {
    NAME: OWN_TRUNK,
    **{f"{NAME}_{backbone}": backbone for backbone in BACKBONES},
}


class RefineDetFamily(Family):
    """RefineDetLite (Chen et al. 2020): two steps predict from the same anchors."""

    kind = "refinedet"
    Config = RefineDetConfig
    Manifest = RefineDetManifest
    in_symbol: ClassVar[Mapping[str, Any]] = {"extras": ()}
    Settings = RefineDetSettings
    output_names = parts.OUTPUTS
    Evaluation = NmsEvaluation
    default_losses = {
        "scores": 1.0,
        "objectness": 1.0,
        "refinements": 1.0,
        "refined_boxes": 1.0,
    }
    loss_options = ("iou_guided", "class_weights")

    def models(self) -> Sequence[str]:
        """Return the names of RefineDetLites on all backbones."""
        return tuple(MODELS)

    def backbone_of(self, name: str) -> str | None:
        """Return GluonCV's name of the classifier that a model stands on, if any."""
        return None if MODELS[name] in VARIANTS else MODELS[name]

    def build(
        self,
        name: str,
        classes: Sequence[str],
        *,
        seed: int = 0,
        trunk: Any = None,
        **settings: Any,
    ) -> HybridBlock:
        """Return an untrained RefineDetLite by name.

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
            Fields of ``RefineDetConfig`` that differ from its defaults.

        Raises
        ------
        ValueError
            For an unknown setting, or a value that is not allowed.
        """
        allowed = {f.name for f in fields(RefineDetConfig)} - {"classes"}
        check_options(settings, allowed)
        config = RefineDetConfig(class_names(classes), **settings)
        backbone, taps = (
            BACKBONES[MODELS[name]]() if trunk is None else stored_backbone(trunk)
        )
        parameters = backbone.collect_params()
        shapes = shapes_of({p.name: p for p in parameters.values()})
        symbol = parts.refinedet(taps, shapes, config)
        data = mx.sym.var("data", dtype="float32")
        block = SymbolBlock(symbol, data, params=parameters)
        initialize(block, symbol, config.size, seed=seed)
        return self.describe(block, config)

    def trunk_parameters(self, symbol: mx.sym.Symbol) -> set[str]:
        """Return the names of the backbone's parameters."""
        return parts.trunk_parameters(symbol)

    def with_classes(
        self, net: HybridBlock, classes: Sequence[str], *, seed: int = 0
    ) -> HybridBlock:
        """Return a detector whose class scores alone are new."""
        pair, config = pair_of(net), self.config_of(net)
        names = class_names(classes)
        return self.from_symbol(*parts.with_classes(*pair, config, names, seed=seed))

    def targets(self, net: HybridBlock, **settings: Any) -> RefineDetTargets:
        """Return the targets of the first step, with the labels for the second."""
        stds = self.config_of(net).stds
        return RefineDetTargets(self.anchors(net), stds=stds, **settings)

    def loss(self, net: HybridBlock, **options: Any) -> RefineDetLoss:
        """Return the multi-box losses of both steps."""
        config = self.config_of(net)
        return RefineDetLoss(
            self.anchors(net),
            least_objectness=config.least_objectness,
            stds=config.stds,
            **options,
        )

    def anchors(self, net: HybridBlock) -> np.ndarray:
        """Return the anchors before the first step: center boxes ``(A, 4)``, pixels."""
        return parts.center_anchors(self.config_of(net), self._sides(net))

    def _sides(self, net: HybridBlock) -> list[tuple[int, int]]:
        values = {p.name: p for p in net.collect_params().values()}
        return parts.map_sides(self.to_symbol(net), values, self.config_of(net))

    def map_symbols(self, symbol: mx.sym.Symbol) -> dict[str, mx.sym.Symbol]:
        """Return the maps that the second step reads, largest first."""
        return parts.map_symbols(symbol)

    def check_teacher(self, student: HybridBlock, teacher: HybridBlock) -> None:
        """Refuse a teacher of other classes, another size or other anchors."""
        super().check_teacher(student, teacher)
        for name in ("sizes", "ratios", "stds"):
            values = [getattr(self.config_of(n), name) for n in (teacher, student)]
            if values[0] != values[1]:
                raise ValueError(
                    f"anchors: {name} of the teacher are {values[0]}, of the student "
                    f"{values[1]}; allowed: the student's"
                )

    def loss_context(
        self, net: HybridBlock, taps: Sequence[str], *, stride: int = 1
    ) -> dict[str, Any]:
        """Return the anchors, by which ``imitation`` chooses cells."""
        config, sides = self.config_of(net), self._sides(net)
        maps = tuple((*pair, depth) for pair, depth in zip(sides, config.depths))
        numbers = tuple(map(self.map_names(net).index, taps))
        boxes = parts.center_anchors(config, sides)
        return {"anchors": AnchorGrid(boxes, maps, config.stds, numbers, stride)}

    def preprocess(self, net: HybridBlock) -> Preprocess:
        """Return how images are resized, whole, and normalized."""
        height, width = self.input_size(net)
        return Preprocess(height=height, width=width)

    def most_detections(self, net: HybridBlock) -> int:
        """Return how many boxes of an image can be left after NMS."""
        config = self.config_of(net)
        return min(config.post_nms, config.nms_topk)

    def postprocess(self, net: HybridBlock) -> RefineDetPostprocess:
        """Return decoding of both steps, and NMS."""
        config = self.config_of(net)
        names = set(RefineDetPostprocessSettings.model_fields)
        constants = {n: v for n, v in vars(config).items() if n in names}
        settings = RefineDetPostprocessSettings(**constants)
        return RefineDetPostprocess(self.anchors(net), settings)

    def inference_graph(self, net: HybridBlock) -> tuple[mx.sym.Symbol, dict]:
        """Return the graph with one output ``(B, A, C + 11)``, and its parameters."""
        symbol, params = pair_of(net)
        nodes, heads, params = bake_weights(*take_apart(symbol), params)
        return parts.joined(put_together(nodes, heads)), params

    def results_graph(self, net: HybridBlock) -> tuple[mx.sym.Symbol, dict]:
        """Return the graph up to ids, scores and corner boxes, NMS included."""
        symbol, params = pair_of(net)
        postprocess = self.postprocess(net)
        results, constants = with_results(
            symbol,
            postprocess.anchors,
            postprocess.settings,
            len(self.classes_of(net)),
        )
        # Programs without a manifest read the input's size here; 0 is any batch.
        data = mx.sym.var("data", shape=(0, 3, *self.input_size(net)))
        return results(data=data), {**params, **constants}
