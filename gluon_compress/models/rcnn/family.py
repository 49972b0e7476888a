"""Two-stage detectors as families of nets: Faster R-CNN and Mask R-CNN."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Callable, ClassVar, Sequence

import mxnet as mx
from mxnet.gluon import HybridBlock, SymbolBlock

from gluon_compress.data import Preprocess
from gluon_compress.graph import NetAdapter, block_of, give_value, pair_of
from gluon_compress.graph.annotations import bake_weights
from gluon_compress.graph.symbols import put_together, shapes_of, take_apart
from gluon_compress.models.backbones import (
    BACKBONES,
    RESNETS,
    find_taps,
    stored_classifier,
)
from gluon_compress.models.base import Family, LaterStage
from gluon_compress.models.initialize import initialize
from gluon_compress.models.rcnn import gluoncv
from gluon_compress.models.rcnn import net as parts
from gluon_compress.models.rcnn.config import RCNNConfig
from gluon_compress.models.rcnn.inference import INPUTS, OUTPUTS, stages_of
from gluon_compress.models.rcnn.manifest import RCNNManifest
from gluon_compress.models.rcnn.settings import (
    MaskRCNNSettings,
    RCNNEvaluation,
    RCNNSettings,
)
from gluon_compress.models.rcnn.training import RCNNLoss, RCNNTargets, training_net
from gluon_compress.models.settings import check_options
from gluon_compress.models.ssd.config import VOC_CLASSES
from gluon_compress.postprocess.rcnn import (
    FEATURES,
    HEADS,
    MAPS,
    MASK,
    POOLED,
    RATIOS,
    REGIONS,
    UNIT,
    RCNNPostprocess,
    RCNNPostprocessSettings,
)
from gluon_compress.validation import class_names

# Trunks of which models are as wide, and look at as many proposals, as in GluonCV.
WIDE = tuple(
    name
    for name in RESNETS
    if not name.startswith(("resnet18", "resnet34", "resnet50_v1d_"))
)
GLUONCV = {
    "fpn_channels": 256,
    "rpn_channels": 1024,
    "head_channels": 1024,
    "rpn_pre_nms": 6000,
    "rpn_post_nms": 1000,
    "roi_samples": 512,
}
LIGHT = {"fpn_channels": 128, "rpn_channels": 128, "head_channels": 512}
STRUCTURE = ("fpn_channels", "rpn_channels", "head_channels", "roi_size")
BLOCKS = tuple(f"layer{i + 1}" for i in range(len(POOLED)))  # taps of the trunk


class RCNNFamily(Family):
    """Faster R-CNN (Ren et al. 2015) with a feature pyramid (Lin et al. 2017)."""

    kind = "rcnn"
    Config = RCNNConfig
    Manifest = RCNNManifest
    Settings = RCNNSettings
    output_names: ClassVar[tuple] = parts.OUTPUTS
    Evaluation = RCNNEvaluation
    default_losses = {"hints": 1.0}
    loss_options = ("iou_guided", "class_weights")
    loss_of_outputs = False  # the second stage runs where the first one's loss is known
    begin = "faster_rcnn_fpn_"  # of the names of models
    masks = False

    def models(self) -> Sequence[str]:
        """Return the names of detectors on all backbones."""
        return tuple(f"{self.begin}{name}" for name in BACKBONES)

    def backbone_of(self, name: str) -> str:
        """Return the name of the classifier that a model stands on."""
        return name[len(self.begin) :]

    def usual(self, name: str) -> dict[str, Any]:
        """Return what a model has where nothing else is stated."""
        return GLUONCV if self.backbone_of(name) in WIDE else LIGHT

    def build(
        self,
        name: str,
        classes: Sequence[str] = VOC_CLASSES,
        *,
        seed: int = 0,
        trunk: Any = None,
        fixed_norms: bool = False,
        **settings: Any,
    ) -> HybridBlock:
        """Return an untrained two-stage detector by name.

        Parameters
        ----------
        name : str
            One of ``models``.
        classes : sequence of str
            Foreground classes.
        seed : int
            Decides the initial values.
        trunk : path, optional
            Folder of a classifier's export to take the trunk from, with its weights;
            pruned or not. It needs maps at strides 4, 8, 16 and 32.
        fixed_norms : bool
            Whether BatchNorm uses its running statistics in training too.
        **settings
            Fields of ``RCNNConfig``, and ``fpn_channels``, ``rpn_channels``,
            ``head_channels`` and ``roi_size``, as ``two_stage`` takes them.

        Raises
        ------
        ValueError
            For an unknown setting, or a value that is not allowed.
        """
        known = {f.name for f in fields(RCNNConfig)} - {"classes"}
        check_options(settings, {*known, *STRUCTURE})
        stated = {"roi_size": 7, **self.usual(name), **settings}
        structure = {key: _width(key, stated[key]) for key in STRUCTURE}
        config = RCNNConfig(
            class_names(classes), **{k: v for k, v in stated.items() if k in known}
        )
        if trunk is None:
            block, taps = _own_trunk(self.backbone_of(name))
        else:
            block, taps = _stored_trunk(trunk)
        symbol = parts.two_stage(taps, config, masks=self.masks, **structure)
        if fixed_norms:
            symbol = _with_fixed_norms(symbol)
        data = mx.sym.var("data", dtype="float32")
        net = SymbolBlock(symbol, data, params=block.collect_params())
        _set_regions(net, config)
        initialize(net, symbol, config.size, seed=seed, start_of=parts.start_of)
        return self.describe(net, config)

    def from_gluoncv(
        self, net: HybridBlock, *, size: Any = None, ratios: Sequence[float] = RATIOS
    ) -> HybridBlock:
        """Return one of GluonCV's detectors with a feature pyramid as one of these.

        It finds what GluonCV's does, with a copy of its weights; what it is trained
        further for has a trunk as GluonCV made it, often with fixed BatchNorm.

        Parameters
        ----------
        net : FasterRCNN or MaskRCNN
            Initialised, and called once.
        size, ratios
            As ``gluoncv.config_from`` takes them.

        Raises
        ------
        ValueError
            For another kind of net, or one of another structure.
        """
        allowed = gluoncv.MaskRCNN if self.masks else gluoncv.FasterRCNN
        if (
            not isinstance(net, allowed)
            or isinstance(net, gluoncv.MaskRCNN) != self.masks
        ):
            raise ValueError(
                f"a {type(net).__name__}; allowed: GluonCV's {allowed.__name__}"
            )
        found = gluoncv.values_from(net)
        config = gluoncv.config_from(net, size, ratios)
        symbol = gluoncv.symbol_from(net, config)
        regions = mx.nd.array(parts.reference_regions(config))
        ours = {*symbol.list_inputs()} - {"data", REGIONS}
        gluoncv.check_names(dict.fromkeys(ours), found)
        values = {name: p.data(p.list_ctx()[0]) for name, p in found.items()}
        return self.from_symbol(symbol, {**values, REGIONS: regions}, config)

    def describe(self, net: HybridBlock, config: RCNNConfig) -> HybridBlock:
        """Make a net one of this family; its reference regions are not trained."""
        for parameter in net.collect_params().values():
            if parameter.name == REGIONS:
                parameter.grad_req = "null"
        return super().describe(net, config)

    def trunk_parameters(self, symbol: mx.sym.Symbol) -> set[str]:
        """Return the names of the trunk's parameters."""
        return parts.trunk_parameters(symbol)

    def with_classes(
        self, net: HybridBlock, classes: Sequence[str], *, seed: int = 0
    ) -> HybridBlock:
        """Return a detector whose last layers of the second stage are new."""
        pair, config = pair_of(net), self.config_of(net)
        names = class_names(classes)
        return self.from_symbol(*parts.with_classes(*pair, config, names, seed=seed))

    def training_net(self, net: HybridBlock, taps: Sequence[str] = (), **options: Any):
        """Return the first stage as a block; see ``models.rcnn.training``."""
        return training_net(self, net, taps, **options)

    def targets(self, net: HybridBlock, **settings: Any) -> Callable:
        """Return what pads labels: targets depend on what the net proposes."""
        return RCNNTargets()

    def loss(self, net: HybridBlock, **options: Any) -> Callable:
        """Return the losses of both stages."""
        return RCNNLoss.of(self.config_of(net), self.postprocess(net), **options)

    def map_symbols(self, symbol: mx.sym.Symbol) -> dict[str, mx.sym.Symbol]:
        """Return the trunk's outputs, ``layer1`` to ``layer4``, and the pyramid's maps.

        They are ``map0``, at stride 4, to ``map3``.
        """
        maps = parts.map_symbols(symbol)
        return {**trunk_symbols(symbol), **maps}

    def preprocess(self, net: HybridBlock) -> Preprocess:
        """Return how images are scaled, keeping their ratio, and normalized."""
        config = self.config_of(net)
        height, width = config.size
        return Preprocess(
            height=height,
            width=width,
            keep_ratio=True,
            short=config.short,
            unit=UNIT,
        )

    def most_detections(self, net: HybridBlock) -> int:
        """Return how many boxes of an image can be left after NMS."""
        config = self.config_of(net)
        return min(config.post_nms, config.nms_topk)

    def postprocess(self, net: HybridBlock) -> RCNNPostprocess:
        """Return proposals, decoding and NMS."""
        values = vars(self.config_of(net))
        names = set(RCNNPostprocessSettings.model_fields)
        settings = {n: v for n, v in values.items() if n in names}
        return RCNNPostprocess(RCNNPostprocessSettings(**settings))

    def net_adapter(self) -> NetAdapter:
        """Return how tracing takes a net apart: both stages at once."""
        return NetAdapter(self.to_symbol, self._rebuilt, self._input_shape)

    def inference_graph(self, net: HybridBlock) -> tuple[mx.sym.Symbol, dict]:
        """Return the first stage, and its parameters."""
        stage = self._stages(net)[FEATURES]
        return stage.symbol, dict(stage.params)

    def later_stages(self, net: HybridBlock) -> dict[str, LaterStage]:
        """Return the stages that read the pyramid's maps in regions."""
        stages = self._stages(net)
        return {name: stage for name, stage in stages.items() if name != FEATURES}

    def _stages(self, net: HybridBlock) -> dict[str, LaterStage]:
        symbol, params = pair_of(net)
        nodes, heads, params = bake_weights(*take_apart(symbol), params)
        symbols = parts.stages(put_together(nodes, heads))
        config, image = self.config_of(net), self._input_shape(net)
        sides = self._map_shapes(net, [*parts.map_symbols(symbol).values()])
        counts = {HEADS: config.rpn_post_nms, MASK: config.post_nms}
        shapes = {"data": image, **dict(zip(MAPS, sides))}
        stages = {}
        for name, part in symbols.items():
            count = counts.get(name, 1)
            shapes[REGIONS] = (count, parts.REGION)
            names = [n for n in part.list_inputs() if n not in INPUTS[name]]
            stages[name] = LaterStage(
                _renamed(part, OUTPUTS[name]),
                {n: params[n] for n in names},
                {n: shapes[n] for n in INPUTS[name]},
                OUTPUTS[name],
                {REGIONS: parts.reference_regions(config)[:count]},
            )
        return stages

    def outputs(self, net: HybridBlock, batch: mx.nd.NDArray) -> dict[str, Any]:
        """Return what ``postprocess.run`` does of a batch in Gluon."""
        stages = stages_of(net, self.to_symbol(net))
        return self.postprocess(net).run(stages, batch.asnumpy())

    def results(self, net: HybridBlock, batch: mx.nd.NDArray) -> tuple:
        """Return ids, scores and corner boxes of a batch."""
        return self.postprocess(net).decode(self.outputs(net, batch))


