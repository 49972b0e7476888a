"""Compression that writes quantisers into a net and trains it with them."""

from __future__ import annotations

import math
from typing import Any, Dict, Mapping, Optional

from mxnet.gluon import HybridBlock
from typing_extensions import Literal

from gluon_compress.compression.algorithm import (
    Algorithm,
    Attached,
    DryRunContext,
    LoopContext,
    StageContext,
    StageOutput,
)
from gluon_compress.compression.strength import DropLimit
from gluon_compress.graph import Graph
from gluon_compress.quantization import QuantizationSettings
from gluon_compress.quantization.hawq import choose_bits, least_costs
from gluon_compress.quantization.placement import place
from gluon_compress.quantization.quantisers import activation_grid
from gluon_compress.quantization.quantising import (
    annotated,
    check_quantisable,
    notes_on,
    quantized,
    summary,
)
from gluon_compress.quantization.training import MovingRanges, WeightScales
from gluon_compress.train.hooks import Hooks, SeveralHooks, hooked
from gluon_compress.train.schedule import Schedule
from gluon_compress.validation import wrong

PART = "quantize"  # the name of the hooks' part in logs


class QuantizeSettings(DropLimit, QuantizationSettings):
    """Write quantisers into the net, and train it with them.

    Parameters
    ----------
    algorithm : str
        ``quantize``.
    train : Schedule or None
        Training with the quantisers; None: only later trainings.
    """

    algorithm: Literal["quantize"]
    train: Optional[Schedule] = None

    def check(self) -> None:
        """Check that a search over bits is the only one."""
        super().check()
        if self.max_drop is not None and (self.mixed or self.budget is not None):
            raise self.error("max_drop", "null with mixed bits or a budget")


class Quantize(Algorithm):
    """Quantises weights and maps; see ``quantize``."""

    Settings = QuantizeSettings
    not_before = ("prune", "delete", "quantize", "binarize")

    def dry_run(
        self, net: HybridBlock, settings: QuantizeSettings, context: DryRunContext
    ) -> StageOutput:
        """Quantise an untrained net, with ranges from -1 to 1."""
        check_quantisable(net)
        graph = context.trace(net)
        placement = place(graph, settings)
        if settings.budget is not None:
            least_costs(graph, placement, settings.budget)
        scheme = settings.activations.scheme
        grids = [activation_grid(-1, 1, n, scheme) for _, n in placement.tensors]
        result = annotated(net, graph, placement, settings, grids)
        return StageOutput(result, notes_on(graph, placement, settings))

    def apply(
        self, net: HybridBlock, settings: QuantizeSettings, context: StageContext
    ) -> StageOutput:
        """Measure ranges, quantise, and train where that is asked for."""

        def step_loss(block: Any, batch: Any) -> Any:
            return context.step_loss(net)(block, batch)

        result, notes = self._quantised(net, settings, context, step_loss)
        if settings.train is not None:
            context.to_device(result)
            before = {context.metric: context.accuracy(result)}
            hooks = _moving(result, settings)
            steps = context.steps_per_epoch(result, settings.train)
            trained = context.fit(
                result, settings.train, **hooked(hooks, steps, part=PART)
            )
            notes = {**notes, "before_training": before, **trained}
        return StageOutput(result, notes)

    def at_strength(
        self, settings: QuantizeSettings, strength: float
    ) -> QuantizeSettings:
        """Return settings with weights of more bits."""
        possible = [bits for bits in (8, 4, 2) if bits >= settings.weights.bits]
        bits = possible[math.ceil(strength * len(possible)) - 1]
        return settings.replace(weights=settings.weights.replace(bits=bits))

    def attach(
        self, net: HybridBlock, settings: QuantizeSettings, context: LoopContext
    ) -> Attached:
        """Measure ranges and quantise; the hooks move scales."""
        result, notes = self._quantised(net, settings, context, None)

        def hooks(final: HybridBlock) -> Hooks:
            return SeveralHooks([WeightScales(final), _moving(final, settings)])

        return Attached(result, hooks, notes)

    def _quantised(
        self,
        net: HybridBlock,
        settings: QuantizeSettings,
        context: LoopContext,
        step_loss: Any,
    ) -> tuple[HybridBlock, Dict[str, Any]]:
        bits: Mapping[str, int] = {}
        notes: Dict[str, Any] = {}
        if settings.budget is not None:
            bits, notes["budget"] = self._bits(net, settings, context, step_loss)
        batches = list(context.batches(net, settings.batches))
        made = quantized(net, settings, batches, shape=context.shape, bits=bits)
        return made.net, {**made.notes, **notes, "quantisers": summary(made.net)}

    def _bits(
        self,
        net: HybridBlock,
        settings: QuantizeSettings,
        context: LoopContext,
        step_loss: Any,
    ) -> tuple[Mapping[str, int], Dict[str, Any]]:
        assert settings.budget is not None
        if step_loss is None:
            budget = settings.budget.to_json()
            allowed = "null in a loop of one's own, whose loss is not known here"
            raise wrong("budget", budget, allowed)
        graph: Graph = context.trace(net)
        block = context.training_block(net)  # type: ignore[attr-defined]
        batches = list(context.batches(net, settings.budget.batches))
        return choose_bits(
            graph,
            place(graph, settings),
            settings.budget,
            block=block,
            batches=batches,
            step_loss=step_loss,
            seed=context.seed,
        )


def _moving(net: HybridBlock, settings: QuantizeSettings) -> Hooks:
    if settings.activations.ranges != "moving":
        return Hooks()
    return MovingRanges(net, settings.activations)
