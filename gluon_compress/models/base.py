"""What a kind of net says about itself: the interface ``Family``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Callable, ClassVar, Mapping, Optional, Sequence, Type

import mxnet as mx
from mxnet.gluon import HybridBlock, SymbolBlock

from gluon_compress.data import Objects, Preprocess
from gluon_compress.data.normalization import MEAN, STD
from gluon_compress.graph import NET_ADAPTERS, NetAdapter, block_of, pair_of
from gluon_compress.graph.concats import with_plain_gradients
from gluon_compress.graph.symbols import (
    infer_shapes,
    put_together,
    shapes_of,
    take_apart,
)
from gluon_compress.models.initialize import initialize
from gluon_compress.models.named import NamedBlock, named
from gluon_compress.models.settings import EvaluationSettings, ModelSettings
from gluon_compress.models.stated import stated_by, values_from
from gluon_compress.models.taps import adapt, subsample, subsampling
from gluon_compress.postprocess import Postprocess, decoded
from gluon_compress.validation import listed

Params = Mapping[str, mx.nd.NDArray]


@dataclass(frozen=True)
class LaterStage:
    """A part of a net that runs behind another, on inputs made of its outputs.

    Parameters
    ----------
    symbol : Symbol
    params : mapping
        Values of its parameters.
    inputs : dict
        Shapes of its inputs for one image, by name.
    outputs : tuple of str
        Names.
    examples : dict
        Values of inputs that cannot be just any numbers, to time it with.
    """

    symbol: mx.sym.Symbol
    params: Params
    inputs: Mapping[str, tuple]
    outputs: tuple
    examples: Mapping[str, Any] = field(default_factory=dict)


class Family(ABC):
    """One kind of net: how it is built, trained, stored and deployed.

    A net of a family is its symbol and parameters, and a configuration that states
    the rest: classes, input size, constants of decoding. The configuration travels with
    the net: what ``mask``, ``slim`` and ``recalibrate`` return has it too.

    To add a family, subclass this and add one row to ``FAMILIES``. A configuration is
    a dataclass with ``classes`` and ``size`` (height, width); where a family keeps them
    elsewhere, it overrides ``classes_of`` and ``input_size``.

    Attributes
    ----------
    kind : str
        Of manifests and of the model zoo's index.
    Config : type
        What a net is beside its symbol.
    Settings : type
        What a recipe may state of a net in ``model``: a class of ``ModelSettings``.
    output_names : tuple of str
        Of the outputs of ``to_symbol``.
    Manifest : type, optional
        What a manifest states of ``Config``, as ``stated_by`` takes it. A family
        without has ``manifest`` and ``config_from_manifest`` of its own.
    in_symbol : mapping
        Values of the fields of ``Config`` that a manifest does not state, since the
        symbol holds what they decide.
    net_types : tuple of type
        Classes of nets that belong to the family without having been described.
    Evaluation : type, optional
        What a recipe may state in ``evaluate``, if that is more than its task has.
    default_losses : mapping
        Weights of distillation losses, where a recipe names none.
    loss_options : tuple of str
        Strategies of ``LossSettings`` that ``loss`` takes as keywords.
    loss_of_outputs : bool
        Whether ``loss`` is a function of the outputs, and runs no part of the net.
    """

    kind: ClassVar[str]
    Config: ClassVar[type]
    Settings: ClassVar[Type[ModelSettings]] = ModelSettings
    output_names: ClassVar[tuple]
    Manifest: ClassVar[Optional[Type[Any]]] = None
    in_symbol: ClassVar[Mapping[str, Any]] = {}
    net_types: ClassVar[tuple] = ()
    Evaluation: ClassVar[Optional[Type[EvaluationSettings]]] = None
    default_losses: ClassVar[Mapping[str, float]] = {}
    loss_options: ClassVar[tuple] = ()
    loss_of_outputs: ClassVar[bool] = True

    @property
    def task(self) -> str:
        """The task whose recipes may name models of the family."""
        return self.Settings.task

    # Build and describe.

    @abstractmethod
    def models(self) -> Sequence[str]:
        """Return the names that ``build`` takes."""

    @abstractmethod
    def build(
        self, name: str, classes: Sequence[str], *, seed: int = 0, **config: Any
    ) -> HybridBlock:
        """Return an untrained net by name, initialised by ``seed``."""

    def backbone_of(self, name: str) -> str | None:
        """Return GluonCV's name of the classifier that a model stands on, if any.

        ``build`` of such a model takes the folder of its export as ``trunk``.
        """
        return None

    def settled(self, settings: Any, objects: Objects) -> Any:
        """Return settings whose ``undecided`` ones the training images have decided.

        Parameters
        ----------
        settings : ModelSettings
            Of a model of this family.
        objects : data.Objects
            Of the training images, in pixels of the net's input.

        Raises
        ------
        ValueError
            If there are too few objects.
        """
        return settings

    def anchor_layout(self, settings: Any, size: tuple[int, int]) -> Any:
        """Return the ``AnchorLayout`` of a model, None if there are none to fit.

        Parameters
        ----------
        settings : ModelSettings
        size : (int, int)
            Height and width of the net's input.
        """
        return None

    def owns(self, net: Any) -> bool:
        """Return whether a net is of this family."""
        described = getattr(net, "family", None)
        return (
            isinstance(net, self.net_types)
            if described is None
            else (described is self)
        )

    def describe(self, net: HybridBlock, config: Any) -> HybridBlock:
        """Make a net one of this family, and return it.

        Its configuration is attached, so that pruning can hand it on; ``net.classes``
        are the names of its classes, as in GluonCV.
        """
        net.family, net.family_config = self, config
        net.classes = self.classes_of(net)
        net.net_adapter = self.net_adapter()
        return net

    def net_adapter(self) -> NetAdapter:
        """Return how tracing and pruning take a net apart and put it together."""
        return NetAdapter(
            self.to_symbol, self._rebuilt, self._input_shape, self.inference_graph
        )

    def _rebuilt(self, net: Any, symbol: mx.sym.Symbol, params: Params) -> HybridBlock:
        return self.from_symbol(symbol, params, self.config_of(net))

    def _input_shape(self, net: HybridBlock) -> tuple[int, ...]:
        return (1, 3, *self.input_size(net))

    def config_of(self, net: HybridBlock) -> Any:
        """Return the configuration of a net of this family."""
        return net.family_config

    def classes_of(self, net: HybridBlock) -> tuple[str, ...]:
        """Return the names of the classes that a net tells apart."""
        return tuple(self.config_of(net).classes)

    def input_size(self, net: HybridBlock) -> tuple[int, int]:
        """Return height and width of a net's input, pixels."""
        height, width = self.config_of(net).size
        return height, width

    # As a symbol, and in a folder.

    def to_symbol(self, net: HybridBlock) -> mx.sym.Symbol:
        """Return what is traced, pruned and exported, from the variable ``data``."""
        return NET_ADAPTERS[HybridBlock].symbol(net)

    def from_symbol(
        self, symbol: mx.sym.Symbol, params: Params, config: Any
    ) -> HybridBlock:
        """Return the net of a symbol that ``to_symbol`` gave, pruned or not."""
        return self.describe(block_of(symbol, params), config)

    def manifest(self, net: HybridBlock) -> dict[str, Any]:
        """Return the keys that a manifest states about a net, JSON-able.

        ``kind`` and ``outputs`` (the names) are among them.
        """
        if self.Manifest is None:
            raise NotImplementedError(f"{type(self).__name__} has no Manifest")
        return {
            "kind": self.kind,
            "outputs": list(self.output_names),
            "mean": list(MEAN),
            "std": list(STD),
            **stated_by(self.Manifest, self.config_of(net)),
        }

    def config_from_manifest(self, manifest: Mapping[str, Any]) -> Any:
        """Return the configuration that a manifest states.

        Raises
        ------
        ValueError
            Naming a key that is missing or unknown, or its value and what is allowed.
        """
        if self.Manifest is None:
            raise NotImplementedError(f"{type(self).__name__} has no Manifest")
        return self.Config(**values_from(self.Manifest, manifest), **self.in_symbol)

    def trunk_parameters(self, symbol: mx.sym.Symbol) -> set[str]:
        """Return the names of parameters that any task shares: the backbone's."""
        raise ValueError(f"nets of kind {self.kind!r} have no backbone weights")

    @abstractmethod
    def with_classes(
        self, net: HybridBlock, classes: Sequence[str], *, seed: int = 0
    ) -> HybridBlock:
        """Return a net of other classes on the same features; ``net`` stays as is."""

    # Training.

    def training_symbol(self, net: HybridBlock) -> mx.sym.Symbol:
        """Return what ``training_net`` computes: ``to_symbol`` in any form of it."""
        return self.trainable(net, self.to_symbol(net))

    def trainable(self, net: HybridBlock, symbol: mx.sym.Symbol) -> mx.sym.Symbol:
        """Return a symbol of a net's parameters as MXNet's kernels can train it.

        It is the same one where nothing has to change.
        """
        stated = shapes_of({p.name: p for p in net.collect_params().values()})
        return with_plain_gradients(symbol, {**stated, "data": self._input_shape(net)})

    def training_net(
        self,
        net: HybridBlock,
        taps: Sequence[str] = (),
        *,
        adapters: Sequence[int] = (),
        stride: int = 1,
        seed: int = 0,
    ) -> NamedBlock:
        """Return a block for training that shares the net's parameters.

        It is ``training_symbol``, and ``map_symbols`` of it where there are taps.

        Parameters
        ----------
        net : HybridBlock
            Initialised.
        taps : sequence of str
            Feature maps that are outputs too, of ``map_names``.
        adapters : sequence of int
            Channels that 1x1 convolutions bring these maps to, for a student; they
            belong to the returned block alone.
        stride : int
            Of large maps only every n-th cell in each direction is given.
        seed : int
            Decides the adapters' initial values.

        Returns
        -------
        NamedBlock
            Images to a mapping of ``output_names`` and ``taps`` to arrays.
        """
        symbol, data = self.training_symbol(net), mx.sym.var("data", dtype="float32")
        shape = self._input_shape(net)
        if not taps:
            block = SymbolBlock(symbol, data, params=net.collect_params())
            return NamedBlock(block, self.output_names, shape)
        outputs = self.tapped(net, symbol, taps, adapters=adapters, stride=stride)
        symbol = mx.sym.Group([symbol, *outputs])
        block = SymbolBlock(symbol, data, params=net.collect_params())
        initialize(block, symbol, self.input_size(net), seed=seed)
        return NamedBlock(block, (*self.output_names, *taps), shape)

    def tapped(
        self,
        net: HybridBlock,
        symbol: mx.sym.Symbol,
        taps: Sequence[str],
        *,
        adapters: Sequence[int] = (),
        stride: int = 1,
    ) -> list[mx.sym.Symbol]:
        """Return the maps of taps as ``training_net`` gives them.

        Parameters
        ----------
        net : HybridBlock
        symbol : Symbol
            Of ``training_symbol``.
        taps, adapters, stride
            As ``training_net`` takes them.

        Raises
        ------
        ValueError
            For a map that there is not.
        """
        if not taps:
            return []
        maps = self.map_symbols(symbol)
        for name in taps:
            if name not in maps:
                raise ValueError(f"tap {name!r}; allowed: {listed(maps) or 'none'}")
        chosen = [maps[name] for name in taps]
        shapes = self._map_shapes(net, chosen)
        steps = subsampling([shape[2:] for shape in shapes], stride)
        return adapt(chosen, adapters, steps) if adapters else subsample(chosen, steps)

    @abstractmethod
    def targets(self, net: HybridBlock, **settings: Any) -> Callable:
        """Return what turns the labels of a batch into target arrays."""

    @abstractmethod
    def loss(self, net: HybridBlock, **options: Any) -> Callable:
        """Return ``loss(outputs, batch) -> (loss, {part: value})``.

        ``outputs`` are those of ``training_net`` by name; a batch is the images and
        then the arrays of ``targets``. ``options`` are those of ``loss_options`` that
        are on.
        """

    # Distillation.

    def map_symbols(self, symbol: mx.sym.Symbol) -> dict[str, mx.sym.Symbol]:
        """Return the feature maps that losses may compare, by name.

        Parameters
        ----------
        symbol : Symbol
            As ``to_symbol`` gives it.
        """
        return {}

    def map_names(self, net: HybridBlock) -> tuple[str, ...]:
        """Return the names of the feature maps that losses may compare."""
        return tuple(self.map_symbols(self.to_symbol(net)))

    def map_widths(self, net: HybridBlock) -> tuple[int, ...]:
        """Return the channels of each feature map."""
        maps = self.map_symbols(self.to_symbol(net))
        if not maps:
            return ()
        return tuple(shape[1] for shape in self._map_shapes(net, [*maps.values()]))

    def _map_shapes(self, net: HybridBlock, maps: Sequence) -> list[tuple[int, ...]]:
        """Return the shapes of feature maps for one image."""
        stated = shapes_of({p.name: p for p in net.collect_params().values()})
        shapes = {**stated, "data": self._input_shape(net)}
        return infer_shapes(mx.sym.Group(list(maps)), shapes)[1]

    def check_teacher(self, student: HybridBlock, teacher: HybridBlock) -> None:
        """Raise ValueError for a teacher whose outputs mean something else."""
        for words, ask in (("classes", self.classes_of), ("size", self.input_size)):
            if ask(student) != ask(teacher):
                raise ValueError(
                    f"{words}: the teacher has {ask(teacher)}, the student "
                    f"{ask(student)}; allowed: the student's"
                )

    def loss_context(
        self, net: HybridBlock, taps: Sequence[str], *, stride: int = 1
    ) -> dict[str, Any]:
        """Return what distillation losses of this family need beside outputs."""
        return {}

    # Inference.

    @abstractmethod
    def preprocess(self, net: HybridBlock) -> Preprocess:
        """Return the ``Preprocess`` of a net's images."""

    def most_detections(self, net: HybridBlock) -> Optional[int]:
        """Return how many objects of an image a detector can find; None: any number."""
        return None

    @abstractmethod
    def postprocess(self, net: HybridBlock) -> Postprocess:
        """Return the ``Postprocess`` of a net's outputs."""

    def inference_graph(self, net: HybridBlock) -> tuple[mx.sym.Symbol, dict]:
        """Return the symbol that runtimes get, and its parameters.

        Its outputs are those of ``to_symbol``, by ``output_names``. A family may join
        them along their last axis into one, which ``postprocess`` then has to read.
        """
        symbol, params = pair_of(net)
        nodes, heads = take_apart(symbol)
        for (node, *_), name in zip(heads, self.output_names):
            nodes[node]["name"] = name
        return put_together(nodes, heads), params

    def later_stages(self, net: HybridBlock) -> dict[str, LaterStage]:
        """Return what runtimes get beside ``inference_graph``, by name.

        Nets whose parts have something between them that is no part of any graph have
        later stages. ``postprocess.run`` runs one after the other.
        """
        return {}

    def results_graph(self, net: HybridBlock) -> tuple[mx.sym.Symbol, dict] | None:
        """Return the graph up to what ``postprocess.decode`` gives, if there is one."""
        return None

    def results(self, net: HybridBlock, batch: mx.nd.NDArray) -> tuple:
        """Return what ``postprocess.decode`` makes of a batch of inputs in Gluon."""

        def run(images: mx.nd.NDArray) -> dict:
            outputs = named(net(images), self.output_names)
            return {name: array.asnumpy() for name, array in outputs.items()}

        mirror = partial(mx.nd.flip, axis=3)
        return decoded(self.postprocess(net), run, batch, mirror)
