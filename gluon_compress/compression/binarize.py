"""Compression that makes weights and inputs of layers binary, in four stages."""

from __future__ import annotations

from typing import Any, Dict, Optional

from mxnet.gluon import HybridBlock
from typing_extensions import Literal

from gluon_compress.binarization import BinarizationSettings
from gluon_compress.binarization.binarising import (
    begun,
    binary_layers,
    check_binarisable,
    finished,
    notes_on,
)
from gluon_compress.binarization.training import BinaryScales, BinaryStages
from gluon_compress.compression.algorithm import (
    Algorithm,
    Attached,
    DryRunContext,
    LoopContext,
    StageContext,
    StageOutput,
)
from gluon_compress.train.hooks import Hooks, SeveralHooks, hooked
from gluon_compress.train.schedule import Schedule

PART = "binarize"  # the name of the hooks' part in logs
LAST = "last"  # the folder of the fourth stage's training


class BinarizeSettings(BinarizationSettings):
    """Make weights and inputs of layers binary, in four stages.

    Parameters
    ----------
    algorithm : str
        ``binarize``.
    train : Schedule or None
        Training of the first three stages: as it is, with binary inputs, and with
        binary weights too; None: only later trainings.
    last_train : Schedule or None
        Training of the fourth stage, for instance with the mode ``polynomial``; its
        ``weight_decay`` has to be 0.
    """

    algorithm: Literal["binarize"]
    train: Optional[Schedule] = None
    last_train: Optional[Schedule] = None

    def check(self) -> None:
        """Check that the stages come in their order."""
        last = self.last_train
        if last is not None and self.train is None:
            raise self.error("last_train", "null without train")
        if last is not None and last.weight_decay:
            raise self.error("last_train.weight_decay", "0: it would pull signs over")
        if self.train is None:
            return
        epochs = self.train.epochs
        for key in ("activations_from", "weights_from"):
            if (getattr(self, key) or 0) >= epochs:
                raise self.error(key, f"an epoch of the training, below {epochs}")


class Binarize(Algorithm):
    """Makes weights and inputs binary; see ``binarization``."""

    Settings = BinarizeSettings
    not_before = ("prune", "delete", "sparsify", "binarize")

    def dry_run(
        self, net: HybridBlock, settings: BinarizeSettings, context: DryRunContext
    ) -> StageOutput:
        """Binarise an untrained net, with inputs of the scale 1."""
        check_binarisable(net)
        graph = context.trace(net)
        layers = binary_layers(graph, settings)
        result = finished(begun(net, graph, layers, settings, None), context.shape)
        return StageOutput(result, notes_on(graph, layers, settings))

    def apply(
        self, net: HybridBlock, settings: BinarizeSettings, context: StageContext
    ) -> StageOutput:
        """Measure scales, and train where that is asked for."""
        moving, notes = _begun(net, settings, context)
        if settings.train is not None:
            hooks = BinaryStages(moving, settings, context.shape)
            steps = context.steps_per_epoch(moving, settings.train)
            trained = context.fit(
                moving, settings.train, **hooked(hooks, steps, part=PART)
            )
            notes = {**notes, **trained}
        result = finished(moving, context.shape)
        if settings.last_train is not None:
            context.to_device(result)
            before = {context.metric: context.accuracy(result)}
            folder = context.folder / LAST
            trained = context.fit(result, settings.last_train, folder=folder)
            notes = {**notes, "before_last": before, LAST: trained}
        return StageOutput(result, notes)

    def attach(
        self, net: HybridBlock, settings: BinarizeSettings, context: LoopContext
    ) -> Attached:
        """Measure scales; the hooks switch on what is due, and move scales."""
        moving, notes = _begun(net, settings, context)

        def hooks(final: HybridBlock) -> Hooks:
            stages = BinaryStages(final, settings, context.shape)
            return SeveralHooks([BinaryScales(final), stages])

        return Attached(moving, hooks, notes)


def _begun(
    net: HybridBlock, settings: BinarizeSettings, context: LoopContext
) -> tuple[HybridBlock, Dict[str, Any]]:
    check_binarisable(net)
    graph = context.trace(net)
    layers = binary_layers(graph, settings)
    batches = list(context.batches(net, settings.batches))
    moving = begun(net, graph, layers, settings, batches)
    return moving, notes_on(graph, layers, settings)
