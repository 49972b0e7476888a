"""What the algorithms that remove channels share: importance, masks, recalibration."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Callable, Dict, Mapping, Optional, Union

from mxnet.gluon import HybridBlock
from typing_extensions import Annotated

from gluon_compress import plan as planning
from gluon_compress.compression.algorithm import PLAN, StageContext, StageOutput
from gluon_compress.deployment.reference_outputs import check_same
from gluon_compress.graph import Graph, pair_of
from gluon_compress.plan import CRITERIA, Plan
from gluon_compress.prune import (
    ReconstructionSettings,
    mask,
    recalibrate,
    reconstruct,
    set_mask,
    slim,
    taylor,
)
from gluon_compress.train.schedule import Schedule
from gluon_compress.validation import Count, CountOrZero, OneOf, Settings

Importance = Union[str, Mapping[str, Any]]
# Criteria that need data: functions that take and return what ``prune.taylor`` does.
MEASURED_CRITERIA: Dict[str, Callable[..., Mapping[str, Any]]] = {"taylor": taylor}


class ChannelPruningSettings(Settings):
    """What the settings of all algorithms that remove channels have.

    Parameters
    ----------
    criterion : str
        How important a channel is: a name in ``plan.CRITERIA``, or ``taylor``, its
        effect on the loss, which is measured on training batches.
    batches : int
        Training batches that a criterion which is measured, such as ``taylor``, sees.
    multiple : int
        Widths become multiples of this number.
    train : Schedule or None
        Training with the masks on; None: none.
    reconstruct : ReconstructionSettings or None
        How the weights of the slim net are fitted to the full net; None: they stay.
    recalibrate : int
        Training batches on which BatchNorm statistics are measured anew after slimming;
        0: they stay.
    """

    criterion: Annotated[str, OneOf(lambda: [*CRITERIA, *MEASURED_CRITERIA])] = "l1"
    batches: Count = 16
    multiple: Count = 16
    train: Optional[Schedule] = None
    reconstruct: Optional[ReconstructionSettings] = None
    recalibrate: CountOrZero = 16

    def check(self) -> None:
        """Check that weights are not fitted to a net that has changed since."""
        if self.reconstruct is not None and self.train is not None:
            raise self.error("reconstruct", "null with train")


def untrained_criterion(settings: ChannelPruningSettings) -> str:
    """Return the criterion for a dry run, which has no data: any gives the widths."""
    return "l1" if settings.criterion in MEASURED_CRITERIA else settings.criterion


def importance(
    net: HybridBlock,
    settings: ChannelPruningSettings,
    context: StageContext,
    *,
    graph: Graph | None = None,
    within: Plan | None = None,
) -> Importance:
    """Return the criterion's name, or the importance of channels if it needs data.

    Parameters
    ----------
    net : HybridBlock
    settings : ChannelPruningSettings
    context : StageContext
    graph : Graph, optional
        Of the net with its present values; None: it is traced.
    within : Plan, optional
        Channels that are still there; the others are masked while measuring.
    """
    measure = MEASURED_CRITERIA.get(settings.criterion)
    if measure is None:
        return settings.criterion

    def prepare(gated: HybridBlock) -> HybridBlock:
        set_mask(gated, within, shape=context.shape)
        return context.training_block(gated)

    return measure(
        net,
        context.batches(net, settings.batches),
        context.step_loss(net),
        prepare=prepare,
        shape=context.shape,
        graph=graph,
    )


def saved(plan: Plan, settings: ChannelPruningSettings, context: StageContext) -> Plan:
    """Write the stage's plan with its provenance, and return it."""
    provenance = {"criterion": settings.criterion, "commit": context.commit}
    made_by = {**plan.made_by, **provenance}
    plan = replace(plan, net=context.model, made_by=made_by)
    plan.save(context.folder / PLAN)
    return plan


def decided_once(
    decide: Callable[[], Plan], settings: ChannelPruningSettings, context: StageContext
) -> Plan:
    """Return the plan that an interrupted stage has left, or decide now and save it."""
    path = context.folder / PLAN
    return Plan.load(path) if path.exists() else saved(decide(), settings, context)


def notes_on(plan: Plan, graph: Graph) -> Dict[str, Any]:
    """Return what a plan keeps and saves, for ``result.json``."""
    plan.check(graph)
    return {"groups": planning.explain(graph, plan), "made_by": dict(plan.made_by)}


def train_and_slim(
    net: HybridBlock,
    graph: Graph,
    plan: Plan,
    settings: ChannelPruningSettings,
    context: StageContext,
) -> tuple[HybridBlock, Dict[str, Any]]:
    """Return the slim net, trained with masks or fitted as the settings say, and notes.

    Parameters
    ----------
    net : HybridBlock
    graph : Graph
        Of the net with its present values.
    plan : Plan
    settings : ChannelPruningSettings
    context : StageContext
    """
    masked = mask(net, plan, graph=graph)
    notes = {} if settings.train is None else context.fit(masked, settings.train)
    small, fit = slim_as_masked(masked, plan, context.shape), settings.reconstruct
    if fit is None:
        return small, notes
    context.to_device(small)
    notes["before_reconstruction"] = {context.metric: context.accuracy(small)}
    batches = context.batches(net, fit.batches)
    fitted = reconstruct(
        net,
        plan,
        batches,
        points=fit.points,
        ridge=fit.ridge,
        graph=graph,
        seed=context.seed,
    )
    return fitted, notes


def slim_as_masked(masked: HybridBlock, plan: Plan, shape: Any) -> HybridBlock:
    """Return the slim net of a masked one, after comparing both on noise.

    Raises
    ------
    ValueError
        If they compute something else.
    """
    small = slim(masked, plan, shape=shape)
    check_same(pair_of(masked), pair_of(small), shape, "slimming")
    return small


def recalibrated(
    net: HybridBlock,
    plan: Plan,
    settings: ChannelPruningSettings,
    context: StageContext,
    notes: Mapping[str, Any],
) -> StageOutput:
    """Measure BatchNorm statistics of a slim net anew; note how accurate it was before.

    Parameters
    ----------
    net : HybridBlock
        Slim.
    plan : Plan
        That made it slim.
    settings : ChannelPruningSettings
    context : StageContext
    notes : mapping
        On what happened so far.
    """
    artifacts = {PLAN: plan}
    if not settings.recalibrate:
        return StageOutput(net, notes, artifacts)
    context.to_device(net)
    before = {context.metric: context.accuracy(net)}
    net = recalibrate(net, context.batches(net, settings.recalibrate))
    return StageOutput(net, {**notes, "before_recalibration": before}, artifacts)
