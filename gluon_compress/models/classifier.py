"""Classifiers by GluonCV's names as a family of nets.

A detector takes its backbone from a classifier's folder (``build(..., trunk=folder)``).
"""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from typing import Any, Callable, Mapping, Sequence, Tuple

import mxnet as mx
from gluoncv.model_zoo.model_zoo import _models
from gluoncv.model_zoo.resnetv1b import ResNetV1b
from mxnet.gluon import HybridBlock, nn

from gluon_compress.data import MEAN, STD, ClassTargets, Preprocess
from gluon_compress.graph import pair_of, symbol_of
from gluon_compress.graph.symbols import infer_shapes, shapes_of, take_apart
from gluon_compress.models.backbones import STRIDES, taps_by_stride
from gluon_compress.models.base import Family
from gluon_compress.models.initialize import initialize
from gluon_compress.models.last_layer import last_layer, with_outputs
from gluon_compress.models.named import NamedBlock, named
from gluon_compress.models.res2netlite import VARIANTS, res2netlite
from gluon_compress.models.settings import ClassifierSettings, check_options
from gluon_compress.postprocess import SoftmaxPostprocess
from gluon_compress.sizes import Size, size_pair, size_text, written_size
from gluon_compress.validation import (
    ClassNames,
    Count,
    Settings,
    class_names,
    parse,
    wrong,
)

KIND = "classifier"
OUTPUTS = ("class_scores",)
DEFAULT_SIZE = 224


@dataclass(frozen=True)
class ClassifierConfig:
    """What a classifier is beside its network.

    Parameters
    ----------
    classes : tuple of str
    size : tuple of int
        Height and width of the input, pixels; one number stands for a square.
    """

    classes: tuple[str, ...]
    size: tuple[int, int] = (DEFAULT_SIZE, DEFAULT_SIZE)

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", class_names(self.classes))
        object.__setattr__(self, "size", size_pair(self.size))


class ClassifierManifest(Settings):
    """What a manifest states of a classifier."""

    classes: ClassNames
    shape: Tuple[Count, Count, Count, Count]


