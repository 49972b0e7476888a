"""Compression that sets single weights to zero, and trains the others."""

from __future__ import annotations

from typing import Any, Optional, Tuple

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
from gluon_compress.prune import recalibrate
from gluon_compress.sparsity import SparsitySettings
from gluon_compress.sparsity.masks import kept_weights
from gluon_compress.sparsity.sparsifying import (
    begun,
    masked_at,
    notes_on,
    sparse_layers,
    weights_of,
)
from gluon_compress.sparsity.training import LearnedMasks, MagnitudeMasks
from gluon_compress.train.hooks import hooked
from gluon_compress.train.schedule import Schedule
from gluon_compress.validation import CountOrZero, wrong

PART = "sparsify"  # the name of the hooks' part in logs


class SparsifySettings(DropLimit, SparsitySettings):
    """Set single weights to zero, and train the others.

    Parameters
    ----------
    algorithm : str
        ``sparsify``.
    train : Schedule or None
        Training in which the share of zeros grows; None: it is final at once, and later
        trainings keep the zeros.
    recalibrate : int
        Training batches on which BatchNorm statistics are measured anew in the end; 0:
        they stay.
    """

    algorithm: Literal["sparsify"]
    train: Optional[Schedule] = None
    recalibrate: CountOrZero = 16

    def check(self) -> None:
        """Check that masks are final before the training ends."""
        super().check()
        if self.max_drop is not None and (self.level is None or self.growth.levels):
            allowed = "null without a level, and with growth.levels"
            raise self.error("max_drop", allowed)
        if self.train is None:
            return
        epochs = self.train.epochs
        key = "growth.steps" if self.growth.steps else "growth.epochs"
        if self.growth.reached(epochs) >= epochs:
            raise self.error(key, f"epochs before the end of the training, {epochs}")


class Sparsify(Algorithm):
    """Sets single weights to zero; see ``sparsify``."""

    Settings = SparsifySettings

    def predecessors(self, settings: SparsifySettings) -> Tuple[str, ...]:
        """Return what removes channels, which would break the blocks of a pattern."""
        return () if settings.pattern is None else ("prune", "delete")

    def dry_run(
        self, net: HybridBlock, settings: SparsifySettings, context: DryRunContext
    ) -> StageOutput:
        """Make an untrained net sparse, by its initial values."""
        _check_train(settings)
        graph = context.trace(net)
        layers = sparse_layers(graph, settings)
        if settings.method == "learned":
            settings = settings.replace(method="magnitude", growth={})
        result = masked_at(net, graph, layers, settings, settings.final)
        masks = kept_weights(weights_of(graph, layers), settings, settings.final)
        return StageOutput(result, notes_on(graph, layers, masks))

    def apply(
        self, net: HybridBlock, settings: SparsifySettings, context: StageContext
    ) -> StageOutput:
        """Grow the share of zeros in training where that is asked for."""
        _check_train(settings)
        graph = context.trace(net)
        layers = sparse_layers(graph, settings)
        if settings.train is None:
            result = masked_at(net, graph, layers, settings, settings.final)
            masks = kept_weights(weights_of(graph, layers), settings, settings.final)
            notes = notes_on(graph, layers, masks)
        else:
            moving = begun(net, graph, layers, settings)
            hooks = _hooks(moving, settings, layers, context)
            steps = context.steps_per_epoch(moving, settings.train)
            trained = context.fit(
                moving, settings.train, **hooked(hooks, steps, part=PART)
            )
            result = hooks.finished(moving)
            notes = {**notes_on(graph, layers, hooks.final_masks()), **trained}
        if settings.recalibrate:
            context.to_device(result)
            before = {context.metric: context.accuracy(result)}
            batches = context.batches(result, settings.recalibrate)
            result = recalibrate(result, batches)
            notes = {**notes, "before_recalibration": before}
        return StageOutput(result, notes)

    def at_strength(
        self, settings: SparsifySettings, strength: float
    ) -> SparsifySettings:
        """Return settings with a smaller share of zeros."""
        level = settings.final * strength
        initial = min(settings.initial, level)
        return settings.replace(level=level, initial=initial)

    def attach(
        self, net: HybridBlock, settings: SparsifySettings, context: LoopContext
    ) -> Attached:
        """Write the masks; the hooks move them."""
        graph = context.trace(net)
        layers = sparse_layers(graph, settings)
        moving = begun(net, graph, layers, settings)
        masks = kept_weights(weights_of(graph, layers), settings, settings.final)

        def hooks(final: HybridBlock) -> Any:
            return _hooks(final, settings, layers, context)

        return Attached(moving, hooks, notes_on(graph, layers, masks))


def _check_train(settings: SparsifySettings) -> None:
    if settings.method == "learned" and settings.train is None:
        raise wrong("train", None, "a schedule with method 'learned'")


def _hooks(
    net: HybridBlock, settings: SparsifySettings, layers: Any, context: DryRunContext
) -> Any:
    kind = LearnedMasks if settings.method == "learned" else MagnitudeMasks
    return kind(net, [layer.weight for layer in layers], settings, context.shape)
