"""Compression that chooses channels under a budget, trains with masks, and slims."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Callable, Dict, Iterator, Mapping, Optional, Tuple, Union

from mxnet.gluon import HybridBlock
from pydantic import Field
from typing_extensions import Annotated, Literal

from gluon_compress import plan as planning
from gluon_compress.accelerator import Accelerator
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
    saved,
    slim_as_masked,
    train_and_slim,
    untrained_criterion,
)
from gluon_compress.compression.search import SearchSettings, search_policy
from gluon_compress.compression.strength import DropLimit
from gluon_compress.graph import Graph
from gluon_compress.latency import LatencyTable, check_target
from gluon_compress.plan import (
    SEARCHES,
    Budget,
    BySensitivity,
    Constraints,
    CostModel,
    Greedy,
    Plan,
    Policy,
)
from gluon_compress.plan.constraints import MULTIPLE
from gluon_compress.prune import (
    BatchNormL1Settings,
    Rounds,
    SensitivitySettings,
    bn_l1_step,
    mask,
    mask_in_rounds,
    output_sensitivity,
    plan_of,
    sensitivity,
    slim,
)
from gluon_compress.validation import (
    Allowed,
    Count,
    CountOrZero,
    NonEmptyStr,
    NonNegative,
    OneOf,
    Positive,
    Settings,
    listed,
)

SENSITIVITY = "sensitivity.json"
_COSTS = ("macs", "params", "bytes", "latency_ms", "cycles")
_RATIO = "_ratio"

Limit = Literal[
    "macs",
    "params",
    "bytes",
    "latency_ms",
    "cycles",
    "macs_ratio",
    "params_ratio",
    "bytes_ratio",
    "latency_ms_ratio",
    "cycles_ratio",
]
Bound = Annotated[
    Union[NonNegative, Dict[str, NonNegative]],
    Allowed("channels, a share, or an object of either by pattern of group names"),
]


class LatencyTarget(Settings):
    """What a latency table must be for.

    Parameters
    ----------
    runtime : str or None
        As ``gluon-compress latency`` takes it; None: any.
    precision : str or None
        Of the runtime; None: any.
    threads : int or None
        Number of threads; None: any.
    cpu : str or None
        The processor's name, as the table has it; None: any.
    """

    runtime: Optional[NonEmptyStr] = None
    precision: Optional[NonEmptyStr] = None
    threads: Optional[Count] = None
    cpu: Optional[NonEmptyStr] = None


class PruneSettings(DropLimit, ChannelPruningSettings):
    """Choose channels under a budget, train with masks, and slim.

    Parameters
    ----------
    algorithm : str
        ``prune``.
    budget : dict
        Limits of ``macs``, ``params``, ``bytes``, ``latency_ms`` or ``cycles``, or, as
        ``macs_ratio`` and so on, shares of what the net costs before.
    classes : int or None
        The budget is for the same detector with this number of classes, so that nets
        for different data sets get one structure; None: with the classes it has.
    latency_table : str or None
        File that ``gluon-compress latency`` wrote, for a budget of latency.
    latency_target : LatencyTarget or None
        What the table must be for; None: whatever it is for.
    accelerator : Accelerator or None
        Whose cycles a budget of ``cycles`` limits; None: the usual one.
    multiple : int or None
        Widths become multiples of this number; None: what the latency table shows to
        be worth it, and 16 without one.
    selection : str
        How widths are chosen: a name in ``plan.POLICIES``, ``sensitivity``, or a
        search: a name in ``plan.SEARCHES``.
    minimum, maximum : int, float, dict or None
        Limits of each group's width: a number of channels, a share, or either by
        pattern of group names.
    groups : tuple of str
        Patterns of the names of groups that may lose channels.
    leave : tuple of str
        Patterns of the names of groups that may not.
    ends : bool
        Whether first and last layers may lose channels too.
    effects : int
        Training batches on which the selection ``greedy`` measures what each group
        does to the net's outputs; 0: a group counts as often as it has layers.
    sensitivity : SensitivitySettings or None
        For the selection ``sensitivity``.
    search : SearchSettings or None
        For a selection that searches.
    sparsity : BatchNormL1Settings or None
        Training before the choice that pulls BatchNorm scales towards zero.
    rounds : Rounds or None
        When masks are decided anew during ``train``; None: once, before it.
    """

    algorithm: Literal["prune"]
    budget: Dict[Limit, Positive]
    classes: Optional[Count] = None
    latency_table: Optional[NonEmptyStr] = None
    latency_target: Optional[LatencyTarget] = None
    accelerator: Optional[Accelerator] = None
    multiple: Optional[Count] = MULTIPLE  # type: ignore[assignment]
    selection: Annotated[str, OneOf(lambda: planning.selections())] = Greedy.name
    minimum: Optional[Bound] = None
    maximum: Optional[Bound] = None
    groups: Annotated[Tuple[NonEmptyStr, ...], Field(min_length=1)] = ("*",)
    leave: Tuple[NonEmptyStr, ...] = ()
    ends: bool = False
    effects: CountOrZero = 4
    sensitivity: Optional[SensitivitySettings] = None
    search: Optional[SearchSettings] = None
    sparsity: Optional[BatchNormL1Settings] = None
    rounds: Optional[Rounds] = None

    def check(self) -> None:
        """Check the budget, and that settings are there that others need."""
        super().check()
        self._check_budget()
        ratios = all(name.endswith(_RATIO) for name in self.limits)
        if self.max_drop is not None and not ratios:
            allowed = "null with a budget of numbers; of ratios, it can be searched"
            raise self.error("max_drop", allowed)
        if (self.selection == BySensitivity.name) != (self.sensitivity is not None):
            allowed = "images and ratios with selection 'sensitivity', else null"
            raise self.error("sensitivity", allowed)
        if (self.selection in SEARCHES) != (self.search is not None):
            allowed = f"settings with selection {listed(SEARCHES)}, else null"
            raise self.error("search", allowed)
        if self.rounds is not None:
            self._check_rounds(self.rounds)

    @property
    def limits(self) -> Mapping[str, float]:
        """The budget, as a mapping from names."""
        return {str(name): limit for name, limit in self.budget.items()}

    def _check_budget(self) -> None:
        if not self.budget:
            limits = (*_COSTS, *(f"{cost}{_RATIO}" for cost in _COSTS))
            raise self.error("budget", f"at least one of {listed(limits)}")
        for cost in _COSTS:
            ratio = self.limits.get(f"{cost}{_RATIO}")
            if ratio is not None and (ratio > 1 or cost in self.limits):
                allowed = f"a share up to 1, and then no {cost}"
                raise self.error(f"budget.{cost}{_RATIO}", allowed)
        limited = any(name.startswith("latency") for name in self.budget)
        if limited != (self.latency_table is not None):
            allowed = "a table if the budget limits latency, else null"
            raise self.error("latency_table", allowed)
        if self.latency_target is not None and self.latency_table is None:
            raise self.error("latency_target", "null without a latency_table")
        cycles = any(name.startswith("cycles") for name in self.budget)
        if self.accelerator is not None and not cycles:
            raise self.error("accelerator", "null unless the budget limits cycles")

    def _check_rounds(self, rounds: Rounds) -> None:
        if self.classes is not None:
            raise self.error("classes", "null with rounds")
        if self.sensitivity is not None or self.search is not None:
            raise self.error("rounds", "null with a sensitivity or a search")
        if self.train is None:
            raise self.error("train", "a schedule, since there are rounds")
        try:
            rounds.starts(self.train.epochs)
        except ValueError:
            epochs = self.train.epochs
            allowed = f"rounds of an epoch or more within {epochs} epochs"
            raise self.error("rounds", allowed) from None


class Prune(Algorithm):
    """Chooses channels under a budget; see ``plan.select``."""

    Settings = PruneSettings

    def dry_run(
        self, net: HybridBlock, settings: PruneSettings, context: DryRunContext
    ) -> StageOutput:
        """Prune an untrained net: a budget out of reach costs no training.

        What needs trained values is left out. It does not change what is possible.
        """
        if settings.selection not in planning.POLICIES:
            settings = settings.replace(
                selection=Greedy.name, sensitivity=None, search=None
            )
        criterion = untrained_criterion(settings)
        graph, policy = context.trace(net), settings.selection
        plan = _decide(net, graph, criterion, policy, settings, context)
        return StageOutput(slim(net, plan, graph=graph), {}, {PLAN: plan})

    def at_strength(self, settings: PruneSettings, strength: float) -> PruneSettings:
        """Return settings with a larger budget."""
        limits = settings.limits.items()
        return settings.replace(
            budget={name: 1 - (1 - ratio) * strength for name, ratio in limits}
        )

    def apply(
        self, net: HybridBlock, settings: PruneSettings, context: StageContext
    ) -> StageOutput:
        """Decide, train with masks where that is asked for, and slim."""
        notes: Dict[str, Any] = {}
        if settings.sparsity is not None:
            notes["sparsity"] = _train_sparse(net, settings.sparsity, context)
        graph = context.trace(net)
        if settings.rounds is not None:
            with _policy(net, graph, settings, context) as policy:
                masked, plan, trained = _train_in_rounds(
                    net, graph, settings.rounds, settings, context, policy
                )
            notes.update(trained)
            notes.update(notes_on(plan, graph))
            net = slim_as_masked(masked, plan, context.shape)
            return recalibrated(net, plan, settings, context, notes)

        def decide() -> Plan:
            with _policy(net, graph, settings, context) as policy:
                measured = importance(net, settings, context, graph=graph)
                return _decide(net, graph, measured, policy, settings, context)

        plan = decided_once(decide, settings, context)
        notes.update(notes_on(plan, graph))
        net, trained = train_and_slim(net, graph, plan, settings, context)
        return recalibrated(net, plan, settings, context, {**notes, **trained})


def _train_sparse(
    net: HybridBlock, settings: BatchNormL1Settings, context: StageContext
) -> Dict[str, Any]:
    def wrap(step_loss: Callable) -> Callable:
        return bn_l1_step(step_loss, net, settings.weight, shape=context.shape)

    folder = context.folder / "sparsity"
    return context.fit(net, settings.train, folder=folder, wrap=wrap)


def _train_in_rounds(
    net: HybridBlock,
    graph: Graph,
    rounds: Rounds,
    settings: PruneSettings,
    context: StageContext,
    policy: str | Policy,
) -> tuple[HybridBlock, Plan, Dict[str, Any]]:
    """Return the net with masks decided during training, and the plan they make.

    After an interruption the resumed training comes to the same plan.
    """
    masked = mask(net, None, graph=graph)
    budget, table = _budget(graph, settings), _table(settings)

    def decide(graph_now: Graph, budget_now: Budget, within: Plan | None) -> Plan:
        measured = importance(masked, settings, context, within=within)
        constraints = replace(_constraints(settings), within=within)
        return planning.select(
            graph_now,
            budget_now,
            measured,
            selection=policy,
            constraints=constraints,
            table=table,
            seed=context.seed,
        )

    callback = mask_in_rounds(
        masked, budget, decide, rounds, shape=context.shape, table=table
    )
    assert settings.train is not None  # ``check`` sees to it
    notes = context.fit(masked, settings.train, callbacks=[callback])
    made_by = {
        "selection": settings.selection,
        "budget": budget.limits,
        "multiple": settings.multiple or MULTIPLE,
        "rounds": rounds.to_json(),
        "seed": context.seed,
        "held": _constraints(settings).protected_groups(graph),
        "widths": {group.name: group.width for group in graph.groups},
    }
    plan = replace(plan_of(masked), made_by=made_by)
    return masked, saved(plan, settings, context), notes


@contextmanager
def _policy(
    net: HybridBlock, graph: Graph, settings: PruneSettings, context: StageContext
) -> Iterator[str | Policy]:
    """Yield the selection, with the data that it follows measured."""
    if settings.search is not None:
        name = settings.selection
        with search_policy(name, net, graph, settings.search, context) as policy:
            yield policy
    elif settings.sensitivity is not None:
        measured = _sensitivity(net, graph, settings.sensitivity, settings, context)
        yield BySensitivity(measured)
    elif settings.selection == Greedy.name and settings.effects:
        yield _greedy(net, graph, settings, context)
    else:
        yield settings.selection


def _greedy(
    net: HybridBlock, graph: Graph, settings: PruneSettings, context: StageContext
) -> Greedy:
    effects = output_sensitivity(
        net,
        context.batches(net, settings.effects),
        criterion=importance(net, settings, context, graph=graph),
        graph=graph,
        seed=context.seed,
    )
    return Greedy(effects)


def _sensitivity(
    net: HybridBlock,
    graph: Graph,
    measurement: SensitivitySettings,
    settings: PruneSettings,
    context: StageContext,
) -> planning.Sensitivity:
    with context.plan_score(net, measurement.images) as score:
        return sensitivity(
            net,
            score=score,
            ratios=measurement.ratios,
            criterion=importance(net, settings, context, graph=graph),
            groups=settings.groups,
            cache=context.folder / SENSITIVITY,
            graph=graph,
            seed=context.seed,
        )


def _decide(
    net: HybridBlock,
    graph: Graph,
    measured: Importance,
    policy: str | Policy,
    settings: PruneSettings,
    context: DryRunContext,
) -> Plan:
    """Choose channels, under a budget for another number of classes if that is set."""
    counted = graph
    if settings.classes is not None:
        counted = context.trace(context.with_classes(net, settings.classes))
    plan = planning.select(
        counted,
        _budget(counted, settings),
        measured,
        selection=policy,
        constraints=_constraints(settings),
        table=_table(settings),
        seed=context.seed,
    )
    if counted is graph:
        return plan
    # The predictors, the only groups of another width, stay whole.
    keep = {g.name: plan.keep[g.name] for g in graph.groups if not g.frozen}
    widths = {group.name: group.width for group in graph.groups}
    return replace(plan, keep=keep, made_by={**plan.made_by, "widths": widths})


def _constraints(settings: PruneSettings) -> Constraints:
    return Constraints(
        multiple=settings.multiple,
        minimum=settings.minimum,
        maximum=settings.maximum,
        groups=settings.groups,
        ignored=settings.leave,
        ends=settings.ends,
    )


def _budget(graph: Graph, settings: PruneSettings) -> Budget:
    """Turn shares of what the net costs into absolute limits."""
    device = settings.accelerator or Accelerator()
    model = CostModel(graph, _table(settings), device=device)
    limits: Dict[str, Any] = {}
    full = model.costs(model.full[None])
    for name, limit in settings.limits.items():
        if name.endswith(_RATIO):
            name = name[: -len(_RATIO)]
            limit *= float(full[name][0])
        limits[name] = limit
    return Budget(**limits, accelerator=settings.accelerator)


def _table(settings: PruneSettings) -> LatencyTable | None:
    path, target = settings.latency_table, settings.latency_target
    if path is None:
        return None
    table = LatencyTable.load(path)
    if target is not None:
        try:
            check_target(table, **target.to_json())
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    return table
