"""Compression that deletes a fixed share of the channels of some groups."""

from __future__ import annotations

from typing import Any, Dict

from mxnet.gluon import HybridBlock
from typing_extensions import Literal

from gluon_compress import plan as planning
from gluon_compress.compression.algorithm import (
    PLAN,
    Algorithm,
    DryRunContext,
    StageContext,
    StageOutput,
)
from gluon_compress.compression.channels import (
    ChannelPruningSettings,
    Importance,
    decided_once,
    importance,
    notes_on,
    recalibrated,
    train_and_slim,
    untrained_criterion,
)
from gluon_compress.graph import Graph
from gluon_compress.plan import Plan
from gluon_compress.prune import slim
from gluon_compress.validation import Share


class DeleteSettings(ChannelPruningSettings):
    """Delete a fixed share of the channels of some groups.

    Parameters
    ----------
    algorithm : str
        ``delete``.
    keep : dict
        Share of the channels that stay, by pattern of group names; the first pattern
        that matches counts, and groups that none matches stay whole. One channel of
        every group stays.
    multiple : int
        Widths become the nearest multiple of this number, and at least this number:
        at 16, a share of 0.3 keeps 16 of 64 channels, and all of 16 or fewer.
    """

    algorithm: Literal["delete"]
    keep: Dict[str, Share]

    def check(self) -> None:
        """Check that there is something to delete."""
        super().check()
        if not self.keep:
            raise self.error(
                "keep", "at least one pattern of group names, with a share"
            )


class Delete(Algorithm):
    """Deletes a fixed share of the channels of some groups; see ``plan.delete``."""

    Settings = DeleteSettings

    def dry_run(
        self, net: HybridBlock, settings: DeleteSettings, context: DryRunContext
    ) -> StageOutput:
        """Delete channels of an untrained net."""
        criterion, graph = untrained_criterion(settings), context.trace(net)
        plan = _decide(graph, criterion, settings, context)
        return StageOutput(slim(net, plan, graph=graph), {}, {PLAN: plan})

    def apply(
        self, net: HybridBlock, settings: DeleteSettings, context: StageContext
    ) -> StageOutput:
        """Decide, train with masks where that is asked for, and slim."""
        graph = context.trace(net)

        def decide() -> Plan:
            measured = importance(net, settings, context, graph=graph)
            return _decide(graph, measured, settings, context)

        plan = decided_once(decide, settings, context)
        notes: Dict[str, Any] = notes_on(plan, graph)
        net, trained = train_and_slim(net, graph, plan, settings, context)
        return recalibrated(net, plan, settings, context, {**notes, **trained})


def _decide(
    graph: Graph,
    measured: Importance,
    settings: DeleteSettings,
    context: DryRunContext,
) -> Plan:
    return planning.delete(
        graph, settings.keep, measured, multiple=settings.multiple, seed=context.seed
    )