class MaskRCNNFamily(RCNNFamily):
    """Mask R-CNN (He et al. 2017): to run, to export and to split, not to train."""

    kind = "mask_rcnn"
    Settings = MaskRCNNSettings
    output_names = parts.MASK_OUTPUTS
    begin = "mask_rcnn_fpn_"
    masks = True

    def usual(self, name: str) -> dict[str, Any]:
        """Return what a model has where nothing else is stated."""
        usual = {**super().usual(name), "clip": 4.42}
        if self.backbone_of(name) in WIDE:
            usual["roi_size"] = 14
        return usual

    def loss(self, net: HybridBlock, **options: Any) -> Callable:
        """Refuse to train.

        Raises
        ------
        ValueError
            Always.
        """
        raise ValueError(
            f"nets of kind {self.kind!r} are not trained here; allowed: 'rcnn'"
        )


def trunk_symbols(symbol: mx.sym.Symbol) -> dict[str, mx.sym.Symbol]:
    """Return the outputs of a trunk's stages at strides 4 to 32, by name."""
    internals = symbol.get_internals()
    laterals = [
        internals[f"{parts.PREFIX}lateral{i}_output"] for i in range(len(BLOCKS))
    ]
    return {name: lateral.get_children()[0] for name, lateral in zip(BLOCKS, laterals)}