class ClassifierFamily(Family):
    """Nets with one score a class."""

    kind = KIND
    Config = ClassifierConfig
    Settings = ClassifierSettings
    output_names = OUTPUTS

    def models(self) -> Sequence[str]:
        """Return the names of GluonCV's zoo that are no detectors, and our own."""
        others = [name for name, make in _models.items() if _has_no_base(make)]
        return [*VARIANTS, *others]

    def build(
        self,
        name: str,
        classes: Sequence[str],
        *,
        seed: int = 0,
        size: Size = DEFAULT_SIZE,
        **others: Any,
    ) -> HybridBlock:
        """Return an untrained classifier of GluonCV's zoo.

        Parameters
        ----------
        name : str
            As GluonCV's ``get_model`` takes it, or one of ``res2netlite.VARIANTS``.
        classes : sequence of str
        seed : int
            Decides the initial values.
        size : int or (int, int)
            Height and width of the images, pixels.
        **others
            None: a classifier has no other settings.

        Returns
        -------
        HybridBlock
            Images ``(B, 3, H, W)`` to scores ``(B, classes)``.

        Raises
        ------
        ValueError
            For a name GluonCV does not have, a net that is no classifier, another
            setting, or classes that are not distinct names.

        Notes
        -----
        Residual blocks that can start as the identity do so (Goyal et al. 2017, section
        5.1), as in GluonCV's own training of ImageNet.
        """
        check_options(others, ["size"])
        config = ClassifierConfig(class_names(classes), size_pair(size))
        net = _get(name, len(config.classes))
        try:
            symbol = symbol_of(net)
            initialize(net, symbol, size, seed=seed)
            stated = shapes_of({p.name: p for p in net.collect_params().values()})
            _, shapes = infer_shapes(symbol, {**stated, "data": (1, 3, *config.size)})
        except (mx.MXNetError, ValueError) as error:
            gist = str(error).splitlines()[0]
            raise ValueError(f"{name} at {size_text(size)} pixels: {gist}") from None
        if shapes != [(1, len(config.classes))]:
            raise ValueError(
                f"{name} gives {shapes}; allowed: one score for each class"
            )
        return self.describe(net, config)

    def manifest(self, net: HybridBlock) -> dict[str, Any]:
        """Return classes and input."""
        config = self.config_of(net)
        return {
            "kind": KIND,
            "classes": list(config.classes),
            "mean": list(MEAN),
            "std": list(STD),
            "size": written_size(config.size),
            "outputs": list(OUTPUTS),
        }

    def config_from_manifest(self, manifest: Mapping[str, Any]) -> ClassifierConfig:
        """Return the configuration that a manifest states, checked key by key."""
        stated = {
            "classes": manifest.get("classes"),
            "shape": manifest["input"]["shape"],
        }
        checked = parse(ClassifierManifest, stated)
        size = checked.shape[2:]
        if size_pair(manifest.get("size", size)) != size:
            allowed = f"{written_size(size)}, for input.shape ends in {list(size)}"
            raise wrong("size", manifest["size"], allowed)
        for output in manifest["outputs"]:
            if output["shape"][1:] != [len(checked.classes)]:
                allowed = f"as many names as outputs has scores, {output['shape'][1:]}"
                raise wrong("classes", checked.classes, allowed)
        return ClassifierConfig(checked.classes, size)

    def trunk_parameters(self, symbol: mx.sym.Symbol) -> set[str]:
        """Return the names of all parameters but those of the last layer."""
        nodes, heads = take_apart(symbol)
        last = {nodes[e[0]]["name"] for e in last_layer(nodes, heads[0])["inputs"]}
        return {*symbol.list_arguments(), *symbol.list_auxiliary_states()} - last

    def with_classes(
        self, net: HybridBlock, classes: Sequence[str], *, seed: int = 0
    ) -> HybridBlock:
        """Return a classifier whose last layer is new.

        Raises
        ------
        ValueError
            If the classes are not distinct names, or the last layer cannot be found.
        """
        config = ClassifierConfig(class_names(classes), self.input_size(net))
        pair = with_outputs(*pair_of(net), len(config.classes), config.size, seed=seed)
        return self.from_symbol(*pair, config)

    def training_net(
        self,
        net: HybridBlock,
        taps: Sequence[str] = (),
        *,
        adapters: Sequence[int] = (),
        stride: int = 1,
        seed: int = 0,
    ) -> NamedBlock:
        """Return the net itself with named outputs, or its symbol.

        The symbol has taps, or is one that MXNet's kernels can train.
        """
        symbol = self.to_symbol(net)
        if not taps and self.trainable(net, symbol) is symbol:
            return NamedBlock(net, OUTPUTS, self._input_shape(net))
        return super().training_net(
            net, taps, adapters=adapters, stride=stride, seed=seed
        )

    def targets(self, net: HybridBlock, **settings: Any) -> Callable:
        """Return ``ClassTargets``: class ids to probabilities."""
        return ClassTargets(len(self.classes_of(net)), **settings)

    def loss(self, net: HybridBlock, **options: Any) -> Callable:
        """Return the cross-entropy with target probabilities ``(B, C)``."""
        return cross_entropy

    def map_symbols(self, symbol: mx.sym.Symbol) -> dict[str, mx.sym.Symbol]:
        """Return the maps at strides 8, 16 and 32, where there are any."""
        by_stride = taps_by_stride(symbol)
        maps = [by_stride[stride] for stride in STRIDES if stride in by_stride]
        return {f"map{i}": tap for i, tap in enumerate(maps)}

    def preprocess(self, net: HybridBlock) -> Preprocess:
        """Return how images are resized, cropped to their centre and normalized."""
        return Preprocess.centre_crop(*self.input_size(net))

    def postprocess(self, net: HybridBlock) -> SoftmaxPostprocess:
        """Return the softmax and the most probable classes."""
        return SoftmaxPostprocess()


def cross_entropy(outputs: Any, batch: Sequence) -> tuple[mx.nd.NDArray, dict]:
    """Return the cross-entropy of scores with the target probabilities of a batch."""
    scores = named(outputs, OUTPUTS)["class_scores"]
    log_shares = mx.nd.log_softmax(scores, axis=1)
    return -(log_shares * batch[1]).sum(axis=1).mean(), {}


def _has_no_base(make: Callable) -> bool:
    # Nets that know of a base are detectors and the like, and would fetch it.
    return "pretrained_base" not in signature(make).parameters


def _get(name: str, classes: int) -> HybridBlock:
    if name in VARIANTS:
        return res2netlite(name, classes)
    make = _models.get(name.lower())
    if make is not None and _has_no_base(make):
        for extra in ({"last_gamma": True}, {}):  # not every net knows it
            try:
                net = make(pretrained=False, classes=classes, **extra)
            except (TypeError, Warning):  # Darknet raises a Warning
                continue
            return _resized_output(net, classes)
    allowed = "classifiers of GluonCV, as resnet50_v1d or mobilenet1.0"
    raise ValueError(f"model {name!r}; allowed: {allowed}")


def _resized_output(net: HybridBlock, classes: int) -> HybridBlock:
    """Give GluonCV's pruned ResNets, whose widths come from a file, other classes."""
    if isinstance(net, ResNetV1b) and net.fc.weight.shape[0] != classes:
        with net.name_scope():
            net.fc = nn.Dense(classes, in_units=net.fc.weight.shape[1])
    return net
