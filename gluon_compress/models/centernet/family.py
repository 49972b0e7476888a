"""Detectors without anchors as a family of nets."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import partial
from typing import Any, Callable, Sequence

import mxnet as mx
from mxnet.gluon import HybridBlock

from gluon_compress.data import Preprocess
from gluon_compress.graph import block_of, pair_of
from gluon_compress.graph.deformable import for_training
from gluon_compress.graph.symbols import shapes_of
from gluon_compress.models.backbones import find_taps, stored_classifier, taps_by_stride
from gluon_compress.models.base import Family
from gluon_compress.models.centernet.build import HEAT_BIAS, STRUCTURES, build_net
from gluon_compress.models.centernet.config import (
    STRIDE,
    TRUNK_STRIDE,
    CenterNetConfig,
)
from gluon_compress.models.centernet.inference import results_symbol
from gluon_compress.models.centernet.manifest import CenterNetManifest
from gluon_compress.models.centernet.settings import (
    CenterNetEvaluation,
    CenterNetSettings,
)
from gluon_compress.models.centernet.training import CenterNetTargets, center_loss
from gluon_compress.models.last_layer import with_outputs
from gluon_compress.models.settings import check_options
from gluon_compress.models.ssd.config import VOC_CLASSES
from gluon_compress.postprocess import CenterNetPostprocess
from gluon_compress.postprocess.centernet import OUTPUTS, CenterNetPostprocessSettings
from gluon_compress.validation import class_names

# Strides of the maps that losses may compare.
MAP_STRIDES = (STRIDE, 8, 16, TRUNK_STRIDE)


class CenterNetFamily(Family):
    """A heat map of centres, and two maps of sizes and offsets (Zhou et al. 2019)."""

    kind = "centernet"
    Config = CenterNetConfig
    Manifest = CenterNetManifest
    loss_options = ("iou_guided", "class_weights")
    Settings = CenterNetSettings
    output_names = OUTPUTS
    Evaluation = CenterNetEvaluation
    default_losses = {"heat_map": 1.0, "box_sizes": 0.1}

    def models(self) -> Sequence[str]:
        """Return the names of all structures."""
        return tuple(STRUCTURES)

    def backbone_of(self, name: str) -> str | None:
        """Return GluonCV's name of the classifier that a model stands on, if any."""
        return STRUCTURES[name].backbone

    def build(
        self,
        name: str,
        classes: Sequence[str] = VOC_CLASSES,
        *,
        seed: int = 0,
        trunk: Any = None,
        **settings: Any,
    ) -> HybridBlock:
        """Return an untrained detector by name.

        Parameters
        ----------
        name : str
            One of ``models``.
        classes : sequence of str
        seed : int
            Decides the initial values.
        trunk : path, optional
            Folder of a classifier's export to take the trunk from, with its weights;
            pruned or not. It needs a map at stride 32.
        **settings
            Fields of ``CenterNetConfig``, and what the neck takes: ``rung`` and
            ``bound`` of CoDeNet's deformable convolutions.

        Raises
        ------
        ValueError
            For an unknown setting, or a value that is not allowed.
        """
        structure = STRUCTURES[name]
        decoding = {f.name for f in fields(CenterNetConfig)} - {"classes"}
        check_options(settings, {*decoding, *structure.settings})
        stated = {"size": structure.size, **settings}
        config = CenterNetConfig(
            class_names(classes), **{k: v for k, v in stated.items() if k in decoding}
        )
        net = build_net(
            structure,
            config,
            trunk=None if trunk is None else _stored_trunk(trunk),
            seed=seed,
            **{k: v for k, v in settings.items() if k not in decoding},
        )
        return self.describe(net, config)

    def trunk_parameters(self, symbol: mx.sym.Symbol) -> set[str]:
        """Return the names of all parameters but those of neck and heads."""
        names = {*symbol.list_arguments(), *symbol.list_auxiliary_states()} - {"data"}
        return {name for name in names if not name.startswith(("neck", "head_"))}

    def with_classes(
        self, net: HybridBlock, classes: Sequence[str], *, seed: int = 0
    ) -> HybridBlock:
        """Return a detector whose last layer of the heat map is new."""
        config = replace(self.config_of(net), classes=class_names(classes))
        pair = with_outputs(
            *pair_of(net),
            len(config.classes),
            config.size,
            seed=seed,
            bias=HEAT_BIAS,
        )
        return self.from_symbol(*pair, config)

    def training_symbol(self, net: HybridBlock) -> mx.sym.Symbol:
        """Return the maps with deformable convolutions in their form for training."""
        return self.trainable(net, for_training(self.to_symbol(net)))

    def targets(self, net: HybridBlock, **settings: Any) -> Callable:
        """Return ``CenterNetTargets`` for the maps of a net."""
        config = self.config_of(net)
        return CenterNetTargets(len(config.classes), config.cells, **settings)

    def loss(self, net: HybridBlock, **options: Any) -> Callable:
        """Return the focal loss of the heat map and L1 losses of the other maps."""
        return partial(center_loss, **options)

    def map_symbols(self, symbol: mx.sym.Symbol) -> dict[str, mx.sym.Symbol]:
        """Return the maps at strides 4, 8, 16 and 32, by which the net is tied."""
        maps = taps_by_stride(symbol)
        found = [maps[stride] for stride in MAP_STRIDES if stride in maps]
        return {f"map{i}": one for i, one in enumerate(found)}

    def preprocess(self, net: HybridBlock) -> Preprocess:
        """Return how images are resized, whole, and normalized."""
        height, width = self.input_size(net)
        return Preprocess(height=height, width=width)

    def most_detections(self, net: HybridBlock) -> int:
        """Return how many boxes of an image can be found."""
        return self.config_of(net).peaks

    def postprocess(self, net: HybridBlock) -> CenterNetPostprocess:
        """Return decoding of peaks."""
        config = self.config_of(net)
        return CenterNetPostprocess(
            CenterNetPostprocessSettings(
                stride=STRIDE,
                peaks=config.peaks,
                least_score=config.least_score,
                flip_test=config.flip_test,
            )
        )

    def results_graph(self, net: HybridBlock) -> tuple[mx.sym.Symbol, dict]:
        """Return the graph up to ids, scores and corner boxes."""
        symbol, params = self.inference_graph(net)
        return results_symbol(symbol, self.config_of(net)), params


def _stored_trunk(folder: Any) -> tuple:
    """Return a classifier's export as a trunk."""
    symbol, params = stored_classifier(folder)
    tap = find_taps(symbol, shapes_of(params), (TRUNK_STRIDE,))[0]
    return block_of(tap, params), tap