def _renamed(symbol: mx.sym.Symbol, names: Sequence[str]) -> mx.sym.Symbol:
    """Return a symbol whose outputs are of nodes with these names."""
    nodes, heads = take_apart(symbol)
    for (node, *_), name in zip(heads, names):
        if nodes[node]["name"] != name:
            nodes[node] = {**nodes[node], "name": name}
    return put_together(nodes, heads)


def _width(key: str, value: Any) -> int:
    least = 1 if key == "roi_size" else 2
    if not isinstance(value, int) or value < least:
        raise ValueError(f"{key} is {value!r}; allowed: a whole number from {least}")
    return value


def _own_trunk(name: str) -> tuple[HybridBlock, list[mx.sym.Symbol]]:
    """Return a classifier, not initialised, and its maps at all four strides."""
    net, taps = BACKBONES[name]()
    return net, [*find_taps(taps[-1], strides=POOLED[:1]), *taps]


def _stored_trunk(folder: Any) -> tuple[HybridBlock, list[mx.sym.Symbol]]:
    """Return a classifier's export as a trunk."""
    symbol, params = stored_classifier(folder)
    taps = find_taps(symbol, shapes_of(params), POOLED)
    return block_of(mx.sym.Group(taps), params), taps


def _with_fixed_norms(symbol: mx.sym.Symbol) -> mx.sym.Symbol:
    """Return a symbol whose BatchNorms use running statistics in training too."""
    nodes, heads = take_apart(symbol)
    for node in nodes:
        if node["op"] == "BatchNorm":
            node["attrs"] = {**node["attrs"], "use_global_stats": "True"}
    return put_together(nodes, heads)


def _set_regions(net: HybridBlock, config: RCNNConfig) -> None:
    values = mx.nd.array(parts.reference_regions(config))
    for parameter in net.collect_params().values():
        if parameter.name == REGIONS:
            give_value(parameter, values)
