"""What is deployed of a net: the inference graph, preprocess and postprocess."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Mapping, Optional, Tuple

import mxnet as mx

from gluon_compress.cost import count
from gluon_compress.data import Preprocess
from gluon_compress.deployment.folding import fold
from gluon_compress.graph import trace
from gluon_compress.graph.symbols import infer_shapes, shapes_of
from gluon_compress.model_folder import check_values
from gluon_compress.models.base import LaterStage
from gluon_compress.models.family import family_of
from gluon_compress.postprocess import Postprocess

Pair = Tuple[mx.sym.Symbol, Mapping[str, mx.nd.NDArray]]


@dataclass(frozen=True)
class Deployable:
    """Everything that ``deploy`` needs from a net.

    Parameters
    ----------
    kind : str
        Kind of the net's family.
    graph : tuple
        Symbol and parameters from images to the outputs that ``postprocess`` reads,
        BatchNorm folded.
    results_graph : tuple, optional
        The same with the postprocess, for programs that only have MXNet. None if the
        family has no such graph.
    preprocess : Preprocess
    postprocess : Postprocess
    classes : tuple of str
    cost : dict
        MACs, FLOPs, parameters and bytes of the net.
    stages : dict
        By name what runs behind ``graph``, BatchNorm folded, on what the postprocess
        makes of its outputs.
    """

    kind: str
    graph: Pair
    results_graph: Optional[Pair]
    preprocess: Preprocess
    postprocess: Postprocess
    classes: tuple
    cost: Mapping[str, Any]
    stages: Mapping[str, LaterStage] = field(default_factory=dict)

    @classmethod
    def of(cls, net: Any) -> Deployable:
        """Return what is deployed of a net, which is not changed.

        Raises
        ------
        ValueError
            If its family cannot be deployed, a parameter is not float32 or not finite,
            or a runtime without Gluon cannot express its settings.
        """
        family = family_of(net)
        # Graphs are for inputs of one size.
        preprocess, postprocess = family.preprocess(net).fixed, family.postprocess(net)
        results_graph = family.results_graph(net)
        symbol, params = family.inference_graph(net)
        check_values(params)
        stages = family.later_stages(net)
        for stage in stages.values():
            check_values(stage.params)
        return cls(
            kind=family.kind,
            graph=fold(symbol, params, preprocess.shape),
            results_graph=None if results_graph is None else fold(*results_graph),
            preprocess=preprocess,
            postprocess=postprocess,
            classes=tuple(family.classes_of(net)),
            cost=count(trace(net, shape=preprocess.shape)).figures(),
            stages={name: folded_stage(stage) for name, stage in stages.items()},
        )

    @property
    def output_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the outputs of ``graph`` for one image, by name."""
        symbol, params = self.graph
        shapes = {**shapes_of(params), "data": self.preprocess.shape}
        return dict(zip(output_names(symbol), infer_shapes(symbol, shapes)[1]))

    def stage_shapes(self, name: str) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the outputs of a later stage for one image, by name."""
        return stage_shapes(self.stages[name])


def stage_shapes(stage: LaterStage) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the outputs of a later stage for one image, by name."""
    shapes = {**shapes_of(stage.params), **stage.inputs}
    return dict(zip(stage.outputs, infer_shapes(stage.symbol, shapes)[1]))


def folded_stage(stage: LaterStage) -> LaterStage:
    """Return a later stage with BatchNorm folded."""
    symbol, params = fold(stage.symbol, stage.params)
    return replace(stage, symbol=symbol, params=params)


def output_names(symbol: mx.sym.Symbol) -> list[str]:
    """Return the names of a symbol's outputs, without MXNet's suffix."""
    suffix = "_output"
    names = symbol.list_outputs()
    return [n[: -len(suffix)] if n.endswith(suffix) else n for n in names]
